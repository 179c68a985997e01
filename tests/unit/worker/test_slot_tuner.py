"""The tuner of a worker on a card in virtual time: runs begin and end, the clock only moves when the test moves it."""

import logging
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from swarm.config.settings import LlmSettings, Settings, WorkerSettings
from swarm.core.faults import TaskFault
from swarm.core.models.model_server import ModelDetails
from swarm.core.policy.slot_capacity import SlotRecord
from swarm.core.policy.slot_tuning import FIRST
from swarm.core.task import Trail
from swarm.core.worker import ModelTally
from swarm.worker.heartbeat import WorkerState
from swarm.worker.tuning import slot_tuner
from swarm.worker.tuning.load_slots import LoadSlots
from swarm.worker.tuning.slot_tuner import SlotTuner, reserve
from tests.helpers.worker_fakes import claim_of, llm, load

MODEL = "a:latest"


class Memory:
    def __init__(self, *records):
        self.records = records

    def keep(self, record):
        known = [one for one in self.records if (one.model, one.length) != (record.model, record.length)]
        self.records = (*known, record)


@dataclass(eq=False)
class Request:
    """What the tuner reads of a run."""

    claim: object
    left: float
    tokens: int
    started_s: float
    begun: bool = True
    ending: object = None
    elapsed_s: float = 0.0
    proves_server: bool = True


@dataclass
class World:
    """One worker and its card; the card answers at ``rate(in flight)`` tokens/s in all."""

    monkeypatch: pytest.MonkeyPatch
    rate: object
    settings: LlmSettings = field(default_factory=lambda: LlmSettings(slots="auto"))
    memory: Memory = field(default_factory=Memory)
    known: dict = field(default_factory=dict)
    tokens: int = 100
    waiting: int = 0
    now_s: float = 1000.0
    capacity: int = 0
    group: str = ""

    def __post_init__(self):
        self.monkeypatch.setattr(slot_tuner, "monotonic", lambda: self.now_s)
        self.state = WorkerState(name="worker-1", pid=1, epoch=1)
        self.state.publish(model=MODEL, models={MODEL: ModelTally(digest="abc", loads=1, load_s=5.0)})
        self.slots = LoadSlots(self.settings, models={}, memory=self.memory, card="GPU-1", **self.known)
        settings = Settings(llm=self.settings, worker=WorkerSettings(max_tasks_per_worker=5))
        parts = SimpleNamespace(settings=settings, log=logging.getLogger("worker-1"), load_slots=self.slots)
        self.tuner = SlotTuner(parts, self.state)
        self.runs = []
        self.most = 0

    def loaded(self, slots, why="there is memory for them"):
        self.capacity = slots
        task = claim_of(load("l1", "a"))
        run = SimpleNamespace(claim=task, ending=Trail(result={"slots": slots, "slots_why": why}))
        self.tuner.ended(run)
        return self

    def work(self, requests):
        """So many requests are answered; returns what reloads were asked for."""
        asked = []
        while requests:
            while len(self.runs) < self.tuner.limits.llm:
                claim = claim_of(llm("t", MODEL), group=self.group)
                self.runs.append(Request(claim, self.tokens, self.tokens, self.now_s))
                self.tuner.began(self.runs[-1])
            asked.append(self.tuner.end_tick(lambda: self.waiting))
            self.most = max(self.most, len(self.runs))
            self._pass()
            requests -= 1
        return [slots for slots in asked if slots]

    def _pass(self):
        each = self.rate(min(len(self.runs), self.capacity or len(self.runs))) / len(self.runs)
        first = min(self.runs, key=lambda run: run.left)
        took_s = first.left / each
        self.now_s += took_s
        for run in self.runs:
            run.left -= took_s * each
        first.elapsed_s = self.now_s - first.started_s
        first.ending = Trail(result={"usage": {"prompt_tokens": 20, "completion_tokens": first.tokens}})
        self.tuner.begin_tick()
        self.tuner.ended(first)
        self.runs.remove(first)

    @property
    def tuned(self):
        return self.state.beat.tuned[MODEL]


def knee(at):
    return lambda number: 10.0 * min(number, at)


