"""The HTTP server's live part, in this process, before scripted workers."""

import logging
import socket
import threading
from contextlib import contextmanager

import httpx
import msgspec
import pytest
import uvicorn
from starlette.testclient import TestClient

from swarm.config.settings import LiveSettings, LlmSettings, QueueSettings, Settings
from swarm.http.app import make_app
from swarm.http.parts import HttpParts
from tests.helpers.fake_live_worker import FakeLiveWorker
from tests.helpers.queues import open_queue
from tests.helpers.wait import wait_until


class Bench:
    """Workers and an HTTP server on one root."""

    def __init__(self, path, **live):
        self.queue = open_queue(path)
        root = QueueSettings(root=self.queue.layout.root)
        self.settings = Settings(queue=root, live=LiveSettings(**live), llm=LlmSettings(timeout_s=60.0))

    def worker(self, name="worker-1", **fields):
        return FakeLiveWorker(self.queue, name, **fields)

    def app(self):
        return make_app(HttpParts(settings=self.settings, queue=self.queue, log=logging.getLogger("test")))

    @contextmanager
    def serving(self):
        with TestClient(self.app(), base_url="http://127.0.0.1") as client:
            yield client

    @contextmanager
    def listening(self):
        """On a real port, so that clients can hang up and read as it comes."""
        server = uvicorn.Server(uvicorn.Config(self.app(), port=0, log_config=None, lifespan="on"))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            thread = threading.Thread(target=server.run, args=([listener],))
            thread.start()
            wait_until(lambda: server.started, what="the HTTP server listens")
            try:
                with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60.0) as client:
                    yield client
            finally:
                server.should_exit = True
                thread.join()

    def set(self, **live):
        self.settings = msgspec.structs.replace(self.settings, live=LiveSettings(**live))


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)
