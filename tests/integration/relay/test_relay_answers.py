"""What a relay answers: a real process with simulated cards, asked over HTTP."""

import pytest

from swarm.core.nodes.relay_wire import HOLDER, WIRE, WIRE_HEADER
from tests.helpers.relay import HOLDING, RunningRelay
from tests.helpers.wait import wait_until

CHAT = {
    "endpoint": "/api/chat",
    "limits": {},
    "request": {"model": "llama3.2:1b", "messages": [{"role": "user", "content": "x"}]},
}


@pytest.fixture(scope="module")
def relay(tmp_path_factory):
    made = RunningRelay(tmp_path_factory.mktemp("relay") / "root", "--node", "box2", simulate=2)
    wait_until(lambda: made.ask("GET", "ps")[0] == 200, what="the server of gpu0")
    wait_until(lambda: made.ask("GET", "/cards/gpu1/ps")[0] == 200, what="the server of gpu1")
    yield made
    made.destroy()


def load(relay, model="llama3.2:1b", slots=2):
    return list(relay.lines("load", {"order": {"model": model, "slots": slots}, "timeout_s": 60}))


def test_a_node_and_its_cards_are_described(relay):
    status, node = relay.ask("GET", "/node")
    assert (status, node["wire"], node["node"]) == (200, WIRE, "box2")
    assert [card["uuid"] for card in node["cards"]] == ["box2/SIM-GPU-0", "box2/SIM-GPU-1"], "unique over all machines"
    assert all(card["simulated"] and card["readings"][0]["node"] == "box2" for card in node["cards"])
    assert node["engine_versions"]["ollama"].endswith("-simulated")
    assert relay.ready.cards == (f"{relay.ready.url}/cards/gpu0", f"{relay.ready.url}/cards/gpu1")


def test_a_model_is_loaded_for_so_many_requests_and_unloaded(relay):
    assert load(relay, slots=5)[-1].done
    (held,) = relay.ask("GET", "ps")[1]["models"]
    assert (held["name"], held["slots"]) == ("llama3.2:1b", 5), "the server was started again for five"
    wait_until(lambda: relay.ask("GET", "state")[1]["readings"][0]["memory_used_mib"], what="its memory is read")
    state = relay.ask("GET", "state")[1]
    assert (state["slots"], state.get("slots_set", False)) == (5, False)
    assert relay.ask("POST", "unload", {"model": "llama3.2:1b", "timeout_s": 60})[0] == 200
    wait_until(lambda: relay.ask("GET", "ps")[1]["models"] == [], what="the model is gone")


def test_a_request_is_answered_with_its_progress_and_pieces(relay):
    load(relay)
    lines = list(relay.lines("run", {**CHAT, "progress": True, "pieces": True}))
    reply = lines[-1].reply
    assert reply is not None
    assert reply.simulated
    assert sum(line.progress for line in lines) > 0
    pieces = "".join(line.piece["message"]["content"] for line in lines if line.piece)
    assert pieces + reply.last["message"]["content"] == reply.final["message"]["content"]


def test_a_fault_of_the_model_server_comes_as_it_was_raised(relay):
    (line,) = relay.lines("run", {**CHAT, "request": {**CHAT["request"], "model": "nobody-has:it"}})
    assert (line.fault.fault, line.fault.kind) == ("deterministic", "model_missing")
    status, answer = relay.ask("GET", "show?model=nobody-has:it")
    assert (status, answer["error"]["kind"]) == (502, "model_missing")


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer x", "Basic {token}", "Bearer {token}x", "Bearer \xff{token}"]
)
@pytest.mark.parametrize("path", ["/node", "/cards/gpu0/state", "/cards/nosuch/ps", "/etc/passwd"])
def test_without_the_token_there_is_no_fact(relay, path, authorization):
    reply = relay.open("GET", path, Authorization=authorization.format(token=relay.token))
    assert reply.status == 401
    assert reply.read() == b'{"error":{"fault":"infra","kind":"forbidden","message":"the token is missing or wrong"}}'
    assert reply.headers["Server"] == "swarm"


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "said"),
    [
        ("POST", "run", {"endpoint": 1}, {}, 422, "at `$.endpoint`"),
        ("POST", "run", None, {}, 422, "truncated"),
        ("GET", "state", None, {WIRE_HEADER: "999"}, 409, "install the same version of swarm on both machines"),
        ("GET", "/cards/gpu7/state", None, {}, 404, "box2 has no card 'gpu7' here; it has: gpu0, gpu1"),
        ("GET", "state", None, {HOLDER: " "}, 422, "who asks"),
        ("GET", "/nothing", None, {}, 404, "Not Found"),
        ("DELETE", "state", None, {}, 405, "Method Not Allowed"),
        ("GET", "log?after=x", None, {}, 422, "log?after=x"),
        ("GET", "ps?timeout_s=nan", None, {}, 422, "timeout_s=nan"),
        ("GET", "show", None, {}, 422, "the model is missing"),
        ("POST", "run", {"endpoint": "/api/create", "request": {"model": "x"}, "limits": {}}, {}, 422, "endpoint"),
    ],
)
def test_a_wrong_request_is_refused_with_words(relay, method, path, body, headers, status, said):
    got, answer = relay.ask(method, path, body, **headers)
    assert got == status
    assert said in answer["error"]["message"]


def test_a_second_swarm_is_refused_and_told_of_the_first(relay):
    assert relay.ask("GET", "/cards/gpu1/state", holder=HOLDING)[0] == 200
    status, answer = relay.ask("GET", "/cards/gpu1/ps", holder="two there:/b")
    assert status == 409
    assert answer["error"]["kind"] == "held"
    assert "host:/queue" in answer["error"]["message"]
    assert relay.ask("GET", "/node", holder="two there:/b")[0] == 200, "a node may be looked at"
    assert relay.ask("GET", "/cards/gpu1/ps", holder=HOLDING)[0] == 200


def test_a_download_on_one_card_serves_all(relay):
    lines = list(relay.lines("pull", {"model": "brand-new:1b"}))
    assert lines[-1].done
    assert any(line.pull and line.pull.total for line in lines)
    there = relay.ask("GET", "/cards/gpu1/tags", holder=HOLDING)[1]["models"]
    assert "brand-new:1b" in [one["name"] for one in there]


def test_the_log_of_the_server_comes_in_parts(relay):
    part = relay.ask("GET", "log?life=")[1]
    assert "Listening on" in part["text"]
    assert relay.ask("GET", f"log?life={part['life']}&after={part['after']}")[1]["text"] == ""
    assert relay.ask("GET", "log?life=another&after=7")[1]["text"] == part["text"], "another file is read from near its end"


def test_a_repair_restarts_the_server(relay):
    before = relay.ask("GET", "state")[1]
    status, done = relay.ask("POST", "repair", {"action": "restart_server"})
    assert status == 200
    assert done["ended"]
    wait_until(lambda: relay.ask("GET", "ps")[0] == 200, what="the server is back")
    after = relay.ask("GET", "state")[1]
    assert set(after["pids"]).isdisjoint(before["pids"])
    assert after["restarts"] == before.get("restarts", 0) + 1


def test_neither_prompts_nor_the_token_are_in_a_log(relay):
    secret = "the-prompt-that-nobody-logs"
    load(relay)
    list(relay.lines("run", {**CHAT, "request": {**CHAT["request"], "messages": [{"role": "user", "content": secret}]}}))
    relay.ask("POST", "run", {"endpoint": secret, "request": secret})
    logs = "".join(path.read_text() for path in (relay.root / "logs").iterdir()) + relay.out.read_text()
    assert secret not in logs
    assert relay.token not in logs
