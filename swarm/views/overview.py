"""The one-screen overview: alarms first, then current work and its estimated time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from swarm.config.settings import Settings
from swarm.core.health.liveness import condition, stuck, workers_of
from swarm.core.placement.eta import work_eta_s
from swarm.core.policy.alarms import alarms as brain_warnings
from swarm.core.policy.alarms import supervisor_gone
from swarm.core.rates import rates_of
from swarm.core.snapshot import SwarmSnapshot
from swarm.runtime.open import lives
from swarm.views.blocks import SIMULATED, Block, Line, Style
from swarm.views.http_line import HttpLine, http_line
from swarm.views.live_rows import LiveRequests, live_line, live_requests
from swarm.views.queue_rows import LaneRow, QueueStats, lane_rows, queue_blocks, queue_stats
from swarm.views.task_rows import ActiveRow, active_rows
from swarm.views.words import count, duration, plural, rate
from swarm.views.worker_rows import CardRow, WorkerLine, card_rows, cards_table, worker_lines, workers_table

if TYPE_CHECKING:
    from swarm.queue.counts import Counts
    from swarm.queue.file_queue import FileQueue


class Alarm(msgspec.Struct, frozen=True):
    """A condition the operator should know first, and what to do about it."""

    level: Literal["critical", "warning"]
    text: str
    next: str


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """What the living workers did in about the last minute; None while they answer nothing, or too little was measured."""

    tasks_per_s: float | None
    """Llm tasks."""
    tokens_in_per_s: float | None
    tokens_out_per_s: float | None
    power_w: float | None
    """Of their cards; None where one of them does not tell."""
    j_per_1k_tokens: float | None
    """For 1,000 generated tokens."""
    eta_s: float | None
    """Until the llm work that waits and runs is done, by each card's own speed; None while nothing runs, or unknown."""
    completed: int
    """By the workers that live now, in their lives."""


class StatusView(msgspec.Struct, frozen=True, kw_only=True):
    """One screen."""

    root: str
    at: str
    running: bool
    """The brain or a worker lives."""
    brain_alive: bool
    supervisor_alive: bool
    simulated: bool
    alarms: tuple[Alarm, ...]
    cards: tuple[CardRow, ...]
    cards_note: str
    """Which of the machine's cards these are and why, where they are not all."""
    workers: tuple[WorkerLine, ...]
    active: tuple[ActiveRow, ...]
    """What the workers hold."""
    lanes: tuple[LaneRow, ...]
    """What waits, most first."""
    queue: QueueStats
    http: HttpLine | None
    """The HTTP server; None where there is to be none."""
    live: LiveRequests
    """What its clients wait for and use."""
    throughput: Throughput


def look(settings: Settings, queue: FileQueue, snapshot: SwarmSnapshot) -> StatusView:
    """Count the queue, ask who lives, and put all of it on one screen."""
    from swarm.supervisor.what_runs import orphans

    brain, supervisor = lives(settings, "brain"), lives(settings, "supervisor")
    return status(
        snapshot,
        queue.stats(),
        settings,
        brain=brain,
        supervisor=supervisor,
        orphans=len(orphans(settings)),
        http=http_line(settings),
    )


def status(
    snapshot: SwarmSnapshot,
    counts: Counts,
    settings: Settings,
    *,
    brain: bool,
    supervisor: bool = False,
    orphans: int = 0,
    http: HttpLine | None = None,
) -> StatusView:
    """Everything `swarm status` shows. A snapshot holds the workers only: whether brain and supervisor live is an argument.

    ``orphans``: how many processes run on without the supervisor that started them.
    """
    queue = queue_stats(counts, stuck_tasks=len(stuck(snapshot, settings)))
    workers = worker_lines(snapshot, settings)
    cards = card_rows(snapshot)
    return StatusView(
        root=settings.queue.root,
        at=snapshot.now_iso,
        running=brain or any(w.alive for w in workers),
        brain_alive=brain,
        supervisor_alive=supervisor,
        simulated=any(w.simulated and w.alive for w in workers),
        alarms=alarms(snapshot, queue, settings, brain=brain, orphans=orphans, http=http),
        cards=cards,
        cards_note=snapshot.gpus_note,
        workers=workers,
        active=active_rows(snapshot, settings),
        lanes=lane_rows(snapshot),
        queue=queue,
        http=http,
        live=live_requests(snapshot),
        throughput=throughput(snapshot, settings),
    )


