"""`swarm top` as a pure machine: every key, every size, no terminal."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.cli.top.keys import split_keys
from swarm.cli.top.screen import screen
from swarm.cli.top.screen_state import Act, Look, TopData, TopState, press, seen, tasks_per_s, tokens_per_s
from swarm.config.settings import Settings
from swarm.core.worker import WorkerStatus
from swarm.views import overview
from swarm.views.task_rows import TaskRow
from tests.helpers.cli_world import Counts, card, claim, healthy, lane, swarm, worker

FAILED = tuple(
    TaskRow(task_id=f"f{i}", state="failed", attempt=3, model="m:1", completed_at=f"2026-02-07T21:0{i}:00", error="bad: x")
    for i in range(3)
)


def looked(snapshot=None, *, mono_s: float = 100.0, completed: int = 0, **more) -> TopData:
    counts = Counts(pending={"llm@llama3.2:3b": 123}, processing={"worker-1": 1}, completed=completed, oldest_pending_s=9.0)
    status = overview.status(snapshot or healthy(), counts, Settings(), brain=True, supervisor=True)
    return TopData(mono_s=mono_s, status=status, **more)


def after(*keys: str, data: TopData | None = None) -> tuple[TopState, Act | None]:
    state, act = seen(TopState(), data or looked(failed=FAILED)), None
    for key in keys:
        state, act = press(state, key)
    return state, act


def shown(state: TopState, width: int = 80, height: int = 24) -> list[str]:
    return [line.plain.rstrip() for line in screen(state, width, height)]


def busy_box(cards: int) -> TopData:
    workers = [worker(f"worker-{i}", i, status=WorkerStatus.BUSY, task_id=f"t{i:08d}") for i in range(1, cards)]
    dead = worker("worker-99", 99, alive=False)
    claims = tuple(claim(f"t{i:08d}", f"worker-{i}", elapsed_s=i) for i in range(1, cards))
    lanes = tuple(lane(n, f"model-{n}:1b") for n in (5, 60, 700))
    return looked(
        swarm(*workers, dead, lanes=lanes, claims=claims, gpus=tuple(card(i) for i in range(cards))), failed=FAILED
    )


def test_one_screen_at_80x24_shows_all_that_matters_alarms_first():
    lines = shown(after()[0])
    text = "\n".join(lines)
    assert len(lines) == 24
    assert lines[0].startswith("swarm ./queue  running  simulated")
    for word in ("3.3/24.0G", "87%", "61C", "211W", "worker-2", "llama3.2:3b", "d5de16d7 7.0s", "llm llama3.2:3b", "123"):
        assert word in text, word
    sick = shown(seen(TopState(), looked(swarm(worker("worker-1", alive=False), claims=(claim("t1", "worker-1"),)))))
    assert sick[3].startswith("ALARM ")
    assert any("try: " in line for line in sick[3:8])


@given(
    keys=st.lists(
        st.sampled_from([*"qjksrcyn?123 gG", "tab", "enter", "esc", "up", "down", "pgdn", "end", "left", "zzz"]), max_size=12
    ),
    width=st.integers(1, 220),
    height=st.integers(1, 60),
    cards=st.integers(0, 20),
)
@settings(max_examples=60)
def test_whatever_is_pressed_the_screen_is_filled_and_never_overrun(keys, width, height, cards):
    state = seen(TopState(), busy_box(cards))
    for key in keys:
        state, _ = press(state, key)
    lines = screen(state, width, height)
    assert len(lines) == height
    assert all(line.cell_len <= width for line in lines)


def test_the_chosen_line_is_always_in_sight():
    state = seen(TopState(), busy_box(16))
    for _ in range(20):
        assert any(state.selected in line for line in shown(state, 100, 20)), state.selected
        state, _ = press(state, "down")
    assert state.selected == "worker-99"


def test_the_choice_stays_on_its_line_when_lines_move_and_goes_to_the_first_when_it_is_gone():
    state, _ = after("down")
    assert state.selected == "worker-2"
    assert seen(state, looked(mono_s=101.0)).selected == "worker-2"
    assert seen(state, looked(swarm(worker("worker-1")), mono_s=101.0)).selected == "worker-1"


def test_cancelling_asks_first():
    state, act = after("2", "c")
    assert act is None
    assert "cancel d5de16d7? y / n" in shown(state)[-1]
    assert press(state, "y")[1] == Act("cancel", "d5de16d7")
    no, act = press(state, "n")
    assert act is None
    assert shown(no)[-1] == "d5de16d7 goes on"
    assert press(state, "q") == (no, None), "a key that is no yes is a no, and does nothing else"


def test_r_retries_the_chosen_failed_task_newest_first_and_says_when_there_is_none():
    assert after("3", "r")[1] == Act("retry", "f2")
    assert after("3", "j", "r")[1] == Act("retry", "f1")
    state, act = after("down", "r")
    assert act is None
    assert "choose a task" in shown(state)[-1]


def test_enter_looks_into_a_worker_and_esc_comes_back():
    state, act = after("enter")
    assert act == Act("look")
    assert "looking at worker-1" in shown(state)[0]
    detail = Look(subject="worker-1", kind="worker", facts=("GPU 0",), log=("[2026-02-07T21:05:50.123+01:00] [w] INFO  hi",))
    state = seen(state, looked(look=detail, mono_s=101.0))
    assert "21:05:50.123 w INFO  hi" in shown(state)
    assert press(state, "esc")[0].page == "main"
    assert press(state, "q")[1] is None, "q on a page goes back"
    assert after("q")[1] == Act("quit")
    assert press(state, "ctrl-c")[1] == Act("quit")


def test_sorting_by_trouble_puts_the_dead_first():
    state = seen(TopState(), busy_box(4))
    state, _ = press(state, "s")
    assert "trouble" in shown(state)[-1]
    rows = [line for line in shown(state, 120, 40) if "  dead " in line or "  busy " in line]
    assert "worker-99" in rows[0]


def test_speeds_are_measured_once_there_is_something_to_measure_by():
    state = seen(TopState(), looked(mono_s=0.0, completed=10))
    first = state.data.status.workers[0]
    assert tokens_per_s(state, first) == first.tokens_per_s == 400.0, "before that: as learned"
    assert tasks_per_s(state) is None
    more = looked(mono_s=10.0, completed=30)
    grown = msgspec.structs.replace(more.status.workers[0], tokens_out=first.tokens_out + 500)
    workers = (grown, *more.status.workers[1:])
    state = seen(state, msgspec.structs.replace(more, status=msgspec.structs.replace(more.status, workers=workers)))
    assert tokens_per_s(state, grown) == 50.0
    assert tasks_per_s(state) == 2.0
    assert len(seen(state, looked(mono_s=100.0)).samples) == 1, "old samples are let go"


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"\x1b[A\x1bOB\x1b[5~\x1b[F", ["up", "down", "pgup", "end"]),
        (b"jq\r\t\x7f\x03", ["j", "q", "enter", "tab", "backspace", "ctrl-c"]),
        (b"\x1b", ["esc"]),
        (b"\x1b[200~x", ["x"]),
        (b"\x1b[", []),
        ("ä\x00".encode(), []),
    ],
)
def test_keys_are_read_as_terminals_send_them(data, keys):
    assert split_keys(data) == keys


@given(st.binary(max_size=40))
def test_any_bytes_are_survived(data):
    split_keys(data)
