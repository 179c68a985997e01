"""How a relay begins, goes on and ends, with what it started: real processes, killed at will."""

import os
import signal
import socket
import subprocess
import sys
from http.client import IncompleteRead

import pytest

from swarm.proc.env_markers import PROCESS_MARKER, ROOT_MARKER, SERVER_MARKER, find_marked
from swarm.relay.relay_guard import NAME as GUARD
from tests.helpers.cli import in_process
from tests.helpers.relay import RunningRelay
from tests.helpers.wait import wait_until

STUCK = '[ollama]\nenv = { SWARM_SIM_POISON = "STUCK=hang_mid" }\n'
LOAD = {"order": {"model": "llama3.2:1b", "slots": 1}, "timeout_s": 60}


def chat(text):
    message = {"role": "user", "content": text}
    return {
        "endpoint": "/api/chat",
        "limits": {},
        "request": {"model": "llama3.2:1b", "messages": [message]},
        "progress": True,
    }


@pytest.fixture
def start(tmp_path):
    made = []

    def begin(*words, asked=True, **how):
        made.append(RunningRelay(tmp_path / "root", *words, **how))
        if asked:
            wait_until(lambda: made[-1].ask("GET", "ps")[0] == 200, what="the server of gpu0")
        return made[-1]

    yield begin
    for one in made:
        one.destroy()


def servers(relay):
    return {one.pid for one in find_marked(**{ROOT_MARKER: str(relay.root), SERVER_MARKER: "gpu0"})}


