"""Answers from the cache: only the same request to the same model, by digest, and only where it is wanted."""

from __future__ import annotations

import logging

import msgspec
import pytest

from swarm.config.settings import LlmSettings, ModelSettings
from swarm.core.faults import TaskFault
from swarm.core.task import ImageRef
from swarm.worker.executors.llm import LlmExecutor
from swarm.worker.executors.response_cache import ResponseCache
from tests.helpers.blocking import wait_for
from tests.helpers.worker_fakes import FakeServer, a_reply, claim_of, llm, loaded

REQUEST = {"messages": [{"role": "user", "content": "Hello"}], "options": {"temperature": 0, "seed": 1}}


class Shelf(dict):
    full = False

    def put(self, key, data):
        if self.full:
            raise OSError(28, "No space left on device")
        self[key] = data
        return True


class World:
    def __init__(self, **settings):
        self.server = FakeServer()
        self.server.on_run = lambda body: a_reply({"message": {"content": f"answer {len(self.server.calls)}"}})
        self.installed = self.loaded = "d1"
        self.shelf = Shelf()
        self.settings = LlmSettings(**{"cache": True, **settings})
        self.models = {}
        self.simulated = False

    def ask(self, model="a", **fields):
        cache = ResponseCache(self.shelf, self, simulated=self.simulated, log=logging.getLogger("test.answers"))
        executor = LlmExecutor(self.server, self.settings, models=self.models, read_image=lambda ref: b"x", cache=cache)
        claim = claim_of(llm("t", model, **{"request": REQUEST, **fields}))
        return wait_for(executor.run(claim, progress=lambda n: None))

    def tags(self, timeout_s):
        return [loaded("a:latest", digest=self.installed)]

    def ps(self, timeout_s):
        return [loaded("a:latest", digest=self.loaded)]

    @property
    def requests(self):
        return len(self.server.calls)


def test_the_second_time_nobody_is_asked_and_the_trail_says_so():
    world = World()
    first, second = world.ask(), world.ask()
    assert world.requests == 1
    assert not first.cached
    assert second == msgspec.structs.replace(first, cached=True), "the very same answer, simulated or not as it was"


@pytest.mark.parametrize(
    ("setting", "word", "used"),
    [(False, None, False), (True, None, True), (False, True, True), (True, False, False)],
)
def test_it_is_off_unless_wanted_and_a_tasks_own_word_wins(setting, word, used):
    world = World(cache=setting)
    world.ask(cache=word)
    assert world.ask(cache=word).cached is used
    assert bool(world.shelf) is used


@pytest.mark.parametrize(
    "change",
    [
        lambda w: setattr(w, "installed", "d2"),
        lambda w: setattr(w, "simulated", True),
        lambda w: setattr(w, "models", {"a": ModelSettings(options={"num_ctx": 8192})}),
        lambda w: setattr(w, "settings", LlmSettings(cache=True, num_predict=7)),
    ],
    ids=["another digest", "a simulation", "options of the model", "the cap of tokens"],
)
def test_what_changes_the_answer_is_another_question(change):
    world = World()
    world.ask()
    change(world)
    assert not world.ask().cached


@pytest.mark.parametrize(
    "fields",
    [
        {"request": {**REQUEST, "options": {"seed": 2}}},
        {"request": {**REQUEST, "format": "json"}},
        {"endpoint": "/api/generate"},
    ],
)
def test_another_request_is_another_question(fields):
    world = World()
    world.ask()
    assert not world.ask(**fields).cached


def test_another_image_is_another_question():
    world = World()
    first, second = (ImageRef("/a.png", digit * 64) for digit in "01")
    world.ask(images=(first,))
    assert not world.ask(images=(second,)).cached
    assert world.ask(images=(ImageRef("/moved.png", "0" * 64),)).cached, "by content, wherever it lies"


def test_spelling_and_order_do_not_matter():
    world = World()
    world.ask(request={"messages": [], "options": {"seed": 1, "top_k": 2}})
    assert world.ask("A:latest", request={"options": {"top_k": 2, "seed": 1}, "messages": [], "keep_alive": 3}).cached


def test_a_model_that_was_pulled_anew_meanwhile_leaves_nothing():
    world = World()
    world.loaded = "d2"
    world.ask()
    assert not world.shelf
    world.installed = ""
    assert not world.ask().cached, "a server that cannot tell is asked"


def test_entries_that_lie_are_not_believed():
    world = World()
    world.ask()
    ((key, data),) = world.shelf.items()
    for bad in (b"", data[:-5], data.replace(b'"digest":"d1"', b'"digest":"d2"'), data.replace(key.encode(), b"0" * 64)):
        world.shelf[key] = bad
        assert not world.ask().cached
        assert world.shelf[key] != bad, "and are replaced"


def test_failures_are_not_kept_and_a_full_disk_fails_nothing(caplog):
    world = World()
    world.server.on_run = _fail
    with pytest.raises(TaskFault):
        world.ask()
    assert not world.shelf
    world = World()
    world.shelf.full = True
    assert world.ask().result
    assert "Cannot keep an answer" in caplog.text


def _fail(body):
    raise TaskFault("transient", "server", "no")
