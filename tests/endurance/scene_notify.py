"""Being told: a receiver that is down, fails, hangs, then works; one that never comes back; a brain killed meanwhile."""

from __future__ import annotations

import argparse
import contextlib
import http.server
import importlib.util
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from swarm.proc.ports import free_port
from swarm.queue.batches.batch_watch import BatchWatch
from tests.endurance.notification_checks import given_up, told_of_all, twice
from tests.endurance.process_killer import shoot
from tests.endurance.reporting import Teller
from tests.endurance.scene_common import MODEL, Arena, SceneReport, dice_of, size, teller

PHASES = ("down", "fails", "hangs", "works")
TIMEOUT_S = 2.0
MAX_TRIES = (6, 5)
"""In full and ``--quick``: the last one comes 62 or 30 s after the first."""
PATIENCE_S = 180.0
SECRET = "nobody else's business"


def add_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--endings", type=int, help="tasks whose end somebody is told of (600; quick 80)")
    group.add_argument("--phase-s", type=float, help="how long the receiver is down, fails, hangs (6; quick 2)")


class Receiver:
    """An HTTP server on the loopback that behaves as its ``phase`` says, and keeps what it was told."""

    def __init__(self, port: int, on_message: Callable[[int], None] = lambda _count: None) -> None:
        self.phase = "down"
        self.told: list[tuple[str, dict[str, Any]]] = []
        """(path, message), in the order in which they came."""
        self.refused = 0
        self._on_message = on_message
        self._changed = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.answer(self, body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._port, self._handler = port, Handler
        self._server: http.server.ThreadingHTTPServer | None = None

    def answer(self, request: http.server.BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        """As the phase wants it. Whoever waits for the answer is told nothing while it hangs."""
        status = 200
        if self.phase != "works":
            self.refused += 1
            status = 500
        if self.phase == "hangs":
            self._changed.wait(60)
        if status == 200:
            message = json.loads(body["message"]) if "title" in body else body  # apprise wraps it
            self.told.append((request.path, message))
            self._on_message(len(self.told))
        with contextlib.suppress(OSError):  # gone meanwhile: killed, or tired of waiting
            request.send_response(status)
            request.end_headers()

    def enter(self, phase: str) -> None:
        """Behave so from now on."""
        self.phase = phase
        if phase == "works":
            self._changed.set()
        if phase != "down" and self._server is None:
            self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self._port), self._handler)
            threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def messages(self, path: str) -> list[dict[str, Any]]:
        """What was told to this address."""
        return [message for where, message in list(self.told) if where == path]

    def close(self) -> None:
        """End it."""
        if self._server is not None:
            self._server.shutdown()
            self._server.socket.close()  # whoever still waits for an answer is not waited for


def scene(options: argparse.Namespace) -> SceneReport:
    """The same work with nobody told and with everybody told, and then who was told what."""
    number = size(options.endings, options, full=600, quick=80)
    phase_s = options.phase_s or (2.0 if options.quick else 6.0)
    tries = MAX_TRIES[options.quick]
    say = teller(options)
    report = SceneReport(name=f"notify: {number} endings, phases of {phase_s:g} s, --seed {options.seed}")
    say(report.name)
    settings = {"SWARM_NOTIFY__TIMEOUT_S": str(TIMEOUT_S), "SWARM_NOTIFY__MAX_TRIES": str(tries)}
    with Arena("notify-none", options, request_s=0.1) as arena:
        arena.up(2)
        silent_s = _work(arena, _lines(number, {}), ())
        arena.down(report.findings)
    say(f"nobody told: {silent_s:.1f} s")
    with Arena("notify", options, request_s=0.1, **settings) as arena:
        _told(arena, number, tries, phase_s, silent_s, dice_of(options, "notify"), say, report)
        if report.findings:
            arena.keep()
    report.took_s = say.took_s
    return report


