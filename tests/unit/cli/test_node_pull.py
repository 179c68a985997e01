"""Pulling a model to several machines: which ones, all at once, each with its own bar and its own end."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import msgspec
import pytest

from swarm.cli.run.model_pull import Pulled, pulled_lines, refuse_failed
from swarm.cli.run.node_pull import places, pull_alone, pull_together
from swarm.cli.run.pull_progress import PullBars
from swarm.core.faults import TaskFault
from swarm.core.models.model_server import MIB, PullStep
from swarm.errors import ModelServerError, UnknownName
from tests.support.builders import a_row

ROWS = [
    a_row("worker-1"),
    a_row("worker-2"),
    a_row("cpu", with_server=False),
    a_row("box2-gpu0", node="box2"),
    a_row("box2-gpu1", node="box2"),
    a_row("box3-gpu0", node="box3"),
]


def found(rows, *wanted):
    return {place.node: [row.name for row in place.rows] for place in places(rows, wanted)}


def test_all_machines_with_a_model_server_are_meant_unless_some_are_named():
    everywhere = {"": ["worker-1", "worker-2"], "box2": ["box2-gpu0", "box2-gpu1"], "box3": ["box3-gpu0"]}
    assert found(ROWS) == everywhere
    assert found(ROWS, "box2") == {"box2": everywhere["box2"]}
    assert found(ROWS, "box3", "local", "box3") == {"": everywhere[""], "box3": everywhere["box3"]}
    assert found(ROWS[2:]).keys() == {"box2", "box3"}, "nothing here could use it"
    assert found([]) == {"": []}, "a server is started for it"
    assert found([], "local") == {"": []}


def test_a_node_that_nobody_knows_is_refused_by_name():
    with pytest.raises(UnknownName, match="no worker of a node 'bix2'") as refused:
        places(ROWS, ["bix2"])
    assert refused.value.hint == "did you mean box2?"


class Server:
    """Tells of one layer, meets the others where there is a barrier, and does what it is told at the end."""

    def __init__(self, meet=lambda: None, end=lambda _cancel: None):
        self.meet, self.end = meet, end

    def pull(self, model, progress=None, *, cancel=None):
        progress(PullStep("pulling", "sha256:1", 4 * MIB, 2 * MIB))
        self.meet()
        self.end(cancel)
        progress(PullStep("success"))

    @contextmanager
    def open(self):
        yield self, f"server of {self}"

    def __str__(self):
        return "x"


def broken(_cancel):
    raise TaskFault("transient", "no_disk", "no space left on device")


def test_all_pull_at_once_and_one_that_fails_does_not_stop_the_others(capsys):
    barrier = threading.Barrier(3, timeout=30)
    servers = {"": Server(barrier.wait), "box2": Server(barrier.wait, broken), "box3": Server(barrier.wait)}
    with PullBars() as bars:
        done = pull_together("m:1", [(node, server.open) for node, server in servers.items()], bars)
    assert [(one.node, one.mib, one.error) for one in done] == [
        ("", 4, ""),
        ("box2", 0, "m:1 could not be pulled through server of x: no space left on device"),
        ("box3", 4, ""),
    ]
    said = capsys.readouterr().err.splitlines()
    assert "box3: m:1: pulling, 2 of 4 MiB (50%)" in said
    assert "local: m:1: success, 2 of 4 MiB (50%)" in said
    assert sum("no space left" in line for line in said) == 1
    whole = Pulled(model="m:1", through="x", seconds=1.0, mib=8, nodes=tuple(done))
    assert [line.text.partition(":")[0] for line in pulled_lines(whole)] == ["local", "box2", "box3"]
    with pytest.raises(ModelServerError, match="on 1 of 3 machines: box2"):
        refuse_failed(whole)
    refuse_failed(msgspec.structs.replace(whole, nodes=tuple(done[::2])))


def test_an_interrupt_hangs_up_on_all_of_them():
    ended = threading.Event()

    def interrupted(_cancel):
        raise KeyboardInterrupt

    def until_cancelled(cancel):
        cancel.on_cancel(ended.set)
        assert ended.wait(30)
        raise TaskFault("cancelled", cancel.reason, "cancelled")

    with PullBars() as bars, pytest.raises(KeyboardInterrupt):
        pull_together("m:1", [("a", Server(end=interrupted).open), ("b", Server(end=until_cancelled).open)], bars)
    assert ended.is_set()


def test_alone_it_says_what_one_machine_alone_has_always_said(capsys):
    with PullBars() as bars:
        done = pull_alone("m:1", "", Server().open, bars)
        with pytest.raises(ModelServerError, match="no space left") as refused:
            pull_alone("m:1", "", Server(end=broken).open, bars)
    assert refused.value.hint == "run it again: what was downloaded is kept"
    assert "m:1: pulling, 2 of 4 MiB (50%)" in capsys.readouterr().err.splitlines()
    whole = Pulled(model="m:1", through=done.through, seconds=1.0, mib=4, nodes=(done,))
    assert pulled_lines(whole)[0].text.startswith("m:1: pulled through server of x in ")
