"""Every command with every odd word for each of its arguments: it works or says why not, and touches nothing else."""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from pathlib import Path

import pytest
from typer.main import get_command

from swarm.cli.app import app
from swarm.queue.file_queue import FileQueue
from tests.helpers.queues import llm

CODES = {0, 1, 2, 3}
WORDS = (
    *("", " ", ".", "..", "/", "~", "-1", "0", "nan", "inf", "1e9", "9" * 25, "x", "*?[", "%s{}%", "a:b", "#", "a b"),
    *("../../../etc/passwd", "/proc/self/none", "../x", "a/b", "a\nb", "x\n", "\x1b[31m", "\u202e", "grüße 😀"),
    *("\udcff", "a\udcffb", "x" * 70, "x" * 300, "x/" * 3000, "1" * 5000, "'; rm -rf x", "$(x)", "[1]", '{"a": 1}'),
    *("--", "=", "a=", "=b", "a=\udcff", "null"),
)
STARTS = (
    *("supervisor.main.run_supervisor", "supervisor.background.start_detached", "supervisor.serve.run_server"),
    *("brain.main.run_brain", "worker.main.run_worker", "relay.main.run_relay"),
)
KNOWN = {"source": "in.jsonl", "words": "in.jsonl", "output": "out", "model": "m:1", "names": "worker-1", "notes": "x"}
ALONE = {"prompt": ("--model", "m:1"), "task": (), "command": ("--model", "m:1"), "serve": ()}
"""Options that stand instead of the input."""
LEFT_OUT = {"help", "follow", "serve", "as_json", "config", "root", "install_completion", "show_completion"}


def every_command(group=None, path=()):
    for name, command in (group or get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, (*path, name))
        else:
            yield (*path, name), command


PROGRAM = get_command(app)
COMMANDS = dict(every_command())


class Ended:
    """How a command ended and what it said."""

    def __init__(self, argv):
        self.argv = argv
        streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace") for _ in range(3)]
        before = sys.stdin, sys.stdout, sys.stderr
        sys.stdin, sys.stdout, sys.stderr = streams
        self.fault = ""
        try:
            PROGRAM.main(list(argv), prog_name="swarm")
            self.code = 0
        except SystemExit as end:
            self.code = end.code
        except BaseException:  # whatever it is, it is told with the words that caused it
            self.code, self.fault = 70, traceback.format_exc()
        finally:
            sys.stdin, sys.stdout, sys.stderr = before
        self.out, self.err = (self.text(stream) for stream in streams[1:])

    @staticmethod
    def text(stream):
        stream.flush()
        return stream.buffer.getvalue().decode()

    def wrong(self):
        """What is wrong with how it ended, with the words that led there."""
        if self.fault or "Traceback" in self.err:
            yield self.argv, self.fault or self.err
        elif self.code not in CODES:
            yield self.argv, self.code
        elif self.code and not self.err and not self.out:
            yield self.argv, "says nothing"
        if "--json" in self.argv and self.out:
            try:
                json.loads(self.out)
            except ValueError as problem:
                yield self.argv, f"no JSON: {problem}: {self.out[:200]}"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A root with a finished, a failed and a waiting task and a batch; a working directory; nothing can be started."""
    queue = FileQueue(str(tmp_path / "root"), "fast").prepare()
    queue.enqueue(llm(task_id="x", model="m:1"))
    work = tmp_path / "work"
    work.mkdir()
    (work / "in.jsonl").write_text('{"prompt": "hello"}\n')
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", "")
    for name in STARTS:
        monkeypatch.setattr(f"swarm.{name}", lambda *_, **__: 0)
    monkeypatch.setattr("swarm.cli.run.model_pull._own_server", refuse)
    return tmp_path


def refuse(*_):
    from swarm.errors import ModelServerError

    raise ModelServerError("no server in this test")


def base(path, command, instead=None):
    """The command with what it must have; the parameter ``instead`` is left out."""
    argv = list(path)
    for param in command.params:
        if (
            param.param_type_name == "argument"
            and param is not instead
            and (param.required or param.name in ("source", "words"))
        ):
            argv.append(KNOWN.get(param.name, "x"))
        elif param.name == "output" and param is not instead:
            argv += ["-o", "out"]
    if path == ("run",):
        argv.append("--dry-run")
    return argv


def argv_of(path, command, param, word):
    argv = base(path, command, param)
    if instead := ALONE.get(param.name):
        argv = [*path, *instead]
    tail = ["--root", "../root"] if any(p.name == "root" for p in command.params) else []
    tail += ["--json"] if any(p.name == "as_json" for p in command.params) else []
    if param.param_type_name == "argument":
        return [*argv, *tail, "--", word]
    option = param.opts[-1]
    return [*argv, *tail, *([f"{option}={word}"] if option.startswith("--") else [option, word])]


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


@pytest.mark.parametrize("path", [pytest.param(path, id=" ".join(path)) for path in COMMANDS if path != ("sim", "ollama")])
def test_every_word_for_every_argument(place, path, monkeypatch):
    command = COMMANDS[path]
    outside = [name for name in tree(place) if not name.startswith(("root", "work/"))]
    wrong = []
    for param in command.params:
        if param.name in LEFT_OUT or getattr(param, "is_flag", False):
            continue
        for word in WORDS:
            wrong += Ended(argv_of(path, command, param, word)).wrong()
    assert not wrong
    assert [name for name in tree(place) if not name.startswith(("root", "work/"))] == outside


def submit(root):
    return Ended(["submit", "--prompt", "x", "--model", "m:1", f"--root={root}"])


@pytest.mark.parametrize("root", ["", "file", "file/x", "dangling", "loop", "/dev/null", "/proc/x", "y" * 300, "y/" * 2500])
def test_roots_that_can_be_none_are_refused_in_a_sentence(place, root):
    Path("file").touch()
    Path("dangling").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    before = tree(place)
    done = submit(root)
    assert (list(done.wrong()), done.code, done.out) == ([], 2, "")
    assert done.err.startswith("error: ")
    assert tree(place) == before


@pytest.mark.parametrize(
    "root", ["-x", "a/", "./b/../a", "$(x)", "/".join(["y" * 200] * 10), "sp ace", "~~", "a:b", "%2e", "\udcff"]
)
def test_other_roots_are_made_just_as_they_are_called(place, root):
    done = submit(root)
    assert (list(done.wrong()), done.code) == ([], 0)
    made = Path(os.path.normpath(root))
    assert (made / "pending").is_dir()
    assert set(os.listdir()) == {"in.jsonl", made.parts[0]}


def test_a_link_to_a_root_is_that_root(place):
    Path("link").symlink_to("../root")
    assert submit("link").code == 0
    shown = json.loads(Ended(["config", "show", "--root", "link", "--json"]).out)
    assert shown["settings"]["queue"]["root"] == str(place / "root")


@pytest.mark.parametrize("output", ["", "folder", "folder/", "none/o.jsonl", "file/o.jsonl", "y" * 300, "loop"])
def test_outputs_that_cannot_be_written_are_named_before_any_work(place, output):
    Path("folder").mkdir()
    Path("file").touch()
    Path("loop").symlink_to("loop")
    before = tree(place)
    done = Ended(["run", "in.jsonl", f"-o{output}" if output else "--output=", "--model", "m:1", "--root", "new"])
    assert (list(done.wrong()), done.code) == ([], 2)
    assert output.rstrip("/") in done.err
    assert tree(place) == before
