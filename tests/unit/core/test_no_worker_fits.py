"""Whether a model can be served here at all: said only where nothing but other cards or another configuration would help."""

from __future__ import annotations

import msgspec
import pytest

from swarm.config.settings import LlmSettings, ModelSettings, Settings
from swarm.core.placement.fit import ENOUGH_FAILURES, ENOUGH_TRIES, Planned, nowhere
from swarm.core.worker import ModelTally
from tests.support.builders import (
    MODEL,
    a_card,
    a_claim,
    a_row,
    a_snapshot,
    a_worker,
    cold_workers,
    llm_waiting,
    load_waiting,
)

S = Settings()
CARDS = [a_card(0, total_mib=8192), a_card(1, total_mib=24576)]


def two(learned=None, **more):
    tallies = {MODEL: learned} if learned else {}
    return [a_worker("worker-1", gpu=0, learned=tallies, **more), a_worker("worker-2", gpu=1, learned=tallies)]


def told(workers, settings=S, **more):
    picture = a_snapshot(workers=workers, lanes=more.pop("lanes", [llm_waiting(3)]), gpus=more.pop("gpus", CARDS))
    return nowhere(MODEL, picture, settings, **more)


def test_what_is_too_big_for_the_largest_card_is_told_with_both_numbers():
    words = f"{MODEL} does not fit on any card: it needs 40000 MiB, the largest card has 24576 MiB (worker-2)"
    assert told(two(ModelTally(size_mib=40_000))) == words
    assert told(two(), disk_mib=40_000) == words, "its file tells before anybody has tried"
    assert told(two(ModelTally(size_mib=20_000))) is None
    assert told(two(), disk_mib=25_000) is None, "part of a file may stay in the computer's memory"
    assert told(two()) is None, "nothing is known"


def test_where_running_on_the_cpu_is_allowed_nothing_is_too_big():
    assert told(two(ModelTally(size_mib=40_000)), Settings(llm=LlmSettings(on_cpu_spill="allow")), disk_mib=40_000) is None
    cpu_only = msgspec.structs.replace(a_worker("cpu"), row=msgspec.structs.replace(a_row("cpu"), gpus=(), gpu_uuids=()))
    assert told([*two(), cpu_only], disk_mib=40_000) is None


@pytest.mark.parametrize(("tries", "hopeless"), [(1, False), (ENOUGH_TRIES - 1, False), (ENOUGH_TRIES, True)])
def test_who_found_no_room_though_the_size_would_fit_is_given_more_tries(tries, hopeless):
    """Another program may have had the memory."""
    found = told(two(ModelTally(no_room=True, load_failures=tries, size_mib=3000)))
    assert (found is not None) is hopeless


@pytest.mark.parametrize(("tries", "hopeless"), [(1, False), (ENOUGH_FAILURES, True)])
def test_loads_that_fail_for_another_reason(tries, hopeless):
    found = told(two(ModelTally(load_failures=tries)))
    assert (found is not None) is hopeless
    if found:
        assert f"worker-1 failed to load {MODEL} {tries}x in a row; worker-2 failed" in found


def test_a_model_that_no_server_has_and_one_that_needs_more_cards():
    assert f"the server of worker-1 has no model {MODEL}" in (told(two(ModelTally(load_failures=1, missing=True))) or "")
    needs = Settings(models={MODEL: ModelSettings(gpus_needed=4)})
    assert f"{MODEL} needs 4 cards and worker-1 has 1" in (told(two(), needs) or "")


def test_as_long_as_one_worker_may_do_it_there_is_hope():
    big = {MODEL: ModelTally(size_mib=40_000)}
    bigger = a_worker("worker-3", gpu=2)
    assert told([*two(big[MODEL]), bigger], gpus=[*CARDS, a_card(2, total_mib=80_000)]) is None
    assert told([*two(big[MODEL]), bigger]) is None, "nobody knows its card"
    assert told(two(big[MODEL]), lanes=[llm_waiting(3), load_waiting("worker-1")]) is None, "a load is on its way"
    running = a_snapshot(workers=two(big[MODEL]), claims=[a_claim(model=MODEL)], lanes=[llm_waiting(3)], gpus=CARDS)
    assert nowhere(MODEL, running, S) is None
    assert told(two(big[MODEL], holding=MODEL)) is None
    assert told([]) is None, "there may be workers later"


def test_workers_that_are_to_come_count():
    big = ModelTally(size_mib=40_000)
    assert told(two(big), planned=[Planned("worker-3", 80_000)]) is None
    assert told(two(big), planned=[Planned("worker-3", None)]) is None
    assert "the largest card has 32768 MiB (worker-3)" in (told(two(big), planned=[Planned("worker-3", 32_768)]) or "")


def test_cards_of_unknown_size_are_given_a_try():
    assert nowhere(MODEL, a_snapshot(workers=cold_workers(2), lanes=[llm_waiting(3)]), S, disk_mib=10**6) is None
