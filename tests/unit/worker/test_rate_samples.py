"""The sums in a heartbeat that tell a worker's rates, and the energy of each request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.energy import EnergyMeter
from swarm.core.rates import WINDOW_S, rates_of
from swarm.core.worker import ModelTally, SlotView
from swarm.worker import rate_samples
from swarm.worker.rate_samples import EnergyShares, RateSamples
from tests.support.builders import a_heartbeat

MODEL = "m:1"


class Clock:
    now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(rate_samples, "monotonic", found)
    return found


def meter(total_j, at_s=0.0):
    """The cards have used so much; they draw nothing now."""
    return EnergyMeter(at_s=at_s, total_j=total_j)


def beat(tokens, *, model=MODEL):
    return a_heartbeat(
        "w", holding=model, learned={model: ModelTally(completed=tokens // 100, tokens_in=tokens, tokens_out=tokens)}
    )


def answering(progress, phase="running"):
    return SlotView(task_id="t", task_class="llm", model=MODEL, phase=phase, progress=progress)


def with_samples(heartbeat, samples):
    return type(heartbeat)(**{f: getattr(heartbeat, f) for f in heartbeat.__struct_fields__} | {"recent": samples})


def test_the_rate_is_that_of_the_last_minute(clock):
    """100 tokens/s for five minutes, then 300: a minute later nothing of the first is in it; and it stays small."""
    samples, tokens = RateSamples(), 0
    for second in range(0, 400, 2):
        found = samples.with_now(beat(tokens), (), None)
        tokens += 2 * (100 if second < 300 else 300)
        clock.now_s += 2
    rates = rates_of(with_samples(beat(tokens), found))
    assert rates.tokens_out_per_s == pytest.approx(300)
    assert WINDOW_S <= rates.span_s <= WINDOW_S + rate_samples.STEP_S
    assert len(found) <= 9


def test_another_model_starts_anew(clock):
    samples = RateSamples()
    samples.with_now(beat(5000), (), None)
    clock.now_s += 30
    assert len(samples.with_now(beat(100, model="other:1"), (), None)) == 1
    clock.now_s += 10
    found = samples.with_now(beat(600, model="other:1"), (), None)
    assert rates_of(with_samples(beat(600, model="other:1"), found)).tokens_out_per_s == 50


def test_what_running_requests_have_generated_counts_and_what_waits_does_not(clock):
    samples = RateSamples()
    samples.with_now(beat(0), (), None)
    clock.now_s += 10
    now = samples.with_now(beat(0), (answering(400), answering(77, phase="waiting")), meter(12.34, 1007.0))[-1]
    assert (now.tokens_out, now.in_flight, now.at_s, now.energy_j, now.energy_at_s) == (400, 1, 10.0, 12.3, 7.0)


def test_requests_at_once_share_what_is_used_meanwhile():
    joules = [0.0]
    shares = EnergyShares(lambda: meter(joules[0]))
    shares.begin("a")
    joules[0] = 100.0
    shares.begin("b")
    joules[0] = 200.0
    assert shares.end("a") == 150.0
    joules[0] = 260.0
    assert shares.end("b") == 110.0
    joules[0] = 900.0
    shares.begin("c")
    assert shares.end("c") == 0.0, "what is used while nothing runs is no request's"
    assert shares.end("never begun") is None


def test_a_driver_that_does_not_say_leaves_it_unknown():
    shares = EnergyShares(lambda: None)
    shares.begin("a")
    assert shares.end("a") is None


@given(st.lists(st.tuples(st.sampled_from(["begin", "end", "use"]), st.integers(0, 5), st.floats(-20, 100)), max_size=60))
def test_the_shares_are_never_more_than_what_was_used(steps):
    joules, given_j, running = [0.0], 0.0, set()
    most_j = 0.0
    shares = EnergyShares(lambda: meter(joules[0]))
    for act, key, more_j in steps:
        if act == "use":
            joules[0] = max(0.0, joules[0] + more_j)  # a reading may correct what was reckoned ahead
            most_j = max(most_j, joules[0])
        elif act == "begin" and key not in running:
            running.add(key)
            shares.begin(key)
        elif act == "end" and key in running:
            running.discard(key)
            given_j += shares.end(key)
    assert given_j <= most_j + 0.01 * len(steps)
