"""Whether models can be served: what heartbeats make clear is not asked, what they leave open is."""

from __future__ import annotations

import pytest

from swarm.cli.run.servable import check_models, find_missing
from swarm.config.settings import QueueSettings, Settings
from swarm.core.worker import Heartbeat, ModelTally, ProcessIdentity, WorkerRow, WorkerStatus
from swarm.proc.ports import free_port
from swarm.queue.coordination import ProcessLock
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores import registry

MODEL = "llama3.2:3b"


@pytest.fixture
def asked(tmp_path, capsys):
    """Whether a living worker's server is asked (nobody listens there, which a note says), given its heartbeat."""
    queue = FileQueue(str(tmp_path / "queue"), "fast").prepare()
    settings = Settings(queue=QueueSettings(root=queue.layout.root))
    url = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    row = WorkerRow(name="w", process=ProcessIdentity(1, 1, "b"), started_at="", epoch=1, url=url, adopted=True)
    registry.register(queue.layout, queue.storage, row)
    lock = ProcessLock(queue.layout, "w")
    assert lock.try_acquire()

    def ask(**beat):
        beat = {"status": WorkerStatus.IDLE, **beat}
        queue.heartbeats().beat(Heartbeat(name="w", pid=1, epoch=1, seq=1, turn=1, written_at="", **beat))
        check_models(settings, [MODEL], unfit="ignore")
        assert find_missing(settings, [MODEL]) == {}, "a server that does not answer may have it"
        return "w does not say which models it has" in capsys.readouterr().err

    yield ask
    lock.release()


def test_what_a_heartbeat_makes_clear_is_not_asked(asked):
    assert not asked(servable=(MODEL,))
    assert not asked(model=MODEL)
    assert not asked(model=MODEL, models={MODEL: ModelTally(load_failures=1)})


def test_what_it_leaves_open_is_asked(asked):
    assert asked()
    assert asked(servable=("other:1b",))
    assert asked(servable=(MODEL,), models={MODEL: ModelTally(load_failures=1)})
