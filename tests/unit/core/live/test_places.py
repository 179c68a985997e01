"""Places of live requests: what lost least gives way, and batch work keeps its share of the card in the long run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.core.live.places import (
    CREDIT_S,
    KEEP_S,
    BatchRequest,
    LiveUse,
    advanced,
    batch_slots,
    entered,
    fresh_use,
    giving_way,
    left,
    place_limit,
    surplus,
)

ages = st.floats(0, 1000, allow_nan=False)
batches = st.lists(st.builds(BatchRequest, ages, st.just(value=False)), max_size=20)
shares = st.floats(0.01, 1.0)


def test_the_limit_is_the_share_but_always_one_where_there_is_a_slot():
    assert [place_limit(slots, 0.5) for slots in (0, 1, 2, 3, 8)] == [0, 1, 1, 1, 4]
    assert place_limit(100, 0.29) == 29
    assert place_limit(4, 1.0) == 4


@given(batches, st.integers(0, 8), st.integers(1, 20))
def test_those_stopped_are_the_youngest_and_no_more_than_make_room_for_one(batch, live, room):
    stopped = giving_way(batch, live=live, room=room, credit_s=1.0)
    if stopped is None:
        assert live + 1 > room, "stopping them all would not make room"
        return
    assert len(batch) - len(stopped) + live + 1 <= room
    assert not stopped or len(batch) - len(stopped) + live + 1 == room
    left_ages = [one.age_s for index, one in enumerate(batch) if index not in stopped]
    assert all(batch[index].age_s <= age for index in stopped for age in left_ages)


@given(batches.filter(len), st.integers(0, 8))
def test_without_credit_nothing_is_stopped(batch, live):
    assert giving_way(batch, live=live, room=len(batch) + live, credit_s=0.0) is None
    assert giving_way(batch, live=live, room=len(batch) + live + 1, credit_s=0.0) == ()


def test_what_must_run_alone_gives_way_although_there_is_room_and_it_is_old():
    assert giving_way([BatchRequest(50.0, alone=True)], live=0, room=8, credit_s=1.0) == (0,)
    assert giving_way([BatchRequest(50.0, alone=True)], live=0, room=8, credit_s=0.0) is None


@given(batches, st.integers(0, 8), st.integers(1, 20))
def test_what_began_beside_a_live_request_is_too_much_only_above_the_room(batch, live, room):
    stopped = surplus(batch, live=live, room=room)
    assert len(stopped) == (min(len(batch), max(0, len(batch) + live - room)) if live else 0)


steps = st.lists(st.tuples(st.floats(0, 20), st.booleans(), st.floats(0, 30)), max_size=60)


@given(st.integers(1, 16), shares, steps)
def test_batch_work_keeps_its_share_of_the_card_in_the_long_run(slots, share, wishes):
    """Whatever is asked when: live requests and what was stopped for them take the share of the time, and the credit."""
    use = fresh_use(0.0, slots=slots, share=share)
    limit, room, lost_s, longest_s = place_limit(slots, share), slots, 0.0, 0.0
    for pause_s, comes, age_s in wishes:
        use = advanced(use, use.at_s + pause_s, slots=slots, share=share)
        if not comes and use.in_flight:
            use = left(use, use.at_s)
        elif use.in_flight < limit:
            batch = [BatchRequest(age_s)] * max(0, batch_slots(slots, use, room=room) - use.in_flight)
            stopped = giving_way(batch, live=use.in_flight, room=room, credit_s=use.credit_s)
            if stopped is None:
                continue
            cost_s = sum(batch[index].age_s for index in stopped)
            assert not cost_s or use.credit_s > 0
            use, lost_s, longest_s = entered(use, cost_s), lost_s + cost_s, max(longest_s, cost_s)
        assert use.in_flight + len(use.kept_until_s) <= limit
    assert lost_s <= share * slots * (CREDIT_S + use.at_s) + longest_s


def test_a_place_is_kept_for_the_next_and_given_back_when_none_comes():
    use = left(entered(fresh_use(0.0, slots=8, share=0.5)), 10.0)
    use = advanced(use, 10.0 + KEEP_S / 2, slots=8, share=0.5)
    assert (use.kept, batch_slots(8, use, room=8)) == (1, 7)
    assert (entered(use).kept, batch_slots(8, entered(use), room=8)) == (0, 8), "the live request itself takes it up"
    use = advanced(use, 10.0 + KEEP_S, slots=8, share=0.5)
    assert (use.kept, use.active, batch_slots(10, use, room=8)) == (0, False, 10)


def test_one_live_request_after_the_other_keeps_one_place():
    use = LiveUse(at_s=0.0, credit_s=100.0, in_flight=3)
    for _ in range(3):
        use = left(use, 0.0)
    for second in range(1, 9):
        use = left(entered(advanced(use, float(second), slots=8, share=0.5)), float(second))
    assert use.kept == 1
