"""What the swarm should do next: one pure function that reads as a list of policies.

Once all decisions of a tick are applied, the same function has nothing new to say; a crash between any two of them
costs nothing, because the next tick sees what is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from swarm.config.settings import BrainSettings, Settings
from swarm.core.health.liveness import condition, workers_of
from swarm.core.placement.demand import Outstanding, load_id, outstanding
from swarm.core.placement.placement import Want, desired
from swarm.core.policy.alarms import alarms
from swarm.core.policy.decisions import (
    AdvanceMap,
    CancelChildren,
    Decision,
    FailBlocked,
    FileDropIn,
    KillWorker,
    LoadModel,
    Purge,
    PurgeBatches,
    RecoverWorker,
    ReleaseTask,
    StopBatch,
    WithdrawResource,
)
from swarm.core.snapshot import BlockedView, FinishedShard, SwarmSnapshot, WorkerView

Obstacle = Literal["task", "session", "time", "pause", "brain"]


def obstacle(blocked: BlockedView) -> Obstacle:
    """The first obstacle that holds a blocked task back, in reporting order; ``brain``: only the brain has to act."""
    if blocked.failed_dependency is not None:
        return "brain"
    if blocked.waiting_for:
        return "task"
    if not blocked.session_turn:
        return "session"
    if blocked.due_in_s is not None and blocked.due_in_s > 0:
        return "time"
    return "brain" if blocked.batch_paused is None else "pause"


def waits_for(blocked: BlockedView) -> str:
    """What a blocked task waits for, in words; the first obstacle only."""
    if blocked.failed_dependency is not None:
        return f"its dependency {blocked.failed_dependency} {blocked.failed_how}"
    match obstacle(blocked):
        case "task":
            others = len(blocked.waiting_for) - 1
            more = f" and {others} more" if others else ""
            return f"waits for task {blocked.waiting_for[0]}{more} to complete"
        case "session":
            return "waits for an earlier task of its session to end"
        case "time":
            return f"waits until its time comes in {blocked.due_in_s:.0f}s"
        case "pause":
            return f"waits because batch {blocked.batch_paused} is paused"
        case "brain":
            return "is due and will be released at the brain's next tick"


DROP_IN_QUIET_S = 0.25
"""A drop-in written to more recently may be half copied and is left alone."""


def decide(snapshot: SwarmSnapshot, settings: Settings) -> tuple[Decision, ...]:
    """What to do now, in the order in which to do it. Deterministic; no I/O; times in seconds."""
    return (
        *_recover_dead_workers(snapshot),
        *_kill_hung_workers(snapshot, settings),
        *_file_drop_ins(snapshot),
        *_settle_blocked(snapshot),
        *_stop_over_limit(snapshot),
        *_cancel_orphans(snapshot),
        *_place_models(snapshot, settings),
        *_withdraw_from_dead_workers(snapshot),
        *retention(snapshot, settings.brain),
        *alarms(snapshot, settings),
    )


def _recover_dead_workers(snapshot: SwarmSnapshot) -> Iterator[Decision]:
    """The free process lock is proof enough; ages play no part."""
    for view in workers_of(snapshot):
        if not view.alive and view.claims > 0:
            yield RecoverWorker(worker=view.name, reason=f"Worker {view.name} died holding {view.claims} tasks")


def _kill_hung_workers(snapshot: SwarmSnapshot, settings: Settings) -> Iterator[Decision]:
    """A hung worker's tasks can be given away only once it is proven dead."""
    for view in workers_of(snapshot):
        verdict = condition(view, snapshot, settings)
        if verdict.state == "hung" and view.row is not None:
            yield KillWorker(worker=view.name, epoch=view.row.epoch, reason=verdict.text)


def _file_drop_ins(snapshot: SwarmSnapshot) -> Iterator[Decision]:
    for drop_in in sorted(snapshot.drop_ins, key=lambda d: d.file_name):
        if drop_in.quiet_s >= DROP_IN_QUIET_S:
            yield FileDropIn(file_name=drop_in.file_name, reason="dropped into pending")


def _settle_blocked(snapshot: SwarmSnapshot) -> Iterator[Decision]:
    for blocked in sorted(snapshot.blocked, key=lambda b: b.task_id):
        if blocked.failed_dependency is not None:
            yield FailBlocked(task_id=blocked.task_id, attempt=blocked.attempt, reason=waits_for(blocked))
        elif obstacle(blocked) == "brain" and blocked.step != "release":
            why = "the list to map over is complete" if blocked.step == "expand" else "all its parts have ended"
            yield AdvanceMap(task_id=blocked.task_id, attempt=blocked.attempt, step=blocked.step, reason=why)
        elif obstacle(blocked) == "brain":
            yield ReleaseTask(task_id=blocked.task_id, attempt=blocked.attempt, reason="all it waited for has ended")


def _stop_over_limit(snapshot: SwarmSnapshot) -> Iterator[Decision]:
    for batch in snapshot.over_limit:
        why = f"{batch.failed} tasks of batch {batch.batch_id} have failed; its limit is {batch.max_fails}"
        yield StopBatch(batch_id=batch.batch_id, reason=why)


def _cancel_orphans(snapshot: SwarmSnapshot) -> Iterator[Decision]:
    for task_id in snapshot.orphaned:
        yield CancelChildren(task_id=task_id, reason=f"its map task {task_id} was cancelled")


