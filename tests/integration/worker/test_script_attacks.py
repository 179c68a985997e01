"""What a task's own variables, directory and arguments could make an allowed program run: real programs, real bait."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from swarm.config.settings import CommandSettings, ScriptSettings
from swarm.core.faults import TaskFault
from swarm.worker.attempt import Cancel
from swarm.worker.executors.allowlist import Scripts
from swarm.worker.executors.command import CommandExecutor
from tests.helpers.worker_fakes import claim_of, script

PYTHON, BASH, GIT = sys.executable, shutil.which("bash") or "/bin/bash", shutil.which("git") or "/usr/bin/git"


class Attack:
    """A box with bait everywhere; ``hit`` says whether any of it ran."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.proof = home / "the-attackers-code-ran"
        self.bait = home / "bait"
        self.bait.mkdir()
        (home / "tool.py").write_text("print('tool')\n")
        (home / "tool.sh").write_text("echo tool\n")
        self._bait_python()
        self._bait_shell()

    def _bait_python(self) -> None:
        code = f"open({str(self.proof)!r}, 'w').close()\n"
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        for name in ("sitecustomize", "usercustomize", "colorsys", "evil", "json"):
            (self.bait / f"{name}.py").write_text(code)
        for base in (self.bait, self.bait / ".local"):
            site = base / "lib" / version / "site-packages"
            site.mkdir(parents=True)
            (site / "usercustomize.py").write_text(code)
            (site / "evil.pth").write_text(f"import os; {code}")

    def _bait_shell(self) -> None:
        run = self.bait / "run.sh"
        run.write_text(f"#!/bin/sh\ntouch {self.proof}\n")
        run.chmod(0o755)
        for name in (".bashrc", ".profile", ".bash_profile", "tool.sh", "git", "python3"):
            shutil.copy(run, self.bait / name)
        config = f"[core]\n\tfsmonitor = {run}\n\tpager = {run}\n\tsshCommand = {run}\n[alias]\n\tstatus = !{run}\n"
        (self.bait / ".gitconfig").write_text(config)
        subprocess.run([GIT, "init", "-q", self.bait], check=True, env={"PATH": os.environ["PATH"], "HOME": str(self.home)})
        with (self.bait / ".git" / "config").open("a") as file:
            file.write(config)

    def run(self, scripts: Scripts, *command: str, work_dir: str | None = None, **more: Any) -> dict[str, Any]:
        executor = CommandExecutor(CommandSettings(), scripts=scripts, root=str(self.home), work_dir=work_dir)
        trail = executor.run(claim_of(script("t1", *command, **more)), cancel=Cancel(), progress=lambda _: None)
        assert trail.result is not None
        return trail.result

    def refused(self, scripts: Scripts, *command: str, **more: Any) -> str:
        with pytest.raises(TaskFault) as caught:
            self.run(scripts, *command, **more)
        assert (caught.value.fault, caught.value.kind) == ("deterministic", "not_allowed")
        assert not self.hit
        return caught.value.message

    @property
    def hit(self) -> bool:
        return self.proof.exists()


@pytest.fixture
def attack(tmp_path):
    return Attack(tmp_path)


def short_forms(attack: Attack) -> dict[str, tuple[str, ...]]:
    return {
        "python": (PYTHON, str(attack.home / "tool.py")),
        "module": (PYTHON, "-m", "calendar"),
        "bash": (BASH, str(attack.home / "tool.sh")),
        "git": (GIT, "status"),
    }


