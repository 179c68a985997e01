"""What is asked of an actor, and what becomes of it when Ray cannot reach it for a moment. Ray itself is a stand-in."""

import pytest

pytest.importorskip("ray")

from ray.exceptions import ActorUnavailableError

from swarm import __version__
from swarm.cluster import ray_link
from swarm.cluster.ray_link import HeldActor
from swarm.core.nodes.card_report import CardOrder, CardReport

ORDER = CardOrder(version=__version__, namespace="n", node="box2", address="10.0.0.2", slot=0, simulate=1, token="t", env={})


class Method:
    def __init__(self, name, asked):
        self.name, self.asked = name, asked

    def remote(self, *words):
        self.asked.append((self.name, *words))
        return self.asked[-1]


class Handle:
    """Takes what the actor takes: an order with ``serve``, nothing otherwise."""

    def __init__(self):
        self.asked = []

    def __getattr__(self, name):
        return Method(name, self.asked)


class Ray:
    """Each question is answered at once, the first so many of ``serve`` by a link that is gone."""

    def __init__(self, gone):
        self.gone = gone

    def wait(self, asked, timeout):
        return asked, []

    def get(self, asked, timeout):
        if asked[0] == "version":
            return __version__
        if self.gone:
            self.gone -= 1
            raise ActorUnavailableError("gone for a moment", None)
        assert asked[0] != "serve" or len(asked) == 2, "its order goes with it"
        return ray_link.msgspec.json.encode(CardReport(phase="starting", version=__version__))


def test_an_order_that_did_not_get_through_is_given_again(monkeypatch):
    monkeypatch.setattr(ray_link, "ray", Ray(gone=2))
    handle = Handle()
    actor = HeldActor("life", 0, handle, found=False)
    actor.order = ORDER
    for _ in range(6):
        actor.step()
    assert actor.ended == ""
    assert actor.report is not None
    assert [asked[0] for asked in handle.asked] == ["version", "serve", "serve", "serve"]
    assert len({asked for asked in handle.asked if asked[0] == "serve"}) == 1
