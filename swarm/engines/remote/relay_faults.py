"""What went wrong between a worker and a relay, as ``TaskFault``. Pure.

* A machine that is lost, frozen or cut off is nobody's fault (kinds ``LOST_NODE``): the task goes elsewhere.
* What the relay says went wrong over there is raised as it was raised there.
* What is wrong with the link itself (token, versions, holder, another program) is infra, and says what to do.
"""

from __future__ import annotations

import http.client

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.models.model_server import Limits
from swarm.core.nodes.relay_wire import SILENT_S, WIRE, RefusedAnswer, fault_from_wire
from swarm.engines.classify import shown_text
from swarm.engines.control_http import ConnectTimeout
from swarm.engines.deadlines import Deadlines

WORDS_CHARS = 1000
SLOWEST_BYTES_PER_S = 1 << 20
"""A body that is still under way is no silence yet."""


class NodeDeadlines(Deadlines):
    """Ends when no byte has come for ``SILENT_S``, and at the end of ``total_s``.

    The limits of the request itself are kept by the relay; a relay that says nothing but that it lives is cut here.
    """

    def __init__(self, url: str, total_s: float, *, sent_bytes: int = 0, silent_s: float = SILENT_S) -> None:
        first_s = silent_s + sent_bytes / SLOWEST_BYTES_PER_S
        super().__init__(Limits(total_s=total_s, first_token_s=first_s, token_gap_s=silent_s))
        self._url = url

    def fault(self) -> TaskFault:
        """The fault for the limit that passed."""
        if self.next < self._end:
            return node_silent(self._url, self.limits.first_token_s if self.first_s is None else self.limits.token_gap_s)
        return TaskFault("transient", "timeout", f"no complete answer within {self.limits.total_s:g} s")


def node_silent(url: str, silent_s: float) -> TaskFault:
    """No line for so long."""
    what = f"{url} has said nothing for {silent_s:.0f} s: its machine is lost, frozen or cut off"
    return TaskFault("infra", "node_silent", what)


def answer_cut(url: str) -> TaskFault:
    """The answer ended before its last line."""
    return TaskFault("infra", "node_lost", f"the answer of {url} ended before its last line: its relay was ended")


def fault_of_link(error: BaseException, url: str) -> TaskFault:
    """The fault for a broken connection; not for a deadline of ours that passed."""
    what = shown_text(f"{type(error).__name__}: {error}", 200)
    match error:
        case ConnectTimeout():
            return TaskFault("infra", "node_silent", f"no connection to {url} ({error}): its machine is lost or cut off")
        case ConnectionRefusedError():
            return TaskFault("infra", "node_down", f"nothing listens at {url}: is the relay running there?")
        case ConnectionError() | http.client.IncompleteRead():
            return TaskFault("infra", "node_lost", f"the connection to {url} ended before the answer was whole ({what})")
        case http.client.HTTPException():
            return no_relay(url, what)
        case OSError():
            return TaskFault("infra", "node_down", f"{url} cannot be reached ({what})")
        case _:
            return no_relay(url, what)


def no_relay(url: str, what: str) -> TaskFault:
    """Something else answers there."""
    said = f"what answers at {url} is no relay of swarm ({shown_text(what, 200)}); check the url"
    return TaskFault("infra", "no_relay", said)


def wrong_wire(url: str, theirs: object, version: str) -> TaskFault:
    """Another version of swarm over there."""
    said = f"speaks version {theirs} of the relay protocol{f' (swarm {version})' if version else ''}, this side {WIRE}"
    return TaskFault("infra", "wire_version", f"the relay at {url} {said}: install the same swarm on both machines")


def fault_of_refusal(status: int, body: bytes, url: str) -> TaskFault:
    """The fault for a status that is not 200."""
    try:
        said = fault_from_wire(msgspec.json.decode(body, type=RefusedAnswer).error)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return no_relay(url, f"HTTP {status} with {shown_text(body.decode('utf-8', 'replace'), 100)!r}")
    words = shown_text(said.message, WORDS_CHARS)
    if status == 401:
        what = f"the relay at {url} refuses our token: give this worker the one that the relay printed at its start"
        return TaskFault("infra", "wrong_token", what)
    return TaskFault(said.fault, said.kind, words, said.result, alone=said.alone)
