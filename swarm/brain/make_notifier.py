"""The notifier of the brain, with its outbox and its ways to deliver."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from swarm.brain.notifier import Failed, Notifier
from swarm.config.settings import Settings
from swarm.notify import NotTold, deliver
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores.outbox import Outbox


def make_notifier(
    queue: FileQueue, settings: Settings, log: logging.Logger, now_s: Callable[[], float] = time.time
) -> Notifier:
    """Tells by ``swarm.notify`` what the queue's outbox owes."""

    def tell(target: str, message: Mapping[str, Any]) -> None:
        try:
            deliver(target, message, settings)
        except NotTold as problem:
            raise Failed(str(problem), hopeless=problem.hopeless, down=problem.down) from problem

    return Notifier(Outbox(queue.layout, queue.storage), tell, max_tries=settings.notify.max_tries, log=log, now_s=now_s)
