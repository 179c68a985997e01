"""Records of nodes, wishes to drain one, and the token of their relays, as files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from swarm.core.nodes.node_record import NodeCard, NodePhase, NodeRecord, NodesSeen
from swarm.errors import QueueError
from swarm.filesystem.entries import stamp_of
from swarm.queue.fsck import fsck
from swarm.queue.stores.node_book import (
    NodeWatch,
    drained_nodes,
    forget_node,
    forget_nodes,
    node_token,
    read_nodes,
    wish_drain,
    write_node,
)
from tests.helpers.wait import wait_until

CARD = NodeCard(card="gpu0", worker="box2-gpu0", url="http://10.0.0.2:7000/cards/gpu0", uuid="GPU-1", vram_mib=24576)


def a_node(name: str, phase: NodePhase = NodePhase.UP) -> NodeRecord:
    return NodeRecord(
        name=name, source="ray", address="10.0.0.2", phase=phase, engine_versions={"ollama": "0.12"}, cards=(CARD,)
    )


def test_records_and_wishes_are_kept_and_forgotten(queue):
    layout, storage = queue.layout, queue.storage
    assert (read_nodes(layout), drained_nodes(layout)) == ((), frozenset())
    for name in ("b.example.org", "a"):
        write_node(layout, storage, a_node(name))
        wish_drain(layout, storage, name, drain=True)
    assert read_nodes(layout) == (a_node("a"), a_node("b.example.org"))
    assert drained_nodes(layout) == {"a", "b.example.org"}
    forget_node(layout, "a")
    forget_node(layout, "a")
    assert [record.name for record in read_nodes(layout)] == ["b.example.org"]
    forget_nodes(layout)
    for _ in range(2):
        wish_drain(layout, storage, "a", drain=False)
    assert (read_nodes(layout), drained_nodes(layout)) == ((), {"b.example.org"})


@pytest.mark.parametrize("content", [b"", b"{", b'{"name": "x"}', b'{"name": 1}', b"\xff" * 2_000_000, None])
def test_what_is_no_record_is_reported_and_left_out(queue, caplog, content):
    write_node(queue.layout, queue.storage, a_node("good"))
    path = Path(queue.layout.node("bad"))
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    Path(queue.layout.nodes, "-odd.json").write_bytes(b"{}")
    assert [record.name for record in read_nodes(queue.layout)] == ["good"]
    assert "bad.json is no record of a node" in caplog.text


def test_a_record_under_another_name_is_none(queue):
    write_node(queue.layout, queue.storage, a_node("good"))
    os.rename(queue.layout.node("good"), queue.layout.node("other"))
    assert read_nodes(queue.layout) == ()


def test_a_watch_reads_only_what_has_changed_and_misses_nothing(queue, monkeypatch):
    layout, storage = queue.layout, queue.storage
    watch = NodeWatch(layout)
    assert watch.look() == NodesSeen()
    for phase in (*NodePhase, *NodePhase):  # one after the other, within a grain of the directory's time
        write_node(layout, storage, a_node("a", phase))
        assert watch.look().records == (a_node("a", phase),)
    wish_drain(layout, storage, "a", drain=True)
    assert watch.look().drains == {"a"}
    wait_until(lambda: stamp_of(layout.nodes).settled, what="the last change is old enough to hide none")
    seen = watch.look()
    with monkeypatch.context() as patched:
        patched.setattr("swarm.queue.stores.node_book.read_nodes", None)
        assert watch.look() is seen, "nothing is read"
    forget_nodes(layout)
    wish_drain(layout, storage, "a", drain=False)
    assert watch.look() == NodesSeen()


def test_the_token_is_made_once_and_is_nobody_elses(queue):
    layout = queue.layout
    with pytest.raises(QueueError, match="there is no token"):
        node_token(layout)
    token = node_token(layout, queue.storage)
    assert len(token) >= 32
    assert node_token(layout) == node_token(layout, queue.storage) == token
    path = Path(layout.node_token)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    with pytest.raises(QueueError, match="others may read it") as refused:
        node_token(layout)
    assert token not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"caf\xc3\xa9"])
def test_a_damaged_token_is_refused(queue, content):
    node_token(queue.layout, queue.storage)
    Path(queue.layout.node_token).write_bytes(content)
    with pytest.raises(QueueError, match="holds no token"):
        node_token(queue.layout)


def test_fsck_knows_the_directory_and_what_does_not_belong_there(queue):
    node_token(queue.layout, queue.storage)
    write_node(queue.layout, queue.storage, a_node("a"))
    wish_drain(queue.layout, queue.storage, "a", drain=True)
    assert fsck.look(queue.layout, agree_s=0.0) == ()
    Path(queue.layout.nodes, "link.json").symlink_to("/etc/passwd")
    (found,) = fsck.look(queue.layout, agree_s=0.0)
    assert found.path.endswith("nodes/link.json")
    assert read_nodes(queue.layout) == (a_node("a"),)