def guards(relay):
    return {one.pid for one in find_marked(**{ROOT_MARKER: str(relay.root), PROCESS_MARKER: GUARD})}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A relay that was killed, and which nobody starts again."""
    relay = RunningRelay(tmp_path_factory.mktemp("killed") / "root", simulate=2)
    wait_until(lambda: relay.ask("GET", "ps")[0] == 200, what="its server")
    assert guards(relay)
    relay.process.kill()
    relay.process.wait()
    assert servers(relay)
    yield relay
    relay.destroy()


def test_its_next_life_takes_over_what_a_killed_relay_left(killed, start):  # `killed` waits meanwhile for the last test
    first = start()
    list(first.lines("load", LOAD))
    before, (guard,) = servers(first), guards(first)
    os.kill(guard, signal.SIGSTOP)  # it does not wait for ever for the next life, which takes its time
    first.process.kill()
    first.process.wait()
    second = start()
    os.kill(guard, signal.SIGCONT)
    assert servers(second) == before
    assert second.ask("GET", "ps")[1]["models"][0]["name"] == "llama3.2:1b", "its model is still loaded"
    wait_until(lambda: len(guards(second)) == 1, what="the guard of the first life has ended")
    assert second.stop() == 0
    wait_until(lambda: not second.pids(), what="the end of all")


def test_what_is_killed_beside_it_comes_again_and_ends_with_it(start):
    relay = start()
    for victims in (servers, guards):
        (victim,) = victims(relay)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda known=victim, which=victims: which(relay) - {known}, what=f"another of the {victims.__name__}")
    wait_until(lambda: relay.ask("GET", "ps")[0] == 200, what="the server again")
    assert relay.stop() == 0
    wait_until(lambda: not relay.pids(), what="the end of all")


def test_whoever_hangs_up_frees_the_slot(start):
    relay = start(config=STUCK)
    list(relay.lines("load", LOAD))
    reply = relay.open("POST", "run", chat("STUCK"))
    assert reply.readline()
    reply.close()
    *_, last = relay.lines("run", chat("next"))
    assert last.reply is not None, "the server's only slot is free again"


def test_a_stop_cuts_what_runs_and_a_second_one_ends_at_once(start):
    relay = start(config=STUCK + "stop_grace_s = 3600\n")
    list(relay.lines("load", LOAD))
    reply = relay.open("POST", "run", chat("STUCK"))
    assert reply.readline()
    server = servers(relay)
    os.kill(min(server), signal.SIGSTOP)  # it answers no SIGTERM within its grace
    relay.process.send_signal(signal.SIGINT)
    with pytest.raises(IncompleteRead):
        reply.read()
    relay.process.send_signal(signal.SIGINT)
    assert relay.process.wait(60) == 0
    wait_until(lambda: not relay.pids(), what="the end of all")


def test_it_ends_with_who_started_it(start):
    watched, held = os.pipe()
    relay = start("--watch-fd", str(watched), pass_fds=(watched,))
    os.close(watched)
    assert relay.process.poll() is None
    os.close(held)
    assert relay.process.wait(60) == 0
    assert not servers(relay)


def test_it_ends_when_nobody_asks(start):
    relay = start("--lease-s", "3", asked=False)
    assert relay.process.wait(60) == 0
    assert not servers(relay)
    assert "nobody has asked it anything for 3 s" in (relay.root / "logs/relay.log").read_text()


def test_a_second_relay_of_the_same_card_is_refused(start):
    relay = start("--card", "gpu0", simulate=2)
    code, said = in_process("serve", "--relay", "--root", str(relay.root), "--simulate", "2", "--listen", "127.0.0.1:0")
    assert code == 2
    assert "another relay serves this card: gpu0 is running already" in said
    assert str(relay.process.pid) in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--simulate", "2", "--card", "gpu7"), "--card gpu7: there is no such card on this machine"),
        (("--simulate", "2", "--token-file", "{home}/none"), "/none: there is no such token file"),
        (("--simulate", "2", "--token-file", "{home}/open"), "others could read or change this token"),
        (("--simulate", "2", "--token-file", "{home}/short"), "this is no token"),
        (("--simulate", "2", "--node", "a b"), "--node 'a b' is no name of a machine"),
        (("--simulate", "2", "--listen", "{taken}"), "is taken by"),
        (("--simulate", "2", "--root", "{home}/queue"), "is the root of a queue"),
        (("--simulate", "2", "--root", "{home}/wide/root"), "whoever can change it could put another token"),
        (("--simulate", "2", "gpu0"), "--relay lends all cards of this machine"),
        ((), "there is no GPU on this machine that a relay could serve"),
    ],
)
def test_what_is_wrong_is_said_at_the_start(tmp_path, words, said):
    (tmp_path / "queue/pending").mkdir(parents=True)
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide").chmod(0o777)
    (tmp_path / "open").write_text("x" * 43)
    (tmp_path / "open").chmod(0o640)
    (tmp_path / "short").write_text("secret")
    (tmp_path / "short").chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        here = {"home": tmp_path, "taken": f"127.0.0.1:{taken.getsockname()[1]}"}
        given = [word.format(**here) for word in words]
        listen = [] if "--listen" in given else ["--listen", "127.0.0.1:0"]
        code, told = in_process("serve", "--relay", "--root", str(tmp_path / "root"), *listen, *given)
    assert code == 2
    assert said in told


@pytest.mark.parametrize("words", [("--listen", "1"), ("--json",), ("--lease-s", "9")])
def test_options_of_a_relay_need_one(words):
    code, told = in_process("serve", "worker-1", *words)
    assert code == 2
    assert f"{words[0]} is an option of `swarm serve --relay`" in told


def test_the_token_is_shown_to_a_terminal_once(tmp_path):
    argv = [
        sys.executable,
        "-m",
        "swarm",
        "serve",
        "--relay",
        "--simulate",
        "1",
        "--listen",
        "127.0.0.1:0",
        "--node",
        "box2",
    ]
    said = []
    for _ in range(2):
        main, other = os.openpty()
        relay = subprocess.Popen([*argv, "--root", str(tmp_path / "root")], stdout=other, stderr=subprocess.DEVNULL)
        os.close(other)
        text = b""
        while b"[[workers]]" not in text or b"token" not in text.partition(b"[[workers]]")[2]:
            text += os.read(main, 4096)
        relay.terminate()
        assert relay.wait(60) == 0
        os.close(main)
        said.append(text.decode())
    token = (tmp_path / "root/token").read_text()
    assert f'token = "{token}"' in said[0]
    assert 'name = "box2-gpu0"' in said[0]
    assert 'node = "box2"' in said[0]
    assert token not in said[1]
    assert "token_env" in said[1]


def test_what_a_killed_relay_left_is_ended_when_nobody_comes(killed):
    wait_until(lambda: not killed.pids(), what="the guard has ended the servers, and itself")