VARIABLES = [
    ("python", {"HOME": "{bait}"}),
    ("python", {"PYTHONUSERBASE": "{bait}"}),
    ("python", {"PYTHONPATH": "{bait}"}),
    ("python", {"PYTHONHOME": "{bait}"}),
    ("python", {"PYTHONSTARTUP": "{bait}/evil.py", "PYTHONINSPECT": "1"}),
    ("python", {"PYTHONWARNINGS": "all:0:antigravity.x:0:0", "BROWSER": "{bait}/run.sh %s"}),
    ("bash", {"SHELLOPTS": "xtrace", "PS4": "$(touch {proof})"}),
    ("bash", {"BASH_ENV": "{bait}/run.sh"}),
    ("bash", {"ENV": "{bait}/run.sh"}),
    ("bash", {"BASH_FUNC_echo%%": "() {{ touch {proof}; }}"}),
    ("bash", {"PATH": "{bait}"}),
    ("bash", {"LD_PRELOAD": "{bait}/x.so"}),
    ("git", {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "alias.status", "GIT_CONFIG_VALUE_0": "!touch {proof}"}),
    ("git", {"GIT_CONFIG_GLOBAL": "{bait}/.gitconfig"}),
    ("git", {"GIT_CONFIG_PARAMETERS": "'core.fsmonitor={bait}/run.sh'"}),
    ("git", {"GIT_DIR": "{bait}/.git", "GIT_WORK_TREE": "{bait}"}),
    ("git", {"GIT_EXTERNAL_DIFF": "{bait}/run.sh"}),
    ("git", {"SWARM_TASK": "other"}),
    ("git", {"XDG_CONFIG_HOME": "{bait}"}),
    ("git", {"A=B": "x"}),
    ("git", {"": "x"}),
    ("git", {"LANG": "de_DE.UTF-8"}),
]


@pytest.mark.parametrize(("name", "env"), VARIABLES, ids=lambda v: v if isinstance(v, str) else next(iter(v)) or "empty")
def test_a_variable_that_the_entry_does_not_name_is_refused_by_name(attack, name, env):
    env = {key: value.format(bait=attack.bait, proof=attack.proof) for key, value in env.items()}
    message = attack.refused(short_forms(attack), name, env=env)
    assert repr(next(iter(env))) in message
    assert f"[scripts] {name} allows no variables" in message
    entry = ScriptSettings(command=short_forms(attack)[name], env=("TZ",))
    if not {"LANG", "TZ"} & set(env):
        assert "only TZ" in attack.refused({name: entry}, name, env={"TZ": "UTC", **env})


def test_the_bait_is_good(attack):
    """Without the allow-list each kind of bait is taken: else the tests around this one prove nothing."""
    for argv, env in (
        ([PYTHON, "-m", "calendar"], {"PYTHONPATH": str(attack.bait)}),
        ([BASH, str(attack.home / "tool.sh")], {"BASH_ENV": str(attack.bait / "run.sh")}),
        (
            [GIT, "status"],
            {"HOME": str(attack.home), "GIT_DIR": str(attack.bait / ".git"), "GIT_WORK_TREE": str(attack.bait)},
        ),
    ):
        subprocess.run(argv, env={"PATH": os.environ["PATH"], **env}, capture_output=True, check=False, cwd=attack.home)
        assert attack.hit, argv
        attack.proof.unlink()


@pytest.mark.parametrize("name", ["python", "module", "git"])
def test_a_directory_with_code_in_it_is_refused_where_the_entry_names_none(attack, name):
    message = attack.refused(short_forms(attack), name, cwd=str(attack.bait))
    assert str(attack.bait) in message
    assert f"[scripts] {name} names no directory" in message


def below(attack: Attack) -> tuple[Scripts, Path]:
    base = attack.home / "base"
    (base / "in" / "deep").mkdir(parents=True)
    scripts = {
        "git": ScriptSettings(command=(GIT, "status"), cwd=str(base)),
        "pwd": ScriptSettings(command=("/bin/pwd", "-P"), cwd=str(base)),
    }
    return scripts, base


def test_directories_below_the_named_one_are_entered(attack):
    scripts, base = below(attack)
    for cwd in (base, base / "in", base / "in" / "deep", f"{base}//in/./deep/"):
        assert attack.run(scripts, "pwd", cwd=str(cwd))["stdout"].strip() == os.path.normpath(cwd)
    assert (base / "in" / "deep").is_dir()


