"""The Ray driver's process: ``swarm ray``, under the process lock ``ray``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from swarm import __version__
from swarm.clock import SystemClock
from swarm.cluster.connect import check_address, connect, namespace_of
from swarm.cluster.driver import RayDriver
from swarm.config.settings import Settings
from swarm.core.nodes.card_report import CardOrder
from swarm.core.nodes.cluster_view import PlaceActor
from swarm.core.nodes.node_record import NodeRecord
from swarm.core.nodes.relay_workers import THIS_NODE, relay_places
from swarm.queue.coordination import is_held
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores.node_book import drained_nodes, forget_node, node_token, read_nodes, write_node
from swarm.runtime.bootstrap import RunOptions, beats_of, living, logging_as, open_root, own_row
from swarm.runtime.loop import StopWish, install, root_watch, run_loop
from swarm.supervisor.keeper_factory import restart_policy
from swarm.supervisor.state import RAY

_SENT = ("llm", "ollama", "repair", "sim", "engines", "models", "logging")
"""Sections of the settings that relays go by. The rest is the business of the queue's machine."""


def run_cluster(options: RunOptions, address: str) -> int:
    """Keep a relay on each card of the cluster at ``address`` until asked to stop; returns the exit status.

    Raises ``LockHeld`` when a driver runs already, ``ConfigError``, ``EngineError``, ``QueueError``, ``StorageFault``.
    """
    check_address(address)
    queue, instead = open_root(options)
    trouble = root_watch(queue.layout.root)
    token = node_token(queue.layout, queue.storage)
    row = msgspec.structs.replace(own_row(RAY, RAY), url=address)
    with living(queue, row) as lived, logging_as(RAY, options) as log:
        for check in instead:
            log.info("Fallback: %s", check)
        namespace = namespace_of(token)
        version = connect(address, namespace)
        log.info("Ray driver joined the cluster at %s: Ray %s, namespace %s", address, version, namespace)
        from swarm.cluster.ray_link import RayLink  # noqa: PLC0415  (imports Ray, whose absence has been told of by now)

        settings = options.settings
        env = relay_env(settings)

        def order(placed: PlaceActor) -> CardOrder:
            return CardOrder(
                version=__version__,
                namespace=namespace,
                node=placed.name,
                address=placed.node.address,
                slot=placed.slot,
                simulate=placed.node.cards if options.simulate is not None else None,
                token=token,
                env=env,
            )

        driver = RayDriver(
            RayLink(namespace, options.simulate, order),
            QueueNodes(queue),
            SystemClock(),
            policy=restart_policy(settings),
            taken=frozenset({THIS_NODE, *(place.node for _, place in relay_places(settings.workers).values())}),
            beat=beats_of(queue, lived),
            log=log,
        )
        install(StopWish(driver.request_stop))  # after Ray, which has put handlers of its own there
        return run_loop(driver, wait=driver.wait, log=log, lost=trouble)


class QueueNodes:
    """The records of nodes in the queue's directory. Fits ``NodeStore``."""

    def __init__(self, queue: FileQueue) -> None:
        self._queue = queue

    def records(self) -> tuple[NodeRecord, ...]:
        """All of them, other sources' too."""
        return read_nodes(self._queue.layout)

    def drains(self) -> frozenset[str]:
        """Names of nodes that are to be drained."""
        return drained_nodes(self._queue.layout)

    def living(self, records: Iterable[NodeRecord]) -> frozenset[str]:
        """Names of workers of these recorded cards that run."""
        names = (card.worker for record in records for card in record.cards)
        return frozenset(name for name in names if is_held(self._queue.layout, name))

    def write(self, record: NodeRecord) -> None:
        """Replace one."""
        write_node(self._queue.layout, self._queue.storage, record)

    def forget(self, name: str) -> None:
        """Remove one."""
        forget_node(self._queue.layout, name)


def relay_env(settings: Settings) -> dict[str, str]:
    """The settings that relays go by, those that are no defaults, as variables."""
    found: dict[str, str] = {}
    default = Settings()
    for section in _SENT:
        value, usual = getattr(settings, section), getattr(default, section)
        if isinstance(value, dict):
            if value:
                found[f"SWARM_{section}".upper()] = _json(value)
            continue
        for key in value.__struct_fields__:
            if getattr(value, key) != getattr(usual, key):
                found[f"SWARM_{section}__{key}".upper()] = _text(getattr(value, key))
    return found


def _text(value: Any) -> str:  # noqa: ANN401
    """As ``swarm.config.load`` reads it: tables and lists as JSON, anything else as it is written."""
    return value if isinstance(value, str) else "" if value is None else _json(value)


def _json(value: Any) -> str:  # noqa: ANN401
    return msgspec.json.encode(value).decode()