def _told(
    arena: Arena,
    number: int,
    tries: int,
    phase_s: float,
    silent_s: float,
    dice: random.Random,
    say: Teller,
    report: SceneReport,
) -> None:
    port, dead_port = free_port(), free_port()
    hook, dead = f"http://127.0.0.1:{port}/hook", f"http://127.0.0.1:{dead_port}/dead"
    targets = {hook: 1, dead: 10}
    if importlib.util.find_spec("apprise") is not None:
        targets |= {f"json://127.0.0.1:{port}/apprise": 7, f"json://127.0.0.1:{dead_port}/": 31}
    brain = _Shooter(arena, dice)
    arena.up(2)
    with _phases(port, phase_s, brain, say) as receiver:
        told_s = _work(arena, _lines(number, targets), (hook,))
        say(f"everybody told: {told_s:.1f} s of work; telling goes on")
        notes = _until_told(arena, say)
        records = {record["task_id"]: record for record in arena.records()}
        batch_id = next(iter(arena.queue.batches().names()))
        owed = {t: {i for i, r in records.items() if t in r.get("notify", ())} for t in targets}
        owed[hook] = owed[hook] | {batch_id}
        status = {i: r["status"] for i, r in records.items()}
        for target in targets:
            if target in (hook, f"json://127.0.0.1:{port}/apprise"):
                path = "/hook" if target == hook else "/apprise"
                report.findings += told_of_all(target, owed[target], receiver.messages(path), status)
            else:
                report.findings += given_up(target, owed[target], notes, tries)
        if SECRET in json.dumps(receiver.told):
            report.findings.append("a message held a prompt or an answer")
        report.figures |= {
            "tasks, each with 1 to 4 targets": number,
            "seconds of work, nobody told": round(silent_s, 1),
            "seconds of work, targets down": round(told_s, 1),
            "messages received": len(receiver.told),
            "  of these again, under the same id": twice(receiver.messages("/hook")) + twice(receiver.messages("/apprise")),
            "requests while it failed or hung": receiver.refused,
            "brain killed": f"{brain.shots}, {brain.amid} of these while a message was being answered",
            "undeliverable, listed": sum(note["state"] == "undeliverable" for note in notes),
        }
    if told_s > 1.5 * silent_s + 3.0:
        report.findings.append(f"the work took {told_s:.1f} s instead of {silent_s:.1f} s: it waited for the telling")
    report.figures["told after `swarm notify retry`"] = _retried(arena, dead_port, owed[dead], status, report)
    arena.down(report.findings)


def _lines(number: int, targets: dict[str, int]) -> list[dict[str, Any]]:
    """Prompts; each target is told of every so-manieth."""
    return [
        {"prompt": f"{SECRET} {n}", "n": n, "notify": [t for t, every in targets.items() if n % every == 0]}
        if targets
        else {"prompt": f"{SECRET} {n}", "n": n}
        for n in range(number)
    ]


def _work(arena: Arena, lines: list[dict[str, Any]], notify: tuple[str, ...]) -> float:
    """Submit, wait until all has ended; seconds from the submission to the last end, by the records."""
    path = arena.path("in.jsonl")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    began_s = time.monotonic()
    arena.swarm("submit", path, "--model", MODEL, *(word for target in notify for word in ("--notify", target)))
    book = arena.queue.batches()
    watch = BatchWatch(arena.queue.layout, [i for name in book.names() for i in book.task_ids(name)])
    arena.until(lambda: watch.look().left, lambda _: None)
    return time.monotonic() - began_s


class _Shooter:
    """Kills the brain now and then, and in the middle of messages."""

    def __init__(self, arena: Arena, dice: random.Random) -> None:
        self._arena, self._dice = arena, dice
        self._next = dice.randrange(2, 12)
        self.shots = self.amid = 0

    def fire(self) -> None:
        self.shots += shoot(self._arena.root, "brain", self._dice)

    def on_message(self, count: int) -> None:
        """The receiver has it and has not answered yet: the brain cannot know that it arrived."""
        if count >= self._next and self.amid < 3:
            self._next = count + self._dice.randrange(5, 40)
            before = self.shots
            self.fire()
            self.amid += self.shots - before


@contextlib.contextmanager
def _phases(port: int, phase_s: float, brain: _Shooter, say: Teller) -> Iterator[Receiver]:
    """A receiver that goes through its phases from now on; the brain is killed once in each that fails."""
    receiver, stop = Receiver(port, brain.on_message), threading.Event()

    def live() -> None:
        for phase in PHASES:
            say(f"the receiver {'is ' if phase == 'down' else ''}{phase}")
            receiver.enter(phase)
            if phase == "works" or stop.wait(phase_s / 2):
                return
            brain.fire()
            stop.wait(phase_s / 2)

    thread = threading.Thread(target=live, name="phases")
    thread.start()
    try:
        yield receiver
    finally:
        stop.set()
        thread.join()
        receiver.close()


def _until_told(arena: Arena, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Until nothing waits to be told any more; what `swarm notify list` says then."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        notes: list[dict[str, Any]] = arena.swarm_json("notify", "list")["notes"]
        waiting = sum(note["state"] == "waiting" for note in notes)
        if not waiting or time.monotonic() > until_s:
            return notes
        say(f"{waiting} messages wait")
        time.sleep(5.0)


def _retried(arena: Arena, port: int, owed: set[str], status: dict[str, str], report: SceneReport) -> int:
    """Once the one that was down for ever is there after all, what was given up can be told."""
    notes = arena.swarm_json("notify", "list")["notes"]
    names = [note["note"] for note in notes if any(f":{port}/dead" in target for target in note["targets"])]
    receiver = Receiver(port)
    receiver.enter("works")
    try:
        arena.swarm("notify", "retry", *names)
        until_s = time.monotonic() + PATIENCE_S
        while len({m["message_id"] for m in receiver.messages("/dead")}) < len(owed) and time.monotonic() < until_s:
            time.sleep(0.1)
    finally:
        receiver.close()
    report.findings += told_of_all("the one that came back late", owed, receiver.messages("/dead"), status)
    return len(receiver.messages("/dead"))
