"""What the scenes of ``scripts/endurance`` share: the report, a swarm of their own, waiting for the end.

A scene is a module with ``add_options(group)`` and ``scene(options) -> SceneReport``; ``scripts/endurance`` names it in
``SCENES``. It runs real processes, then reads the files and puts into ``findings`` whatever is not as promised.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from swarm.core.task import TERMINAL, TaskState
from swarm.proc.env_markers import ROOT_MARKER, find_marked, kill_marked
from swarm.proc.ports import free_port
from swarm.queue.file_queue import FileQueue
from swarm.queue.fsck import fsck
from tests.endurance.reporting import Teller
from tests.helpers.crashworld import MAY_REMAIN
from tests.helpers.stormplan import CONFIG

MODEL = "llama3.2:3b"
CARDS = 4
STUCK_S = 120.0
"""Nothing ends for so long: what is left is stuck."""
TARGETS = ("worker",) * 6 + ("server",) * 3 + ("brain",) * 3


class SceneReport(msgspec.Struct, kw_only=True):
    """What came of a scene."""

    name: str
    figures: dict[str, Any] = msgspec.field(default_factory=dict)
    """Label to value, in the order of the table; also what ``--json`` gives, so plain values only."""
    findings: list[str] = msgspec.field(default_factory=list)
    """What is wrong, a line each. Must be empty."""
    took_s: float = 0.0


def size(given: int | None, options: argparse.Namespace, *, full: int, quick: int) -> int:
    """A size as given, or the one of this dose (``--quick`` or not)."""
    return given if given is not None else quick if options.quick else full


def teller(options: argparse.Namespace) -> Teller:
    """Where progress goes: with ``--json`` not among the results."""
    return Teller(sys.stderr if options.json else sys.stdout)


def dice_of(options: argparse.Namespace, scene: str) -> random.Random:
    """Each scene's own, so that it is the same whichever others run."""
    return random.Random(f"{options.seed} {scene}")


class Arena:
    """A temporary home with a queue root, and a swarm on simulated cards in it. Everything is ended and removed at the end;
    the home is kept after ``keep()``, an exception, or with ``--keep``.
    """

    def __init__(
        self, scene: str, options: argparse.Namespace, *, request_s: float = 0.01, config: str = "", **env: str
    ) -> None:
        """``request_s``: how long each answer takes; ``config`` and ``env``: further settings, as TOML and ``SWARM_…``."""
        self.home = tempfile.mkdtemp(prefix=f"swarm-endure-{scene}-")
        self.root = f"{self.home}/queue"
        self.queue = FileQueue(self.root).prepare()
        self._kept = bool(options.keep)
        written = CONFIG.format(port=free_port(), request_s=request_s, slots=4, engine=options.engine) + config
        Path(f"{self.home}/config.toml").write_text(written, encoding="utf-8")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SWARM_", "OLLAMA_"))}
        ours = {"SWARM_ROOT": self.root, "SWARM_CONFIG": f"{self.home}/config.toml", "SWARM_SIM_RUNNER": "none"}
        ours["SWARM_SIM_LEDGER"] = self.path("executed")
        self.env = {**clean, **ours, "SWARM_RETRY__CRASH_LIMIT": "100", **env}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        kill_marked(0.0, **{ROOT_MARKER: self.root})
        if self._kept or kind is not None:
            print(f"  everything is kept in {self.home}", file=sys.stderr)
        else:
            shutil.rmtree(self.home)

    def keep(self) -> None:
        """Leave the files where they are, for whoever wants to see what went wrong."""
        self._kept = True

    def path(self, name: str) -> str:
        """A file in this home."""
        return f"{self.home}/{name}"

    def start(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        """``swarm …`` in this home, its output piped unless ``more`` says otherwise."""
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **more}
        return subprocess.Popen([sys.executable, "-m", "swarm", *words], cwd=self.home, env=self.env, text=True, **piped)

    def swarm(self, *words: str, timeout_s: float = 300.0) -> str:
        """Run ``swarm …``; its standard output. Raises ``RuntimeError`` if it fails."""
        process = self.start(*words)
        out, err = process.communicate(timeout=timeout_s)
        if process.returncode:
            raise RuntimeError(f"swarm {' '.join(words)}: exit {process.returncode}\n{out}\n{err}")
        return out

    def swarm_json(self, *words: str) -> Any:
        """The same with ``--json``, read."""
        return json.loads(self.swarm(*words, "--json"))

    def up(self, cards: int = CARDS) -> None:
        """A detached swarm: supervisor, brain, workers, simulated servers."""
        self.swarm("up", "--simulate", str(cards), "--detach")

    def down(self, findings: list[str]) -> None:
        """End it in order, then look for what is left over and for what ``fsck`` says; into ``findings``."""
        self.swarm("down")
        left = {_words_of(identity.pid) for identity in find_marked(**{ROOT_MARKER: self.root})} - {""}
        findings += [f"left over after `swarm down`: {name}" for name in sorted(left)]
        wrong = [f for f in fsck.look(self.queue.layout) if f.kind not in MAY_REMAIN]
        findings += [f"fsck: {f.kind}: {f.path}: {f.what}" for f in wrong]

    def unfinished(self, findings: list[str]) -> None:
        """Every task has ended: nothing is pending, blocked or in processing. Else into ``findings``."""
        for state in (TaskState.PENDING, TaskState.BLOCKED, TaskState.PROCESSING):
            left = [located.task_id for located in self.queue.list(state)]
            if left:
                findings.append(f"{len(left)} tasks are left in {state}, the first: {left[0]}")

    def records(self) -> list[dict[str, Any]]:
        """All finished documents as they lie there, each with its ``state``: one that lies in two places comes twice."""
        found = []
        for state in TERMINAL:
            for located in self.queue.list(state):
                with open(located.path, "rb") as file:
                    found.append({**json.loads(file.read()), "state": str(state)})
        return found

    def requests(self) -> Counter[str]:
        """How often each task was asked of a server, by the servers' own books; a line torn by a kill is passed over."""
        asked: Counter[str] = Counter()
        if os.path.exists(self.path("executed")):
            with open(self.path("executed"), "rb") as file:
                for line in file:
                    try:
                        asked[json.loads(line).get("task", "")] += 1
                    except ValueError:
                        continue
        asked.pop("", None)
        return asked

    def until(self, left: Callable[[], int], say: Callable[[str], None], *, every_s: float = 5.0) -> bool:
        """Wait until ``left()`` is 0; False when it did not change for ``STUCK_S``."""
        before, moved_s, said_s = -1, time.monotonic(), time.monotonic()
        while now := left():
            if now != before:
                before, moved_s = now, time.monotonic()
            if time.monotonic() - moved_s > STUCK_S:
                say(f"stuck: {now} left, and nothing has ended for {STUCK_S:.0f} s")
                return False
            if time.monotonic() - said_s > every_s:
                said_s = time.monotonic()
                say(f"{now} left")
            time.sleep(0.05)
        return True


def told_hits(hits: Counter[str]) -> str:
    """``12  (brain 3, worker 9)``."""
    return f"{hits.total()}  ({', '.join(f'{kind} {count}' for kind, count in sorted(hits.items()))})"


def _words_of(pid: int) -> str:
    """What a process was called with; empty for one that has gone meanwhile."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return f"{words.strip()} ({pid})" if words else ""
