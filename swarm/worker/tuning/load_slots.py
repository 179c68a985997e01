"""For how many requests at once a worker loads a model: what is known is gathered, the choice is ``core``'s.

Used by loads, one at a time, and by the work loop, which asks for more where climbing pays; safe from both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from swarm.config.settings import LlmSettings, ModelSettings
from swarm.core.models.engines import OLLAMA
from swarm.core.models.model_options import ModelTable
from swarm.core.models.model_server import ModelDetails
from swarm.core.policy.slot_capacity import (
    Capacity,
    LoadFacts,
    SlotRecord,
    after_no_memory,
    capacity_for,
    default_context,
    failed_for,
    forced_to_one,
)
from swarm.runtime.ports import SlotMemory

AUTO = "auto"


class LoadSlots:
    """Of one worker."""

    def __init__(
        self,
        settings: LlmSettings,
        *,
        models: Mapping[str, ModelSettings],
        memory: SlotMemory,
        card: str,
        engine_of: Callable[[str], str] = lambda _model: OLLAMA,
        fixed: int = 0,
        chosen: bool = True,
        free_mib: Callable[[], int | None] = lambda: None,
        host_mib: Callable[[], int | None] = lambda: None,
        weights_mib: Callable[[str], int] = lambda _model: 0,
        running: Callable[[], int] = lambda: 0,
        waiting: Callable[[str], int] = lambda _model: 0,
    ) -> None:
        """``fixed``: what the configuration sets, 0: nothing. ``chosen`` False: whoever started the server has decided.

        ``free_mib``: of its cards, once other models are gone; 0: it has none. ``host_mib``: of the host. ``running``: what
        its server was started for, 0: it takes any number with each load. ``waiting``: requests for a model.
        """
        self.memory = memory
        self.fixed = fixed or (settings.slots if isinstance(settings.slots, int) else 0)
        self.most = settings.slots_max
        self._models = ModelTable(models)
        self._card = card
        self._engine_of = engine_of
        self._chosen = chosen
        self._free_mib = free_mib
        self._host_mib = host_mib
        self._weights_mib = weights_mib
        self._running = running
        self._waiting = waiting
        self._facts: dict[str, LoadFacts] = {}
        self._wanted: dict[str, int] = {}
        self._loaded: dict[str, int] = {}
        """What models were loaded for when more was asked for."""
        self._more_than: dict[str, int] = {}
        """The same, until that load has ended or found no memory."""
        self._stays: dict[str, int] = {}
        """What models are loaded for whose load for more gave no more, for whatever reason but memory."""

    def engine(self, model: str) -> str:
        """Name of the engine that serves it."""
        return self._engine_of(model)

    def record(self, model: str, *, digest: str = "", length: str = "medium") -> SlotRecord:
        """An empty record of this card and model."""
        return SlotRecord(card=self._card, engine=self.engine(model), model=model, digest=digest, length=length)

    def is_of(self, record: SlotRecord, model: str) -> bool:
        """Whether it tells of this model, in some digest, on this card."""
        return (record.card, record.engine, record.model) == (self._card, self.engine(model), model)

    def choose(self, model: str, details: ModelDetails, *, embedding: bool) -> Capacity:
        """For how many to load it; 0: that is not ours to say."""
        engine = self.engine(model)
        forced = forced_to_one(engine, details, embedding=embedding)
        if forced:
            return Capacity(1, forced, forced=True)
        if self.fixed:
            return Capacity(self.fixed, "set in the configuration")
        if not self._chosen:
            return Capacity(0, "the server is not started by swarm")
        memory_mib = self._free_mib()
        context = self._context(engine, model, details, memory_mib)
        ours = [one for one in self.memory.records if self.is_of(one, model)]
        facts = LoadFacts(
            memory_mib=memory_mib,
            host_mib=self._host_mib() if memory_mib == 0 else None,
            weights_mib=self._weights_mib(model),
            kv_bytes_per_token=details.kv_bytes_per_token,
            context=context,
            pooled=engine != OLLAMA,
            most=self.most,
            failed=failed_for(ours, self.record(model), context),
            remembered=max((one.in_flight for one in ours), default=0),
            wanted=self._wanted.pop(model, 0),
            running=self._running() if engine == OLLAMA else 0,
            waiting=self._waiting(model),
        )
        self._facts[model] = facts
        return capacity_for(facts)

    def no_room(self, model: str, slots: int) -> int:
        """A load for so many found no memory: remember it; how many to try next, 0: one alone found none."""
        self._more_than.pop(model, None)
        facts = self._facts.get(model)
        known = next((one for one in self.memory.records if self.is_of(one, model)), self.record(model))
        if slots > 1 and not self.fixed and facts is not None:
            # What it says of a longer context is no bound with this one, or no more would have been tried.
            self.memory.keep(msgspec.structs.replace(known, failed=slots, failed_context=facts.context))
        return after_no_memory(slots, self._loaded.get(model, 0)) if slots and not self.fixed else 0

    def climb(self, model: str, slots: int, *, loaded: int) -> int:
        """What a reload for ``slots`` would load it for, instead of ``loaded``; the next ``choose`` asks for that."""
        facts = self._facts.get(model)
        if facts is None or self.fixed or self._stays.get(model) == loaded:
            return 0
        failed = failed_for(self.memory.records, self.record(model), facts.context)
        would = capacity_for(msgspec.structs.replace(facts, wanted=slots, failed=failed)).slots
        if would > loaded:
            self._wanted[model] = would
            self._loaded[model] = self._more_than[model] = loaded
        return would

    def loaded(self, model: str, slots: int) -> None:
        """A load has ended: the model is loaded for so many. No more is asked for where that has changed nothing."""
        before = self._more_than.pop(model, 0)
        if before and slots <= before:
            self._stays[model] = slots

    def is_climbing(self, model: str) -> bool:
        """A reload for more was asked for and has not begun."""
        return model in self._wanted

    def withdraw(self, model: str) -> None:
        """The reload that was asked for will not begin."""
        self._wanted.pop(model, None)
        self._more_than.pop(model, None)

    def _context(self, engine: str, model: str, details: ModelDetails, memory_mib: int | None) -> int:
        """Tokens that the engine reserves per slot."""
        options: Mapping[str, Any] = self._models.of(model).options
        wanted = options.get("num_ctx")
        if isinstance(wanted, int) and wanted > 0:
            return wanted
        found = default_context(memory_mib) if engine == OLLAMA else OTHER_CONTEXT
        return min(found, details.context_length) if details.context_length else found


OTHER_CONTEXT = 8192
"""Where nothing sets ``num_ctx``, of engines that swarm starts itself."""
