"""``swarm doctor`` asks the relays of other machines, before a start too, and shows no token."""

from __future__ import annotations

import json

import pytest

from swarm.proc.ports import free_port
from tests.helpers.cli import in_process
from tests.helpers.relay_double import TOKEN, RelayDouble


@pytest.fixture
def relay():
    with RelayDouble(None) as one:
        yield one


def asked(tmp_path, *workers: str):
    config = tmp_path / "swarm.toml"
    config.write_text("\n".join(f"[[workers]]\n{one}" for one in workers))
    config.chmod(0o600)
    _, said = in_process("doctor", "--json", "--simulate", "1", "--root", str(tmp_path / "q"), "--config", str(config))
    assert TOKEN not in said
    return json.loads(said)


def test_what_the_relays_of_three_machines_say(relay, tmp_path, monkeypatch):
    monkeypatch.setenv("GOOD_TOKEN", TOKEN)
    monkeypatch.delenv("NO_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    document = asked(
        tmp_path,
        f'name = "a"\nnode = "box2"\nurl = "{relay.url}"\ntoken_env = "GOOD_TOKEN"',
        f'name = "b"\nnode = "box3"\nurl = "{relay.url.replace("127.0.0.1", "localhost")}"\ntoken = "another"',
        f'name = "c"\nnode = "box4"\nurl = "http://127.0.0.1:{free_port()}/cards/gpu0"\ntoken_env = "GOOD_TOKEN"',
        f'name = "d"\nnode = "box5"\nurl = "http://127.0.0.2:{relay.port}/cards/gpu0"\ntoken_env = "NO_TOKEN"',
    )
    found = {(finding["code"], finding["subject"]): finding for finding in document["findings"]}
    assert "refuses our token" in found["node-token", "box3"]["what"]
    assert "nothing listens at" in found["node-unreachable", "box4"]["what"]
    assert "NO_TOKEN" in found["node-token", "box5"]["what"]
    assert found["swarm-versions", "swarm"]["evidence"][1:] == ["box2: 9.9"]
    nodes = {node["name"]: node["relays"][0] for node in document["nodes"]}
    assert nodes["box2"]["engine_versions"] == {"ollama": "1.2"}
    assert [nodes[name]["trouble"] for name in ("box2", "box3", "box4", "box5")] == [
        "",
        "wrong_token",
        "node_down",
        "no_token",
    ]
    assert "state" not in relay.asked, "a card is asked for only by who uses it: asking takes it"
