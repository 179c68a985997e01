"""``swarm queue clear-stuck``, ``purge``, ``fsck``, ``pause`` and ``resume``: maintenance of the queue.

They requeue stuck tasks, remove old documents, check that the queue is consistent, and hold back a model, a batch, a
worker or everything, while what already runs goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from swarm.cli.command_options import NEEDED, ShowOptions, arg, opt
from swarm.core.lanes import Kind, Pause, Pauses
from swarm.core.task import TERMINAL, TaskState, canonical_model
from swarm.errors import EXIT_TASKS_FAILED, InputError, nearest
from swarm.runtime.open import open_observer
from swarm.views.blocks import Block, Line
from swarm.views.words import parse_duration_s, plural

if TYPE_CHECKING:
    from swarm.config.settings import Settings
    from swarm.queue.fsck.rules import FsckFinding


def clear_stuck(
    at: ShowOptions,
    worker: str | None = opt("--worker W", "All tasks of this worker, stuck or not, dead or alive."),
) -> None:
    """Stop and requeue tasks that make no progress.

    A task is stuck if its living worker has made no progress for brain.stuck_after_s; tasks of dead workers are requeued
    too. Earlier attempts no longer count. Exit code 1 if a worker does not release a task.

    \b
    Examples:
      swarm queue clear-stuck
      swarm queue clear-stuck --worker worker-2
    """
    from swarm.cli.run.clear_stuck import clear

    settings = at.settings()
    done = clear(settings, open_observer(settings).snapshot(), worker)
    lines = [Line(f"{d.task_id} ({d.worker}): {d.outcome}{f' - {d.detail}' if d.detail else ''}") for d in done]
    at.show({"cleared": done}, lines or [Line("nothing is stuck", "dim")])
    if any(d.outcome == "no reaction" for d in done):
        raise typer.Exit(EXIT_TASKS_FAILED)


def purge(
    at: ShowOptions,
    older_than: str = opt("--older-than AGE", "Tasks that ended longer ago: 7d, 12h, 1h30m.", NEEDED),
    state: list[str] | None = opt("--state STATE", "completed, failed, cancelled (by default), corrupt; repeatable."),
    dry_run: bool = opt("--dry-run", "Count only; remove nothing.", False),
) -> None:
    """Remove ended tasks with their results. Keeps tasks that waiting ones depend on.

    Purged results are missing from `swarm results`, and running the batch again repeats them. Once all of its tasks are
    purged, the files of a batch are removed too. For continuous purging set brain.retention_days and retention_count.

    \b
    Examples:
      swarm queue purge --older-than 7d --dry-run
      swarm queue purge --older-than 30d --state failed --state corrupt
    """
    age_s = parse_duration_s(older_than)
    queue = at.queue()
    removed = queue.purge(_states(state), older_than_s=age_s, dry=dry_run)
    batches = queue.purge_batches(older_than_s=age_s, purged=removed, dry=dry_run)
    document = {str(s): {"documents": r.documents, "size_bytes": r.size_bytes} for s, r in removed.items()}
    verb = "would remove" if dry_run else "removed"
    lines = [Line(f"{verb} {plural(r.documents, f'{s} task')} ({_size(r.size_bytes)})") for s, r in removed.items()]
    if batches:
        named = ", ".join(batches[:8]) + (" …" if len(batches) > 8 else "")
        number = "1 batch" if len(batches) == 1 else f"{len(batches):,} batches"
        lines.append(Line(f"{verb} {number} whose tasks are all purged: {named}"))
    answer = {"dry_run": dry_run, "older_than_s": age_s, "removed": document, "removed_batches": batches}
    at.show(answer, lines)


def _states(names: list[str] | None) -> tuple[TaskState, ...]:
    if not names:
        return TERMINAL
    known = {str(s): s for s in TaskState}
    unknown = [name for name in names if name.lower() not in known]
    if unknown:
        raise InputError(f"{unknown[0]!r} is no state of a task", hint="one of: completed, failed, cancelled, corrupt")
    return tuple(known[name.lower()] for name in names)


def _size(size_bytes: int) -> str:
    if size_bytes < 1 << 20:
        return f"{size_bytes / 1024:.1f} KiB"
    return f"{size_bytes / (1 << 20):,.1f} MiB"


def fsck(
    at: ShowOptions,
    repair: bool = opt("--repair", "Carry out the repairs; no task is ever deleted.", False),
) -> None:
    """Check that each task is whole and in exactly one state. Also that nothing is left without an owner.

    Reads every document. May run while the swarm works: only findings of two scans are reported. What belongs nowhere is
    moved to corrupt/ with its reason. Exit code 0: sound (or all repaired); 1: findings.

    \b
    Examples:
      swarm queue fsck
      swarm queue fsck --repair
      swarm queue fsck --json | jq .findings
    """
    from swarm.queue.fsck import fsck as checks
    from swarm.queue.layout import Layout
    from swarm.queue.storage import Storage

    settings = at.settings()
    layout = Layout(settings.queue.root)
    findings = checks.look(layout)
    done = checks.repair(layout, Storage(settings.queue.durability, layout.root), findings) if repair else ()
    left = tuple(f for f in findings if f not in done)
    at.show({"clean": not left, "findings": left, "repaired": done}, _blocks(left, done))
    if left:
        raise typer.Exit(EXIT_TASKS_FAILED)


def _blocks(left: Sequence[FsckFinding], done: Sequence[FsckFinding]) -> list[Block]:
    lines: list[Block] = [Line(f"repaired: {f.path}: {f.what} - {f.repair}", "green") for f in done]
    for f in left:
        lines += [Line(f"{f.kind}: {f.path}", "yellow"), Line(f"  {f.what}"), Line(f"  repair: {f.repair}", "dim")]
    if not left:
        lines.append(Line("The queue is sound: each task is whole and in exactly one state.", "bold"))
    elif not done:
        lines.append(Line(f"{plural(len(left), 'finding')}; `swarm queue fsck --repair` carries out the repairs", "bold"))
    else:
        lines.append(Line(f"{plural(len(left), 'finding')} left that need your decision", "bold"))
    return lines


@dataclass(frozen=True, kw_only=True)
class PauseTarget:
    """What is paused or resumed; exactly one of them."""

    everything: str | None = arg("[all]", "Everything.", None)
    model: str | None = opt("--model M", "Tasks of this model.")
    batch: str | None = opt("--batch B", "Tasks of this batch.")
    worker: str | None = opt("--worker W", "What this worker would claim.")

    def chosen(self) -> tuple[Kind, str]:
        """Its kind and name. Raises ``InputError``."""
        if self.everything not in (None, "all"):
            hint = f"name it by its kind: --worker {self.everything}, --model or --batch; or `all`"
            raise InputError(f"{self.everything!r} is not `all`", hint=hint)
        named: tuple[tuple[Kind, str | None], ...] = (
            ("all", None if self.everything is None else ""),
            ("model", None if self.model is None else canonical_model(self.model)),
            ("batch", self.batch),
            ("worker", self.worker),
        )
        given: list[tuple[Kind, str]] = [(kind, name) for kind, name in named if name is not None]
        if len(given) != 1:
            raise InputError("give exactly one of all, --model, --batch and --worker", hint="swarm queue pause all")
        return given[0]


def pause(at: ShowOptions, target: PauseTarget) -> None:
    """Start no new tasks of a model, a batch or a worker. Running ones go on; survives restarts.

    \b
    Examples:
      swarm queue pause --model llama3.2:3b
      swarm queue pause --worker worker-2
      swarm queue pause all
    """
    kind, name = target.chosen()
    pauses = at.queue().must_exist().pause(kind, name)
    if kind == "model":
        _note_if_unknown(at.settings(), name)
    _end(at, pauses)


def _note_if_unknown(settings: Settings, model: str) -> None:
    """A model may be paused before anything asks for it; one that is misspelt holds back nothing, and is said."""
    from swarm.core.explain.models import models_to_explain

    known = models_to_explain(open_observer(settings).snapshot(), settings)
    if model not in known:
        meant = nearest(model, known)
        question = f"; did you mean {meant[0]}?" if meant else ""
        print(f"note: no task, worker or setting here names the model {model}{question}", file=sys.stderr)


def resume(at: ShowOptions, target: PauseTarget) -> None:
    """End a pause; `all` ends all pauses.

    \b
    Example:
      swarm queue resume --model llama3.2:3b
    """
    kind, name = target.chosen()
    _end(at, *at.queue().must_exist().resume(kind, name))


def _end(at: ShowOptions, pauses: Pauses, ended: Sequence[Pause] = ()) -> None:
    lines = [Line(f"resumed: {'everything' if p.kind == 'all' else f'{p.kind} {p.name}'}") for p in ended]
    lines += [Line(f"{p.words}; ends with: {p.way_out}") for p in pauses.pauses]
    lines = lines or [Line("nothing is paused")]
    at.show(pauses, lines)
