"""Live requests in what the commands show: once there are some, and not before."""

from __future__ import annotations

import pytest

from swarm.config.settings import Settings
from swarm.core.snapshot import SwarmSnapshot
from swarm.core.worker import LivePlaces
from swarm.views.live_rows import live_requests
from swarm.views.model_rows import model_rows, models_table
from swarm.views.overview import alarms, status, status_blocks
from swarm.views.queue_rows import queue_stats
from swarm.views.worker_rows import worker_lines, workers_table
from tests.helpers.cli_world import Counts
from tests.support.builders import a_claim, a_snapshot, a_worker, live_waiting

S = Settings()


def busy() -> SwarmSnapshot:
    places = LivePlaces(limit=2, in_flight=1, yielded=1)
    return a_snapshot(
        workers=[a_worker("worker-1", holding="a:1", live=places), a_worker("worker-2", live=LivePlaces())],
        claims=[a_claim("t1", worker="worker-1", model="a:1")],
        live=[live_waiting(3, "a:1", in_flight=1, oldest_s=16.0), live_waiting(2, "b:1", oldest_s=2.0)],
    )


def quiet() -> SwarmSnapshot:
    return a_snapshot(workers=[a_worker("worker-1", holding="a:1", live=LivePlaces(limit=2))])


def heads(table):
    return [column.name for column in table.columns]


def cell(table, row, head):
    return table.rows[row][heads(table).index(head)]


def test_workers_show_their_places():
    rows = worker_lines(busy(), S)
    assert [(row.live_in_flight, row.live_limit, row.yielded) for row in rows] == [(1, 2, 1), (0, 0, 0)]
    table = workers_table(rows)
    assert [cell(table, n, "live") for n in (0, 1)] == ["1/2", "0/0"]
    assert cell(table, 0, "yielded") == "1"
    assert cell(table, 0, "doing") == "1 live request, t1"
    short = workers_table(rows, short=True)
    assert "live" in heads(short)
    assert "yielded" not in heads(short)


def test_a_dead_worker_runs_none():
    worker = a_worker(holding="a:1", alive=False, live=LivePlaces(limit=2, in_flight=1))
    (row,) = worker_lines(a_snapshot(workers=[worker]), S)
    assert (row.live_in_flight, row.live_limit) == (0, 0)


def test_models_show_what_clients_wait_for():
    rows = model_rows(busy())
    assert [(row.model, row.live_waiting, row.live_in_flight) for row in rows] == [("a:1", 3, 1), ("b:1", 2, 0)]
    table = models_table(rows)
    assert (cell(table, 0, "live wait"), cell(table, 0, "live run")) == ("3", "1")


def test_the_screen_has_a_line_of_them_and_the_document_all():
    view = status(busy(), Counts(), S, brain=True)
    lines = [block.text for block in status_blocks(view) if hasattr(block, "text")]
    assert "live requests: 1 under way, 5 waiting, the oldest for 16s; 1 batch request gave way" in lines
    assert (view.live.waiting, view.live.in_flight, view.live.oldest_s, view.live.yielded) == (5, 1, 16.0, 1)
    assert [(row.model, row.oldest_s) for row in view.live.models] == [("a:1", 16.0), ("b:1", 2.0)]


def test_where_there_are_none_nothing_is_shown():
    view = status(quiet(), Counts(), S, brain=True)
    assert not [block for block in status_blocks(view) if hasattr(block, "text") and "live" in block.text]
    assert "live" not in heads(workers_table(worker_lines(quiet(), S)))
    assert not [head for head in heads(models_table(model_rows(quiet()))) if head.startswith("live")]
    assert live_requests(quiet()).oldest_s is None


@pytest.mark.parametrize(("oldest_s", "told"), [(15.0, False), (16.0, True)])
def test_clients_that_wait_for_half_of_the_limit_are_an_alarm(oldest_s, told):
    picture = a_snapshot(workers=[a_worker(holding="a:1")], live=[live_waiting(2, "a:1", oldest_s=oldest_s)])
    found = alarms(picture, queue_stats(Counts(), stuck_tasks=0), S, brain=True)
    assert [(a.level, a.next) for a in found] == ([("warning", "swarm explain a:1")] if told else [])
