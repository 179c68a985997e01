"""Metrics: what the text says, that Prometheus can read it, and that each look costs only what changed."""

import json
import logging
import os
import re
import urllib.request
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from swarm.brain.metrics import Seen, families
from swarm.brain.metrics_endpoint import SwarmCollector, open_metrics, serving, serving_if_wanted, text
from swarm.config.settings import MetricsSettings, QueueSettings, Settings
from swarm.core.gpu_reading import GpuReading
from swarm.core.lanes import llm_lane
from swarm.core.snapshot import ClaimView, LaneView, SwarmSnapshot
from swarm.core.task import TaskClass, TaskState, Trail
from swarm.core.worker import WAIT_BOUNDS_S, LivePlaces, ModelTally, RateSample, SlotView, TunedSlots, WorkerTally, empty
from swarm.errors import EngineError
from swarm.proc.ports import free_port
from swarm.queue.counts import QueueGauges
from tests.helpers.queues import claim_one, finish_one, llm, open_queue, settle
from tests.support.builders import MODEL, a_worker, live_waiting

replace = msgspec.structs.replace
ROOT = Path(__file__).parents[3]


def worker(name="worker-1", **beat):
    view = a_worker(name, holding=MODEL)
    return replace(view, heartbeat=replace(view.heartbeat, **beat))


def a_look(**more) -> Seen:
    waits = empty(WAIT_BOUNDS_S).with_one(0.05).with_one(4.0).with_one(1e6)
    view = worker(
        tally=WorkerTally(claims=9, lost_races=2, completed=5, retried=1, fenced=3, tokens_in=70, tokens_out=900, crashes=1),
        recent=(RateSample(10.0, 1, 10, 0, 1, 100.0), RateSample(30.0, 5, 70, 900, 3, 5000.0)),
        tuned={MODEL: TunedSlots(in_flight=3, capacity=4, best_tokens_per_s=60.0, best_in_flight=4)},
        models={MODEL: ModelTally(completed=5, busy_s=10.0, tokens_out=900, loads=1, load_s=2.5)},
        slots=(SlotView(task_id="t", task_class="llm", model=MODEL),),
        waits={"llm": waits},
        runs={"llm": empty((1.0,)).with_one(2.0)},
    )
    snapshot = SwarmSnapshot(
        now_iso="",
        mono_s=0.0,
        workers=(view,),
        claims=(ClaimView(task_id="t", attempt=1, worker="worker-1", task_class="llm", model=MODEL, quiet_s=999.0),),
        lanes=(
            LaneView(lane=llm_lane(MODEL), task_class=TaskClass.LLM, model=MODEL, pending=7, oldest_wait_s=400.0),
            LaneView(lane="cpu", task_class=TaskClass.CPU, pending=2, oldest_wait_s=3.0),
        ),
        gpus=(
            GpuReading(index=0, uuid="GPU-a", name="x", memory_used_mib=3, temperature_c=61, power_w=200.5, energy_j=5.5),
            GpuReading(index=1, uuid="GPU-b", name="x", fault="GPU is lost"),
        ),
    )
    known = {
        "ended": {TaskState.COMPLETED: 5, TaskState.FAILED: 1},
        "stale": {llm_lane(MODEL): 4},
        "brain": a_worker("brain").heartbeat
        and replace(a_worker("b").heartbeat, turn=12, ticks=empty((1.0,)).with_one(0.5)),
        "brain_alive": True,
    }
    return Seen(more.pop("snapshot", snapshot), **{**known, **more})


def samples(scrape: str) -> dict[str, float]:
    """``name{labels}`` to value, as Prometheus itself reads the text."""
    found = {}
    for family in text_string_to_metric_families(scrape):
        assert family.documentation, family.name
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if v)
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def scraped(seen: Seen) -> dict[str, float]:
    return samples(text(SwarmCollector(lambda: seen, Settings())))


