"""The life of a batch: however steps and deaths alternate, one end, each request once, nothing that goes back."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.batches.life import OVER, BatchFacts, BatchStatus, BatchStep, counts_shown, next_step

S = BatchStatus
LATER = {
    S.VALIDATING: {S.FAILED, S.IN_PROGRESS, S.CANCELLING},
    S.IN_PROGRESS: {S.FINALIZING, S.CANCELLING},
    S.FINALIZING: {S.COMPLETED, S.EXPIRED},
    S.CANCELLING: {S.CANCELLED},
}


@dataclass
class Disk:
    """What a driver finds and leaves; each method is one thing that may be the last before a death."""

    requests: int
    good: bool
    status: BatchStatus = S.VALIDATING
    ending: BatchStatus | None = None
    total: int | None = None
    submitted: bool = False
    cancel_asked: bool = False
    due: bool = False
    reserved: set[int] = field(default_factory=set)
    tasks: dict[int, str] = field(default_factory=dict)
    output: list[int] | None = None
    errors: list[int] | None = None
    history: list[BatchStatus] = field(default_factory=list)

    def facts(self):
        unended = sum(state == "waiting" for state in self.tasks.values())
        return BatchFacts(
            status=self.status,
            ending=self.ending,
            cancel_asked=self.cancel_asked,
            due=self.due,
            total=self.total,
            submitted=self.submitted,
            unended=unended,
        )

    def become(self, status, ending=None):
        assert status in LATER[self.status], f"{self.status} -> {status}"
        self.history.append(status)
        self.status, self.ending = status, ending or self.ending

    def begin(self, step):
        """The changes of a step, in order, each whole."""
        match step:
            case BatchStep.CHECK if self.good:
                yield lambda: setattr(self, "total", self.requests)
                if self.status is S.VALIDATING:
                    yield lambda: self.become(S.IN_PROGRESS)
            case BatchStep.CHECK:
                yield lambda: self.become(S.CANCELLED if self.status is S.CANCELLING else S.FAILED)
            case BatchStep.CANCEL:
                yield lambda: self.become(S.CANCELLING, S.CANCELLED)
            case BatchStep.EXPIRE:
                yield lambda: self.become(S.FINALIZING, S.EXPIRED)
            case BatchStep.FINISH:
                yield lambda: self.become(S.FINALIZING, S.COMPLETED)
            case BatchStep.SUBMIT:
                window = [i for i in range(self.requests) if i not in self.tasks][:2]
                yield lambda: self.reserved.update(window)
                for i in window:
                    yield lambda i=i: self.tasks.setdefault(i, "waiting")
                yield lambda: setattr(self, "submitted", len(self.tasks) == self.requests)
            case BatchStep.STOP:
                for i in [i for i, state in self.tasks.items() if state == "waiting"]:
                    yield lambda i=i: self.end(i, "cancelled")
            case BatchStep.WRITE:
                yield lambda: (setattr(self, "output", None), setattr(self, "errors", None))
                done = [i for i in range(self.requests) if self.tasks.get(i) == "completed"]
                yield lambda: setattr(self, "errors", [i for i in range(self.requests) if i not in done])
                yield lambda: setattr(self, "output", done)
                yield lambda: self.become(self.ending)
            case _:
                return

    def step(self, most=None):
        for number, change in enumerate(self.begin(next_step(self.facts()))):
            if number == most:
                return
            change()

    def work(self, state):
        for i in sorted(self.tasks):
            if self.tasks[i] == "waiting":
                self.end(i, state)
                return

    def happen(self, event):
        match event.split():
            case ["step"]:
                self.step()
            case ["die", number]:
                self.step(int(number))
            case ["cancel"] if self.status in (S.VALIDATING, S.IN_PROGRESS):
                self.cancel_asked = True
            case ["expire"]:
                self.due = True
            case ["work"]:
                self.work("completed")
            case ["fail"]:
                self.work("failed")
            case ["retry"] if self.status not in OVER:
                self.tasks.update({i: "waiting" for i, state in self.tasks.items() if state in ("failed", "cancelled")})

    def end(self, i, state):
        if self.tasks.get(i) == "waiting":
            self.tasks[i] = state


@given(
    requests=st.integers(1, 5),
    good=st.booleans(),
    events=st.lists(st.sampled_from(["step", "die 1", "die 2", "die 3", "cancel", "expire", "work", "fail", "retry"])),
)
def test_every_interleaving_ends_once_with_each_request_in_one_file(requests, good, events):
    disk = Disk(requests, good)
    for event in events:
        disk.happen(event)
    for _ in range(10 * requests + 20):
        if disk.status in OVER:
            break
        disk.step()
        disk.work("completed")
    assert disk.status in OVER
    assert len(disk.history) == len(set(disk.history)), "no status twice"
    if disk.status is S.FAILED or not good:
        assert (disk.tasks, disk.output, disk.errors) == ({}, None, None)
    else:
        assert sorted((disk.output or []) + (disk.errors or [])) == list(range(requests))
    assert next_step(disk.facts()) is BatchStep.WAIT


@pytest.mark.parametrize(
    ("facts", "step"),
    [
        ({"status": S.VALIDATING, "due": True}, BatchStep.CHECK),
        ({"status": S.IN_PROGRESS, "total": 2, "submitted": True, "due": True}, BatchStep.FINISH),
        ({"status": S.IN_PROGRESS, "total": 2, "submitted": True, "unended": 1, "due": True}, BatchStep.EXPIRE),
        ({"status": S.IN_PROGRESS, "total": 2, "unended": 1, "cancel_asked": True, "due": True}, BatchStep.CANCEL),
        ({"status": S.FINALIZING, "ending": S.COMPLETED, "total": 2, "unended": 1}, BatchStep.WAIT),
        ({"status": S.FINALIZING, "ending": S.EXPIRED, "total": 2, "unended": 1}, BatchStep.STOP),
        ({"status": S.CANCELLING, "ending": S.CANCELLED}, BatchStep.CHECK),
        ({"status": S.COMPLETED, "total": 2, "unended": 1}, BatchStep.WAIT),
    ],
)
def test_what_decides(facts, step):
    assert next_step(BatchFacts(**facts)) is step


@given(total=st.integers(1, 20), looks=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20))))
def test_counts_never_go_back_while_there_is_room_for_both(total, looks):
    shown = (0, 0)
    for seen, more in looks:
        completed = min(seen, total)
        now = counts_shown(shown, completed, min(more, total - completed), total)
        assert now[0] >= shown[0]
        assert now[1] >= min(shown[1], total - now[0])
        assert sum(now) <= total
        shown = now
