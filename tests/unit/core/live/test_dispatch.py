"""Live requests and places, brought together in any order of events."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from swarm.core.lanes import Pauses
from swarm.core.live.demand import KEPT_S, ModelDemand
from swarm.core.live.dispatch import LiveDispatch
from swarm.core.live.routing import LiveWorker
from swarm.core.live.waiting import Ticket

MODELS = ("a:1b", "b:2b")
MAX_WAIT_S, QUEUE_MAX = 30.0, 8


def worker(name="w1", model=MODELS[0], limit=1, beat=0, *, ready=True):
    return LiveWorker(name=name, model=model, limit=limit, ready=ready, beat=beat, servable=frozenset(MODELS), listed=True)


def dispatch(*workers, queue_max=QUEUE_MAX):
    made = LiveDispatch(queue_max=queue_max, max_wait_s=MAX_WAIT_S)
    made.see(workers, Pauses(), starting=False)
    return made


def ticket(client="me", model=MODELS[0]):
    return Ticket(client=client, model=model)


class Anything(RuleBasedStateMachine):
    """Requests come, leave, end, are refused and fail, while heartbeats come and time passes."""

    def __init__(self):
        super().__init__()
        self.now_s = 0.0
        self.beats = Counter()
        self.desk = dispatch(worker("w1"), worker("w2", limit=2))
        self.at: list[tuple[Ticket, str]] = []
        self.waiting: list[Ticket] = []
        self.given = []
        """Since the last change that was not a place given back: clients in the order in which they were served."""

    def place(self, found):
        for one, name in found:
            self.waiting.remove(one)
            self.at.append((one, name))

    @rule(client=st.sampled_from("xyz"), model=st.sampled_from(MODELS))
    def ask(self, client, model):
        one = ticket(client, model)
        name = self.desk.place_now(one, self.now_s)
        if name is not None:
            self.at.append((one, name))
        elif self.desk.queue.put(one, self.now_s):
            self.waiting.append(one)
        else:
            assert len(self.desk.queue) >= QUEUE_MAX

    @precondition(lambda self: self.at)
    @rule(data=st.data(), how=st.sampled_from(("ends", "is refused", "fails")), for_s=st.sampled_from((None, 0.5)))
    def leave_worker(self, data, how, for_s):
        one, name = self.at.pop(data.draw(st.integers(0, len(self.at) - 1)))
        self.desk.give_back(one, name, self.now_s)
        if how != "ends":
            if how == "is refused":
                self.desk.hold(name, self.now_s, for_s)
            else:
                self.desk.avoid(one, name)
            self.desk.queue.put_back(one, self.now_s)
            self.waiting.append(one)
        self.place(self.desk.assign(self.now_s))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def client_leaves(self, data):
        one = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.desk.queue.remove(one)

    @rule(name=st.sampled_from(("w1", "w2")), model=st.sampled_from(MODELS), limit=st.integers(1, 3), ready=st.booleans())
    def heartbeat(self, name, model, limit, ready):
        self.beats[name] += 1
        changed = worker(name, model, limit, self.beats[name], ready=ready)
        self.desk.see({**self.desk.workers, name: changed}.values(), Pauses(), starting=False)
        self.place(self.desk.assign(self.now_s))

    @rule(seconds=st.floats(0.1, 12.0))
    def time_passes(self, seconds):
        """As the caller does it: up to the next moment that the dispatch names, and so on."""
        end_s = self.now_s + seconds
        while (at := self.desk.next_s()) is not None and at <= end_s:
            self.now_s = max(at, self.now_s)
            for one in self.desk.queue.expired(self.now_s):
                self.waiting.remove(one)
            self.place(self.desk.assign(self.now_s))
        self.now_s = end_s

    @invariant()
    def nobody_waits_too_long(self):
        assert all(one.waited_s + self.now_s - one.since_s < MAX_WAIT_S + 1e-6 for one in self.waiting)

    @invariant()
    def what_is_counted_is_so(self):
        assert len(self.desk.queue) == len(self.waiting)
        at = Counter(name for _, name in self.at)
        assert all(self.desk.in_flight(name) == at[name] for name in ("w1", "w2"))
        demand = self.desk.demand(self.now_s)
        for model in MODELS:
            found = demand.get(model, ModelDemand())
            assert found.waiting == sum(one.model == model for one in self.waiting)
            assert found.in_flight == sum(one.model == model for one, _ in self.at)

    @rule()
    def a_new_one_never_breaks_a_limit(self):
        before = {name: self.desk.in_flight(name) for name in self.desk.workers}
        one = ticket("z")
        name = self.desk.place_now(one, self.now_s)
        if name is not None:
            assert before[name] < self.desk.workers[name].limit
            assert self.desk.workers[name].ready and self.desk.workers[name].model == one.model
            self.at.append((one, name))


TestAnything = Anything.TestCase


@given(st.lists(st.integers(1, 6), min_size=2, max_size=4))
def test_no_client_starves_another(numbers):
    """However many requests the others have: between two of one client's, each other client that waits gets one."""
    desk = dispatch(worker(), queue_max=100)
    running = ticket("first")
    assert desk.place_now(running, 0.0) == "w1"
    waiting = Counter({f"client {n}": number for n, number in enumerate(numbers)})
    for client, number in waiting.items():
        assert all(desk.queue.put(ticket(client), 0.0) for _ in range(number))
    served = []
    while len(desk.queue):
        desk.give_back(running, "w1", 0.0)
        ((running, _),) = desk.assign(0.0)
        served.append(running.client)
    rounds = max(numbers)
    expected = [client for n in range(rounds) for client in waiting if waiting[client] > n]
    assert served == expected


