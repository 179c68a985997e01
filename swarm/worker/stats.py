"""What a worker learns from the tasks it ends: counters, seconds and tokens per model, which model is loaded."""

from __future__ import annotations

from typing import Any

import msgspec

from swarm.clock import parse_iso
from swarm.core.claim import Claim, Settled
from swarm.core.faults import TaskFault
from swarm.core.policy.retry import blamed_at
from swarm.core.task import Task, TaskClass, Trail, canonical_model
from swarm.core.worker import ModelTally
from swarm.worker.attempt import Run
from swarm.worker.heartbeat import WorkerState
from swarm.worker.server_health import ServerReading

_FACTS = ("digest", "size_mib", "size_vram_mib", "context_length")


class ModelLedger:
    """Writes into the ``WorkerState`` it is given; owned by the work loop."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state

    def claimed(self, claim: Claim, now_iso: str) -> None:
        """A task was claimed. Only its first attempt tells how long it waited for a worker."""
        if claim.attempt != 1 or claim.attempts or not claim.task.created_at:
            return
        try:
            waited_s = parse_iso(now_iso) - parse_iso(claim.task.created_at)
        except ValueError:  # a drop-in may carry any text there
            return
        self._state.waited(str(claim.task.task_class), waited_s)

    def begun(self, task: Task) -> None:
        """A resource task starts: a model that is about to be replaced or removed no longer counts as loaded."""
        if task.task_class is not TaskClass.RESOURCE:
            return
        same = task.model is not None and canonical_model(task.model) == self._state.model
        if same != (task.action == "load_llm"):
            self._state.model = None

    def ended(self, run: Run) -> None:
        """An attempt ended; what it proved holds from now on, recorded or not."""
        task = run.claim.task
        if not isinstance(run.ending, Trail) or task.model is None:
            return
        model = canonical_model(task.model)
        result = run.ending.result or {}
        if task.action == "load_llm":
            self._loaded(model, result)
        elif task.action == "unload_llm" and self._state.model == model:
            self._state.model = None

    def saw(self, reading: ServerReading) -> None:
        """The server was asked; it is the truth of what is loaded."""
        self._state.model = reading.model
        self._state.refused = reading.refused
        if reading.model is not None:
            self._learn(
                reading.model,
                digest=reading.digest,
                size_mib=reading.size_mib,
                size_vram_mib=reading.size_vram_mib,
                context_length=reading.context_length,
            )

    def digest(self, run: Run) -> str | None:
        """Digest of the model an attempt used, where known."""
        model = run.claim.task.model
        known = self._state.models.get(canonical_model(model)) if model is not None else None
        return known.digest or None if known is not None else None

    def settled(self, run: Run, outcome: Settled) -> None:
        """The outcome is on record, or the claim was lost."""
        task = run.claim.task
        if run.begun:
            self._state.ran(str(task.task_class), run.elapsed_s)
        match outcome:
            case "completed" | "failed" | "retried" | "released" if task.task_class is TaskClass.RESOURCE:
                pass  # counted with its model, as a load; it is no task of anybody's
            case "completed" | "failed" | "retried" | "released" | "fenced":
                self._state.count(**{outcome: 1})
            case "crashed" | "cancelled":
                pass
        if task.task_class is TaskClass.RESOURCE and outcome not in ("retried", "released"):
            self._state.resource_seq += 1
        if task.action == "load_llm" and task.model is not None and outcome == "failed":
            model = canonical_model(task.model)
            self._load_failed(model, run)
        if outcome == "completed":
            for worker in blamed_at(run.claim.attempts, run.claim.attempt):
                self._state.clear(worker)
        if task.task_class is TaskClass.LLM and task.model is not None:
            self._count_request(canonical_model(task.model), run, outcome)

    def _count_request(self, model: str, run: Run, outcome: Settled) -> None:
        tally = self._state.models.get(model, ModelTally())
        if outcome == "completed" and isinstance(run.ending, Trail):
            tokens_in, tokens_out = (0, 0) if run.ending.cached else _tokens(run.ending.result or {})
            self._state.count(tokens_in=tokens_in, tokens_out=tokens_out)
            tally = msgspec.structs.replace(
                tally,
                completed=tally.completed + 1,
                busy_s=tally.busy_s + run.elapsed_s,
                tokens_in=tally.tokens_in + tokens_in,
                tokens_out=tally.tokens_out + tokens_out,
            )
        elif outcome == "failed":
            tally = msgspec.structs.replace(tally, failed=tally.failed + 1, busy_s=tally.busy_s + run.elapsed_s)
        else:
            return
        self._state.learn(model, tally)

    def _load_failed(self, model: str, run: Run) -> None:
        """Why matters: what found no room here will find none on another card of this size either."""
        known = self._state.models.get(model, ModelTally())
        found = run.ending.result or {} if isinstance(run.ending, TaskFault) else {}
        facts: dict[str, Any] = {name: found[name] for name in _FACTS if name in found}
        facts |= {"no_room": bool(found.get("no_room")), "load_failures": known.load_failures + 1}
        missing = isinstance(run.ending, TaskFault) and run.ending.kind == "model_missing"
        self._learn(model, **facts, missing=missing)

    def _loaded(self, model: str, result: dict[str, Any]) -> None:
        self._state.model = model
        facts: dict[str, Any] = {name: result[name] for name in _FACTS if name in result}
        facts |= {"load_failures": 0, "no_room": False, "missing": False}
        if not result.get("already_loaded"):
            known = self._state.models.get(model, ModelTally())
            facts |= {"loads": known.loads + 1, "load_s": known.load_s + float(result.get("load_s") or 0.0)}
        self._learn(model, **facts)

    def _learn(self, model: str, **facts: str | float) -> None:
        known = self._state.models.get(model, ModelTally())
        learnt = msgspec.structs.replace(known, **facts)
        if learnt != known or model not in self._state.models:
            self._state.learn(model, learnt)


def _tokens(result: dict[str, Any]) -> tuple[int, int]:
    usage = result.get("usage") or {}
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
