"""Quick commands: what they load, and that each command has its place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from swarm.cli.app import COMMANDS, app
from tests.helpers.queues import llm, open_queue

REPOSITORY = Path(__file__).parents[3]
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
PARTS = {f"swarm.{part}" for part in ("queue.brain", "queue.counts", "brain.observe", "engines", "gpu")}


def test_every_command_is_where_the_table_says_under_its_own_name_and_line_of_help():
    group = get_command(app)
    assert list(group.commands) == list(COMMANDS)
    assert [group.commands[name].name for name in COMMANDS] == list(COMMANDS)
    assert [group.commands[name].get_short_help_str(limit=80) for name in COMMANDS] == [
        line for _, line in COMMANDS.values()
    ]
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
    others = {f"swarm.cli.{place.partition(':')[0]}" for name, (place, _) in COMMANDS.items() if name != "queue"}
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
    modules = loaded("--help", root=tmp_path)
    assert not modules & (HEAVY | PARTS | {"msgspec"})
    assert not any(name.startswith("swarm.cli.commands.") for name in modules), "the list of commands loads none of them"
