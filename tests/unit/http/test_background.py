"""What the packages run beside the requests."""

from contextlib import asynccontextmanager

from starlette.testclient import TestClient

from swarm.http.app import make_app
from tests.helpers.http_access import HOST, http_parts


def test_it_is_entered_before_the_first_request_and_left_in_reverse_order(tmp_path):
    happened = []

    def running(name):
        @asynccontextmanager
        async def context():
            happened.append(f"{name} begins")
            yield
            happened.append(f"{name} ends")

        return context

    parts = http_parts(tmp_path)
    app = make_app(parts)
    parts.background.extend((running("one"), running("two")))
    with TestClient(app, base_url=f"http://{HOST}") as client:
        assert happened[-2:] == ["one begins", "two begins"]
        assert client.get("/healthz").status_code == 200
    assert happened[-2:] == ["two ends", "one ends"]