def throughput(snapshot: SwarmSnapshot, settings: Settings) -> Throughput:
    """The rates of the workers that live, together."""
    beats = {v.name: v.heartbeat for v in workers_of(snapshot) if v.alive and v.heartbeat is not None}
    rates = [found for beat in beats.values() if (found := rates_of(beat)) is not None]
    tokens_out = sum(r.tokens_out_per_s for r in rates)
    watts = [r.watts for r in rates if r.watts is not None]
    power_w = sum(watts) if watts and len(watts) == len(rates) else None
    running = any(c.worker in beats and c.task_class == "llm" for c in snapshot.claims)
    return Throughput(
        tasks_per_s=sum(r.requests_per_s for r in rates) or None,
        tokens_in_per_s=sum(r.tokens_in_per_s for r in rates) or None,
        tokens_out_per_s=tokens_out or None,
        power_w=power_w,
        j_per_1k_tokens=power_w / tokens_out * 1000 if power_w is not None and tokens_out else None,
        eta_s=work_eta_s(snapshot, settings) if running else None,
        completed=sum(beat.tally.completed for beat in beats.values()),
    )


def alarms(
    snapshot: SwarmSnapshot,
    queue: QueueStats,
    settings: Settings,
    *,
    brain: bool,
    orphans: int = 0,
    http: HttpLine | None = None,
) -> tuple[Alarm, ...]:
    """What the operator should know first: critical before warnings, each with the next thing to do."""
    found = [
        *_process_alarms(snapshot, queue, brain=brain, orphans=orphans),
        *_http_alarms(http),
        *_worker_alarms(snapshot, settings),
        *_brain_alarms(snapshot, settings),
        *_card_alarms(snapshot, settings),
        *_queue_alarms(snapshot, queue, settings, brain=brain),
    ]
    return tuple(sorted(found, key=lambda alarm: alarm.level != "critical"))


def _process_alarms(snapshot: SwarmSnapshot, queue: QueueStats, *, brain: bool, orphans: int) -> Iterator[Alarm]:
    if orphans:
        yield Alarm("critical", supervisor_gone(orphans), "swarm up; swarm logs supervisor -n 30")
    alive = [w for w in workers_of(snapshot) if w.alive]
    if not alive and not brain:
        what = "neither brain nor worker is running" if orphans else "nothing is running"
        text = f"{what}; {plural(queue.pending.total, 'task')} waiting"
        yield Alarm("critical" if queue.pending.total or queue.processing else "warning", text, "swarm up")
        return
    if not brain:
        text = "the brain is not running: no model is placed, no task released or requeued"
        yield Alarm("critical", text, "swarm logs brain -n 30; swarm up")
    if not alive:
        yield Alarm("critical", "no worker is alive", "swarm logs --level warning --since 1h")


def _http_alarms(http: HttpLine | None) -> Iterator[Alarm]:
    if http is not None and http.trouble:
        yield Alarm("critical", f"the HTTP server does not run: {http.trouble}", "swarm logs http -n 30")


def _worker_alarms(snapshot: SwarmSnapshot, settings: Settings) -> Iterator[Alarm]:
    for view in workers_of(snapshot):
        verdict = condition(view, snapshot, settings)
        look = f"swarm logs {view.name} -n 30"
        if verdict.state == "dead" and view.claims:
            text = f"{view.name} is dead and held {plural(view.claims, 'task')}"
            yield Alarm("critical", text, f"{look} (the brain requeues its tasks)")
        elif verdict.state == "hung":
            yield Alarm("critical", verdict.text, look)


def _brain_alarms(snapshot: SwarmSnapshot, settings: Settings) -> Iterator[Alarm]:
    """What the brain warns about, but for what is said above already."""
    hung = {f"heartbeat:{w.name}" for w in workers_of(snapshot) if condition(w, snapshot, settings).state == "hung"}
    for warning in brain_warnings(snapshot, settings):
        kind, _, about = warning.key.partition(":")
        match kind:
            case "no-worker":
                continue
            case "paused":
                step = next(p.way_out for p in snapshot.pauses.pauses if p.key == about)
            case "no-llm-worker":
                step = "swarm workers"
            case "node-unready":
                step = f"swarm doctor; swarm logs --node {about} -n 30"
            case "fits-nowhere" | "live-waits":
                step = f"swarm explain {about}"
            case "model-missing":
                step = f"swarm models pull {about}"
            case _:
                step = f"swarm explain {about.partition(':')[0].partition(',')[0]}"
        if warning.key not in hung:
            yield Alarm("critical" if kind == "card_lost" else "warning", warning.reason, step)