def test_a_scrape_says_all_that_operators_ask_for():
    found = scraped(a_look())
    on = f"model={MODEL},worker=worker-1"
    assert found["swarm_tasks{state=pending}"] == 9
    assert found["swarm_tasks{state=completed}"] == 5
    assert found["swarm_tasks{state=corrupt}"] == 0
    assert found[f"swarm_pending_tasks{{model={MODEL},task_class=llm}}"] == 7
    assert found[f"swarm_pending_oldest_seconds{{model={MODEL},task_class=llm}}"] == 400
    assert found[f"swarm_stale_queued_tasks{{model={MODEL},task_class=llm}}"] == 4
    assert found["swarm_stuck_tasks{}"] == 1
    assert found["swarm_worker_claims_total{worker=worker-1}"] == 9
    assert found["swarm_worker_lost_races_total{worker=worker-1}"] == 2
    assert found["swarm_worker_fenced_total{worker=worker-1}"] == 3
    assert found["swarm_crashes_total{by=worker-1}"] == 1
    assert found["swarm_worker_tokens_out_total{worker=worker-1}"] == 900
    assert found[f"swarm_model_tokens_per_second{{{on}}}"] == 45
    assert found[f"swarm_model_tokens_in_per_second{{{on}}}"] == 3
    assert found[f"swarm_model_best_tokens_per_second{{{on}}}"] == 60
    assert found[f"swarm_model_best_ratio{{{on}}}"] == 0.75
    assert found[f"swarm_model_slots{{{on}}}"] == 3
    assert found[f"swarm_model_slots_capacity{{{on}}}"] == 4
    assert found["swarm_worker_energy_joules_total{worker=worker-1}"] == 5000
    assert found["swarm_task_wait_seconds_count{task_class=llm,worker=worker-1}"] == 3
    assert found["swarm_task_wait_seconds_bucket{le=5.0,task_class=llm,worker=worker-1}"] == 2
    assert found["swarm_task_wait_seconds_bucket{le=+Inf,task_class=llm,worker=worker-1}"] == 3
    assert found["swarm_task_run_seconds_sum{task_class=llm,worker=worker-1}"] == 2.0
    assert found["swarm_gpu_temperature_celsius{gpu=0,uuid=GPU-a}"] == 61
    assert found["swarm_gpu_energy_joules_total{gpu=0,uuid=GPU-a}"] == 5.5
    assert found["swarm_gpu_memory_used_bytes{gpu=0,uuid=GPU-a}"] == 3 << 20
    assert found["swarm_gpu_fault{gpu=1,uuid=GPU-b}"] == 1
    assert "swarm_gpu_temperature_celsius{gpu=1,uuid=GPU-b}" not in found, "a lost card says nothing rather than zero"
    assert found["swarm_brain_up{}"] == 1
    assert found["swarm_brain_tick_seconds_count{}"] == 1


def test_cards_and_workers_of_other_machines_carry_its_name():
    far = GpuReading(index=0, uuid="GPU-c", name="x", node="box2", temperature_c=50)
    view = worker()
    view = replace(view, row=replace(view.row, node="box2"))
    found = scraped(a_look(snapshot=SwarmSnapshot(workers=(view,), gpus=(far,))))
    assert found["swarm_gpu_temperature_celsius{gpu=0,node=box2,uuid=GPU-c}"] == 50
    assert [name for name in found if name.startswith("swarm_worker_info") and "node=box2" in name]


def test_live_requests_by_model_and_by_worker():
    busy, dead = worker(live=LivePlaces(limit=2, in_flight=1, yielded=7)), worker(live=LivePlaces(yielded=3))
    dead = replace(dead, name="worker-2", alive=False)
    live = (live_waiting(2, MODEL, in_flight=1, oldest_s=4.5),)
    found = scraped(a_look(snapshot=SwarmSnapshot(workers=(busy, dead), live=live)))
    assert found[f"swarm_live_waiting{{model={MODEL}}}"] == 2
    assert found[f"swarm_live_in_flight{{model={MODEL}}}"] == 1
    assert found[f"swarm_live_oldest_seconds{{model={MODEL}}}"] == 4.5
    assert found["swarm_worker_live_in_flight{worker=worker-1}"] == 1
    assert found["swarm_worker_live_limit{worker=worker-1}"] == 2
    assert found["swarm_worker_yielded_total{worker=worker-1}"] == 7
    assert found["swarm_worker_yielded_total{worker=worker-2}"] == 3, "what it did stays done"
    assert "swarm_worker_live_limit{worker=worker-2}" not in found


def test_an_empty_box_is_no_error():
    empty_box = Seen(SwarmSnapshot(now_iso="", mono_s=0.0), ended={}, stale={}, brain=None, brain_alive=False)
    found = scraped(empty_box)
    assert found["swarm_tasks{state=pending}"] == 0
    assert found["swarm_brain_up{}"] == 0


def test_a_dead_workers_gauges_do_not_stand_for_ever():
    seen = a_look()
    view = replace(seen.snapshot.workers[0], alive=False)
    found = scraped(a_look(snapshot=replace(seen.snapshot, workers=(view,))))
    assert found["swarm_worker_up{worker=worker-1}"] == 0
    assert found["swarm_worker_slots_busy{worker=worker-1}"] == 0
    assert f"swarm_model_tokens_per_second{{model={MODEL},worker=worker-1}}" not in found
    assert found["swarm_worker_claims_total{worker=worker-1}"] == 9, "what it did stays done"


