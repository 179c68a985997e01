"""Which workers are kept for cards of other machines: from plan, records and drains to changes. Pure.

* A card has a worker while its record has a ``url`` and its node is not lost. With the ``url`` goes its relay: the worker is
  stopped, which requeues what it runs, and one for the new ``url`` starts once it has ended.
* A worker of a drained node finishes what it runs. Those of ``[[workers]]`` stay listed, ended; the node is used again once
  the wish is withdrawn.
* Names of records are checked: they become names of files and processes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec

from swarm.core.nodes.node_record import NodeCard, NodePhase, NodeRecord, NodesSeen
from swarm.core.nodes.relay_workers import RelayPlace, card_url
from swarm.core.placement.worker_plan import RESERVED_NAMES, WorkerPlan

_WORKER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}").fullmatch
_GIVEN_BACK = (NodePhase.DRAINING, NodePhase.DRAINED)


class WantedWorker(msgspec.Struct, frozen=True):
    """A worker that is to be there."""

    plan: WorkerPlan
    drain: str = ""
    """Why it is to finish its work and end; empty: it is to run."""


class WantedWorkers(msgspec.Struct, frozen=True):
    """All of them by name, and what in the records could not be used."""

    workers: Mapping[str, WantedWorker]
    troubles: tuple[str, ...] = ()


class KeptWorker(msgspec.Struct, frozen=True):
    """A worker that is kept, running or not."""

    plan: WorkerPlan
    ended: bool = False
    """It has ended and is not started again."""
    leaving: bool = False
    """It was asked to end."""


class AddWorker(msgspec.Struct, frozen=True):
    """Keep a worker for this plan, in place of one of its name that has ended."""

    plan: WorkerPlan


class UpdatePlan(msgspec.Struct, frozen=True):
    """Its card is known better now; the worker goes on."""

    plan: WorkerPlan


class DrainWorker(msgspec.Struct, frozen=True):
    """Have it finish what it runs and end."""

    name: str
    reason: str


class StopWorker(msgspec.Struct, frozen=True):
    """Have it end at once; what it runs is requeued."""

    name: str
    reason: str


class RemoveWorker(msgspec.Struct, frozen=True):
    """Keep it no more: it has ended, and nobody wants it."""

    name: str


WorkerChange = AddWorker | UpdatePlan | DrainWorker | StopWorker | RemoveWorker


def wanted_workers(planned: Sequence[WorkerPlan], seen: NodesSeen, sources: Collection[str]) -> WantedWorkers:
    """Those of the configuration, and one for each card that is served by a node of the records.

    Records of other sources than these are nobody's any more.
    """
    wanted = {plan.name: WantedWorker(plan, _drained(plan.node) if plan.node in seen.drains else "") for plan in planned}
    urls = {plan.url: plan.name for plan in planned if plan.relay is not None}
    troubles: list[str] = []
    for record in sorted((one for one in seen.records if one.source in sources), key=lambda one: one.name):
        drain = record.name in seen.drains or record.phase in _GIVEN_BACK
        for card in record.cards if record.phase is not NodePhase.LOST else ():
            if not card.url:
                continue
            plan = _plan(record, card)
            other = urls.get(plan.url) if isinstance(plan, WorkerPlan) else None
            if isinstance(plan, str):
                troubles.append(f"nodes/{record.name}.json: {plan}")
            elif plan.name in wanted or other is not None:
                troubles.append(f"nodes/{record.name}.json: card {card.card} is worker {other or plan.name} already")
            else:
                wanted[plan.name] = WantedWorker(plan, _drained(record.name) if drain else "")
                urls[plan.url] = plan.name
    return WantedWorkers(wanted, tuple(troubles))


def _drained(node: str) -> str:
    return f"its node {node} is drained; `swarm nodes resume {node}` uses it again"


def _plan(record: NodeRecord, card: NodeCard) -> WorkerPlan | str:
    """The plan of its worker; a text where the record cannot be used."""
    if not _WORKER_NAME(card.worker) or card.worker in RESERVED_NAMES or card.worker.startswith(("ollama-", "models-")):
        return f"{card.worker!r} is no name for the worker of card {card.card}"
    found = card_url(card.url)
    if found is None:
        return f"{card.url!r} is no address of card {card.card}"
    return WorkerPlan(
        name=card.worker,
        gpus=(card.index,) if card.uuid else (),
        gpu_uuids=(card.uuid,) if card.uuid else (),
        engines=card.engines,
        url=found.url,
        simulated=card.simulated,
        vram_mib=card.vram_mib,
        relay=RelayPlace(node=record.name, card=found.card, own_token=False),
    )


def worker_changes(kept: Mapping[str, KeptWorker], wanted: Mapping[str, WantedWorker]) -> tuple[WorkerChange, ...]:
    """What is to be done now, in this order. Called again until it gives nothing."""
    return tuple(_changes(kept, wanted))


def _changes(kept: Mapping[str, KeptWorker], wanted: Mapping[str, WantedWorker]) -> Iterator[WorkerChange]:
    for name in sorted(set(kept) - set(wanted)):
        if kept[name].ended:
            yield RemoveWorker(name)
        else:
            yield StopWorker(name, f"its card on {kept[name].plan.node} is not served any more")
    for name, wish in wanted.items():
        yield from _of_one(kept.get(name), wish)


def _of_one(now: KeptWorker | None, wish: WantedWorker) -> Iterable[WorkerChange]:
    name = wish.plan.name
    if now is None:
        return (AddWorker(wish.plan), DrainWorker(name, wish.drain)) if wish.drain else (AddWorker(wish.plan),)
    if not same_place(now.plan, wish.plan):
        if not now.ended:
            return (StopWorker(name, f"its card is at {wish.plan.url} now"),)
        return (AddWorker(wish.plan), DrainWorker(name, wish.drain)) if wish.drain else (AddWorker(wish.plan),)
    changes: list[WorkerChange] = [UpdatePlan(wish.plan)] if now.plan != wish.plan else []
    if wish.drain and not now.leaving:
        changes.append(DrainWorker(name, wish.drain))
    elif not wish.drain and now.ended:
        changes = [AddWorker(wish.plan)]
    return changes


def same_place(one: WorkerPlan, other: WorkerPlan) -> bool:
    """Whether a worker of the one plan serves the other: at the same relay, or a card of this machine."""
    return (one.url, one.relay) == (other.url, other.relay)
