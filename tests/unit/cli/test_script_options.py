"""Entries of the allow-list that let a task run any code are known by their words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from swarm.cli.app import app
from swarm.config.load import load
from swarm.config.settings import ScriptSettings, Settings
from swarm.core.doctor.evidence import BoxEvidence, DiskEvidence
from swarm.core.doctor.host import box_findings
from swarm.core.policy.script_entries import script_of, script_warnings
from swarm.errors import InputError
from swarm.worker.executors.allowlist import check_submitted

ANY_CODE = [
    ["/usr/bin/python3"],
    ["python3.12", "-u", "-X", "dev"],
    ["python3", "-c"],
    ["python3", "-m"],
    ["/bin/sh"],
    ["bash", "-o", "pipefail", "-ec"],
    ["env"],
    ["/usr/bin/env", "-i", "A=1"],
    ["/usr/bin/env", "A=1", "python3"],
    ["timeout", "10s", "bash"],
    ["nice", "-n", "5", "perl", "-ne"],
    ["xargs", "-0"],
    ["sudo", "node"],
    ["awk", "-F", ":"],
    ["git"],
    ["git", "log"],
    ["find", "/data"],
    ["ssh"],
    ["tar", "-xf"],
]
FIXED = [
    ["/usr/bin/convert"],
    ["/usr/bin/python3", "/opt/x.py"],
    ["python3", "-W", "ignore", "-I", "/opt/x.py"],
    ["python3", "-m", "json.tool"],
    ["python3", "-c", "print(1)"],
    ["bash", "-euo", "pipefail", "/opt/x.sh"],
    ["bash", "--", "/opt/x.sh"],
    ["env", "A=1", "/opt/x"],
    ["timeout", "10", "nice", "/opt/x"],
    ["awk", "-v", "a=1", "{print a}"],
    ["perl", "-ne", "print"],
    ["git", "log", "--"],
]


@pytest.mark.parametrize("argv", ANY_CODE, ids=" ".join)
def test_an_interpreter_without_a_script_is_warned_of(argv):
    (warning,) = script_warnings({"x": tuple(argv)})
    assert "any code" in warning.what
    (found,) = [f for f in box_findings(box(), Settings(scripts={"x": tuple(argv)})) if f.code == "script-any-code"]
    assert (found.severity, found.subject) == ("warning", "[scripts] x")


@pytest.mark.parametrize("argv", FIXED, ids=" ".join)
def test_a_program_that_is_named_whole_is_not(argv):
    assert list(script_warnings({"x": tuple(argv)})) == []


def test_variables_and_directories_that_steer_a_program_are_warned_of():
    def warned(*argv: str, env: tuple[str, ...] = (), cwd: str | None = None) -> list[str]:
        return [w.what for w in script_warnings({"x": ScriptSettings(command=argv, env=env, cwd=cwd)})]

    assert warned("/opt/x", env=("LANG", "TZ", "WIDTH"), cwd="/data") == []
    assert "LD_PRELOAD, PYTHONPATH" in warned("/opt/x", env=("LD_PRELOAD", "TZ", "PYTHONPATH"))[0]
    assert "working directory" in warned("python3", "-m", "tool", cwd="/data")[0]
    assert "working directory" in warned("git", "status", "--", cwd="/data")[0]


def test_the_script_behind_wrappers_is_found():
    assert script_of(["env", "-i", "X=1", "nice", "-n", "5", "python3.12", "-u", "job.py", "a"]) == (
        "python",
        "file",
        "job.py",
    )


def test_config_check_warns_and_show_can_be_read_back(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text('[scripts]\nany = ["/bin/sh", "-c"]\n[scripts.ok]\ncommand = ["/opt/x"]\nenv = ["TZ"]\n')
    done = invoke("config", "check", "--config", str(path))
    assert done.exit_code == 0
    assert "warning: [scripts] any: /bin/sh -c runs whatever" in done.output
    assert [
        w["name"] for w in json.loads(invoke("config", "check", "--json", "--config", str(path)).output)["warnings"]
    ] == ["any"]
    shown = tmp_path / "shown.toml"
    shown.write_text(invoke("config", "show", "--config", str(path)).output)
    assert load(shown, {}, None).settings.scripts == load(path, {}, None).settings.scripts


def test_a_variable_sets_both_forms():
    env = {"SWARM_SCRIPTS__A": '["/bin/ls"]', "SWARM_SCRIPTS__B": '{"command": ["/bin/ls"], "env": ["TZ"]}'}
    assert load(None, env, None).settings.scripts == {
        "a": ("/bin/ls",),
        "b": ScriptSettings(command=("/bin/ls",), env=("TZ",)),
    }


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"env": {"HOME": "/x"}}, "env 'HOME' is refused: [scripts] ls allows no variables"),
        ({"cwd": "/tmp"}, "cwd '/tmp' is refused"),
        ({"command": ["lss"]}, "did you mean ls?"),
        ({"command": ["ls", "a\0b"]}, "NUL"),
    ],
)
def test_what_workers_would_refuse_is_refused_at_submission(more, words):
    document = {"task_class": "script", "command": ["ls"], **more}
    with pytest.raises(InputError) as refused:
        check_submitted(document, {"ls": ("/bin/ls",)})
    assert words in refused.value.message
    check_submitted(document, {})  # this user has no list; the workers decide
    check_submitted({**document, "task_class": "llm"}, {"ls": ("/bin/ls",)})


def test_what_is_no_task_is_left_to_who_checks_tasks():
    for command in (5, ["ls", 5], "ls"):
        check_submitted({"task_class": "cpu", "command": command}, {"ls": ("/bin/ls",)})


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def box() -> BoxEvidence:
    return BoxEvidence(
        root="/q", root_exists=True, disk=DiskEvidence(path="/", free_mib=9999, total_mib=9999), open_files=9999
    )
