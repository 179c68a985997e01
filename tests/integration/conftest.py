"""A real queue in a directory of its own, and a brain that takes one turn at a time."""

import pytest

from tests.helpers.queues import open_queue
from tests.helpers.turns import TurnedBrain


@pytest.fixture
def queue(tmp_path):
    return open_queue(tmp_path)


@pytest.fixture
def brain(queue):
    return TurnedBrain(queue)
