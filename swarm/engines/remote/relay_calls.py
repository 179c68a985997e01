"""Questions and orders to a relay about one card, from any thread. Every call is bounded and raises ``TaskFault``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar
from urllib.parse import quote

import msgspec
from requests import Response

from swarm.core.faults import LOST_NODE, CancelToken, TaskFault, fault_of_stop
from swarm.core.models.model_server import MIB, Limits
from swarm.core.nodes.relay_wire import WIRE, CardState, LogPart, NodeState, RelayLine, fault_from_wire
from swarm.engines.control_http import Abort, HttpClient, body_of, read_all, read_start
from swarm.engines.deadlines import Deadlines
from swarm.engines.remote.relay_address import RelayAddress
from swarm.engines.remote.relay_faults import (
    NodeDeadlines,
    answer_cut,
    fault_of_link,
    fault_of_refusal,
    no_relay,
    node_silent,
    wrong_wire,
)
from swarm.engines.remote.relay_lines import RelayLines
from swarm.http_session import TRANSPORT_ERRORS, cause_of

T = TypeVar("T", bound=msgspec.Struct)
MAX_BYTES = 16 * MIB
ERROR_BYTES = MIB
ROUND_S = 2.0
"""For the way there and back, beyond what the relay itself may take."""
STATE_S = 3.0
"""For what the relay knows without asking a model server."""


class _Wire(msgspec.Struct):
    wire: int = 0
    version: str = ""


class RelayCalls:
    """One card. Thread-safe."""

    def __init__(self, address: RelayAddress) -> None:
        """Raises ``ConfigError`` for anything but ``http://host:port/cards/<card>``."""
        self.address = address
        self._card = HttpClient(address.url)
        self._node = HttpClient(address.node_url)
        self._lock = threading.Lock()
        self._lost: TaskFault | None = None

    @property
    def lost(self) -> TaskFault | None:
        """Why the machine counts as lost; None once it has answered again."""
        return self._lost

    def heard(self) -> None:
        """Something came from the relay."""
        self._lost = None

    def noted(self, fault: TaskFault) -> TaskFault:
        """The same fault; one that says that the machine is lost is remembered until it answers."""
        if fault.kind in LOST_NODE:
            self._lost = fault
        return fault

    def close(self) -> None:
        """Close idle connections."""
        self._card.close()
        self._node.close()

    def node(self, timeout_s: float = STATE_S) -> NodeState:
        """The machine. Kind ``wire_version`` where swarm is of another version there."""
        data = self._whole(self._node, "GET", "/node", None, timeout_s)
        told = self._decoded(data, _Wire)
        if told.wire != WIRE:
            raise wrong_wire(self.address.node_url, told.wire, told.version)
        return self._decoded(data, NodeState)

    def state(self, timeout_s: float = STATE_S) -> CardState:
        """The card, as the relay knows it."""
        return self.get("/state", CardState, timeout_s)

    def log(self, life: str, after: int, timeout_s: float = STATE_S) -> LogPart:
        """What has come to the server's log."""
        return self.get(f"/log?life={quote(life, safe='')}&after={after}", LogPart, timeout_s)

    def get(self, path: str, kind: type[T], timeout_s: float) -> T:
        """One object."""
        return self._decoded(self._whole(self._card, "GET", path, None, timeout_s), kind)

    def post(self, path: str, ask: msgspec.Struct, kind: type[T], timeout_s: float) -> T:
        """An order, and what came of it."""
        return self._decoded(self._whole(self._card, "POST", path, msgspec.json.encode(ask), timeout_s), kind)

    def stream(
        self,
        path: str,
        ask: msgspec.Struct,
        *,
        timeout_s: float,
        cancel: CancelToken | None,
        on_line: Callable[[RelayLine], object] = lambda _line: None,
    ) -> None:
        """An order whose end is awaited, beats and all; a fault over there is raised here. Cancelling hangs up."""
        deadlines = NodeDeadlines(self.address.url, timeout_s)
        with self._reply(self._card, "POST", path, msgspec.json.encode(ask), deadlines, cancel) as response:
            lines = RelayLines(self.address.url, deadlines, MAX_BYTES)
            for data in body_of(response):
                for line in lines.feed(data):
                    if line.fault is not None:
                        raise fault_from_wire(line.fault)
                    if line.done:
                        return
                    on_line(line)
            raise answer_cut(self.address.url)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _whole(
        self, client: HttpClient, method: Literal["GET", "POST"], path: str, body: bytes | None, timeout_s: float
    ) -> bytes:
        deadlines = _Bounded(self.address.url, timeout_s)
        with self._reply(client, method, path, body, deadlines, None) as response:
            return read_all(body_of(response), MAX_BYTES)

    def _decoded(self, data: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise no_relay(self.address.url, f"an answer that cannot be read: {error}") from error

    @contextmanager
    def _reply(
        self,
        client: HttpClient,
        method: str,
        path: str,
        body: bytes | None,
        deadlines: Deadlines,
        cancel: CancelToken | None,
    ) -> Iterator[Response]:
        """A reply with status 200; whatever goes wrong in the block leaves as ``TaskFault``."""
        abort = Abort(deadlines, cancel)
        response = None
        try:
            if abort.fired:
                raise fault_of_stop(abort.reason)
            response = client.send(method, path, body, self.address.headers, abort)
            self.heard()
            if response.status_code != 200:
                raise fault_of_refusal(response.status_code, read_start(body_of(response), ERROR_BYTES), self.address.url)
            yield response
        except TRANSPORT_ERRORS as error:
            if abort.fired:
                raise fault_of_stop(abort.reason) from error
            cause = cause_of(error)
            late = isinstance(cause, TimeoutError)
            raise self.noted(deadlines.fault() if late else fault_of_link(cause, self.address.url)) from error
        except TaskFault as fault:
            if abort.fired and fault.fault != "cancelled":
                raise fault_of_stop(abort.reason) from fault
            self.noted(fault)
            raise
        finally:
            abort.release()
            if response is not None:
                response.close()


class _Bounded(Deadlines):
    """One limit on a whole answer; past it the machine counts as silent."""

    def __init__(self, url: str, timeout_s: float) -> None:
        super().__init__(Limits(total_s=timeout_s), streamed=False)
        self._url = url

    def fault(self) -> TaskFault:
        """The fault once it has passed."""
        return node_silent(self._url, self.limits.total_s)
