"""For how many requests at once a model is loaded: from memory, from what is remembered, and when a reload pays.

The engine reserves the context of every slot at the load, so the number is bounded by the memory that the weights leave.
Pure; sizes in MiB, contexts in tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from swarm.core.models.engines import OLLAMA
from swarm.core.models.model_server import MIB, ModelDetails
from swarm.core.policy.slot_levels import LADDER, below

CAUTIOUS = 4
"""Where the memory is not known."""
FIRST_MOST = 16
"""A first load takes no more, however much would fit: what is reserved is the card's, and climbing is cheap."""
MARGIN_MIB, MARGIN_SHARE = 600, 0.06
"""Of the card: buffers of the engine, and the driver's own."""
WEIGHTS_FACTOR = 1.05
"""Weights on a card over the size of their file."""
CONTEXT_BY_MIB = ((47 * 1024, 262_144), (23 * 1024, 32_768), (0, 4096))
"""Ollama's own context where nothing sets one, by the memory of all cards."""
ONE_SLOT = frozenset(
    {
        "mllama",
        "qwen3vl",
        "qwen3vlmoe",
        "qwen35",
        "qwen35moe",
        "qwen3next",
        "lfm2",
        "lfm2moe",
        "nemotron_h",
        "nemotron_h_moe",
        "nemotron_h_omni",
    }
)
"""Families that Ollama loads for one request at a time, whatever it was told (its ``server/sched.go``)."""
ONE_AT_A_TIME = "one request at a time"
RESTART_TASKS = 16
"""Requests per slot that have to wait for a server to be restarted for more slots at a load."""
RELOAD_PAYS = 2.0
"""A reload for more slots must save this many times what it costs."""
SHORT_TOKENS, LONG_TOKENS = 512, 4096
CLASS_EDGE = 1.25
"""A batch changes its length class only this far beyond the border."""


class SlotRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a card has shown for one model in one engine, for requests of about one length."""

    card: str
    engine: str
    model: str
    digest: str = ""
    length: str = "medium"
    in_flight: int = 0
    """The best number of requests at once; 0: none was found yet."""
    tokens_per_s: float = 0.0
    top_in_flight: int = 0
    top_tokens_per_s: float = 0.0
    """The highest rate that was ever seen, and with how many."""
    capacity: int = 0
    """For how many it was loaded then."""
    failed: int = 0
    """The smallest capacity that found no memory; 0: none did."""
    failed_context: int = 0
    """Tokens per slot at that failure; with fewer the number may be tried again. 0: not known."""
    written_at: str = ""


class Capacity(msgspec.Struct, frozen=True):
    """For how many requests at once to load a model, and why."""

    slots: int
    why: str
    forced: bool = False
    """The engine takes this number for the model whatever it is told."""


class LoadFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known before a load."""

    memory_mib: int | None
    """Of the cards together, as far as others leave it; None: not known. 0: there is no card."""
    host_mib: int | None = None
    """Of the host, as far as others leave it; only asked where there is no card. None: not known."""
    weights_mib: int = 0
    """Size of the model's file; 0: not known."""
    kv_bytes_per_token: int = 0
    context: int = 0
    """Tokens per slot; 0: not known."""
    pooled: bool = False
    """Slots share one pool of context: one that is not in use takes no time of the processor."""
    most: int = 64
    failed: int = 0
    """The smallest capacity that found no memory with this context; 0: none did."""
    remembered: int = 0
    """The best number of requests at once that this card has shown; 0: nothing yet."""
    wanted: int = 0
    """What climbing asks for; 0: nothing."""
    running: int = 0
    """What the server was started for; another number costs its restart. 0: it takes any number with each load."""
    waiting: int = 0
    """Requests that wait for the model."""


def forced_to_one(engine: str, details: ModelDetails, *, embedding: bool) -> str:
    """Why the engine loads this model for one request at a time; empty if it does not."""
    if engine != OLLAMA:
        return ""
    if embedding:
        return f"Ollama loads embedding models for {ONE_AT_A_TIME}"
    family = next((name for name in (details.architecture, *details.families) if name in ONE_SLOT), "")
    return f"Ollama loads models of the family {family} for {ONE_AT_A_TIME}" if family else ""


def capacity_for(facts: LoadFacts) -> Capacity:
    """How many to load for; at least one. Never ``failed`` or more, never more than ``most`` or than fits."""
    chosen = _chosen(facts)
    little = facts.waiting < RESTART_TASKS * facts.running and not facts.wanted
    if little and facts.running < chosen.slots:
        return _bounded(facts, facts.running, "a restart of the server for more does not pay for what waits")
    return chosen


def _chosen(facts: LoadFacts) -> Capacity:
    if facts.memory_mib == 0:
        return _on_cpu(facts)
    fits = _fitting(facts)
    most = FIRST_MOST if fits is not None else CAUTIOUS
    asked = facts.wanted or _rung_from(facts.remembered) or most
    if fits is not None and asked > fits:
        return _bounded(facts, fits, f"more contexts of {facts.context} tokens do not fit")
    if facts.wanted or facts.remembered:
        return _bounded(facts, asked, "climbing pays" if facts.wanted else "remembered")
    return _bounded(facts, asked, "there is memory for them" if fits is not None else "how much a slot takes is not known")


