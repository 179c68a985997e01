"""A stranger on the port of a server of ours is sent nothing, believed in nothing, and named."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from swarm.core.faults import TaskFault
from swarm.core.models.model_server import Limits
from swarm.engines.ollama.readiness import ReadinessProbe
from swarm.engines.ollama.server import server_proof
from swarm.engines.server_proof import ForeignServer, ServerProof
from swarm.proc import identity
from swarm.proc import ports as peer
from swarm.proc.env_markers import ROOT_MARKER, SERVER_MARKER
from swarm.proc.ports import free_port, who_listens
from swarm.worker.attempt import Cancel
from tests.helpers.blocking import BlockingClient
from tests.helpers.impostor import NOBODY, Impostor
from tests.helpers.simserver import SimServer
from tests.helpers.wait import wait_until

WORKER, MODEL = "worker-1", "llama3.2:3b"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a process of another user: NOT TESTED")
USERS = [pytest.param(0, id="our own user"), pytest.param(NOBODY, id="another user", marks=needs_root)]


@pytest.fixture(params=["sock_diag", "proc"])
def way(request, monkeypatch):
    """Both ways to ask the kernel."""
    if request.param == "proc":

        def refuse(*_):
            raise PermissionError("sock_diag is forbidden here")

        monkeypatch.setattr(peer, "_ask_kernel", refuse)
    return request.param


def sim(root: Path) -> SimServer:
    return SimServer(env={SERVER_MARKER: WORKER, ROOT_MARKER: str(root)})


def ask(client: BlockingClient) -> str:
    limits = Limits(total_s=60.0)
    reply = client.run("/api/generate", {"model": MODEL, "prompt": "the secret"}, limits=limits)
    return str(reply.final["response"])


@pytest.mark.parametrize("uid", USERS)
def test_a_stranger_on_the_port_is_sent_nothing_and_named(tmp_path, way, uid):
    with sim(tmp_path) as server, BlockingClient(server.url, on_connect=server_proof(WORKER, tmp_path)) as client:
        assert ask(client).startswith("[simulated]")
        server.kill()
        with Impostor(server.port, uid) as stranger:
            for _ in range(3):
                with pytest.raises(TaskFault) as caught:
                    ask(client)
                fault = caught.value
                assert (fault.fault, fault.kind) == ("infra", "foreign_server")
                assert f"port {server.port} is taken by" in fault.message
                assert f"pid {stranger.pid} (" in fault.message
                assert f"(uid {NOBODY})" in fault.message or not uid
            with pytest.raises(TaskFault):
                client.ps()
            assert stranger.heard == b""
        server.start()
        assert ask(client).startswith("[simulated]")


@pytest.mark.parametrize("uid", USERS)
def test_a_server_that_was_not_started_by_us_is_asked_nothing_while_ours_starts(tmp_path, uid):
    port = free_port()
    ready = threading.Event()
    proof = ServerProof({SERVER_MARKER: WORKER, ROOT_MARKER: str(tmp_path)}, known=identity.current)
    with Impostor(port, uid) as stranger:
        probe = ReadinessProbe(f"http://127.0.0.1:{port}", alive=lambda: True, on_ready=ready.set, on_connect=proof)
        probe.start()
        try:
            wait_until(lambda: "is taken by" in probe.last_answer, what="the stranger to be noticed")
        finally:
            probe.cancel()
        assert f"pid {stranger.pid}" in probe.last_answer
        assert stranger.heard == b""
        assert not ready.is_set()
        assert f"pid {stranger.pid} (" in (who_listens(port) or "")
        assert ("of user" in (who_listens(port) or "")) == bool(uid)
        assert f"pid {stranger.pid}" in proof.stranger_on(port)
    assert proof.stranger_on(port) == ""


def test_another_worker_s_server_is_a_stranger_too(tmp_path):
    with sim(tmp_path) as server, BlockingClient(server.url, on_connect=server_proof("worker-2", tmp_path)) as client:
        with pytest.raises(TaskFault, match="not by our server"):
            ask(client)
        assert server.state()["requests"] == 0


def test_where_the_process_cannot_be_seen_its_user_decides(tmp_path, monkeypatch):
    """A server that may not be looked into (set-user-id, file capabilities), or ``/proc`` mounted with hidepid."""
    hidden = "swarm.engines.server_proof.holds", lambda *_: None
    nobody = "swarm.engines.server_proof.holder_of", lambda *_: None
    with sim(tmp_path) as server:
        proof = server_proof(WORKER, tmp_path)
        monkeypatch.setattr(*hidden)
        monkeypatch.setattr(*nobody)
        with BlockingClient(server.url, on_connect=proof) as client:
            assert ask(client).startswith("[simulated]")
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
        with (
            BlockingClient(server.url, on_connect=proof) as client,
            pytest.raises(TaskFault, match=r"taken by user .*uid 0"),
        ):
            ask(client)


def test_a_host_that_tells_nothing_is_told_of_once(tmp_path, monkeypatch, caplog):
    def untold(*_):
        raise peer.OwnerUnknown("no way to ask")

    monkeypatch.setattr(peer, "_look_up", untold)
    with sim(tmp_path) as server, BlockingClient(server.url, on_connect=server_proof(WORKER, tmp_path)) as client:
        assert ask(client).startswith("[simulated]")
        client.close()
        assert ask(client).startswith("[simulated]")
    assert caplog.text.count("goes unnoticed") == 1


def test_one_look_at_each_connection_not_at_each_request(tmp_path, monkeypatch):
    looks = []
    real = peer._ask_kernel
    monkeypatch.setattr(peer, "_ask_kernel", lambda *a: looks.append(a) or real(*a))
    with sim(tmp_path) as server, BlockingClient(server.url, on_connect=server_proof(WORKER, tmp_path)) as client:
        ask(client)
        after_first = len(looks)
        for _ in range(20):
            ask(client)
        assert 0 < len(looks) == after_first


class Silent:
    """Listens and never accepts."""

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        return self

    def __exit__(self, *_):
        self.socket.close()


def test_nobody_accepts_the_request_times_out_and_a_cancel_ends_the_wait(tmp_path, way):
    proof = server_proof(WORKER, tmp_path)
    with Silent() as silent, BlockingClient(silent.url, on_connect=proof) as client:
        with pytest.raises(TaskFault) as caught:
            client.ps(timeout_s=0.2)
        assert (caught.value.fault, caught.value.kind) == ("transient", "timeout")
        cancel = Cancel()
        timer = threading.Timer(0.2, lambda: cancel.cancel("cancelled"))
        timer.start()
        began_s = time.monotonic()
        with pytest.raises(TaskFault) as caught:
            client.run("/api/generate", {"model": MODEL}, limits=Limits(total_s=600.0), cancel=cancel)
        assert caught.value.fault == "cancelled"
        assert time.monotonic() - began_s < 60


def test_an_end_before_the_answer_is_known(way):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as far:
        server.accept()[0].close()
        with pytest.raises(ConnectionResetError):
            peer.accepted_by(far, time.monotonic() + 60)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_listener_for_both_families_is_seen_from_either(way, family):
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 on this host")
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1" if family == socket.AF_INET else "::1", port)) as far:
            near, _ = server.accept()
            with near:
                found = peer.accepted_by(far, time.monotonic() + 60)
                assert found == (os.geteuid(), os.fstat(near.fileno()).st_ino)
        assert peer.listener(port) == (os.geteuid(), os.fstat(server.fileno()).st_ino)
        assert peer.holder_of(os.fstat(server.fileno()).st_ino) == os.getpid()
    assert peer.listener(port) is None


def test_a_refusal_is_an_error_of_the_system():
    assert issubclass(ForeignServer, OSError)
    assert not issubclass(ForeignServer, ConnectionError), "a connection error on a kept connection is tried again"
