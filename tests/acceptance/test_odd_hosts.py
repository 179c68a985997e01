"""Hosts and file systems that lack a call, with real processes: done another way, or refused in a sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import forbidden
from tests.helpers.cli import user
from tests.helpers.fake_nvml import compiler

LAUNCHER = Path(forbidden.__file__)
NO_FLUSH = Path(__file__).parents[1] / "data" / "hosts" / "nodirsync.c"
filtered = pytest.mark.skipif(not forbidden.available(), reason="no filter of system calls can be set here")
RUN = ("run", "prompts.jsonl", "-o", "out.jsonl", "--model", "llama3.2:3b", "--simulate", "1")


@pytest.fixture
def someone(tmp_path):
    with user(tmp_path) as person:
        person.prompts(3)
        yield person


def under_filter(person, code, calls, *words):
    return subprocess.run(
        [sys.executable, LAUNCHER, code, ",".join(calls), sys.executable, "-m", "swarm", *words],
        cwd=person.folder,
        env=person.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def answers(person):
    return [json.loads(line) for line in (person.folder / "out.jsonl").read_text().splitlines()]


def nothing_broke(person, said):
    logs = "".join(path.read_text() for path in (person.root / "logs").glob("*"))
    assert "Traceback" not in said + logs
    assert "belongs to somebody else" not in said + logs


@filtered
@pytest.mark.parametrize("code", ["EPERM", "ENOSYS"])
def test_a_container_that_forbids_whatever_can_be_done_another_way(someone, code):
    calls = ["renameat2", "pidfd_open", "pidfd_send_signal", "syncfs", "inotify_init1", "faccessat2"]
    done = under_filter(someone, code, calls, *RUN)
    assert done.returncode == 0, done.stderr
    assert len(answers(someone)) == 3
    nothing_broke(someone, done.stderr)
    told = someone.log("supervisor")
    for what in ("rename without overwriting", "pidfds", "flush of all at once", "inotify"):
        assert f"Fallback: {what}: " in told


@filtered
@pytest.mark.parametrize("code", ["EPERM", "ENOSYS"])
@pytest.mark.parametrize(
    ("calls", "words"),
    [
        (["flock"], "file locks do not work here"),
        (["renameat2", "link", "linkat"], "neither is there a rename that never overwrites"),
        (["fsync", "syncfs"], "cannot flush files"),
        (["kill"], "no process can be signalled"),
        (["eventfd2"], "could not be woken"),
    ],
)
def test_one_that_forbids_what_nothing_can_replace_is_told_at_once(someone, calls, words, code):
    done = under_filter(someone, code, calls, *RUN)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "hint: " in done.stderr
    assert not (someone.folder / "out.jsonl").exists()
    nothing_broke(someone, done.stderr)
    found = under_filter(someone, code, calls, "doctor", "--simulate", "1", "--json")
    assert "host-lacks" in {finding["code"] for finding in json.loads(found.stdout)["findings"]}


@filtered
def test_without_any_flush_it_works_in_durability_fast(someone):
    someone.env["SWARM_QUEUE__DURABILITY"] = "fast"
    done = under_filter(someone, "EPERM", ["fsync", "syncfs"], *RUN)
    assert done.returncode == 0, done.stderr
    assert len(answers(someone)) == 3


@pytest.mark.skipif(compiler() is None, reason="no C compiler")
@pytest.mark.parametrize("durability", ["full", "fast"])
def test_a_file_system_that_cannot_flush_directories(someone, tmp_path, durability):
    library = tmp_path / "nodirsync.so"
    subprocess.run([compiler() or "", "-shared", "-fPIC", "-o", library, NO_FLUSH, "-ldl"], check=True)
    someone.env |= {"LD_PRELOAD": str(library), "SWARM_QUEUE__DURABILITY": durability}
    done = someone.run(*RUN, timeout_s=120)
    assert done.returncode == 0, done.stderr
    assert len(answers(someone)) == 3
    nothing_broke(someone, done.stderr)
    said = "cannot flush directories (Invalid argument)"
    assert said in someone.log("supervisor")
    assert (said in done.stderr) == (durability == "full"), "what is lost, and how to mend it, is said to who asked for it"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_no_proc_and_one_of_another_namespace(someone):
    for inside in (
        ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"],
        ["unshare", "--pid", "--fork", "--kill-child"],
    ):
        if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
            pytest.skip(f"not possible here: {' '.join(inside)}")
        done = subprocess.run(
            [*inside, sys.executable, "-m", "swarm", *RUN],
            cwd=someone.folder,
            env=someone.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert "/proc " in done.stderr
        assert "mount -t proc" in done.stderr