@pytest.mark.parametrize("way", ["{base}/../bait", "{base}/in/../../bait", "{bait}", "/", "{base}-other", "{base}/in/.."])
def test_a_directory_elsewhere_is_refused(attack, way):
    scripts, base = below(attack)
    assert "and what is below it" in attack.refused(scripts, "git", cwd=way.format(base=base, bait=attack.bait))


def test_links_lead_nowhere(attack):
    scripts, base = below(attack)
    (base / "link").symlink_to(attack.bait)
    (base / "in" / "up").symlink_to("../..")
    (base / "file").touch()
    for way in ("link", "in/up", "in/up/bait", "file"):
        assert "is a link, or no directory" in attack.refused(scripts, "git", cwd=str(base / way))


def test_a_link_put_in_at_the_last_moment_leads_nowhere(attack, monkeypatch):
    """The directory was opened; what its name means afterwards does not matter."""
    scripts, base = below(attack)
    start = subprocess.Popen.__init__

    def swap_first(self, *args, **kwargs):
        os.rename(base / "in", base / "was")
        (base / "in").symlink_to(attack.bait)
        start(self, *args, **kwargs)

    monkeypatch.setattr(subprocess.Popen, "__init__", swap_first)
    assert attack.run(scripts, "pwd", cwd=str(base / "in"))["stdout"].strip() == str(base / "was")


def test_a_directory_that_is_not_there_is_named(attack):
    scripts, base = below(attack)
    for cwd in (str(base / "none"), "relative", f"{base}/a\0b"):
        with pytest.raises(TaskFault) as caught:
            attack.run(scripts, "pwd", cwd=cwd)
        assert caught.value.kind == "no_cwd"


def test_settings_are_not_found_upwards_from_a_tasks_own_directory(attack, monkeypatch):
    """Git and many others look for their settings in the directories above: nobody else may write there."""
    monkeypatch.setattr("tempfile.tempdir", str(attack.bait))
    with pytest.raises(TaskFault, match="not a git repository"):
        attack.run(short_forms(attack), "git", work_dir=str(attack.home / "queue" / ".work" / "w"))
    assert not attack.hit


def test_nothing_of_the_workers_own_reaches_a_program(attack, monkeypatch):
    for name in ("HF_TOKEN", "SWARM_NOTIFY__TARGETS", "PYTHONPATH", "BASH_ENV", "GIT_DIR", "LD_LIBRARY_PATH", "TMPDIR"):
        monkeypatch.setenv(name, str(attack.bait))
    monkeypatch.setenv("PATH", f"{attack.bait}:{os.environ['PATH']}")
    secret = os.open(attack.home / "tool.py", os.O_RDONLY)
    os.set_inheritable(secret, True)
    looks = {"look": (BASH, "-c", "env; ls -l /proc/$$/fd; readlink /proc/$$/fd/0")}
    try:
        shown = attack.run(looks, "look")["stdout"]
    finally:
        os.close(secret)
    lines = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    assert set(lines) - {"PWD", "SHLVL", "_"} == {"PATH", "LANG", "HOME", "SWARM_ROOT", "SWARM_WORKER", "SWARM_TASK"}
    assert lines["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert lines["HOME"] == lines["PWD"]
    assert "swarm-t1-" in lines["HOME"]
    assert "tool.py" not in shown
    assert shown.splitlines()[-1] == "/dev/null"
    assert not attack.hit


def test_a_bare_name_is_found_on_the_fixed_path_alone(attack, monkeypatch):
    monkeypatch.setenv("PATH", f"{attack.bait}:{os.environ['PATH']}")
    monkeypatch.chdir(attack.bait)
    assert "git version" in attack.run({"git": ("git", "--version")}, "git")["stdout"]
    assert not attack.hit


def test_what_an_earlier_life_left_is_removed_and_no_link_followed(attack):
    work = attack.home / "queue" / ".work" / "w"
    (work / "swarm-old-1").mkdir(parents=True)
    (work / "swarm-old-1" / "out").symlink_to(attack.bait)
    attack.run({"true": ("/bin/true",)}, "true", work_dir=str(work))
    assert not list(work.iterdir())
    assert (attack.bait / "evil.py").exists()
