"""The swarm's own API where no swarm runs, and where its disk is in trouble."""

import json

from starlette.testclient import TestClient

from swarm.http.app import make_app
from tests.helpers.cli import in_process
from tests.helpers.http_access import HOST, http_parts


def test_it_is_told_as_the_command_tells_it(tmp_path):
    with TestClient(make_app(http_parts(tmp_path / "queue")), base_url=f"http://{HOST}") as client:
        answer = client.get("/swarm/status")
        code, said = in_process("status", "--root", str(tmp_path / "queue"), "--json")
        here, there = answer.json(), json.loads(said)
        assert (answer.status_code, code) == (200, 3)
        assert not here["running"]
        assert [here | {"at": ""}] == [there | {"at": ""}]
        assert client.post("/swarm/processes/brain/restart").json()["error"]["code"] == "not_running"
        assert client.get("/swarm/logs").status_code == 503
        assert client.get("/swarm/tasks").json() == {"tasks": [], "more": False}