def default_context(memory_mib: int | None) -> int:
    """Tokens per slot that Ollama reserves where nothing sets ``num_ctx``; 0 where the memory is not known."""
    if memory_mib is None:
        return 0
    return next(context for least_mib, context in CONTEXT_BY_MIB if memory_mib >= least_mib)


def after_no_memory(slots: int, loaded: int = 0) -> int:
    """The next capacity to try after ``slots`` found no memory; 0: one slot alone has none.

    Half, or what it was ``loaded`` for before (0: nothing), if that is more.
    """
    half = max((level for level in LADDER if level <= slots // 2), default=0)
    return max(half, loaded if loaded < slots else 0)


def reload_gain_s(*, waiting: int, tokens: float, tokens_per_s: float, gain: float, capacity: int) -> float:
    """Seconds that twice the capacity may save: the work that waits at the present rate, and at one that grows once more.

    ``gain``: the factor that the last doubling gave; the next is taken to give as much less as that fell short of two.
    """
    if tokens_per_s <= 0 or gain <= 1 or waiting <= 2 * capacity:
        return 0.0
    next_gain = 1 + (gain - 1) * min(1.0, gain / 2)
    return waiting * tokens / tokens_per_s * (1 - 1 / next_gain)


def reload_pays(saved_s: float, *, load_s: float, request_s: float) -> bool:
    """Whether a reload is worth it: it waits for the requests in flight, loads, and fills up again."""
    return saved_s > RELOAD_PAYS * (load_s + 2 * request_s)


def length_class(tokens: float, before: str = "") -> str:
    """``short``, ``medium`` or ``long``: by tokens of a request, in and out; one just over a border stays in its class."""
    found = "short" if tokens < SHORT_TOKENS else "medium" if tokens < LONG_TOKENS else "long"
    order = ("short", "medium", "long")
    if before in order and abs(order.index(found) - order.index(before)) == 1:
        border = SHORT_TOKENS if "short" in (found, before) else LONG_TOKENS
        if border / CLASS_EDGE < tokens < border * CLASS_EDGE:
            return before
    return found


def record_of(records: Sequence[SlotRecord], wanted: SlotRecord) -> SlotRecord | None:
    """The record of the same card, engine, model (by digest where both have one) and length."""
    return next((one for one in records if _same_model(one, wanted) and one.length == wanted.length), None)


def failed_for(records: Sequence[SlotRecord], wanted: SlotRecord, context: int) -> int:
    """The smallest capacity that found no memory for this model on this card, with no more context than now; 0: none."""
    found = [
        one.failed
        for one in records
        if one.failed
        and _same_model(one, wanted)
        and (not context or not one.failed_context or context >= one.failed_context)
    ]
    return min(found, default=0)


def _same_model(one: SlotRecord, other: SlotRecord) -> bool:
    if (one.card, one.engine, one.model) != (other.card, other.engine, other.model):
        return False
    return not one.digest or not other.digest or one.digest == other.digest


def _fitting(facts: LoadFacts) -> int | None:
    if facts.memory_mib is None or not (facts.weights_mib and facts.kv_bytes_per_token and facts.context):
        return None
    weights_mib = facts.weights_mib * WEIGHTS_FACTOR
    left_mib = facts.memory_mib - weights_mib - max(MARGIN_MIB, MARGIN_SHARE * facts.memory_mib)
    fits = int(left_mib * MIB / (facts.kv_bytes_per_token * facts.context))
    return max((level for level in LADDER if level <= fits), default=1)


def _on_cpu(facts: LoadFacts) -> Capacity:
    """Half of what the weights leave of the host's memory stays with its programs."""
    weights_mib = int(facts.weights_mib * WEIGHTS_FACTOR)
    for_model_mib = None if facts.host_mib is None else (facts.host_mib + weights_mib) // 2
    fits = _fitting(msgspec.structs.replace(facts, memory_mib=for_model_mib))
    first = FIRST_MOST if fits is not None else CAUTIOUS
    asked = max(first if facts.pooled else 1, facts.remembered, facts.wanted)
    return _bounded(facts, asked if fits is None else min(asked, fits), "the model runs on the CPU")


def _rung_from(slots: int) -> int:
    """The lowest level at or above."""
    return min((level for level in LADDER if level >= slots), default=slots) if slots else 0


def _bounded(facts: LoadFacts, slots: int, why: str) -> Capacity:
    if slots > facts.most:
        slots, why = facts.most, f"llm.slots_max = {facts.most}"
    if facts.failed and slots >= facts.failed:
        slots, why = below(facts.failed), f"{facts.failed} found no memory"
    return Capacity(max(1, slots), why)
