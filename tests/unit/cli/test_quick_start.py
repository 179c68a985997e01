"""Quick commands: what they load, that options get the values typer would give them, and that each command has its place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from swarm.cli.app import app
from swarm.cli.command_registry import PLACES
from swarm.cli.values import LEFT_TO_TYPER, plain_value
from tests.helpers.queues import llm, open_queue

REPOSITORY = Path(__file__).parents[3]
NUMBERS = ["5", "05", "+5", "-1", "0", "1_0", "٣", " 7", "1e3", "99999999999", 3, 0, 2.5, True]
WORDS = ["", "a", "-", "true", "no", "24h", "b:7b", "/dev/null", *NUMBERS]
HEAVY = {
    "pydantic",
    "rich",
    "psutil",
    "pynvml",
    "filelock",
    "asyncio",
    "prometheus_client",
    "ssl",
    "http.client",
    "requests",
    "urllib3",
}
PARTS = {f"swarm.{part}" for part in ("queue.file_queue", "queue.stats.counts", "brain.observe", "ollama", "gpu")}


def every_command(group=None, path=()):
    for name, command in (group or get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, (*path, name))
        yield (*path, name), command


def outcome(make):
    try:
        return make()
    except Exception as problem:
        return type(problem).__name__, str(problem)


@pytest.mark.skipif(not hasattr(typer.core, "_TyperParameter"), reason="this typer takes values without help")
@pytest.mark.parametrize("command", [pytest.param(command, id=" ".join(path)) for path, command in every_command()])
def test_a_plain_value_is_what_typer_makes_of_it(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("")
    with typer.Context(command) as ctx:
        for param in command.get_params(ctx):
            monkeypatch.setattr(param, "callback", None)  # the same for both; some of them end the program
            compare(ctx, param)


def compare(ctx, param):
    many = getattr(param, "multiple", False) or param.nargs == -1
    taken = 0
    for value in [None, param.default, *([(), ("a",), ("a", "5"), ("a", 5)] if many else WORDS)]:
        by_typer = outcome(lambda value=value: type(param).process_value(param, ctx, value))
        assert outcome(lambda value=value: param.process_value(ctx, value)) == by_typer
        plain = plain_value(param, value)
        if plain is not LEFT_TO_TYPER:
            taken += 1
            assert (type(plain), plain) == (type(by_typer), by_typer), (param.name, value)
    assert taken or param.type_descriptor.annotation is bool, f"{param.name} is never taken as it is"


def test_a_path_that_cannot_be_read_is_left_to_typer(tmp_path, monkeypatch):
    file = tmp_path / "a"
    file.write_text("")
    monkeypatch.setattr(os, "access", lambda *_: False)
    command = get_command(app).commands["status"]
    param = next(p for p in command.params if p.name == "config")
    assert plain_value(param, str(file)) is LEFT_TO_TYPER
    assert plain_value(param, str(tmp_path / "none")) == tmp_path / "none"


def test_every_command_is_where_the_table_says_under_its_own_name():
    group = get_command(app)
    assert list(group.commands) == list(PLACES)
    assert [group.commands[name].name for name in PLACES] == list(PLACES)
    with pytest.raises(KeyError):
        group.commands["nonsense"]


def loaded(*argv: str, root: Path) -> set[str]:
    """Modules that are loaded when the command has ended."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.argv = ['swarm', *{argv!r}]\n"
        "from swarm.__main__ import main\nmain()\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("SWARM_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root, env=env, timeout=60
    )
    return set(done.stderr.split())


def test_looking_at_one_task_loads_little(tmp_path):
    queue = open_queue(tmp_path)
    task_id = queue.enqueue(llm())
    modules = loaded("queue", "show", task_id, "--root", queue.layout.root, root=tmp_path)
    assert "swarm.queue.lookup" in modules
    assert not modules & (HEAVY | PARTS)
    others = {f"swarm.cli.{place.partition(':')[0]}" for name, place in PLACES.items() if name != "queue"}
    assert not modules & others, "only the command that was asked for is loaded"


def test_counting_loads_no_option_library(tmp_path):
    queue = open_queue(tmp_path)
    assert not loaded("queue", "stats", "--json", root=tmp_path) & {"pydantic", "rich", "pynvml", "prometheus_client"}
    assert queue.stats().pending == {}


@pytest.mark.parametrize(
    "argv", [("submit", "--prompt", "a", "--model", "m"), ("batches",), ("notify", "list"), ("workers",)]
)
def test_what_asks_no_server_loads_no_http(tmp_path, argv):
    open_queue(tmp_path)
    assert not loaded(*argv, root=tmp_path) & {"requests", "urllib3", "http.client"}


def test_help_loads_nothing_heavy(tmp_path):
    assert not loaded("--help", root=tmp_path) & (HEAVY | PARTS | {"msgspec"})
