"""Many texts in one request: each gets its own vector, a bad one fails alone, a cancelled one costs the others nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from swarm.core.faults import TaskFault
from swarm.core.models.model_server import Limits
from swarm.worker.executors import embedding_packs
from swarm.worker.executors.embedding_packs import AT_ONCE, EmbeddingPacks
from tests.helpers.blocking import AsyncServer, wait_for
from tests.helpers.simserver import SimServer
from tests.helpers.wait import wait_until

MODEL = "nomic-embed-text"
LIMITS = Limits(total_s=30.0)


@pytest.fixture(scope="module")
def server() -> Iterator[SimServer]:
    with SimServer(models=(MODEL,)) as sim:
        yield sim


@pytest.fixture
def sim(server: SimServer) -> SimServer:
    server.set(request_s=0.01, faults=[], fault_match="", poison=[])
    return server


def body(text, **more):
    return {"model": MODEL, "input": text, "truncate": False, "options": {"num_ctx": 64}, **more}


def ask_all(packs, bodies, limits=LIMITS):
    async def all_of_them():
        asked = [packs.embed(one, limits=limits, marker=None) for one in bodies]
        return await asyncio.gather(*asked, return_exceptions=True)

    return wait_for(all_of_them())


class Counted(AsyncServer):
    """Counts the requests that reach the server."""

    def __init__(self, client):
        super().__init__(client)
        self.asked = []
        inner = self.run

        async def run(endpoint, asked, **how):
            self.asked.append(asked)
            return await inner(endpoint, asked, **how)

        self.run = run


def test_each_text_gets_the_vector_that_it_would_get_alone(sim):
    server = Counted(sim.client)
    texts = [f"text number {number}" for number in range(100)]
    replies = ask_all(EmbeddingPacks(server), [body(text) for text in texts])
    assert len(server.asked) < 20
    for text, reply in zip(texts, replies, strict=True):
        alone = sim.client.run("/api/embed", body(text), limits=LIMITS)
        assert reply.final["embeddings"] == alone.final["embeddings"]
        assert reply.final["packed"] >= 1
    assert sum(reply.tokens_in for reply in replies) == sum(
        sim.client.run("/api/embed", body(text), limits=LIMITS).tokens_in for text in texts
    )


def test_lists_of_texts_travel_too_and_come_back_as_lists(sim):
    replies = ask_all(EmbeddingPacks(AsyncServer(sim.client)), [body(["a", "b"]), body("c"), body(["d"])])
    assert [len(reply.final["embeddings"]) for reply in replies] == [2, 1, 1]


def test_requests_that_differ_in_more_than_their_texts_do_not_share(sim):
    server = Counted(sim.client)
    replies = ask_all(EmbeddingPacks(server), [body(f"t{n}", dimensions=8 + n % 2) for n in range(10)])
    assert [len(reply.final["embeddings"][0]) for reply in replies] == [8 + n % 2 for n in range(10)]
    assert len(server.asked) == 2


def test_a_bad_text_fails_alone(sim):
    texts = ["word " * 500 if number % 25 == 3 else f"good {number}" for number in range(100)]
    replies = ask_all(EmbeddingPacks(AsyncServer(sim.client)), [body(text) for text in texts])
    for text, reply in zip(texts, replies, strict=True):
        if text.startswith("good"):
            assert len(reply.final["embeddings"]) == 1
        else:
            assert isinstance(reply, TaskFault)
            assert (reply.fault, reply.kind) == ("deterministic", "too_long")


def test_what_no_list_can_carry_is_sent_as_it_is(sim):
    (reply,) = ask_all(EmbeddingPacks(AsyncServer(sim.client)), [body([1, 2])])
    assert isinstance(reply, TaskFault)
    assert reply.fault == "deterministic"


def test_a_text_that_breaks_the_server_has_its_fault_alone(sim):
    sim.set(poison=["broken=error_500"])
    texts = ["broken" if number == 37 else f"good {number}" for number in range(64)]
    replies = ask_all(EmbeddingPacks(AsyncServer(sim.client)), [body(text) for text in texts])
    assert [text for text, reply in zip(texts, replies, strict=True) if isinstance(reply, TaskFault)] == ["broken"]
    assert replies[37].kind == "runner_died"


def test_a_server_that_answers_nothing_is_not_asked_for_each_text(sim):
    sim.set(faults=["reset"])
    server = Counted(sim.client)
    replies = ask_all(EmbeddingPacks(server), [body(f"t{n}") for n in range(64)])
    assert {reply.kind for reply in replies} == {"connection_lost"}
    assert len(server.asked) < 40


def test_a_fault_of_the_server_reaches_each_request_of_the_pack(sim):
    sim.set(faults=["reset"])
    replies = ask_all(EmbeddingPacks(AsyncServer(sim.client)), [body(f"t{n}") for n in range(5)])
    assert {type(reply) for reply in replies} == {TaskFault}
    assert {reply.fault for reply in replies} <= {"infra", "transient"}


def test_packs_that_take_too_long_use_up_no_attempt_and_are_halved_until_they_are_answered(sim, monkeypatch):
    class Slow(AsyncServer):
        def __init__(self, client):
            super().__init__(client)
            self.cut = 0
            inner = self.run

            async def run(endpoint, asked, **how):
                if len(asked["input"]) > 4:
                    try:
                        await asyncio.sleep(60)
                    finally:
                        self.cut += 1
                return await inner(endpoint, asked, **how)

            self.run = run

    server = Slow(sim.client)
    monkeypatch.setattr(embedding_packs, "PATIENCE", 0.01)
    packs, asked = EmbeddingPacks(server), [body(f"t{n}") for n in range(16 * (AT_ONCE + 1))]
    for size in (8, 4):
        replies = ask_all(packs, asked)
        assert {(reply.fault, reply.kind) for reply in replies} == {("infra", "timeout")}, "what never left as well"
        assert packs.size == size
        wait_until(lambda: server.cut == AT_ONCE, what="the packs to be cut")
        server.cut = 0
    monkeypatch.undo()
    assert all(reply.final["packed"] == 4 for reply in ask_all(packs, asked[:16]))


def test_who_has_less_time_costs_the_others_none_and_alone_it_is_its_own_fault(sim):
    sim.set(request_s=600.0)
    packs = EmbeddingPacks(AsyncServer(sim.client))
    bodies, terms = [body("t0"), body("t1")], [Limits(total_s=0.5), Limits(total_s=60.0)]

    async def both():
        asked = [
            asyncio.create_task(packs.embed(one, limits=own, marker=None)) for one, own in zip(bodies, terms, strict=True)
        ]
        (fault,) = await asyncio.gather(asked[0], return_exceptions=True)
        assert not asked[1].done()
        asked[1].cancel()
        return fault

    fault = wait_for(both())
    assert (fault.fault, fault.kind) == ("transient", "timeout")


def test_an_answer_with_too_few_vectors_is_none(sim):
    class Short(AsyncServer):
        def __init__(self, client):
            super().__init__(client)
            inner = self.run

            async def run(endpoint, asked, **how):
                reply = await inner(endpoint, asked, **how)
                reply.final["embeddings"].pop()
                return reply

            self.run = run

    replies = ask_all(EmbeddingPacks(Short(sim.client)), [body(f"t{n}") for n in range(3)])
    assert [reply.kind for reply in replies] == ["garbage"] * 3


def test_a_cancelled_request_costs_the_others_nothing_and_without_any_the_pack_is_cut(sim):
    class Gated(AsyncServer):
        """Answers once it may."""

        def __init__(self, client):
            super().__init__(client)
            self.asked, self.open = asyncio.Event(), asyncio.Event()
            inner = self.run

            async def run(endpoint, asked, **how):
                self.asked.set()
                await self.open.wait()
                return await inner(endpoint, asked, **how)

            self.run = run

    server = Gated(sim.client)
    packs = EmbeddingPacks(server)

    async def cancel_one():
        asked = [asyncio.ensure_future(packs.embed(body(f"t{n}"), limits=LIMITS, marker=None)) for n in range(3)]
        await server.asked.wait()
        asked[1].cancel()
        server.open.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    first, cut, last = wait_for(cancel_one())
    assert isinstance(cut, asyncio.CancelledError)
    assert len(first.final["embeddings"]) == len(last.final["embeddings"]) == 1

    async def cancel_all():
        asked = [asyncio.ensure_future(packs.embed(body(f"t{n}"), limits=LIMITS, marker=None)) for n in range(3)]
        await asyncio.to_thread(wait_until, lambda: sim.state()["in_flight"] == 1, what="the pack to be asked")
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    sim.set(request_s=600.0)
    wait_for(cancel_all())
    wait_until(lambda: sim.state()["in_flight"] == 0, what="the server to drop the pack")
    sim.set(request_s=0.01)
    assert len(ask_all(packs, [body(f"t{n}") for n in range(AT_ONCE * 20)])) == AT_ONCE * 20