def test_it_climbs_to_where_the_rate_stops_growing_and_says_so(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    world = World(monkeypatch, knee(16)).loaded(64)
    world.work(600)
    assert world.tuner.limits.llm == 16
    assert world.tuner.limits.total == 16
    assert (world.tuned.in_flight, world.tuned.capacity, world.tuned.best_in_flight, world.tuned.settled) == (
        16,
        64,
        16,
        True,
    )
    assert world.tuned.tokens_per_s == pytest.approx(160, rel=0.05)
    assert world.tuned.why.startswith("16 slots: 160 tokens/s; ")
    assert world.tuned.history[0][0] == FIRST
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "Slots of a:latest: 8, 4 slots: 40 tokens/s; 8 being tried"
    assert len(lines) < 12


def test_never_more_than_the_model_was_loaded_for_plus_the_reserve(monkeypatch):
    world = World(monkeypatch, knee(64)).loaded(8, "more contexts of 4096 tokens do not fit")
    world.work(300)
    assert world.most == 9
    assert world.tuner.limits.llm == 9
    assert "loaded for 8: more contexts of 4096 tokens do not fit" in world.tuned.why


@pytest.mark.parametrize(("slots", "capacity", "more"), [(1, 1, 0), (4, 8, 0), (8, 8, 1), (16, 16, 2), (8, 0, 0)])
def test_a_few_wait_in_the_server_only_where_it_is_full(slots, capacity, more):
    assert reserve(slots, capacity) == more


def fail_all(world, kind, fault="infra"):
    """Everything in flight ends with this fault, in one tick."""
    world.now_s += 1
    world.tuner.begin_tick()
    failed, world.runs = world.runs, []
    for run in failed:
        run.ending, run.proves_server = TaskFault(fault, kind, "too much"), False
        world.tuner.ended(run)
    world.tuner.end_tick(lambda: world.waiting)


@pytest.mark.parametrize(("kind", "fault"), [("does_not_fit", "infra"), ("out_of_memory", "suspect")])
def test_memory_that_runs_out_under_requests_is_not_filled_so_far_again(monkeypatch, caplog, kind, fault):
    caplog.set_level(logging.WARNING)
    world = World(monkeypatch, knee(64)).loaded(64)
    world.work(200)
    assert world.tuner.limits.llm == 66
    fail_all(world, kind, fault)
    told = ["Memory ran out under 65 requests to a:latest: at most 48 at once"]
    assert [record.getMessage() for record in caplog.records] == told, "one step for all that failed at one moment"
    world.most = 0
    assert world.work(600) == []
    assert world.most <= 48


def test_faults_of_another_kind_lower_nothing(monkeypatch):
    world = World(monkeypatch, knee(8)).loaded(64)
    world.work(300)
    at = world.tuner.limits.llm
    for kind, fault in (("busy", "infra"), ("out_of_memory", "poison"), ("runner_died", "suspect")):
        fail_all(world, kind, fault)
        world.work(20)
    assert world.tuner.limits.llm == at


def test_for_prefix_groups_nothing_waits_in_the_server_so_that_each_slot_goes_on_with_its_own(monkeypatch):
    world = World(monkeypatch, knee(64)).loaded(8)
    world.work(300)
    assert (world.tuner.limits.llm, world.tuner.slot_each) == (9, False)
    world.group = "g1234"
    world.work(20)
    assert (world.tuner.limits.llm, world.tuner.slot_each) == (8, True)
    unsaid = World(monkeypatch, knee(64)).loaded(0)
    unsaid.work(20)
    assert not unsaid.tuner.slot_each


def test_a_number_that_is_set_is_obeyed_and_measured(monkeypatch):
    world = World(monkeypatch, knee(64), LlmSettings(slots=4)).loaded(4, "set in the configuration")
    assert world.work(300) == []
    assert world.most == 4
    assert world.tuned.tokens_per_s == pytest.approx(40)
    assert world.tuned.why == "4 slots: 40 tokens/s; set in the configuration"


def test_a_server_that_does_not_say_is_tuned_in_flight_up_to_the_setting(monkeypatch):
    world = World(monkeypatch, knee(512), LlmSettings(slots="auto", slots_max=32)).loaded(0, "")
    assert world.tuner.limits.llm == 4
    assert world.work(600) == []
    assert (world.tuner.limits.llm, world.most, world.tuned.capacity) == (32, 32, 0)


def test_what_was_found_is_remembered_for_the_card_and_taken_up_again(monkeypatch):
    memory = Memory()
    World(monkeypatch, knee(32), memory=memory).loaded(64).work(900)
    (found,) = memory.records
    assert (found.card, found.engine, found.model, found.digest, found.length) == ("GPU-1", "ollama", MODEL, "abc", "short")
    assert (found.in_flight, found.capacity, found.top_in_flight) == (32, 64, 32)
    again = World(monkeypatch, knee(32), memory=memory).loaded(64)
    again.work(1)
    assert again.tuner.limits.llm == 32
    assert again.tuned.best_tokens_per_s == pytest.approx(320, rel=0.05)


def test_long_requests_have_a_tuning_of_their_own(monkeypatch):
    memory = Memory(
        SlotRecord(card="GPU-1", engine="ollama", model=MODEL, digest="abc", length="long", in_flight=2, tokens_per_s=20.0)
    )
    world = World(monkeypatch, knee(16), memory=memory).loaded(64)
    world.work(600)
    world.rate, world.tokens = knee(2), 6000
    world.work(60)
    assert world.tuner.limits.llm == 2
    assert {record.length for record in memory.records} == {"short", "long"}


def test_what_is_answered_by_the_cache_or_fails_tells_nothing(monkeypatch):
    world = World(monkeypatch, knee(16)).loaded(64)
    for _ in range(50):
        run = Request(claim_of(llm("t", MODEL)), 0, 100, world.now_s, elapsed_s=0.01, proves_server=False)
        run.ending = Trail(result={})
        world.tuner.began(run)
        world.tuner.end_tick(lambda: 0)
        world.now_s += 0.01
        world.tuner.begin_tick()
        world.tuner.ended(run)
    assert world.tuner.limits.llm == FIRST
    assert world.tuned.tokens_per_s == 0


# -- a reload for more ---------------------------------------------------------------------------------------------------

DETAILS = ModelDetails(name=MODEL, architecture="llama", context_length=4096, kv_bytes_per_token=1 << 15)
ROOMY = {"free_mib": lambda: 24_000, "weights_mib": lambda model: 2000}


def climbing(monkeypatch, waiting, **known):
    world = World(monkeypatch, knee(64), known={**ROOMY, **known}, waiting=waiting)
    assert world.slots.choose(MODEL, DETAILS, embedding=False).slots == 16
    return world.loaded(16)


def test_where_the_load_stands_in_the_way_and_much_waits_a_reload_for_twice_as_many_is_asked_for(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    world = climbing(monkeypatch, waiting=50_000)
    assert world.work(400) == [32]
    assert world.slots.is_climbing(MODEL)
    assert "Loading a:latest anew for 32 slots: 16 slots: 160 tokens/s" in caplog.text
    world.loaded(32, "climbing pays")
    world.work(400)
    assert world.tuner.limits.llm == 34


def test_for_little_work_no_reload_is_asked_for(monkeypatch):
    assert climbing(monkeypatch, waiting=40).work(600) == []


def test_what_found_no_memory_once_is_not_asked_for_again(monkeypatch):
    world = climbing(monkeypatch, waiting=50_000)
    world.memory.keep(
        SlotRecord(card="GPU-1", engine="ollama", model=MODEL, digest="abc", length="short", failed=17, failed_context=4096)
    )
    assert world.work(600) == []


def test_what_found_no_memory_with_a_longer_context_is_no_bound_with_this_one(monkeypatch):
    world = climbing(monkeypatch, waiting=50_000)
    world.memory.keep(SlotRecord(card="GPU-1", engine="ollama", model=MODEL, failed=4, failed_context=32768))
    assert world.slots.no_room(MODEL, 16) == 8
    assert world.slots.choose(MODEL, DETAILS, embedding=False).slots >= 8


def test_after_a_reload_that_found_no_memory_it_goes_on_as_before(monkeypatch):
    world = climbing(monkeypatch, waiting=50_000)
    assert world.work(400)[0] == 32
    assert world.slots.choose(MODEL, DETAILS, embedding=False).slots == 32
    assert world.slots.no_room(MODEL, 32) == 16
    world.loaded(16, "32 found no memory")
    world.waiting = 100_000
    asked = world.work(600)
    assert all(slots < 32 for slots in asked)
    assert "32 found no memory" in world.tuned.why


def test_a_reload_that_gives_no_more_is_not_asked_for_again(monkeypatch):
    """A server in another machine may run for a number that nobody here has set."""
    world = climbing(monkeypatch, waiting=50_000)
    assert world.work(400) == [32]
    assert world.slots.choose(MODEL, DETAILS, embedding=False).slots == 32
    world.loaded(16, "there is memory for them")
    world.slots.withdraw(MODEL)
    world.now_s += 100
    assert world.work(600) == []
    world.loaded(24)
    assert world.work(600) == [48]


def test_a_reload_that_would_give_no_more_is_not_on_record_for_a_later_load(monkeypatch):
    world = climbing(monkeypatch, waiting=50_000, free_mib=lambda: 5_400)
    assert world.work(600) == []
    assert not world.slots.is_climbing(MODEL)


# -- too few requests to tell anything -----------------------------------------------------------------------------------


def test_a_batch_that_ends_during_a_step_up_says_nothing_about_it(monkeypatch):
    world = World(monkeypatch, knee(16)).loaded(64)
    while world.tuner.limits.llm == FIRST:
        world.work(1)
    world.work(1)
    (trying, tuned) = world.tuner.limits.llm, world.tuned.why
    idle(world, 3600)
    assert (world.tuner.limits.llm, world.tuned.why) == (trying, tuned)
    world.work(600)
    assert world.tuner.limits.llm == 16


def idle(world, for_s):
    """All that is in flight ends, and nothing comes for so long."""
    while world.runs:
        world._pass()
        world.tuner.end_tick(lambda: 0)
    for _ in range(20):
        world.now_s += for_s / 20
        world.tuner.begin_tick()
        world.tuner.end_tick(lambda: 0)


def test_an_idle_night_during_a_step_up_neither_spoils_it_nor_puts_the_next_off(monkeypatch):
    world = World(monkeypatch, knee(16), LlmSettings(slots="auto", slots_max=16)).loaded(16)
    while world.tuner.limits.llm < 16:
        world.work(1)
    idle(world, 12 * 3600)
    while not world.tuned.settled:
        world.work(1)
    assert world.tuned.why.startswith("16 slots: ")
    began_s = world.now_s
    while world.tuned.settled:
        world.work(1)
        assert world.now_s < began_s + 3600