def _card_alarms(snapshot: SwarmSnapshot, settings: Settings) -> Iterator[Alarm]:
    for gpu in snapshot.gpus:
        if gpu.unreached:
            continue  # its worker says so
        if gpu.fault is not None:
            step = f"{f'on {gpu.node}: ' if gpu.node else ''}nvidia-smi; dmesg | grep -i xid"
            yield Alarm("critical", f"{gpu.title} cannot be read: {gpu.fault}", step)
        elif gpu.temperature_c is not None and gpu.temperature_c >= settings.gpu.warn_c:
            yield Alarm("warning", f"{gpu.title} is hot: {gpu.temperature_c} °C", "check fans and air; swarm gpus")


def _queue_alarms(snapshot: SwarmSnapshot, queue: QueueStats, settings: Settings, *, brain: bool) -> Iterator[Alarm]:
    for claim in stuck(snapshot, settings):
        text = f"{claim.task_id} on {claim.worker} has made no progress for {duration(claim.quiet_s)}"
        yield Alarm("warning", text, f"swarm explain {claim.task_id}")
    llm = queue.pending.by_class.get("llm", 0)
    views = [w for w in workers_of(snapshot) if w.alive and w.heartbeat]
    if llm and views and not any(w.heartbeat and (w.heartbeat.model or w.heartbeat.status == "loading") for w in views):
        text = f"{plural(llm, 'llm task')} waiting, but no worker holds a model"
        yield Alarm("warning", text, f"swarm explain {views[0].name}")
    limit_s = settings.brain.stale_queued_s
    if limit_s and queue.oldest_pending_s is not None and queue.oldest_pending_s > limit_s:
        text = f"the oldest task has been waiting for {duration(queue.oldest_pending_s)}"
        yield Alarm("warning", text, "swarm queue list -n 1; swarm explain TASK")
    if queue.drop_ins and not brain:
        text = f"{plural(queue.drop_ins, 'drop-in file')} in pending/ not filed: that is the brain's work"
        yield Alarm("warning", text, "swarm up")


def status_blocks(view: StatusView) -> list[Block]:
    """One screen, alarms first."""
    head = "running" if view.running else "not running"
    blocks: list[Block] = [Line(f"swarm at {view.root}: {head}", "bold")]
    if view.simulated:
        blocks.append(Line(SIMULATED, "yellow"))
    blocks += alarm_lines(view.alarms)
    if view.cards:
        blocks += [Line(""), cards_table(view.cards)]
    if view.cards_note:
        blocks.append(Line(view.cards_note, "yellow"))
    blocks += [Line(""), workers_table(view.workers, short=True, active=view.active), Line("")]
    live = live_line(view.live)
    blocks += queue_blocks(view.queue, lanes=view.lanes)
    if view.http is not None and view.http.alive and view.http.url:
        blocks.append(Line(f"HTTP server: {view.http.url}"))
    return [*blocks, *([live] if live else []), throughput_line(view.throughput)]


def alarm_lines(found: Sequence[Alarm]) -> list[Block]:
    """One or two lines per alarm: what, and what to do."""
    lines: list[Block] = []
    for alarm in found:
        style: Style = "bold red" if alarm.level == "critical" else "yellow"
        lines.append(Line(f"{'ALARM' if alarm.level == 'critical' else 'WARN '} {alarm.text}", style))
        lines.append(Line(f"      try: {alarm.next}", "dim"))
    return lines


def throughput_line(now: Throughput) -> Line:
    """What was done in the last minute, and the time that the rest takes."""
    done = f"{now.completed:,} done by these workers"
    tokens = f"tokens {rate(now.tokens_in_per_s)} in {rate(now.tokens_out_per_s)} out"
    known = (
        (now.tasks_per_s, f"{rate(now.tasks_per_s)} tasks"),
        (now.tokens_in_per_s or now.tokens_out_per_s, tokens),
        (now.j_per_1k_tokens, f"{count(now.j_per_1k_tokens or 0)} J per 1,000 tokens"),
        (now.eta_s, f"{duration(now.eta_s)} to go"),
    )
    words = ", ".join(text for value, text in known if value is not None)
    if not words:
        return Line(f"throughput: no llm task is running, or too short to tell; {done}", "dim")
    return Line(f"throughput: {words}; {done}")
