"""Cards for live requests, before batch work is given any. Pure.

* A model that clients wait for and no card holds gets the one on which batch work loses least. It gets more, one at a time,
  while its oldest request waits for long, out of cards that do nothing else.
* A card is kept for a model that clients use, or used within ``KEPT_S``: batch work takes it only past ``brain.max_wait_s``.
* No card is taken from a model that has just got it. Two models of clients change places after ``TURN_LOADS`` load times, so
  that at most a third of the time goes to loads. Batch work keeps a card for one load time; where clients have wanted theirs
  for longer than ``brain.max_wait_s``, long enough to get something done, unless ``live.share`` is 1.
"""

from __future__ import annotations

import math

from swarm.config.settings import Settings
from swarm.core.placement.board import Board, Card
from swarm.core.placement.demand import Demand
from swarm.core.snapshot import LiveView, SwarmSnapshot

TURN_LOADS = 2.0
"""So many load times a model of live requests keeps its card from another one."""
BATCH_TURN_LOADS = 10.0
BATCH_TURN_TASKS = 2.0
"""Where live requests never end, batch work keeps a card for so many load times, or tasks, whichever is longer."""


def place_live(board: Board, snapshot: SwarmSnapshot, settings: Settings) -> None:
    """Keep the cards that live requests use, and give them those that they need; what waits for longest comes first."""
    views = [view for view in snapshot.live if view.keeps]
    for view in views:
        _keep(board, view.model)
    for view in sorted(views, key=lambda view: (-view.oldest_s, view.model)):
        if view.waiting and snapshot.pauses.model(view.model) is None:
            _place(board, view, settings)


def _keep(board: Board, model: str) -> None:
    """The cards on which its live requests run; one without any."""
    cards = sorted(board.on(model), key=lambda c: (-c.live_in_flight, c.holds != model, c.name))
    for card in cards:
        if card.live_in_flight or card is cards[0]:
            board.keep(card)


def _place(board: Board, view: LiveView, settings: Settings) -> None:
    on = board.on(view.model)
    waits = f"live requests ({view.waiting}) wait for {view.model}"
    if not on:
        in_s = [(s, card) for card in board.cards if (s := take_in_s(board, card, view, settings)) is not None]
        if in_s:
            soonest_s, card = min(in_s, key=lambda one: (one[0], _cost(board, one[1], view.model)))
            if soonest_s > 0:
                board.promise(card, view.model, f"{waits} and get this card in {soonest_s:.0f}s")
            else:
                board.give(card, view.model, f"{waits}, which no card holds", live=True)
    elif all(card.replaceable for card in on):
        board.give(on[0], view.model, f"{waits}, and its load has not begun", live=True)
    elif _is_slow(board, view, settings):
        own = (c for c in board.cards if not c.pinned and not c.kept and c.promised is None)
        spare = [c for c in own if _is_free(board, c) and view.model not in c.refused]
        best = min(spare, key=lambda card: _cost(board, card, view.model), default=None)
        if best is not None:
            board.give(best, view.model, f"{waits}, the oldest for {view.oldest_s:.0f}s", live=True)


def take_in_s(board: Board, card: Card, view: LiveView, settings: Settings) -> float | None:
    """Seconds until a card may be taken for live requests that wait for a model; None: not as things are."""
    demand = board.demand.get(view.model)
    if demand is None or view.model in card.refused or card.model == view.model:
        return None
    if (card.pinned and not card.replaceable) or card.promised not in (None, view.model):
        return None
    if card.kept:
        return max(0.0, TURN_LOADS * demand.load_s - card.held_s)
    if card.holds is None or _is_free(board, card):
        return 0.0
    turn_s = _batch_turn_s(board.demand.get(card.holds, demand), view, settings)
    return max(0.0, turn_s - card.held_s)


def _batch_turn_s(own: Demand, view: LiveView, settings: Settings) -> float:
    """Seconds for which batch work of its own model keeps a card that it has got."""
    max_wait_s, share = settings.brain.max_wait_s, settings.live.share
    if view.wanted_s <= max_wait_s or share >= 1:
        return own.load_s
    enough_s = max(BATCH_TURN_LOADS * own.load_s, BATCH_TURN_TASKS * own.task_s)
    return max(own.load_s, min((1 - share) * max_wait_s, enough_s))


def _is_free(board: Board, card: Card) -> bool:
    """It holds nothing, or a model for which no batch task waits or runs."""
    return not card.busy and not board.has_work(card.holds)


def _is_slow(board: Board, view: LiveView, settings: Settings) -> bool:
    """Whether live requests wait for long although every card of their model has served them for as long as a load takes.

    While batch work waits for cards, live requests hold no more of them than their share.
    """
    patience_s = min(board.demand[view.model].load_s, settings.live.max_wait_s / 2)
    on = board.on(view.model)
    if view.oldest_s <= patience_s or any(c.holds != view.model or c.held_s <= patience_s for c in on):
        return False
    most = settings.live.share * len(board.cards) if board.needy(settings.brain.max_wait_s) else len(board.cards)
    return sum(card.kept or card.live for card in board.cards) + 1 <= most


def _cost(board: Board, card: Card, model: str) -> tuple[bool, bool, float, bool, float, str]:
    """What batch work loses with a card, to be compared; of equal ones the fastest for the model comes first.

    A card of other live requests costs most, then one without which work would have no card at all, by the work that it has
    left; any other costs the time by which its work ends later.
    """
    own, last, delay_s = card.model or "", False, 0.0
    if not card.replaceable and not _is_free(board, card):
        last = len(board.on(own)) == 1
        now_s = board.clear_s(own)
        delay_s = now_s if last else board.clear_s(own, without=card) - now_s
    delay_s = delay_s if math.isfinite(delay_s) else 0.0
    return card.kept, last, delay_s, card.model is not None, -card.per_s(model), card.name
