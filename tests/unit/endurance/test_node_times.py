"""Times of recovery, by the attempts in the tasks' records."""

from tests.helpers.node_times import Ran, Struck, again_s, back_s, began_between, broken_off, busy_share, ran

BOX2 = frozenset({"box2-gpu0"})


def test_an_attempt_that_broke_off_is_put_down_to_the_last_event_that_struck_its_worker():
    events = [
        Struck(kind="server", workers=BOX2, at_s=10.0, over_s=10.0),
        Struck(kind="freeze", workers=BOX2, at_s=12.0, over_s=42.0),
        Struck(kind="relay", workers=frozenset({"box3-gpu0"}), at_s=13.0, over_s=13.0),
    ]
    broken = [Ran("box2-gpu0", 9.0, 20.0, "released"), Ran("box3-gpu0", 21.0, 22.0, "completed")]
    survived = [Ran("box2-gpu0", 9.0, 11.0, "completed")]
    of_itself = [Ran("box2-gpu0", 1.0, 2.0, "retried"), Ran("box2-gpu0", 3.0, 4.0, "completed")]
    suspect = [Ran("box2-gpu0", 9.0, 10.5, "retried", suspect=True), Ran("box2-gpu0", 60.0, 61.0, "completed")]
    tasks = [broken, survived, of_itself, suspect]
    assert again_s(events, tasks) == [[], [9.0], []]
    assert again_s(events, tasks, suspects=True) == [[50.0], [], []]


def test_a_node_is_back_when_one_of_its_workers_begins_a_task_after_the_trouble():
    events = [
        Struck(kind="cut", workers=BOX2, at_s=10.0, over_s=30.0),
        Struck(kind="cut", workers=BOX2, at_s=80.0, over_s=99.0),
    ]
    attempts = [
        Ran("box2-gpu0", 5.0, 40.0, "completed"),
        Ran("box2-gpu0", 33.0, 34.0, "completed"),
        Ran("x", 31.0, 32.0, "completed"),
    ]
    assert back_s(events, attempts) == [3.0, None]


def test_what_a_drained_node_took_and_broke_off():
    attempts = [
        Ran("box2-gpu0", 1.0, 5.0, "completed"),
        Ran("box2-gpu0", 2.0, 5.0, "released"),
        Ran("x", 6.0, 7.0, "completed"),
    ]
    assert broken_off(attempts, BOX2, 3.0) == 1
    assert began_between(attempts, BOX2, 1.5, 9.0) == 1
    assert began_between(attempts, BOX2, 2.0, 9.0) == 0


def test_the_busy_share_leaves_out_the_end():
    busy = [Ran("a", 0.0, 10.0, "completed"), Ran("b", 0.0, 8.0, "completed")]
    assert busy_share(busy, 2) == 1.0
    assert busy_share(busy, 4) == 0.5
    assert busy_share([], 4) == 0.0


def test_attempts_are_read_from_a_document():
    one = {
        "worker": "w",
        "started_at": "2026-01-01T00:00:01.500+00:00",
        "ended_at": "2026-01-01T00:00:02+00:00",
        "outcome": "completed",
    }
    (found,) = ran({"attempts": [one, {**one, "started_at": ""}]})
    assert (found.worker, found.ended_s - found.began_s, found.outcome) == ("w", 0.5, "completed")
