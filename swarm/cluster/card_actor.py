"""The actor of one card: runs in a process of Ray's on the machine that has it, and keeps a relay there.

* Its answers are JSON, so that a driver of another version can read them and say so.
* It ends, with its relay, when its raylet has died (Ray leaves it alive as long as a dead raylet is not reaped) and when
  relay and driver have been gone for a while: then its card is Ray's again.
* Nothing here is retried: the driver decides what comes after an end.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import msgspec

from swarm import __version__
from swarm.cluster.relay_child import RelayChild
from swarm.core.nodes.card_report import CardOrder, CardPhase, CardReport
from swarm.proc.identity import read_stat

LONELY_S = 60.0
"""An actor without a relay that no driver has asked for so long ends."""
_WATCH_S = 1.0
_STOP_S = 7.0


class CardActor:
    """Made and called by Ray, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._relay: RelayChild | None = None
        self._refusal = ""
        self._asked_s = time.monotonic()
        self._raylet = os.getppid()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def version(self) -> str:
        """Of swarm, here."""
        return __version__

    def serve(self, order: bytes) -> bytes:
        """Start the relay, unless one was started; answers as ``report``."""
        asked = msgspec.json.decode(order, type=CardOrder)
        with self._lock:
            self._asked_s = time.monotonic()
            if self._relay is None and not self._refusal:
                self._refusal = self._start(asked)
        return self.report()

    def report(self) -> bytes:
        """A ``CardReport``."""
        with self._lock:
            self._asked_s = time.monotonic()
            if self._relay is not None:
                return msgspec.json.encode(self._relay.report())
        phase = CardPhase.ENDED if self._refusal else CardPhase.IDLE
        return msgspec.json.encode(CardReport(phase=phase, version=__version__, reason=self._refusal))

    def stop(self) -> bool:
        """End relay and servers; True once they have ended."""
        with self._lock:
            self._refusal = self._refusal or "it was stopped"
            if self._relay is None:
                return True
            self._relay.stop()
            return self._relay.wait(_STOP_S)

    def _start(self, order: CardOrder) -> str:
        """Why it cannot be; empty once it has been started."""
        if order.version != __version__:
            return f"swarm {__version__} is installed there, {order.version} beside the queue: both must be the same"
        gpu = None
        if order.simulate is None:
            gpus = _given_gpus()
            if len(gpus) != 1:
                return f"Ray gave its actor {len(gpus)} GPUs and not one"
            gpu = gpus[0]
        try:
            self._relay = RelayChild(order, gpu)
        except OSError as error:
            return f"its relay cannot be started: {error.strerror} ({error.filename})"
        return ""

    def _watch(self) -> None:
        while True:
            time.sleep(_WATCH_S)
            raylet = read_stat(self._raylet)
            if os.getppid() != self._raylet or raylet is None or not raylet.alive:
                os._exit(1)  # the relay sees it by its pipe
            relay = self._relay
            idle = relay is None or relay.ended
            if idle and time.monotonic() - self._asked_s > LONELY_S:
                os._exit(0)


def _given_gpus() -> list[str]:
    """The cards that Ray gave this actor, by index or UUID."""
    import ray  # noqa: PLC0415  (the class is used without Ray in tests)

    context: Any = ray.get_runtime_context()
    return [str(one) for one in context.get_accelerator_ids().get("GPU", [])]
