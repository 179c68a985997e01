"""Blocks as plain text, on a terminal, and as JSON."""

from __future__ import annotations

import io
import json

import msgspec
from rich.console import Console

from swarm.cli.render import narrowed, to_json, to_plain, to_terminal
from swarm.clock import parse_iso
from swarm.config.settings import Settings
from swarm.core.task import TaskState
from swarm.core.worker import RateSample, TunedSlots
from swarm.plain_text import one_line
from swarm.queue.lookup import Located
from swarm.views import overview
from swarm.views.blocks import Block, Cell, Column, Line, Table, columns
from swarm.views.json_text import to_json_line
from swarm.views.model_rows import model_rows, models_table
from swarm.views.task_rows import active_rows, active_table, task_blocks, task_row, task_table
from swarm.views.worker_rows import card_rows, cards_table, gave_blocks, worker_lines, workers_table
from tests.helpers.cli_world import MODEL, Counts, brain, card, claim, healthy, lane, swarm, worker

SETTINGS = Settings()
COUNTS = Counts(pending={"llm@llama3.2:3b": 123}, processing={"worker-1": 1}, completed=200, failed=4, oldest_pending_s=12.0)


def on_terminal(blocks: list[Block], width: int) -> list[str]:
    out = io.StringIO()
    to_terminal(blocks, Console(file=out, width=width, force_terminal=True, color_system=None, highlight=False))
    return out.getvalue().splitlines()


def test_plain_tables_are_aligned_whole_and_without_trailing_blanks():
    columns = (Column("name"), Column("n", right=True), Column("why", gives_way=True))
    table = Table(columns=columns, rows=(("a", "1", "x" * 200), (Cell("long-name", "red"), "1,000", "")))
    first, second, third = to_plain([table]).splitlines()
    assert first == "NAME           N  WHY"
    assert second == "a              1  " + "x" * 200
    assert third == "long-name  1,000"


def test_an_empty_table_says_so():
    assert to_plain([Table(columns=(Column("a"),), rows=(), empty="nothing here")]) == "nothing here\n"
    assert on_terminal([Table(columns=(Column("a"),), rows=(), empty="nothing here")], 80) == ["nothing here"]


def test_text_from_outside_cannot_move_the_cursor_or_break_the_line():
    evil = "a\x1b[2Jb\nc\u202ed\udc80"
    assert one_line(evil) == "a\\x1b[2Jb\\nc\\u202ed\\udc80"
    for text in (
        to_plain([Line(evil)]),
        to_plain([Table(columns=(Column("x"),), rows=((evil,),))]),
        "\n".join(on_terminal([Line(evil)], 80)),
    ):
        assert "\x1b" not in text
        assert "\\x1b[2Jb\\nc" in text


def test_rich_markup_in_names_is_shown_not_obeyed():
    table = Table(columns=(Column("x"),), rows=(("[red]a[/red]",),))
    assert any("[red]a[/red]" in line for line in on_terminal([Line("[bold]b[/bold]"), table], 80))


def test_json_is_one_document_with_every_field():
    view = overview.status(healthy(), COUNTS, SETTINGS, brain=True)
    document = json.loads(to_json(view))
    assert document["queue"]["pending"] == {"total": 123, "by_class": {"llm": 123}, "by_model": {"llama3.2:3b": 123}}
    wanted = {"pending", "blocked", "processing", "completed", "failed", "cancelled", "corrupt", "stuck", "oldest_pending_s"}
    assert wanted <= set(document["queue"])
    assert document["cards"][0]["fault"] is None


def test_status_fits_80_columns_and_one_screen():
    blocks = overview.status_blocks(overview.status(healthy(), COUNTS, SETTINGS, brain=True))
    lines = on_terminal(blocks, 80)
    assert max(len(line) for line in lines) <= 80
    assert len(lines) <= 24
    text = "\n".join(lines)
    for word in ("worker-1", "worker-2", "busy", "idle", "d5de16d7", "3.3/24.0G", "87%", "61C", "211W", "123", "simulated"):
        assert word in text, word


