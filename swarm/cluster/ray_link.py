"""What the driver asks of Ray: nodes, our actors, their answers. Calls to actors are sent and collected later.

* Actors are detached and named ``<life of the node>/<slot>`` in a namespace of our queue's own, so that the next driver
  finds them, and Ray itself refuses a second one for the same card.
* Ray retries and restarts nothing: ``max_restarts`` and ``max_task_retries`` are 0.
* A call that Ray cannot carry out while its head is away blocks, until Ray ends this process (``connect.HEAD_GONE_S``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayError
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from swarm import __version__
from swarm.cluster.card_actor import CardActor
from swarm.core.nodes.card_report import CARD_RESOURCE, SWARM_MISSING, CardOrder, CardPhase, CardReport
from swarm.core.nodes.cluster_view import SILENT_S, ActorPhase, PlaceActor, SeenActor, SeenNode
from swarm.errors import EngineError

ASK_EVERY_S = 1.0
"""Pause between an answer of an actor and the next question."""
KILL_AFTER_S = 8.0
"""For an actor to end its relay and servers in order. Ray kills the children of an actor that it kills."""
UNREACHABLE_S = 3.0
"""Ray itself says that it cannot reach an actor: it counts as silent so soon."""
_INSTALL = f"pip install 'gpu-swarm[ray]=={__version__}' there"


class CardOrders(Protocol):
    """Makes the order for one actor."""

    def __call__(self, placed: PlaceActor) -> CardOrder: ...


class HeldActor:
    """One actor: what was asked of it, and what it answered last."""

    def __init__(self, life: str, slot: int, handle: Any, *, found: bool) -> None:  # noqa: ANN401  (Ray's, untyped)
        self.life, self.slot, self.handle = life, slot, handle
        self.order: CardOrder | None = None
        self.report: CardReport | None = None
        self.ended = ""
        """Why it is of no more use."""
        self._found = found
        self._asked: Any = handle.version.remote()
        self._method = "version"
        self._words: tuple[bytes, ...] = ()
        self._since_s = time.monotonic()
        self._heard_s: float | None = None
        self._serving_s: float | None = None
        self._trouble = ""

    def step(self) -> None:
        """Take in an answer that has come; ask again when it is time. Never blocks."""
        now_s = time.monotonic()
        if self.ended:
            return
        if self._asked is None:
            if self._heard_s is None or now_s - self._heard_s >= ASK_EVERY_S:
                self._ask("report")
            return
        done, _ = ray.wait([self._asked], timeout=0)
        if not done:
            return
        answered, self._asked = self._asked, None
        try:
            answer = ray.get(answered, timeout=5)
        except ActorDiedError as error:
            self.ended = _death_words(error)
        except ActorUnavailableError:
            self._trouble = "Ray cannot reach its actor at the moment"
            self._ask(self._method, *self._words)
        except (RayError, msgspec.MsgspecError) as error:
            self.ended = f"its actor failed: {_first_line(error)}"
        else:
            self._take(answer, now_s)

    def seen(self) -> SeenActor:
        """As the decision wants it."""
        now_s = time.monotonic()
        quiet_s = now_s - (self._heard_s if self._heard_s is not None else self._since_s)
        served_s = None if self._serving_s is None else now_s - self._serving_s
        if self.ended:
            phase = ActorPhase.ENDED
        elif self._heard_s is None and not self._found:
            phase = ActorPhase.WAITING
        elif quiet_s >= (UNREACHABLE_S if self._trouble else SILENT_S):
            phase = ActorPhase.SILENT
        else:
            phase = ActorPhase.FOUND if self._heard_s is None or self.report is None else ActorPhase.ANSWERING
        reason = self.ended or self._trouble
        return SeenActor(
            life=self.life,
            slot=self.slot,
            phase=phase,
            for_s=quiet_s,
            served_s=served_s,
            report=self.report,
            reason=reason,
        )

    def _take(self, answer: object, now_s: float) -> None:
        self._heard_s, self._trouble = now_s, ""
        if self._method == "version":
            if answer != __version__:
                self.ended = f"swarm {answer} is installed there, {__version__} here: both must be the same; {_INSTALL}"
            elif self.order is not None:
                self._ask("serve", msgspec.json.encode(self.order))
            else:
                self._ask("report")
            return
        assert isinstance(answer, bytes)
        self.report = msgspec.json.decode(answer, type=CardReport)
        if self.report.phase is CardPhase.SERVING and self._serving_s is None:
            self._serving_s = now_s
        if self.report.phase is CardPhase.ENDED:
            self.ended = self.report.reason or "its relay ended"
        if self.report.phase is CardPhase.IDLE:
            self.ended = "it was started by a driver that ended before it gave it a card"

    def _ask(self, method: str, *words: bytes) -> None:
        self._method, self._words = method, words
        self._asked = getattr(self.handle, method).remote(*words)


class EndingActor:
    """One that is to end: asked first, then killed."""

    def __init__(self, actor: HeldActor, reason: str) -> None:
        self.seen = SeenActor(life=actor.life, slot=actor.slot, phase=ActorPhase.ENDING, report=actor.report, reason=reason)
        self._handle = actor.handle
        at_once = bool(actor.ended) or actor.seen().phase is ActorPhase.WAITING  # there is nothing to be stopped in order
        self._asked: Any = None if at_once else actor.handle.stop.remote()
        self._kill_s = time.monotonic() + (0.0 if at_once else KILL_AFTER_S)

    def step(self) -> None:
        """Kill it once it has stopped, or had its time; again later while it is there."""
        now_s = time.monotonic()
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            self._asked, self._kill_s = None, now_s
        if now_s >= self._kill_s:
            self._asked, self._kill_s = None, now_s + KILL_AFTER_S
            ray.kill(self._handle, no_restart=True)


class RayLink:
    """The cluster, once connected. Its methods raise ``EngineError`` where Ray cannot answer."""

    def __init__(self, namespace: str, simulate: int | None, order: CardOrders) -> None:
        self._namespace, self._simulate, self._order = namespace, simulate, order
        self._actors: dict[str, HeldActor] = {}
        self._ending: dict[str, EndingActor] = {}

    def nodes(self) -> tuple[SeenNode, ...]:
        """Those that live, with the cards they offer."""
        with _ray_faults("the cluster's nodes are not known"):
            return tuple(self._node(one) for one in ray.nodes() if one["Alive"])  # type: ignore[no-untyped-call]

    def actors(self) -> tuple[SeenActor, ...]:
        """Ours, those of earlier drivers too."""
        with _ray_faults("the cluster's actors are not known"):
            named = _names()
            for name in sorted(named - self._actors.keys() - self._ending.keys()):
                self._find(name)
            self._step_ending(named)
            for actor in self._actors.values():
                actor.step()
        return (*(actor.seen() for actor in self._actors.values()), *(one.seen for one in self._ending.values()))

    def place(self, placed: PlaceActor) -> bool:
        """Have Ray start an actor; False while an earlier one of this card has not ended."""
        name = f"{placed.node.life}/{placed.slot}"
        if name in self._ending or name in self._actors:
            return False
        card = {"num_gpus": 1} if self._simulate is None else {"resources": {CARD_RESOURCE: 1}}
        options = {
            "name": name,
            "lifetime": "detached",
            "num_cpus": 0,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": 4,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(placed.node.life, soft=False),
        }
        with _ray_faults("Ray does not take on an actor"):
            try:
                handle = ray.remote(CardActor).options(**options, **card).remote()
            except ValueError:  # the name is taken: the actor is found in the next tick
                return False
        actor = self._actors[name] = HeldActor(placed.node.life, placed.slot, handle, found=False)
        actor.order = self._order(placed)
        return True

    def end(self, life: str, slot: int, reason: str) -> None:
        """Have it ended, its relay and servers first; takes some ticks."""
        actor = self._actors.pop(f"{life}/{slot}", None)
        if actor is not None:
            with _ray_faults("an actor cannot be ended"):
                self._ending[f"{life}/{slot}"] = EndingActor(actor, reason)

    def end_all(self, timeout_s: float) -> tuple[str, ...]:
        """Have all ended, those of earlier drivers too; returns those that are still there, by name."""
        deadline_s = time.monotonic() + timeout_s
        with _ray_faults("the actors cannot be ended"):
            while named := _names():
                for name in sorted(named - self._actors.keys() - self._ending.keys()):
                    self._find(name)
                for actor in tuple(self._actors.values()):
                    self.end(actor.life, actor.slot, "all are ended")
                self._step_ending(named)
                if time.monotonic() >= deadline_s:
                    return tuple(sorted(named))
                time.sleep(0.05)
        return ()

    def _find(self, name: str) -> None:
        life, _, slot = name.rpartition("/")
        if not life or not slot.isdecimal():
            return
        try:
            handle = ray.get_actor(name)
        except (ValueError, RayActorError):  # it has ended meanwhile
            return
        self._actors[name] = HeldActor(life, int(slot), handle, found=True)

    def _step_ending(self, named: set[str]) -> None:
        for name, ending in tuple(self._ending.items()):
            if name in named:
                ending.step()
            else:
                del self._ending[name]

    def _node(self, one: dict[str, Any]) -> SeenNode:
        resource = "GPU" if self._simulate is None else CARD_RESOURCE
        address = str(one["NodeManagerAddress"])
        name = str(one.get("NodeName") or address)
        if name == address:
            name = str(one.get("NodeManagerHostname") or address).partition(".")[0]
        cards = int(one["Resources"].get(resource, 0))
        if self._simulate is not None:
            cards = min(cards, self._simulate)
        return SeenNode(life=str(one["NodeID"]), name=name, address=address, cards=cards)


@contextmanager
def _ray_faults(what: str) -> Iterator[None]:
    """Ray's own errors as ``EngineError``."""
    try:
        yield
    except RayError as error:
        raise EngineError(f"{what}: {_first_line(error)}", hint="`ray status` on the cluster's head") from error


def _names() -> set[str]:
    """Of all actors in our namespace that live, or are to be started."""
    return {str(name) for name in list_named_actors()}


def _death_words(error: ActorDiedError) -> str:
    text = str(error)
    if "No module named 'swarm" in text:
        return f"{SWARM_MISSING}: {_INSTALL}"
    if "creation task" in text:
        return f"its actor could not be made: {_last_line(error)}"
    return "its actor died"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]


def _last_line(error: BaseException) -> str:
    return next(reversed([line for line in str(error).splitlines() if line.strip()]), type(error).__name__)[:300]
