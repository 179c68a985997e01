"""Which worker a live request goes to, and what is said of a model that nobody holds."""

import pytest

from swarm.core.lanes import Pause, Pauses
from swarm.core.live.routing import LiveWorker, PrefixMemory, Standing, choose, prefix_keys, standing

MODEL = "llama3.2:3b"


def worker(name="w1", **fields):
    given = {"ready": True, "model": MODEL, "limit": 4, "servable": frozenset({MODEL}), "listed": True} | fields
    return LiveWorker(name=name, **given)


def test_the_least_loaded_by_share_of_its_places():
    small, large = worker("small", limit=2), worker("large", limit=8)
    assert choose([small, large], {"small": 1, "large": 2}, {}, None) == "large"
    assert choose([small, large], {"small": 0, "large": 5}, {}, None) == "small"


def test_of_equals_the_one_chosen_last_which_keeps_a_place():
    both = [worker("w1"), worker("w2")]
    assert choose(both, {}, {"w1": 3, "w2": 7}, None) == "w2"
    assert choose(both, {}, {"w2": 7}, None) == "w2"
    assert choose(both, {"w2": 1}, {"w2": 7}, None) == "w1", "the load comes first"


def test_who_knows_the_prompt_goes_first_until_another_is_clearly_less_loaded():
    both = [worker("w1"), worker("w2")]
    assert choose(both, {"w1": 2, "w2": 0}, {}, "w1") == "w1"
    assert choose(both, {"w1": 3, "w2": 0}, {}, "w1") == "w2"
    assert choose([worker("w2")], {}, {}, "w1") == "w2", "it has no free place"


def chat(*texts):
    return {"messages": [{"role": "user", "content": text} for text in texts]}


def test_a_conversation_that_grows_stays_with_its_worker():
    memory = PrefixMemory()
    opening, other = "x" * 600, "y" * 600
    memory.remember(prefix_keys(MODEL, "/api/chat", chat(opening)), "w1")
    memory.remember(prefix_keys(MODEL, "/api/chat", chat(other)), "w2")
    assert memory.knows(prefix_keys(MODEL, "/api/chat", chat(opening, "and " * 5000))) == "w1"
    assert memory.knows(prefix_keys(MODEL, "/api/chat", chat(other))) == "w2"
    assert memory.knows(prefix_keys("other", "/api/chat", chat(opening))) is None


def test_a_short_prompt_and_embeddings_have_no_key():
    assert prefix_keys(MODEL, "/api/chat", chat("short")) == ()
    assert prefix_keys(MODEL, "/api/embed", {"input": "x" * 9000}) == ()
    assert len(prefix_keys(MODEL, "/api/generate", {"prompt": "x" * 70_000})) == 8


def test_the_memory_forgets_what_is_oldest():
    memory = PrefixMemory(most=2)
    memory.remember([1], "w1")
    memory.remember([2], "w2")
    memory.remember([1], "w1")
    memory.remember([3], "w3")
    assert [memory.knows([key]) for key in (1, 2, 3)] == ["w1", None, "w3"]


PAUSE = Pause("worker", "w1")


@pytest.mark.parametrize(
    ("workers", "pauses", "starting", "found"),
    [
        ([worker()], Pauses(), False, Standing.LOADED),
        ([worker(ready=False)], Pauses(), False, Standing.INSTALLED),
        ([worker(model=None)], Pauses(), False, Standing.INSTALLED),
        ([worker(ready=False, pause=PAUSE)], Pauses((PAUSE,)), False, Standing.PAUSED),
        ([worker(ready=False, pause=PAUSE), worker("w2", model=None)], Pauses((PAUSE,)), False, Standing.INSTALLED),
        ([worker()], Pauses((Pause("model", MODEL),)), False, Standing.PAUSED),
        ([worker(model="other:1b", servable=frozenset())], Pauses(), False, Standing.UNKNOWN),
        ([worker(model=None, servable=frozenset(), listed=False)], Pauses(), False, Standing.UNSURE),
        ([], Pauses(), True, Standing.UNSURE),
        ([], Pauses(), False, Standing.NOBODY),
    ],
)
def test_standing(workers, pauses, starting, found):
    assert standing(workers, MODEL, pauses, starting=starting) is found