def _place_models(snapshot: SwarmSnapshot, settings: Settings) -> Iterator[Decision]:
    """One targeted load per worker that should hold another model; loads that nobody needs any more are withdrawn."""
    tasks = outstanding(snapshot)
    for name, want in desired(snapshot, settings).items():
        view = snapshot.worker(name)
        assert view is not None
        decision = _close_deficit(view, want, tasks.get(name, ()), snapshot)
        if decision is not None:
            yield decision


def _close_deficit(
    view: WorkerView, want: Want, tasks: tuple[Outstanding, ...], snapshot: SwarmSnapshot
) -> LoadModel | WithdrawResource | None:
    assert view.heartbeat is not None
    unwanted = next((t for t in tasks if t.withdrawable and not _suits(t, want)), None)
    if len(tasks) > (unwanted is not None) or (tasks and tasks[0].where != "pending"):
        return None
    if want.model is not None and want.model != view.heartbeat.model:
        beat = view.heartbeat
        return LoadModel(
            worker=view.name,
            model=want.model,
            epoch=beat.epoch,
            task_id=load_id(view.name, want.model, epoch=beat.epoch, resource_seq=beat.resource_seq, live=want.live),
            live=want.live,
            instead_of=unwanted.task.task_id if unwanted is not None else None,
            reason=_why_load(want, snapshot),
        )
    if unwanted is not None:
        waits = unwanted.model in snapshot.llm_pending()
        why = want.reason if waits else f"no task waits for {unwanted.model or 'its model'} any more"
        return WithdrawResource(task_id=unwanted.task.task_id, worker=view.name, reason=why)
    return None


def _suits(task: Outstanding, want: Want) -> bool:
    """A load that waits is what is wanted; one for live requests says so in its document."""
    return task.model == (want.model or "") and (task.task.live or not want.live)


def _why_load(want: Want, snapshot: SwarmSnapshot) -> str:
    if want.live:
        return f"{want.reason[:1].upper()}{want.reason[1:]} - inserting load_llm task"
    waiting = sum(snapshot.llm_pending().values())
    hot = [w.name for w in snapshot.workers if w.alive and w.heartbeat is not None and w.heartbeat.model is not None]
    if not hot:
        return f"LLM tasks waiting ({waiting}) but no models loaded - inserting load_llm task"
    return f"LLM tasks waiting ({waiting}), {want.reason} - inserting load_llm task"


def _withdraw_from_dead_workers(snapshot: SwarmSnapshot) -> Iterator[Decision]:
    """A worker's next life has another epoch and gets load tasks of its own; those of an earlier life are in its way.

    One that pauses after a crash would keep the new life cold for as long as the pause lasts.
    """
    for name, tasks in sorted(outstanding(snapshot).items()):
        view = snapshot.worker(name)
        for one in tasks:
            task = one.task
            if task.epoch is None or one.where == "claimed":
                continue
            if view is None or not view.alive:
                yield WithdrawResource(task_id=task.task_id, worker=name, reason=f"{name} is not running")
            elif one.where == "blocked" and view.row is not None and task.epoch != view.row.epoch:
                why = f"it was meant for an earlier start of {name}"
                yield WithdrawResource(task_id=task.task_id, worker=name, reason=why)


DAY_S = 86400.0
COUNT_MIN_AGE_S = DAY_S
"""``retention_count`` never takes what ended more recently: somebody may still be about to fetch it."""
MOST_PER_TURN = 1000
"""Documents removed in one tick of the brain: some tens of milliseconds."""
SHARDS_PER_TURN = 100


def old_after_s(settings: BrainSettings) -> float | None:
    """The age from which a finished document may be removed at all; None: everything is kept."""
    ages = []
    if settings.retention_days > 0:
        ages.append(settings.retention_days * DAY_S)
    if settings.retention_count:
        ages.append(COUNT_MIN_AGE_S)
    return min(ages, default=None)


def retention(snapshot: SwarmSnapshot, settings: BrainSettings) -> Iterator[Purge | PurgeBatches]:
    """At most one purge a tick; in a tick of grace none. Batches come when nothing is left to purge for now."""
    if snapshot.grace:
        return
    purge = next(_documents(snapshot, settings), None)
    age_s = old_after_s(settings)
    if purge is not None:
        yield purge
    elif snapshot.finished.emptied and age_s is not None:
        yield PurgeBatches(older_than_s=age_s, reason="all of their tasks are purged")


def _documents(snapshot: SwarmSnapshot, settings: BrainSettings) -> Iterator[Purge]:
    age_s = settings.retention_days * DAY_S
    old = [shard for shard in snapshot.finished.old if 0 < age_s < shard.oldest_age_s]
    if old:
        yield _purge(old, age_s, MOST_PER_TURN, f"older than {settings.retention_days:g} days (brain.retention_days)")
        return
    if not settings.retention_count:
        return
    excess = snapshot.finished.documents - settings.retention_count
    late = [shard for shard in snapshot.finished.old if shard.oldest_age_s > COUNT_MIN_AGE_S]
    if excess > 0 and late:
        reason = f"{excess} more than {settings.retention_count} finished (brain.retention_count)"
        yield _purge(late, COUNT_MIN_AGE_S, min(excess, MOST_PER_TURN), reason)


def _purge(shards: list[FinishedShard], age_s: float, limit: int, reason: str) -> Purge:
    chosen = sorted(shards, key=lambda shard: -shard.oldest_age_s)[:SHARDS_PER_TURN]
    return Purge(shards=tuple((s.state, s.shard) for s in chosen), older_than_s=age_s, limit=limit, reason=reason)
