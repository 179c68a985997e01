"""Finds out whether the request or the server is to blame for an ambiguous fault.

* A request that ended with a fault that either side may have caused is kept here until ``core.health.blame`` can tell:
  mostly because the next request is answered, or not. Its slot is free for the next task meanwhile.
* Only where nobody else asks the server anything, or several faults wait for a verdict, nothing more is claimed and a probe
  of known good is sent. A server that fails it is out of service at once.
* The probe is also the trial after which a server is back in service.

Owned by the work loop; probes and repairs run on pool threads.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Event
from time import monotonic
from typing import get_args

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.health.blame import AMBIGUOUS, BLAMELESS, DEADLY, HANGS, Broken, Probed, Verdict, Witness, verdict
from swarm.core.health.circuit_breaker import TRIP_AFTER
from swarm.core.models.model_server import LoadedModel
from swarm.core.policy.retry import hits
from swarm.core.task import Endpoint, Task, TaskClass, canonical_model
from swarm.worker.attempt import Cancel, Released, Run, ThreadPool
from swarm.worker.parts import WorkerParts
from swarm.worker.slots import StartRules

Unwanted = Callable[[Run], TaskFault | Released | None]
"""How an ended run is to be closed that nobody wants judged; None: it is wanted."""
PHASE = "checking the server"
HANG_LIMIT_S = 10.0
"""For a probe after a hang; after other faults the server may have to load the model again, as for any request."""
GRACE_S = 0.1
"""So long it waits whether another request begins, whose answer is all the proof that is needed."""
PATIENCE_S = 3.0
"""So long a fault waits for what else is under way; then nothing more is claimed until there is a verdict."""
SETTLE_S = 0.1
"""What starts so soon after a fault might still come to a runner that is about to end."""
AGAIN_S = 0.3
"""A probe that meets a runner in its death is sent once more after this."""
CAREFUL_S = 60.0
"""So long after requests that failed together the next ones start one after the other."""
PATIENT_S = 0.05, 2.0
FIRSTS, PART = 3.0, 0.1
"""The next one waits so many times what answers took to begin lately, within these bounds; where they come in one piece, a
part of what they took."""
FRESH_S = 10.0
"""A sign of life proves for so long that the server works."""
REMEMBERED = 64
"""Ended requests that may still bear witness."""
TICK_S = 0.05
ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)


class _ProbeResult(msgspec.Struct, frozen=True):
    """How a probe went."""

    probed: Probed
    fault: TaskFault | None
    run: Run | None
    """The request on whose account it was made; None: a trial."""
    model: str
    endpoint: Endpoint


class FaultInquiry:
    """Inquiries into ambiguous faults of one server; see the module."""

    def __init__(self, parts: WorkerParts, pool: ThreadPool) -> None:
        assert parts.prober is not None
        self._prober = parts.prober
        self._log = parts.log
        self._limit_s = parts.settings.llm.first_token_s
        """What a request may take until its first token, a load included."""
        self._pool = pool
        self._waiting: dict[str, tuple[Run, Broken, TaskFault]] = {}
        self._broken: deque[Broken] = deque(maxlen=REMEMBERED)
        self._witnesses: deque[Witness] = deque(maxlen=REMEMBERED)
        self._answers: SimpleQueue[_ProbeResult | bool] = SimpleQueue()
        self._probed: Probed | None = None
        self._busy = ""
        """What is under way on a pool thread."""
        self._cancel = Cancel()
        self._hung = False
        """The last trouble was a hang, and nothing was done about it yet."""
        self._endpoints: dict[str, Endpoint] = {}
        """What a trial asks of each model: a server may lack the others."""
        self._answered: defaultdict[str, set[Endpoint]] = defaultdict(set)
        """What it has answered of each model."""
        self._heard_s = float("-inf")
        self._patience_s = PATIENT_S[1]
        self._careful_until_s = float("-inf")
        self._wanted = False
        """Somebody wants the server proven."""

    # -- what comes in ---------------------------------------------------------------------------------------------

    def takes(self, run: Run, runs: Sequence[Run]) -> bool:
        """One of ``runs`` has ended. True: it stays here until ``tick`` returns it; its ending is the verdict's then."""
        task, fault = run.claim.task, run.ending
        if task.task_class is not TaskClass.LLM or not run.begun:
            return False
        self._used(task, answered=run.proves_server)
        if run.proves_server:
            self._heard(Witness(run.started_s, run.ended_s))
            wanted_s = FIRSTS * run.first_s if run.pieces else PART * run.elapsed_s
            self._patience_s = min(max(PATIENT_S[0], 0.5 * (self._patience_s + wanted_s)), PATIENT_S[1])
            return False
        if not isinstance(fault, TaskFault) or fault.kind not in AMBIGUOUS or fault.fault not in ("infra", "transient"):
            return False
        one = Broken(
            task_id=task.task_id,
            kind=fault.kind,
            began_s=run.started_s,
            heard_s=run.heard_s,
            ended_s=run.ended_s,
            pieces=run.pieces,
            hits=hits(run.claim.attempts, run.claim.attempt),
            alone=run.alone,
            beside=any(other is not run and other.begun and other.uses_server and not other.judged for other in runs),
        )
        if fault.kind == "timeout" and run.heard_s > (run.started_s + run.ended_s) / 2:
            self._heard(Witness(run.started_s, run.heard_s))
            return False  # slow, not silent
        run.judged, run.phase = True, PHASE
        self._broken.append(one)
        self._waiting[task.task_id] = run, one, fault
        return True

    def take_probes(self) -> list[str]:
        """For each probe that has ended since the last call: what was wrong, empty if it was answered. Repairs are begun."""
        found: list[str] = []
        while True:
            try:
                answer = self._answers.get_nowait()
            except Empty:
                return found
            self._busy = ""
            if isinstance(answer, bool):
                self._hung = self._hung and not answer
            elif answer.fault is None or answer.fault.fault != "cancelled":
                found.append("" if answer.fault is None else answer.fault.message or answer.fault.kind)
                self._learn(answer)

    def tick(
        self,
        runs: Sequence[Run],
        *,
        unwanted: Unwanted,
        give_up: bool,
        loaded: LoadedModel | None,
        trial: bool,
    ) -> list[Run]:
        """The runs on which there is a verdict now, or that are wanted no more; starts probes.

        ``give_up``: the worker ends; what is not decided goes back untouched. ``loaded``: the model to probe when the server
        has to be proven, or a ``trial`` is due.
        """
        witnesses = [*self._witnesses, *(Witness(r.started_s, r.heard_s, under_way=True) for r in _under_way(runs))]
        self._heard_s = max([self._heard_s, *(w.heard_s for w in witnesses)])
        decided: list[Run] = []
        for run, one, fault in list(self._waiting.values()):
            if give_up:
                self._decide(run, Released(), decided)
            elif (ending := unwanted(run)) is not None:
                self._decide(run, ending, decided)
            else:
                others = [other for other in self._broken if other is not one]
                found = verdict(one, others, witnesses, self._probed, monotonic())
                if found is not None:
                    self._decide(run, self._judged(run, fault, found), decided)
        if give_up:
            self._cancel.cancel("stopping")
        elif not self._busy and not _under_way(runs):
            self._probe_if_due(loaded, trial=trial)
        return decided

    # -- what others ask ---------------------------------------------------------------------------------------------

    @property
    def closed_reason(self) -> str:
        """Why nothing may be claimed for the server now; empty if something may."""
        if self._busy:
            return f"{self._busy} the model server after a fault"
        waiting = [one for _, one, _ in self._waiting.values()]
        now_s = monotonic()
        unheard = [one for one in waiting if one.ended_s > self._heard_s]
        if any(one.hung or now_s - one.ended_s > PATIENCE_S for one in unheard) or len(unheard) >= TRIP_AFTER:
            return "checking the model server after a fault"
        return ""

    def _proven(self, alone: Task) -> bool:
        """Whether the server is known to work just now; asking makes sure that it will be known."""
        if monotonic() - self._heard_s < FRESH_S and not self._waiting and not self._busy:
            return True
        self._used(alone, answered=False)
        self._wanted = True
        return False

    def start_rules(self, *, alone: Task | None) -> StartRules:
        """How requests may start now; ``alone``: this one waits to have the server to itself."""
        dying = any(monotonic() - one.ended_s < SETTLE_S and one.kind in DEADLY for one in self._broken)
        proven = alone is None or self._proven(alone)
        return StartRules(proven=proven, careful=self.careful, patience_s=self._patience_s, hold=self.careful and dying)

    @property
    def careful(self) -> bool:
        """Several requests failed at one moment not long ago: the next ones start one after the other."""
        return monotonic() < self._careful_until_s

    @property
    def pressing(self) -> bool:
        """Whether an inquiry is open: the next tick should come soon."""
        return bool(self._waiting) or self._wanted

    # -- inside ----------------------------------------------------------------------------------------------------

    def _heard(self, witness: Witness) -> None:
        self._witnesses.append(witness)
        self._heard_s = max(self._heard_s, witness.heard_s)

    def _used(self, task: Task, *, answered: bool) -> None:
        """Have trials ask what tasks ask, unless so far only others of the model were answered."""
        model = canonical_model(task.model or "")
        if answered:
            self._answered[model].add(task.endpoint)
        if task.endpoint in self._answered[model] or not self._answered[model]:
            self._endpoints[model] = task.endpoint

    def _decide(self, run: Run, ending: TaskFault | Released, decided: list[Run]) -> None:
        del self._waiting[run.claim.task.task_id]
        run.ending, run.judged, run.phase = ending, False, "recording"
        decided.append(run)

    def _judged(self, run: Run, fault: TaskFault, found: Verdict) -> TaskFault:
        task_id = run.claim.task.task_id
        said = f"{fault.message}; {found.why}"
        match found.blame:
            case "server":
                self._log.warning("Task %s met a fault of the server (%s): %s", task_id, fault.kind, found.why)
                return TaskFault("infra", fault.kind, said, fault.result, alone=found.alone)
            case _ if fault.kind in BLAMELESS:
                return fault
            case "request":
                self._log.warning("Task %s broke the server (%s): %s", task_id, fault.kind, found.why)
                return TaskFault("poison", fault.kind, said, fault.result, alone=found.alone)
            case "unclear":
                if fault.kind in DEADLY:
                    self._careful_until_s = monotonic() + CAREFUL_S
                self._log.warning("Task %s is suspected (%s): %s", task_id, fault.kind, found.why)
                return TaskFault("suspect", fault.kind, said, fault.result, alone=found.alone)

    def _learn(self, asked: _ProbeResult) -> None:
        self._probed = asked.probed
        self._wanted = False
        if asked.fault is None:
            self._hung = False
            self._heard_s = max(self._heard_s, asked.probed.ended_s)
            return
        if asked.run is None and asked.fault.kind == "garbage" and not self._answered[asked.model]:  # it may lack that one
            self._endpoints[asked.model] = ENDPOINTS[(ENDPOINTS.index(asked.endpoint) + 1) % len(ENDPOINTS)]
        culprit = self._waiting.get(asked.run.claim.task.task_id) if asked.run is not None else None
        fault, task_id, began_s = asked.fault, None, asked.probed.began_s
        if culprit is not None:
            run, one, fault = culprit
            task_id, began_s = run.claim.task.task_id, one.began_s
        self._repair(fault, task_id, began_s)

    def _probe_if_due(self, loaded: LoadedModel | None, *, trial: bool) -> None:
        now_s, since_s = monotonic(), float("-inf") if self._probed is None else self._probed.began_s
        for run, one, _ in self._waiting.values():
            if since_s < one.ended_s and (self.closed_reason or self._wanted or now_s - one.ended_s > GRACE_S):
                self._hung = one.kind in HANGS
                self._probe(run.claim.task.model or "", run.claim.task.endpoint, run)
                return
        if not self._waiting and (trial or self._wanted) and loaded is not None:
            self._probe(loaded.name, self._endpoints.get(canonical_model(loaded.name), "/api/generate"), None)

    def _probe(self, model: str, endpoint: Endpoint, run: Run | None) -> None:
        limit_s = min(HANG_LIMIT_S, self._limit_s) if self._hung else self._limit_s
        self._busy, self._cancel = "checking", Cancel()
        cancel, stopped = self._cancel, Event()
        cancel.on_cancel(stopped.set)

        def ask() -> None:
            began_s = monotonic()
            try:
                fault = self._prober.probe(model, endpoint, limit_s=limit_s, cancel=cancel)
                if fault is not None and fault.kind in DEADLY:
                    stopped.wait(AGAIN_S)
                    fault = self._prober.probe(model, endpoint, limit_s=limit_s, cancel=cancel)
            except Exception as error:  # noqa: BLE001 - must show as a probe that failed, not as a thread that is gone
                self._log.exception("probing the server failed")
                fault = TaskFault("infra", "probe_failed", f"the probe failed: {type(error).__name__}: {error}")
            probed = Probed(began_s, monotonic(), "" if fault is None else fault.message)
            self._answers.put(_ProbeResult(probed, fault, run, canonical_model(model), endpoint))

        self._pool.submit(ask)

    def _repair(self, fault: TaskFault, task: str | None, began_s: float) -> None:
        self._busy = "repairing"

        def climb() -> None:
            ended = False
            try:
                ended = self._prober.broke(fault, task, began_s)
            except Exception:  # noqa: BLE001 - a repair that fails leaves the server as it is; the next fault climbs on
                self._log.exception("repairing the server failed")
            self._answers.put(ended)

        self._pool.submit(climb)


def _under_way(runs: Sequence[Run]) -> list[Run]:
    """Those that have begun and not ended, of those that use the server."""
    return [run for run in runs if run.begun and run.ending is None and run.uses_server]