def test_names_from_outside_cannot_break_the_format():
    nasty = 'a"} 1\nswarm_evil{x="'
    view = worker(models={nasty: ModelTally(completed=1)})
    found = scraped(a_look(snapshot=SwarmSnapshot(now_iso="", mono_s=0.0, workers=(view,))))
    assert not [name for name in found if name.startswith("swarm_evil")]


@given(st.lists(st.floats(-1.0, 1e6), max_size=30))
def test_a_histogram_counts_each_duration_once_in_the_right_bucket(durations):
    histogram = empty(WAIT_BOUNDS_S)
    for seconds in durations:
        histogram = histogram.with_one(seconds)
    assert histogram.total == len(durations)
    for index, bound in enumerate(WAIT_BOUNDS_S):
        assert sum(histogram.counts[: index + 1]) == sum(1 for s in durations if s <= bound)
    assert histogram.sum_s == pytest.approx(sum(max(0.0, s) for s in durations), abs=1e-3)
    assert msgspec.json.decode(msgspec.json.encode(histogram), type=type(histogram)) == histogram


def test_every_metric_is_in_the_manual_and_every_graph_draws_one_that_exists():
    names = {family.name for family in families(a_look(), Settings())}
    manual = (ROOT / "docs" / "metrics.md").read_text()
    missing = {n for n in names if f"`{n}" not in manual}
    assert not missing
    dashboard = json.loads((ROOT / "docs" / "grafana" / "swarm.json").read_text())
    used = set(re.findall(r"\bswarm_[a-z_]+", json.dumps([p["targets"] for p in dashboard["panels"] if "targets" in p])))
    assert used
    assert {re.sub(r"_(total|bucket|sum|count)$", "", n) for n in used} <= names
    ids = [p["id"] for p in dashboard["panels"]]
    assert len(ids) == len(set(ids))


# -- on a real queue


def settings_of(queue, **more) -> Settings:
    return Settings(queue=QueueSettings(root=queue.layout.root), **more)


def test_counts_of_a_real_queue_and_what_has_waited_too_long(tmp_path):
    queue = open_queue(tmp_path)
    for _ in range(3):
        queue.enqueue(llm())
    queue.enqueue(llm(task_id="mine"))
    view = queue.worker_view("w")
    claim = claim_one(view, [llm_lane(MODEL)])
    finish_one(view, claim, TaskState.FAILED, Trail())
    found = samples(text(open_metrics(settings_of(queue))))
    assert found["swarm_tasks{state=failed}"] == 1
    assert found["swarm_tasks{state=pending}"] == 3
    gauges = QueueGauges(queue.layout)
    assert gauges.stale(60.0) == {}
    assert gauges.stale(-1.0) == {llm_lane(MODEL): 3}
    assert gauges.stale(-1.0) == {llm_lane(MODEL): 3}
    queue.enqueue(llm())
    assert gauges.stale(-1.0) == {llm_lane(MODEL): 4}


def test_a_directory_that_did_not_change_is_not_listed_again(tmp_path, monkeypatch):
    queue = open_queue(tmp_path)
    shard = tmp_path / "queue" / "completed" / "x01"
    shard.mkdir()
    (shard / "a.json").write_text("{}")
    settle(shard.parent)
    gauges = QueueGauges(queue.layout)
    assert gauges.ended()[TaskState.COMPLETED] == 1
    listed = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or real(path))
    assert gauges.ended()[TaskState.COMPLETED] == 1
    assert str(shard) not in listed
    (shard / "b.json").write_text("{}")
    assert gauges.ended()[TaskState.COMPLETED] == 2


def get(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


def test_the_endpoint_answers_and_scrapes_close_together_share_a_look():
    looks = []
    collector = SwarmCollector(lambda: looks.append(1) or a_look(), Settings())
    port = free_port()
    with serving(collector, host="127.0.0.1", port=port) as url:
        assert samples(get(url))["swarm_stuck_tasks{}"] == 1
        get(url)
        assert len(looks) == 1
        with pytest.raises(EngineError, match=r"port \d+ on 127.0.0.1 is taken by pid"):
            serving(collector, host="127.0.0.1", port=port).__enter__()
    with serving(collector, host="127.0.0.1", port=port):
        pass


def test_a_taken_port_costs_the_brain_its_endpoint_and_nothing_else(tmp_path, caplog):
    queue = open_queue(tmp_path)
    with serving(SwarmCollector(a_look, Settings()), host="127.0.0.1", port=free_port()) as other:
        port = int(other.split(":")[2].split("/")[0])
        settings = settings_of(queue, metrics=MetricsSettings(port=port))
        with serving_if_wanted(settings, logging.getLogger("test.metrics")):
            assert "No metrics endpoint" in caplog.text
            assert "taken by pid" in caplog.text
