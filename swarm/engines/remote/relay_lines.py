"""Reads the streamed answer of a relay: lines of JSON, the last of which has the outcome. Bounded."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from swarm.core.models.model_server import MIB
from swarm.core.nodes.relay_wire import RelayLine
from swarm.engines.deadlines import Deadlines, too_large
from swarm.engines.remote.relay_faults import no_relay

_decode = msgspec.json.Decoder(RelayLine).decode


class RelayLines:
    """Of one answer."""

    def __init__(self, url: str, deadlines: Deadlines, max_reply_bytes: int) -> None:
        self._url = url
        self._deadlines = deadlines
        self._most = 2 * max_reply_bytes + MIB
        """Of one line: a reply may be in it twice, once whole and once without what its pieces have brought."""
        self._asked = max_reply_bytes
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[RelayLine]:
        """The lines that end in this part of the body; beats are left out.

        Raises ``TaskFault`` kinds ``no_relay`` and ``reply_too_large``.
        """
        self._deadlines.line_seen()
        self._rest += data
        if b"\n" in data:
            whole, _, rest = self._rest.rpartition(b"\n")
            self._rest = rest
            for raw in whole.split(b"\n"):
                if len(raw) > 2:  # {} is a beat
                    yield self._line(raw)
        if len(self._rest) > self._most:
            raise too_large(self._asked)

    def _line(self, raw: bytes | bytearray) -> RelayLine:
        try:
            return _decode(raw)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise no_relay(self._url, f"a line that cannot be read: {error}") from error
