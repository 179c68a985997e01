"""What the packages run beside the requests."""

from contextlib import asynccontextmanager
from logging import getLogger

from starlette.testclient import TestClient

from swarm.config.settings import QueueSettings, Settings
from swarm.http.app import make_app
from swarm.http.parts import HttpParts
from swarm.queue.file_queue import FileQueue


def test_it_is_entered_before_the_first_request_and_left_in_reverse_order(tmp_path):
    happened = []

    def running(name):
        @asynccontextmanager
        async def context():
            happened.append(f"{name} begins")
            yield
            happened.append(f"{name} ends")

        return context

    settings = Settings(queue=QueueSettings(root=str(tmp_path)))
    parts = HttpParts(settings=settings, queue=FileQueue(str(tmp_path)).prepare(), log=getLogger(__name__))
    app = make_app(parts)
    parts.background.extend((running("one"), running("two")))
    with TestClient(app) as client:
        assert happened[-2:] == ["one begins", "two begins"]
        assert client.get("/healthz").status_code == 200
    assert happened[-2:] == ["two ends", "one ends"]
