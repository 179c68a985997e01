"""Which worker should hold which model.

In order: what is loaded or being loaded stays; live requests get the cards that they need (``live_cards``); cold
workers, the fastest first, are given to the model that is slowest to clear; workers whose own model has nothing waiting
go where their help is worth a load; a model nobody holds takes a card from one with several, or from anybody past
``max_wait_s``; last, cards move while that shortens the slower of two models by more than a load. The steps but for the
first two are repeated until nothing moves, so that deciding again on the result changes nothing; each move settles a
card, which bounds it. Everything is deterministic: ties go to the first name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from swarm.config.settings import Settings
from swarm.core.backoff import doubled_s
from swarm.core.health.liveness import ready_workers
from swarm.core.live.demand import KEPT_S
from swarm.core.placement.board import Board, Card
from swarm.core.placement.demand import Demand, Outstanding, demands, no_demand, outstanding
from swarm.core.placement.fit import misfit
from swarm.core.placement.live_cards import place_live, take_in_s
from swarm.core.placement.speeds import Speeds, speeds
from swarm.core.snapshot import SwarmSnapshot, WorkerView
from swarm.core.task import TaskClass

PATIENCE_LOADS = 3.0
"""A model nobody holds waits this many load times before it takes a busy card from a model with several."""
LONGEST_TURN = 16
"""So many turns a card keeps its model at most from one whose loads failed."""
GAIN_LOADS = 1.0
"""A busy card moves only if that saves more than this many load times."""


class Want(msgspec.Struct, frozen=True):
    """The model a worker should hold (None: whatever it holds, or none) and why."""

    model: str | None
    reason: str
    live: bool = False
    """For live requests: such a load goes before batch work on its worker too."""


def desired(snapshot: SwarmSnapshot, settings: Settings) -> dict[str, Want]:
    """What each worker that is ready for llm work should hold; workers that are not ready are left out."""
    board = _board(snapshot, settings)
    place_live(board, snapshot, settings)
    for _ in tuple(board.cards):
        before = tuple(board.cards)
        _fill_cold(board, settings)
        _move_spare(board, settings)
        _serve_unserved(board, settings)
        _balance(board)
        if tuple(board.cards) == before:
            break
    return {card.name: Want(card.model, card.reason or _stay(card, board), card.live) for card in board.cards}


def live_take_in_s(model: str, snapshot: SwarmSnapshot, settings: Settings) -> dict[str, float]:
    """By worker that may be given it: seconds until live requests for a model that nobody holds may have its card."""
    board = _board(snapshot, settings)
    view = next((v for v in snapshot.live if v.model == model), None)
    place_live(board, snapshot, settings)
    return {} if view is None else {c.name: s for c in board.cards if (s := take_in_s(board, c, view, settings)) is not None}


def next_live_turn_s(snapshot: SwarmSnapshot, settings: Settings) -> float | None:
    """Seconds until a card may be given to live requests whose model nobody holds; None where none wait for that."""
    if not any(view.waiting for view in snapshot.live):
        return None
    board = _board(snapshot, settings)
    place_live(board, snapshot, settings)
    left = [view for view in snapshot.live if view.waiting and not board.on(view.model)]
    waits = (take_in_s(board, card, view, settings) for view in left for card in board.cards)
    return min((in_s for in_s in waits if in_s), default=None)


def _board(snapshot: SwarmSnapshot, settings: Settings) -> Board:
    """The cards as they are, and all demand; a model that only live requests want has none, but may be refused somewhere."""
    ready = ready_workers(snapshot, settings)
    demand = demands(snapshot)
    live = frozenset(view.model for view in snapshot.live if view.keeps and not snapshot.pauses.model(view.model))
    demand |= {model: no_demand(model, snapshot) for model in live - demand.keys()}
    tasks, learned = outstanding(snapshot), speeds(snapshot)
    return Board(demand, [_card(w, learned, tasks.get(w.name, ()), demand, live, snapshot, settings) for w in ready])


def _card(
    view: WorkerView,
    learned: Speeds,
    tasks: tuple[Outstanding, ...],
    demand: dict[str, Demand],
    live: Collection[str],
    snapshot: SwarmSnapshot,
    settings: Settings,
) -> Card:
    """A worker as placement sees it, on its present model or the one it is about to load."""
    assert view.heartbeat is not None
    holds, places = view.heartbeat.model, view.heartbeat.live
    card = Card(
        name=view.name,
        speeds=learned,
        busy=sum(c.worker == view.name and c.task_class == TaskClass.LLM for c in snapshot.claims),
        holds=holds,
        held_s=view.held_s,
        refused=frozenset(m for m, d in demand.items() if misfit(view, d, snapshot, settings) is not None),
        model=holds,
        live_in_flight=0 if places is None else places.in_flight,
    )
    kept = next((task for task in tasks if not _withdrawable(task, demand, live, card.refused)), None)
    if kept is None:
        return card
    card = card.placed(kept.model or holds, f"its resource task {kept.task.task_id} is {kept.where}")
    wanted = demand.get(kept.model or "")
    starved = wanted is not None and wanted.unserved_s > settings.brain.max_wait_s and settings.live.share < 1
    gives_way = len(tasks) == 1 and kept.withdrawable and not kept.task.live and not starved
    return msgspec.structs.replace(card, replaceable=gives_way)


def _withdrawable(task: Outstanding, demand: dict[str, Demand], live: Collection[str], refused: frozenset[str]) -> bool:
    """A load of ours that nobody has begun, for a model that nothing waits for any more, or that turned out not to fit."""
    waits = task.model in live or (task.model in demand and demand[task.model].waiting > 0)
    return task.withdrawable and not (waits and task.model not in refused)


def _fill_cold(board: Board, settings: Settings) -> None:
    """A cold worker gets a model at once, as long as more tasks wait than placed slots would take.

    One that alone could be given another model, which nobody holds, comes last.
    """
    while True:
        cold = [c for c in board.cards if c.model is None and not c.pinned]
        needy = board.needy(settings.brain.max_wait_s)
        alone = _alone(board, cold, needy)
        pairs = ((d, c) for d in needy for c in _fastest_first(cold, d.model, alone))
        demand, card = next(((d, c) for d, c in pairs if board.outlasts(d.model, c, 0.0)), (None, None))
        if demand is None or card is None:
            return
        board.give(card, demand.model, f"{card.name} holds no model and {demand.waiting} tasks wait for {demand.model}")


def _fastest_first(cards: list[Card], model: str, alone: Mapping[str, str]) -> list[Card]:
    """Those of these cards that may be given the model."""
    own = (c for c in cards if model not in c.refused)
    return sorted(own, key=lambda c: (alone.get(c.name, model) != model, -c.per_s(model)))


def _alone(board: Board, cold: list[Card], needy: list[Demand]) -> dict[str, str]:
    """Cold workers that alone can be given a model which nobody holds: it fits, or lies on the disk, only there."""
    able = {d.model: [c.name for c in cold if d.model not in c.refused] for d in needy if not board.on(d.model)}
    return {names[0]: model for model, names in able.items() if len(names) == 1}


def _move_spare(board: Board, settings: Settings) -> None:
    """A worker whose own model has nothing waiting goes where the work outlasts a load; the fastest goes first."""
    for card in sorted(board.movable(), key=lambda c: (c.busy, c.speeds.factor(c.name))):
        if board.waiting(card.model):
            continue
        for demand in board.needy(settings.brain.max_wait_s):
            if board.costs_too_much(demand.model):
                continue
            own_s = card.task_s(card.model) if card.busy and card.model in board.demand else 0.0
            if demand.model not in card.refused and board.outlasts(demand.model, card, demand.load_s + own_s):
                why = f"no task waits for {card.model} and {demand.waiting} tasks wait for {demand.model}"
                board.give(card, demand.model, why)
                break


def _serve_unserved(board: Board, settings: Settings) -> None:
    """A model nobody holds takes a busy card: soon from a model with several, past ``max_wait_s`` from any.

    In the second case the card must have served its own model for a fair share of ``max_wait_s``, and for as long as the
    load takes, else models that are more than the cards would pass one card round without anybody getting work done.
    For a model whose loads failed that is so in both cases, and twice as long for each worker on which they did: one that
    loads nowhere would else unload all cards in turn, again and again.
    Cards of live requests may be taken too, the last of all, unless ``live.share`` is 1.
    """
    max_wait_s = settings.brain.max_wait_s
    unserved = [d for d in board.needy(max_wait_s) if not board.on(d.model)]
    share_s = max_wait_s / (len(unserved) + 1)
    for demand in sorted(unserved, key=lambda d: (-d.unserved_s, d.model)):
        starved = demand.unserved_s > max_wait_s
        if not starved and demand.unserved_s <= PATIENCE_LOADS * demand.load_s:
            continue
        movable = board.movable(kept=starved and settings.live.share < 1)
        donors = [c for c in movable if demand.model not in c.refused and c.model is not None]
        turn_s = max(share_s, demand.load_s)
        served_s = doubled_s(turn_s, demand.failed_on, LONGEST_TURN * turn_s)
        if starved or demand.failed_on:
            donors = [c for c in donors if c.held_s >= served_s or c.kept]
        if not starved:
            donors = [c for c in donors if _can_spare(board, c, 2 * demand.load_s)]
        donor = min(donors, key=lambda c: (c.kept, -len(board.on(c.model or "")), -c.held_s, c.busy, c.name), default=None)
        if donor is not None:
            waited = f"{demand.waiting} tasks for {demand.model} have waited {demand.unserved_s:.0f}s with no card"
            board.give(donor, demand.model, waited)


def _can_spare(board: Board, card: Card, outlast_s: float) -> bool:
    """Its model has another card, and work that does not end by itself within ``outlast_s``."""
    model = card.model or ""
    return len(board.on(model)) > 1 and board.clear_s(model) > outlast_s


def _balance(board: Board) -> None:
    """Move cards from faster to slower models while each move saves clearly more than the load it costs."""
    for _ in board.cards:
        waited_for = [m for m in board.demand if board.waiting(m)]
        moves = [(gain, c, m) for c in board.movable() for m in waited_for if (gain := _gain_s(board, c, m)) > 0]
        if not moves:
            return
        gain, card, model = min(moves, key=lambda move: (-move[0], move[1].busy, move[1].name, move[2]))
        board.give(card, model, f"moving {card.name} from {card.model} to {model} ends the work about {gain:.0f}s sooner")


def _gain_s(board: Board, card: Card, model: str) -> float:
    """Seconds by which the slower of two models ends sooner if this card moves; 0 where that does not pay."""
    own = card.model
    load_s = board.demand[model].load_s
    before_s = board.clear_s(model)
    if (
        board.costs_too_much(model)
        or own is None
        or own == model
        or model in card.refused
        or len(board.on(own)) < 2
        or not board.on(model)
        or card.held_s < load_s
        or not board.outlasts(model, card, load_s)
    ):
        return 0.0
    per_s = sum(c.per_s(model) for c in board.on(model))
    after_s = load_s + max(0.0, before_s - load_s) * per_s / (per_s + card.per_s(model))
    if before_s - after_s <= GAIN_LOADS * load_s:
        return 0.0
    own_after_s = board.clear_s(own, without=card)
    gain_s = before_s - max(after_s, own_after_s)
    return gain_s if gain_s > GAIN_LOADS * load_s else 0.0


def _stay(card: Card, board: Board) -> str:
    """Why a card was left as it is."""
    if card.model is None:
        refused = ", ".join(sorted(m for m in card.refused if board.waiting(m)))
        return (
            f"it cannot be given {refused} now" if refused else "the workers that hold models can take all waiting llm tasks"
        )
    waiting = board.waiting(card.model)
    if card.kept and not waiting:
        return f"live requests use {card.model}, or did so in the last {KEPT_S:.0f}s"
    return (
        f"{waiting} tasks wait for its model {card.model}" if waiting else f"it keeps {card.model}; no other model needs it"
    )
