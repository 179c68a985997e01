"""What a worker and a relay say to each other: paths, bodies and answers.

A relay runs on the machine that has the cards. Each card has a base path, ``/cards/<card>`` (``card_path``); a worker's
``url`` ends in it. Every request carries ``Authorization: Bearer <token>``, who asks (``HOLDER``) and ``WIRE_HEADER``.

* ``GET /node`` → ``NodeState``; ``GET <card>/state`` → ``CardState``: also what keeps the lease of a relay that has one.
* ``POST <card>/run`` (``RunAsk``), ``POST <card>/load`` (``LoadAsk``), ``POST <card>/pull`` (``PullAsk``) → 200 and lines of
  JSON, each a ``RelayLine``; the last has ``reply``, ``done`` or ``fault``. A line comes at least every ``BEAT_S``: silence
  for ``SILENT_S`` is a machine that is lost, frozen or cut off. Hanging up ends what was asked for.
* ``POST <card>/unload`` (``UnloadAsk``), ``GET <card>/ps?timeout_s=``, ``GET <card>/tags?timeout_s=``,
  ``GET <card>/show?model=&timeout_s=``, ``POST <card>/repair`` (``RepairAsk``), ``GET <card>/log?life=&after=`` → 200 and
  one object. Within ``timeout_s`` the model server answers, or the relay says that it did not; ``state`` and ``log`` ask no
  model server. Another life than the log's own, or none, begins at most ``LOG_BYTES`` before the log's end.
* What fails answers ``RefusedAnswer``: 401 (token), 404, 409 (held by another swarm, or by another version of this), 413 and
  422 (the request), 502 (what the model server answered).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from swarm.core.faults import FaultClass, TaskFault
from swarm.core.gpu_reading import GpuReading
from swarm.core.models.model_server import InstalledModel, Limits, LoadedModel, LoadOrder, PullStep, Reply
from swarm.core.task import Endpoint

WIRE = 1
"""Version of all this. Both sides must have the same."""
BEAT_S = 2.0
SILENT_S = 8.0
WIRE_HEADER = "X-Swarm-Wire"
"""Header: ``WIRE`` of who asks; another one is refused."""
HOLDER = "X-Swarm-Holder"
"""Header: ``<id of the queue root> <host>:<path of it>``. A card serves one holder at a time."""
HOLD_S = 30.0
"""A holder that has asked nothing for so long has left the card."""
LOG_BYTES = 1 << 16
"""Of a server's log in one answer, at most."""


def card_path(card: str) -> str:
    """Base path of one card (``gpu0``)."""
    return f"/cards/{card}"


class RunAsk(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One request, in the native form."""

    endpoint: Endpoint
    request: dict[str, Any]
    limits: Limits
    marker: str | None = None
    """Names the task in the server's log."""
    pieces: bool = False
    """The answer is wanted piece by piece."""
    progress: bool = False
    """Its progress is wanted."""


class LoadAsk(msgspec.Struct, frozen=True, kw_only=True):
    """A model to be loaded."""

    order: LoadOrder
    timeout_s: float


class UnloadAsk(msgspec.Struct, frozen=True, kw_only=True):
    """A model to be unloaded."""

    model: str
    timeout_s: float


class PullAsk(msgspec.Struct, frozen=True, kw_only=True):
    """A model to be downloaded to the node; several that ask for the same one share the download."""

    model: str


class RepairAsk(msgspec.Struct, frozen=True, kw_only=True):
    """A repair action on the card's server."""

    action: Literal["kill_runners", "restart_server"]


class RelayFault(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A ``TaskFault`` on its way."""

    fault: FaultClass
    kind: str
    message: str
    alone: bool = False
    result: dict[str, Any] | None = None


class RelayLine(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One line of a streamed answer; an empty one is a beat."""

    progress: int = 0
    """New tokens since the last line that said so."""
    piece: dict[str, Any] | None = None
    pull: PullStep | None = None
    reply: Reply | None = None
    """Its ``last`` is empty unless the answer was wanted piece by piece."""
    done: bool = False
    """A load or pull has succeeded."""
    fault: RelayFault | None = None


class RelayReady(msgspec.Struct, frozen=True, kw_only=True):
    """What ``swarm serve --relay --json`` prints once it serves, as one line."""

    node: str
    life: str
    url: str
    """Base URL of the relay; that of a card follows by ``card_path``."""
    cards: tuple[str, ...]
    """Base URLs of its cards."""
    token_file: str


class RefusedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every status but 200."""

    error: RelayFault


class CardState(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One card of a node, and its model server."""

    card: str
    uuid: str
    """Unique over all machines: a card without a UUID of its own is called ``<node>/<index>``."""
    index: int
    name: str
    vram_mib: int | None = None
    engines: tuple[str, ...] = ("ollama",)
    simulated: bool = False
    server: str = "running"
    """State of its server, in the words of ``ChildState``; ``running`` also where servers start with their model."""
    reason: str = ""
    pids: tuple[int, ...] = ()
    """Of the server and its runners, on that machine."""
    readings: tuple[GpuReading, ...] = ()
    """The card as its driver tells it now, under ``uuid``."""
    restarts: int = 0
    slots: int = 0
    """Requests at once that its Ollama server was started for; 0: not known, or it takes any number with each load."""
    slots_set: bool = False
    """The configuration there sets that number."""


class NodeState(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A machine whose cards a relay serves."""

    wire: int
    node: str
    life: str
    """Another for each start of the relay."""
    version: str
    """Of swarm."""
    engine_versions: dict[str, str] = msgspec.field(default_factory=dict)
    """By engine, as its program or server says; empty text: it does not say."""
    cards: tuple[CardState, ...] = ()


class HeldModels(msgspec.Struct, frozen=True):
    """``GET <card>/ps``."""

    models: tuple[LoadedModel, ...]


class NodeModels(msgspec.Struct, frozen=True):
    """``GET <card>/tags``."""

    models: tuple[InstalledModel, ...]


class RepairDone(msgspec.Struct, frozen=True):
    """What a repair action ended, in words."""

    ended: tuple[str, ...]


class LogPart(msgspec.Struct, frozen=True, kw_only=True):
    """What has come to the server's log since ``after`` of the life ``life``."""

    life: str
    after: int
    """Where to go on."""
    text: str


def fault_on_wire(fault: TaskFault) -> RelayFault:
    """To be sent."""
    return RelayFault(fault=fault.fault, kind=fault.kind, message=fault.message, alone=fault.alone, result=fault.result)


def fault_from_wire(fault: RelayFault) -> TaskFault:
    """As it was raised there."""
    return TaskFault(fault.fault, fault.kind, fault.message, fault.result, alone=fault.alone)