def test_what_is_not_known_of_the_throughput_is_left_out():
    unknown = dict.fromkeys(("tasks_per_s", "tokens_in_per_s", "tokens_out_per_s", "power_w", "j_per_1k_tokens", "eta_s"))
    starting = overview.Throughput(**{**unknown, "eta_s": 34.0}, completed=3)
    assert overview.throughput_line(starting).text == "throughput: 34s to go; 3 done by these workers"
    assert "too short to tell" in overview.throughput_line(overview.Throughput(**unknown, completed=0)).text


def test_every_table_fits_80_columns_and_keeps_its_names():
    picture = swarm(
        brain(),
        *(worker(f"worker-{n}", n, model="qwen2.5:32b-instruct-q4_K_M", task_id=f"task{n}") for n in range(1, 9)),
        lanes=(lane(123_456, "qwen2.5:32b-instruct-q4_K_M"),),
        claims=tuple(claim(f"task{n}", f"worker-{n}") for n in range(1, 9)),
        gpus=tuple(card(n) for n in range(1, 9)),
    )
    tables = {
        "workers": workers_table(worker_lines(picture, SETTINGS)),
        "gpus": cards_table(card_rows(picture)),
        "models": models_table(model_rows(picture)),
        "active": active_table(active_rows(picture, SETTINGS)),
    }
    for name, table in tables.items():
        lines = on_terminal([table], 80)
        assert max(len(line.rstrip()) for line in lines) <= 80, name
        shown, left_out = narrowed(table, 80)
        assert len(lines) == len(table.rows) + 2 + bool(left_out), (name, lines)
        text = "\n".join(lines)
        kept = [i for i, c in enumerate(table.columns) if not c.gives_way and c in shown.columns]
        for i in kept:
            assert table.columns[i].name in text, (name, text)
            for row in table.rows:
                assert (row[i].text if isinstance(row[i], Cell) else row[i]) in text, (name, text)


def test_columns_are_left_out_by_name_before_what_tells_rows_apart_is_cut():
    heads = columns("id", "model~~", "left>", "tok in>?", "source~?")
    table = Table(columns=heads, rows=(("prompts-1a2b3c4d", "qwen2.5:32b", "12", "1,319", "/data/prompts.jsonl"),))
    assert on_terminal([table], 80)[0].split() == ["id", "model", "left", "tok", "in", "source"]
    head, _, row, note = on_terminal([table], 40)
    assert (head.split(), row.split()) == (["id", "model", "left"], ["prompts-1a2b3c4d", "qwen2.5:32b", "12"])
    assert note.strip() == "too narrow for: tok in, source"
    assert "/data/prompts.jsonl" in to_plain([table]), "a pipe is never too narrow"


def test_models_tell_the_slots_of_all_that_hold_them_and_their_rate():
    tuned = TunedSlots(
        engine="ollama", in_flight=8, capacity=16, tokens_per_s=310.0, why="8 slots: 310 tokens/s; 16 gave 316"
    )
    views = [worker(f"worker-{n}", n, model="a:latest", task_id=f"task{n}") for n in (1, 2)]
    views = [
        msgspec.structs.replace(view, heartbeat=msgspec.structs.replace(view.heartbeat, tuned={"a:latest": tuned}))
        for view in views
    ]
    (row,) = model_rows(swarm(brain(), *views))
    assert row.slots == {"worker-1": tuned, "worker-2": tuned}
    text = to_plain([models_table([row])])
    assert "0/16" in text
    assert "620" in text


def test_a_card_that_says_nothing_and_a_lost_one_are_shown():
    silent = card(0, memory_used_mib=None, memory_total_mib=None, utilisation_pct=None, temperature_c=None, power_w=None)
    text = to_plain([cards_table(card_rows(swarm(gpus=(silent, card(1, fault="GPU is lost")))))])
    assert "GPU is lost" in text
    assert text.splitlines()[1].split()[-6:] == ["-", "-", "-", "-", "-", "-"]


def test_a_task_is_shown_with_its_attempts_error_and_simulation_mark():
    document = {
        "task_id": "t1", "task_class": "llm", "model": "m", "state": "failed", "simulated": True,
        "request": {"messages": [{"role": "user", "content": "x" * 500}]},
        "error": {"type": "timeout", "message": "no token for 120 s"},
        "attempts": [{"attempt": 1, "worker": "worker-1", "outcome": "retried", "error": {"type": "t", "message": "gone"}}],
    }  # fmt: skip
    text = to_plain(task_blocks(document))
    for words in ("task t1: failed", "simulated", "timeout: no token for 120 s", "t: gone", "--json shows all"):
        assert words in text


