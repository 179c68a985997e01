"""The progress of a run: in one line, and as a picture that fits the terminal."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from swarm.cli.run.progress import Progress, RunCard, RunView, card_line, headline, picture

CARDS = tuple(
    RunCard(worker=f"worker-{n}", status="busy", model="llama3.2:3b", slots_busy=1, done=50, tokens_per_s=98.0)
    for n in (1, 2)
)
VIEW = RunView(
    done=400,
    failed=3,
    total=1319,
    elapsed_s=50.0,
    items_per_s=8.0,
    tokens_in_per_s=640.0,
    tokens_out_per_s=1234.0,
    cards=CARDS,
    simulated=True,
)


def test_the_headline_says_all_in_one_line():
    line = headline(VIEW)
    for words in (
        "403/1,319 (31%)",
        "400 done",
        "3 failed",
        "916 left",
        "8.0/s items",
        "640/s in 1,234/s out",
        "ETA 1m54s",
        "simulated",
    ):
        assert words in line, words
    assert "\n" not in line


def test_resumed_items_count_as_done_before():
    view = msgspec.structs.replace(VIEW, earlier=900, done=10, failed=0)
    assert view.left == 409
    assert "910/1,319" in headline(view)
    assert "900 from before" in headline(view)


@pytest.mark.parametrize(
    "changes", [{"total": 0, "done": 0, "failed": 0}, {"items_per_s": None}, {"items_per_s": 0.0}, {"done": 5000}]
)
def test_odd_numbers_break_nothing(changes):
    view = msgspec.structs.replace(VIEW, **changes)
    assert headline(view)
    assert view.left >= 0
    Console(file=io.StringIO(), width=80).print(picture(view, 80))


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_picture_fits_the_terminal_with_a_line_per_card(width):
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None).print(picture(VIEW, width))
    lines = out.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    for card in CARDS:
        assert any(line.startswith(card.worker) for line in lines)
    if width >= 80:
        assert any("916 left" in line for line in lines)
        assert len(lines) == 5


def test_long_names_do_not_break_a_cards_line():
    line = card_line(RunCard(worker="w" * 32, status="unready", model="hf.co/" + "m" * 190, tokens_per_s=None, done=123456))
    assert len(line) <= 78


def test_what_is_not_known_yet_is_left_out():
    blank = RunView(done=0, failed=0, total=24)
    assert headline(blank) == "0/24 (0%), 0 done, 0 failed, 24 left"
    at_the_end = msgspec.structs.replace(
        blank, done=24, elapsed_s=4.0, items_per_s=11.0, tokens_out_per_s=0.0, state="finished"
    )
    assert headline(at_the_end) == "24/24 (100%), 24 done, 0 failed, 0 left, 6.0/s items, 4.0s in all"


def test_without_a_terminal_a_plain_line_every_few_seconds_and_at_the_end():
    out, now = io.StringIO(), [0.0]
    with Progress(out=out, every_s=5.0, clock=lambda: now[0]) as progress:
        for n in range(100):
            progress.update(msgspec.structs.replace(VIEW, done=VIEW.done + n))
            now[0] += 0.11
        progress.update(msgspec.structs.replace(VIEW, done=1316, state="finished"))
    lines = out.getvalue().splitlines()
    assert len(lines) == 4  # at 0, 5 and 10 seconds, and the end
    assert "\x1b" not in out.getvalue()
    assert lines[-1].startswith("1,319/1,319 (100%)")
    assert "26/s items, 50s in all" in lines[-1], "over the whole, not of late"


def test_a_line_that_tells_nothing_new_comes_once_a_minute():
    out, now = io.StringIO(), [0.0]
    with Progress(out=out, every_s=5.0, clock=lambda: now[0]) as progress:
        for _ in range(130):
            progress.update(msgspec.structs.replace(VIEW, elapsed_s=now[0]))
            now[0] += 1.0
        assert len(out.getvalue().splitlines()) == 3, "at the beginning, and after one and two minutes"
        progress.update(msgspec.structs.replace(VIEW, failed=VIEW.failed + 1))
        assert len(out.getvalue().splitlines()) == 4, "news comes at once"


def test_quiet_is_quiet():
    out = io.StringIO()
    with Progress(out=out, quiet=True) as progress:
        progress.update(VIEW)
    assert out.getvalue() == ""
