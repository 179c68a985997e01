"""Waits for a batch: counts what has ended, at what rate, on which worker; obeys Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import msgspec

from swarm.cli.run.hosting import Hosting, LifeWatch
from swarm.cli.run.progress import RunCard, RunView, Show
from swarm.cli.run.servable import ServableWatch
from swarm.config.settings import Settings
from swarm.core.rates import rates_of, share_of_best
from swarm.core.task import canonical_model
from swarm.core.worker import Heartbeat, WorkerRow
from swarm.errors import EngineError, SwarmError
from swarm.queue.batches.batch_watch import BatchWatch, Ended
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores import registry
from swarm.runtime.loop import RootGuard, handling
from swarm.runtime.open import open_observer
from swarm.views.explanations import task as explain_task

LOOK_S = 0.1
LOOK_SHARE = 20
"""A look that costs long is taken seldom: at most one part in so many of the time goes into looking."""
RATE_WINDOW_S = 10.0
QUIET_S = 15.0
"""When nothing has ended for so long, the reason is shown."""
SAME_AGAIN_S = 60.0
"""The same reason is not said more often."""
NOTHING = Ended(completed=0, failed=0, cancelled=0, left=0)


End = Literal["finished", "interrupted", "unservable"]
"""How waiting ended; ``unservable``: what is left is for models that no worker can serve."""


@contextmanager
def root_in_place(guard: RootGuard) -> Iterator[None]:
    """Within the block, what fails because the root was moved or removed is reported as that."""
    try:
        yield
    except (OSError, SwarmError) as error:
        check_root(guard, error)
        raise


def check_root(guard: RootGuard, cause: Exception | None = None) -> None:
    """Raises ``EngineError`` when the root was moved or removed."""
    if why := guard.trouble():
        hint = "find out who did that; finished results are in the directory that was there"
        raise EngineError(why, hint=hint) from cause


class RunWatch:
    """Follows the tasks of one batch to their end."""

    def __init__(
        self,
        queue: FileQueue,
        ids: Iterable[str],
        settings: Settings,
        began_s: float,
        *,
        again: int = 0,
        models: Iterable[str],
        look_s: float = LOOK_S,
        guard: RootGuard | None = None,
    ) -> None:
        """Of the tasks ``ids``, ``again`` of which were known before, for these models. ``guard``: of the root at first.

        Looks every ``look_s`` seconds, or less often where a look costs much.
        """
        self._look_s = look_s
        self._queue = queue
        self._settings = settings
        self._watch = BatchWatch(queue.layout, ids)
        self._began_s = began_s
        self.ended = self._watch.look()
        self._before = self.ended if again else msgspec.structs.replace(NOTHING, left=self.ended.total)
        self._baseline = {row.name: beat for row, beat in self._workers() if beat}
        self._marks: deque[tuple[float, int, int, int]] = deque()
        self._models = frozenset(canonical_model(model) for model in models)
        self.unservable: dict[str, str] = {}
        """Models that no worker can serve, with the reason; filled when waiting ends of it."""
        self._servable = ServableWatch(settings)
        self._changed_s = self._asked_s = time.monotonic()
        self._said = ("", 0.0)
        self._guard = guard or RootGuard(queue.layout.root)
        self._most_tokens = (0, 0)

    def wait(self, show: Show, host: Hosting, heard: Asked | None = None) -> End:
        """Until all has ended or nothing more can come. ``heard``: of ``interrupts``, where it is obeyed already.

        Raises ``EngineError`` when the swarm of this run goes away, ``SwarmGone`` when another one does.
        """
        life = LifeWatch(self._settings, host, "run the same command again")
        with interrupts(host) if heard is None else nullcontext(heard) as asked, root_in_place(self._guard):
            while True:
                check_root(self._guard)
                look_began_s = time.monotonic()
                left_before = self.ended.left
                self.ended = self._watch.look()
                if self.ended.left != left_before:
                    self._changed_s = time.monotonic()
                    self._servable.moved()
                state: Literal["running", "draining", "finished"] = "draining" if asked() and host.own else "running"
                show(self._view(state if self.ended.left else "finished"))
                cost_s = time.monotonic() - look_began_s  # what is asked below is seldom, and sees to its own cost
                if not self.ended.left:
                    return "finished"
                if asked() and (host.own is None or host.ended()):
                    return "interrupted"
                if not asked():
                    life.check()
                    self.unservable = self._servable.look(lambda: self._models) if self._models else {}
                    if self.unservable:
                        return "unservable"
                    self._say_why()
                time.sleep(max(self._look_s, cost_s * LOOK_SHARE))

    def _workers(self) -> Iterator[tuple[WorkerRow, Heartbeat | None]]:
        layout = self._queue.layout
        return ((row, registry.read_heartbeat(layout, row.name)) for row in registry.living(layout))

    def _view(self, state: Literal["running", "draining", "finished"]) -> RunView:
        now_s = time.monotonic()
        cards, tokens_in, tokens_out, simulated = [], 0, 0, False
        for row, beat in self._workers():
            simulated = simulated or row.simulated
            if beat is None:
                continue
            before = self._baseline.get(row.name)
            before = before if before is not None and before.epoch == beat.epoch else None
            tokens_in += beat.tally.tokens_in - (before.tally.tokens_in if before else 0)
            tokens_out += beat.tally.tokens_out - (before.tally.tokens_out if before else 0)
            cards.append(self._card(row, beat, before))
        # What a worker that went away has counted goes with it; a sum that fell would be a rate below nothing.
        most_in, most_out = self._most_tokens
        tokens_in, tokens_out = self._most_tokens = max(tokens_in, most_in), max(tokens_out, most_out)
        was, ended = self._before, self.ended
        items_s, in_s, out_s = self._rates(now_s, was.left - ended.left, tokens_in, tokens_out)
        return RunView(
            done=ended.completed - was.completed,
            failed=ended.failed - was.failed,
            cancelled=ended.cancelled - was.cancelled,
            total=ended.total,
            earlier=was.total - was.left,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            elapsed_s=now_s - self._began_s,
            items_per_s=items_s,
            tokens_in_per_s=in_s,
            tokens_out_per_s=out_s,
            cards=tuple(cards),
            simulated=simulated,
            state=state,
        )

    def _card(self, row: WorkerRow, beat: Heartbeat, before: Heartbeat | None) -> RunCard:
        rates, tuned = rates_of(beat), beat.tuned.get(beat.model or "")
        done = sum(m.completed for m in beat.models.values())
        done -= sum(m.completed for m in before.models.values()) if before else 0
        return RunCard(
            worker=row.name,
            status=str(beat.status),
            model=beat.model,
            slots_busy=len(beat.slots),
            slots=tuned.in_flight if tuned else row.llm_slots,
            done=done,
            tokens_per_s=(rates.tokens_out_per_s or None) if rates else None,
            share_of_best=share_of_best(beat, rates) or None,
        )

    def _rates(self, now_s: float, ended: int, tokens_in: int, tokens_out: int) -> tuple[float | None, ...]:
        """Per second over the last seconds: items, tokens in, tokens out."""
        if not ended and not tokens_out:
            return None, None, None
        self._marks.append((now_s, ended, tokens_in, tokens_out))
        while len(self._marks) > 2 and self._marks[1][0] < now_s - RATE_WINDOW_S:
            self._marks.popleft()
        then_s, *then = self._marks[0]
        span_s = now_s - then_s
        if span_s < 1.0:
            return None, None, None
        return tuple((new - old) / span_s for new, old in zip((ended, tokens_in, tokens_out), then, strict=True))

    def _say_why(self) -> None:
        """No silence: when nothing has ended for a while, say why the oldest open item is not done."""
        now_s = time.monotonic()
        if now_s - max(self._changed_s, self._asked_s) < QUIET_S:
            return
        self._asked_s = now_s
        oldest = self._watch.open_ids(1)
        if not oldest:
            return
        try:
            snapshot = open_observer(self._settings).snapshot()
            reasons = explain_task(self._queue.read(oldest[0]), snapshot, self._settings).reasons[:2]
        except SwarmError as error:
            kind = text = str(error)
        else:
            kind = ", ".join(reason.code for reason in reasons)  # words hold numbers that grow by themselves
            text = "; ".join(f"{r.text} ({r.next_step})" if r.next_step else r.text for r in reasons)
        if kind != self._said[0] or now_s - self._said[1] >= SAME_AGAIN_S:
            self._said = (kind, now_s)
            print(f"waiting: {oldest[0]}: {text}", file=sys.stderr)


@contextmanager
def interrupts(host: Hosting) -> Iterator[Asked]:
    """Ctrl-C (or a terminal that closes) once drains our own swarm, twice stops it; the wait goes on until it has ended."""
    asked = Asked()

    def note(_number: int, _frame: object) -> None:
        asked.times += 1
        (host.drain if asked.times == 1 else host.stop)()

    with handling(note):
        yield asked


class Asked:
    """The number of stop requests so far."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> bool:
        return self.times > 0
