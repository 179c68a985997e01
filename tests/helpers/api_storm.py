"""A swarm under fire while OpenAI's own client drives batches through its HTTP server; judged by what the API answers."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import openai
from openai.types import Batch

from swarm.proc.env_markers import ROOT_MARKER, find_marked
from swarm.proc.ports import free_port
from swarm.queue.file_queue import FileQueue
from swarm.queue.fsck import fsck
from tests.endurance.process_killer import shoot
from tests.helpers.api_checks import ENDED, BatchSeen, Look, of_batch, of_files
from tests.helpers.crashworld import MAY_REMAIN
from tests.helpers.kept_supervisor import END_S, KeptSupervisor
from tests.helpers.stormplan import MODELS, STUCK_S, storm_config
from tests.helpers.wait import wait_until

TARGETS = ("http",) * 6 + ("worker",) * 6 + ("server",) * 4 + ("brain",) * 2 + ("supervisor",) * 2
"""``http`` is the server's process or the one that it drives batches with."""
AT_ONCE = 5
"""Batches under way at a time, so that uploads and downloads come throughout."""
RETRIES = 40
"""Of the client, by itself: the process it asks is killed again and again, and each wait is 8 s at most."""


class ApiPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One storm."""

    batches: int
    lines: int
    """Of each batch."""
    kills: int
    seed: int
    workers: int = 4
    slots: int = 4
    every_s: float = 0.5
    """Between two shots, on average."""

    @property
    def request_s(self) -> float:
        """Long enough that the batches last about as long as the shooting."""
        return max(0.02, 0.7 * self.kills * self.every_s * self.workers * self.slots / (self.batches * self.lines))


class ApiReport(msgspec.Struct, kw_only=True):
    """What came of it. ``findings`` must be empty."""

    shots: Counter[str] = msgspec.field(default_factory=Counter)
    batches: int = 0
    created_twice: int = 0
    """Batches that the client created again when the answer to the first creation was lost: judged like all others."""
    lines: int = 0
    failed_lines: int = 0
    looks: int = 0
    files: int = 0
    cut_uploads: int = 0
    """Uploads that ended half-way; none may be a file."""
    findings: list[str] = msgspec.field(default_factory=list)
    took_s: float = 0.0


class ApiStorm:
    """One run: ``blow`` does it all. ``say`` is told of the progress."""

    def __init__(self, plan: ApiPlan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self._dice = random.Random(plan.seed)
        self.home = tempfile.mkdtemp(prefix="swarm-api-storm-")
        self.root = f"{self.home}/queue"
        self._port = free_port()
        self._report = ApiReport()
        words = ("--simulate", str(plan.workers), "--http", str(self._port))
        self._swarm = KeptSupervisor(self.home, self.root, *words)
        self._numbers = itertools.count()
        self._seen: dict[str, BatchSeen] = {}
        self._inputs: dict[str, bytes] = {}
        """What was uploaded, by the batch's number."""
        self._over = threading.Event()
        with open(f"{self.home}/config.toml", "w", encoding="utf-8") as file:
            file.write(storm_config(request_s=plan.request_s, slots=plan.slots))

    def blow(self) -> ApiReport:
        """Drive batches, shoot, wait, judge."""
        began_s = time.monotonic()
        try:
            self._swarm.keep_up()
            with ThreadPoolExecutor(AT_ONCE) as pool:
                driving = [pool.submit(self._drive) for _ in range(AT_ONCE)]
                try:
                    self._shoot(lambda: all(one.done() for one in driving))
                finally:
                    self._over.set()
                while not all(one.done() for one in driving):
                    self._swarm.keep_up()
                    time.sleep(0.1)
            for one in driving:
                one.result()
            self._swarm.keep_up()
            self._judge()
            self._end()
        finally:
            self._swarm.kill_all()
        self._report.took_s = time.monotonic() - began_s
        if not self._report.findings:
            shutil.rmtree(self.home)
        return self._report

    def _shoot(self, done: Callable[[], bool]) -> None:
        shots = self._report.shots
        while shots.total() < self._plan.kills and not done():
            time.sleep(self._dice.expovariate(1 / self._plan.every_s))
            self._swarm.keep_up()
            target = self._dice.choice(TARGETS)
            if target == "supervisor":
                self._swarm.kill()
            elif not shoot(self.root, target, self._dice):
                continue
            shots[target] += 1
            if shots.total() % 25 == 0:
                ended = sum(bool(one.looks) and one.looks[-1].status in ENDED for one in list(self._seen.values()))
                self._say(f"{shots.total()} of {self._plan.kills} shots, {ended} of {len(self._seen)} batches ended")

    # -- the client --------------------------------------------------------------------------------------------------

    def _client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self._port}/v1", api_key="none", max_retries=RETRIES, timeout=60.0)

    def _drive(self) -> None:
        """One batch after the other, until there are enough and the shooting is over."""
        with self._client() as client:
            while (number := next(self._numbers)) < self._plan.batches or not self._over.is_set():
                try:
                    self._one_batch(client, str(number))
                except openai.OpenAIError as error:
                    self._report.findings.append(f"batch {number}: the client gave up: {type(error).__name__}: {error}")

    def _one_batch(self, client: openai.OpenAI, number: str) -> None:
        body = _input(number, self._plan.lines, random.Random(f"{self._plan.seed}-{number}"))
        self._inputs[number] = body
        file = client.files.create(file=(f"{number}.jsonl", body), purpose="batch")
        wait_until(lambda: self._cut_upload(body), what="somebody to take half an upload")
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"number": number}
        )
        self._watch(client, batch)

    def _watch(self, client: openai.OpenAI, batch: Batch) -> None:
        """Look at it until it has ended, or nothing of it moves."""
        seen = self._seen.setdefault(batch.id, BatchSeen(batch_id=batch.id, wanted=_wanted(batch, self._plan.lines)))
        seen.looks.append(_look(batch))
        moved_s = time.monotonic()
        while seen.looks[-1].status not in ENDED:
            if time.monotonic() - moved_s > STUCK_S:
                self._report.findings.append(f"{batch.id}: stuck for {STUCK_S:.0f} s: {seen.looks[-1]}")
                return
            time.sleep(0.1)
            seen.looks.append(_look(client.batches.retrieve(batch.id)))
            if seen.looks[-1] != seen.looks[-2]:
                moved_s = time.monotonic()

    def _cut_upload(self, body: bytes) -> bool:
        """Send half of an upload and hang up; False where nobody listens just now."""
        part = b'--cut\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
        form = part % (b"purpose", b"", b"batch") + part % (b"file", b'; filename="cut.jsonl"', body) + b"--cut--\r\n"
        head = f"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Length: {len(form)}\r\n"
        head += "Content-Type: multipart/form-data; boundary=cut\r\n\r\n"
        try:
            with socket.create_connection(("127.0.0.1", self._port), 10) as connection:
                connection.sendall(head.encode() + form[: len(form) // 2])
        except OSError:
            return False
        self._report.cut_uploads += 1
        return True

    # -- the judge: it asks the API alone ----------------------------------------------------------------------------

    def _judge(self) -> None:
        report = self._report
        with self._client() as client:
            batches = list(client.batches.list(limit=7))
            for batch in batches:
                self._watch(client, batch)  # those that were created twice have not been watched
            numbers = Counter((batch.metadata or {}).get("number", "") for batch in batches)
            report.batches, report.created_twice = len(batches), sum(times - 1 for times in numbers.values())
            report.findings += [f"batch {number} is not listed" for number in sorted(set(self._inputs) - set(numbers))]
            report.findings += [f"{i} is not listed" for i in sorted(set(self._seen) - {batch.id for batch in batches})]
            for batch in batches:
                seen = self._seen[batch.id]
                seen.output, seen.errors = _lines(client, batch.output_file_id), _lines(client, batch.error_file_id)
                report.findings += of_batch(seen)
                report.lines += len(seen.wanted)
                report.failed_lines += len(seen.errors)
                report.looks += len(seen.looks)
            report.findings += of_files(self._stored(client), self._inputs.values())

    def _stored(self, client: openai.OpenAI) -> Iterator[tuple[str, int, bytes]]:
        for file in client.files.list(purpose="batch", limit=7):
            self._report.files += 1
            yield file.id, file.bytes, client.files.content(file.id).read()

    def _end(self) -> None:
        self._swarm.keep_up()
        if not self._swarm.end():
            self._report.findings.append(f"the supervisor did not end within {END_S:.0f} s")
        try:
            wait_until(lambda: not find_marked(**{ROOT_MARKER: self.root}), what="no process is left over")
        except AssertionError as left:
            self._report.findings.append(f"{left}: {find_marked(**{ROOT_MARKER: self.root})}")
        wrong = [f for f in fsck.look(FileQueue(self.root, "fast").layout) if f.kind not in MAY_REMAIN]
        self._report.findings += [f"fsck: {f.kind}: {f.path}: {f.what}" for f in wrong]


def _input(number: str, lines: int, dice: random.Random) -> bytes:
    """An input file; its questions are long enough that a kill may hit the middle of the upload."""
    found = []
    for custom_id in _ids(number, lines):
        question = " ".join(dice.choices(("why", "is", "the", "sky", "blue", "tonight"), k=200))
        body = {"model": dice.choice(MODELS), "messages": [{"role": "user", "content": question}]}
        found.append({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body})
    return "".join(json.dumps(line) + "\n" for line in found).encode()


def _ids(number: str, lines: int) -> list[str]:
    return [f"{number}-{line}" for line in range(lines)]


def _wanted(batch: Batch, lines: int) -> list[str]:
    return _ids((batch.metadata or {}).get("number", ""), lines)


def _look(batch: Batch) -> Look:
    counts = batch.request_counts
    return Look(batch.status, counts.total, counts.completed, counts.failed) if counts else Look(batch.status, 0, 0, 0)


def _lines(client: openai.OpenAI, file_id: str | None) -> list[dict[str, object]]:
    text = client.files.content(file_id).text if file_id else ""
    return [json.loads(line) for line in text.splitlines()]
