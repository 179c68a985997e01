"""A real queue in a directory of its own, and a brain that takes one turn at a time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.proc.env_markers import kill_marked
from tests.helpers.queues import open_queue
from tests.helpers.turns import TurnedBrain


@pytest.fixture
def queue(tmp_path):
    return open_queue(tmp_path)


@pytest.fixture
def brain(queue):
    return TurnedBrain(queue)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    for name in ("workers", "logs"):
        (tmp_path / name).mkdir()
    yield tmp_path
    kill_marked(0.0, SWARM_ROOT=str(tmp_path))