def test_a_worker_that_refuses_is_asked_again_after_its_next_heartbeat():
    desk = dispatch(worker())
    one = ticket()
    assert desk.place_now(one, 0.0) == "w1"
    desk.give_back(one, "w1", 0.0)
    desk.hold("w1", 0.0, None)
    desk.queue.put_back(one, 0.0)
    assert not desk.assign(5.0)
    desk.see([worker(beat=1)], Pauses(), starting=False)
    assert desk.assign(5.0) == [(one, "w1")]


def test_a_worker_that_is_busy_is_asked_again_when_it_said():
    desk = dispatch(worker())
    one = ticket()
    desk.place_now(one, 0.0)
    desk.give_back(one, "w1", 0.0)
    desk.hold("w1", 0.0, 0.5)
    desk.queue.put_back(one, 0.0)
    assert desk.next_s() == 0.5
    assert not desk.assign(0.4)
    assert desk.assign(0.5) == [(one, "w1")]


def test_after_a_fault_another_worker_is_asked_and_the_same_one_only_when_it_has_recovered():
    desk = dispatch(worker("w1"), worker("w2"))
    one = ticket()
    failed = desk.place_now(one, 0.0)
    desk.give_back(one, failed, 0.0)
    desk.avoid(one, failed)
    desk.queue.put_back(one, 0.0)
    ((_, second),) = desk.assign(0.0)
    assert second != failed

    alone = dispatch(worker("w1"))
    one = ticket()
    assert alone.place_now(one, 0.0) == "w1"
    alone.give_back(one, "w1", 0.0)
    alone.avoid(one, "w1")
    alone.queue.put_back(one, 0.0)
    for beat, found in ((0, []), (1, []), (2, [(one, "w1")])):
        alone.see([worker(beat=beat)], Pauses(), starting=False)
        assert alone.assign(0.0) == found


def test_a_model_is_named_for_a_while_after_its_last_request():
    desk = dispatch(worker())
    one = ticket()
    desk.place_now(one, 0.0)
    desk.give_back(one, "w1", 1.0)
    assert desk.demand(KEPT_S) == {MODELS[0]: ModelDemand()}
    assert desk.demand(KEPT_S + 2) == {}
