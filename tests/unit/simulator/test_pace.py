"""Requests at once share the rate of the curve, to the second, however they come and go."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.simulator.pace import NAMED, Curve, Pace, curve_of, drift_of
from tests.helpers.virtual_time import run_virtual

CURVE = Curve(((1, 10.0), (2, 16.0), (4, 20.0)))


async def ends_of(pace: Pace, requests: Sequence[tuple[float, float]]) -> list[float]:
    """When requests end that begin at a moment with so many tokens."""

    async def work(begin_s: float, tokens: float) -> float:
        await asyncio.sleep(begin_s)
        start = pace.join()
        try:
            await pace.reach(start + tokens)
        finally:
            pace.leave()
        return asyncio.get_running_loop().time()

    return list(await asyncio.gather(*(work(*request) for request in requests)))


def test_a_table_is_interpolated() -> None:
    assert [CURVE.rate(n) for n in (1, 2, 3, 4, 9)] == [10, 16, 18, 20, 20]
    assert Curve(((4, 20.0),)).rate(1) == 5, "below the first point in proportion"
    assert curve_of(("2:16", "1:10", "4:20")) == CURVE
    assert curve_of(()) is None
    assert all(curve_of((name,)) for name in NAMED)


@pytest.mark.parametrize("bad", [("1",), ("a:b",), ("0:5",), ("1:0",), ("1:5", "1:6"), ("no-such-curve",)])
def test_what_is_no_curve_is_refused(bad: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=bad[0]):
        curve_of(bad)


def test_one_that_comes_slows_the_others_and_one_that_goes_speeds_them_up() -> None:
    async def scene() -> list[float]:
        return await ends_of(Pace(CURVE.rate), [(0, 100), (5, 40), (5, 1000)])

    # Alone at 10/s until 5 s: 50 left. Then three at 6/s each, until the second ends, which leaves two at 8/s.
    first, second, third = run_virtual(scene())
    assert second == pytest.approx(5 + 40 / 6)
    assert first == pytest.approx(second + 10 / 8)
    assert third == pytest.approx(first + (1000 - 50) / 10)


def test_one_that_hangs_up_gives_its_share_back() -> None:
    async def scene() -> float:
        pace = Pace(CURVE.rate)
        other = asyncio.ensure_future(ends_of(pace, [(0, 1000)]))
        one = asyncio.ensure_future(ends_of(pace, [(0, 80)]))
        await asyncio.sleep(5)
        other.cancel()
        return (await one)[0]

    assert run_virtual(scene()) == pytest.approx(5 + 40 / 10)


def test_a_drift_takes_hold_in_mid_request() -> None:
    drift = drift_of(("4:0.5",))

    async def scene() -> list[float]:
        loop = asyncio.get_running_loop()
        (moment, factor), *_ = drift
        pace = Pace(
            lambda n: CURVE.rate(n) * (factor if loop.time() >= moment else 1.0),
            lambda: moment if loop.time() < moment else math.inf,
        )
        return await ends_of(pace, [(0, 100)])

    assert run_virtual(scene()) == pytest.approx([4 + 60 / 5])


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.5, 500)), min_size=1, max_size=12))
def test_no_token_is_lost_or_made(requests: list[tuple[float, float]]) -> None:
    """On a flat curve the last one ends when a single server would have done all the work that had come by then."""

    async def scene() -> list[float]:
        return await ends_of(Pace(lambda n: 20.0 if n else 0.0), requests)

    busy_until = 0.0
    for begin_s, tokens in sorted(requests):
        busy_until = max(busy_until, begin_s) + tokens / 20
    assert max(run_virtual(scene())) == pytest.approx(busy_until)