def test_a_listing_tells_the_age_the_priority_and_who_ran_it():
    ran = {"state": "completed", "attempts": [{"worker": "worker-1"}, {"worker": "worker-2"}], "priority": 7}
    ran |= {"created_at": "2026-02-07T21:00:00+00:00", "completed_at": "2026-02-07T21:01:00+00:00"}
    waits = {"state": "pending", "created_at": "2026-02-07T21:00:00+00:00", "attempts": [{"worker": "worker-1"}]}
    rows = {
        state: task_row(Located(task_id="t1", state=TaskState(state), path=""), document)
        for state, document in (("completed", ran), ("pending", waits))
    }
    now_s = parse_iso("2026-02-07T21:03:05+00:00")
    shown = {state: to_plain([task_table([row], state=state, now_s=now_s)]).split() for state, row in rows.items()}
    assert shown["completed"][8:] == ["t1", "-", "-", "7", "2", "2m05s", "ago", "worker-2", "-"]
    assert shown["pending"][8:] == ["t1", "-", "-", "5", "1", "3m05s", "-", "-"], "the worker of then holds it no more"


def test_bytes_of_a_file_name_that_are_no_utf8_are_escaped_in_json():
    document = {"output": "\udcff.jsonl", "n": [1.5, None, "ü"]}
    for text in (to_json(document), to_json_line(document)):
        assert json.loads(text) == document
        assert text.encode()


def gives(**fields):
    """A busy worker that gave 400 tokens/s, with this in its heartbeat."""
    view = worker("worker-1", 1, task_id="t1")
    return msgspec.structs.replace(view, heartbeat=msgspec.structs.replace(view.heartbeat, **fields))


def test_what_a_worker_gave_is_shown_and_what_nobody_knows_is_a_dash():
    tuned = {
        MODEL: TunedSlots(in_flight=4, best_tokens_per_s=500.0, best_in_flight=4, history=((1, 41.0), (2, 80.0), (4, 480.0)))
    }
    (row,) = worker_lines(swarm(gives(tuned=tuned)), SETTINGS)
    assert (row.slots, row.tokens_per_s, row.share_of_best, row.power_w) == (4, 400.0, 0.8, None)
    gave = "20 400 80% - - 1: 41, 2: 80, 4: 480"
    assert " ".join(to_plain(gave_blocks([row])).splitlines()[-1].split()[1:]) == gave
    powered = (RateSample(100.0, energy_j=0.0, energy_at_s=98.0), RateSample(150.0, 100, 1000, 20_000, 1, 10_000.0, 148.0))
    (row,) = worker_lines(swarm(gives(recent=powered)), SETTINGS)
    assert (row.power_w, row.energy_j, row.j_per_1k_tokens, row.share_of_best) == (200.0, 10_000.0, 500.0, None)
    assert to_plain(gave_blocks([row])).splitlines()[-1].split()[1:] == ["20", "400", "-", "200W", "500", "-"]


def test_a_worker_that_was_restarted_or_is_dead_has_no_rate():
    """The first heartbeat of a new life counts from nothing."""
    (row,) = worker_lines(swarm(gives(recent=(RateSample(0.1, 0, 0, 0),), epoch=2)), SETTINGS)
    assert (row.tokens_per_s, row.tokens_in_per_s) == (None, None)
    (dead,) = worker_lines(swarm(msgspec.structs.replace(gives(), alive=False)), SETTINGS)
    assert (dead.tokens_per_s, dead.share_of_best) == (None, None)
    assert gave_blocks([row, dead]) == []


def test_a_worker_with_hundreds_in_flight_names_a_few():
    claims = tuple(claim(f"t{n}", "worker-1") for n in range(256))
    (row,) = worker_lines(swarm(gives(), claims=claims), SETTINGS)
    assert len(row.tasks) == 256
    assert to_plain([workers_table([row])]).splitlines()[-1].endswith("t0, t1, t2, t3, 252 more")
