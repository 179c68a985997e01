"""Windows: one client's large batch leaves room for another's small one."""

from hypothesis import given
from hypothesis import strategies as st

from swarm.core.batches.windows import LEAST, WINDOW, WindowClaim, windows


def claim(name, client="a", waiting=0, left=1):
    return WindowClaim(batch_id=name, client=client, waiting=waiting, left=left)


def test_a_large_batch_has_one_window_and_anothers_small_one_goes_in_whole():
    assert windows([claim("big", left=100_000), claim("small", "b", left=50)]) == {"big": WINDOW, "small": 50}


def test_a_client_shares_one_window_and_a_stuck_batch_leaves_the_least():
    stuck = claim("stuck", waiting=WINDOW, left=50_000)
    assert windows([stuck, claim("next", left=5000)]) == {"next": LEAST}
    assert windows([stuck, claim("next", waiting=LEAST, left=5000)]) == {}


def test_a_window_is_refilled_by_halves():
    assert windows([claim("big", waiting=WINDOW - 10, left=9000)]) == {}
    assert windows([claim("big", waiting=WINDOW // 2, left=9000)]) == {"big": WINDOW // 2}
    assert windows([claim("big", waiting=WINDOW - 10, left=10)]) == {"big": 10}


@given(
    st.lists(
        st.builds(
            claim, st.uuids().map(str), st.sampled_from("abc"), st.integers(0, 2 * WINDOW), st.integers(0, 3 * WINDOW)
        ),
        max_size=12,
    )
)
def test_no_client_gets_more_than_its_window_and_the_least_of_each_batch(claims):
    found = windows(claims)
    for client in "abc":
        own = [c for c in claims if c.client == client]
        got = sum(found.get(c.batch_id, 0) for c in own)
        assert got <= max(0, WINDOW - sum(c.waiting for c in own)) + LEAST * len(own)
    for c in claims:
        assert 0 <= found.get(c.batch_id, 0) <= c.left
        if c.left and not c.waiting:
            assert found.get(c.batch_id), "none is starved"
