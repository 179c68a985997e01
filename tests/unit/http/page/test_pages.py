"""The pages on built pictures of a swarm: empty, down, busy, sixteen cards, hostile text."""

from types import SimpleNamespace

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from swarm.config.settings import QueueSettings, Settings
from swarm.core.batches.life import BatchStatus
from swarm.core.worker import LivePlaces, RateSample
from swarm.http.look import SwarmLook
from swarm.http.page.routes import page_routes
from swarm.http.page.sources import Sources
from swarm.http.page.sparklines import RateHistory
from swarm.http.parts import Client, HttpParts, Scope
from swarm.queue.batches.api_batches import ApiBatch, ApiBatches, BatchProblem
from swarm.queue.batches.batch_book import Manifest
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores.file_store import sortable_id
from swarm.views.overview import status
from tests.helpers import cli_world as world

HOSTILE = "<script>alert(1)</script>\u202e\x1b[2J" + "x" * 200
"""As text of others may be."""


class Browser:
    """Asks for pages of a swarm whose picture the test makes."""

    def __init__(self, root, snapshot, *, brain=True, scope=Scope.ADMIN, history=None):
        queue = FileQueue(str(root)).prepare()
        settings = Settings(queue=QueueSettings(root=str(root)))
        parts = HttpParts(settings=settings, queue=queue, log=None)
        view = status(snapshot, queue.stats(), settings, brain=brain)
        self.queue = queue
        self._seen = SwarmLook(snapshot, view)
        self.age_s = 0.0
        routes = page_routes(parts, self._look, Sources(parts), history or RateHistory())

        async def app(http_scope, receive, send):
            http_scope["state"] = {"client": Client("somebody", scope)}
            await Starlette(routes=routes)(http_scope, receive, send)

        self._client = TestClient(app)

    async def _look(self):
        return SimpleNamespace(value=self._seen, age_s=self.age_s)

    def get(self, path, status_code=200):
        answer = self._client.get(path)
        assert answer.status_code == status_code, answer.text
        assert "<script>alert" not in answer.text
        assert "\u202e" not in answer.text
        return answer.text


def test_an_empty_root_says_what_to_start(tmp_path):
    text = Browser(tmp_path, world.swarm(), brain=False).get("/")
    assert "not running" in text
    assert "Try <code>swarm up</code>" in text
    assert "swarm up --simulate 2" in text
    assert "Nothing waits." in text
    assert "No batch." in text


def test_a_dead_brain_is_the_first_thing_said(tmp_path):
    text = Browser(tmp_path, world.healthy(), brain=False).get("/")
    assert "the brain is not running: no model is placed" in text
    assert text.index("the brain is not running") < text.index("worker-1")
    assert "1 alarm" in text, "in the head of every page"


def test_a_busy_swarm_is_seen_at_a_look(tmp_path):
    history = RateHistory()
    for at_s in range(3):
        history.note({"worker-1": RateSample(at_s * 5.0, tokens_out=at_s * 1000)})
    text = Browser(tmp_path, world.healthy(), history=history).get("/")
    for shown in ("worker-1", world.MODEL, "3.3/24.0 GiB", "87%", "61 °C", "211 W", "123", "2 × NVIDIA GeForce RTX 4090"):
        assert shown in text, shown
    assert "Tokens per second, the last 15s; at most 200" in text
    assert 'title="Model servers and cards are simulated' in text


def test_live_requests_are_seen(tmp_path):
    busy = world.worker("worker-1")
    beat = msgspec.structs.replace(busy.heartbeat, live=LivePlaces(limit=4, in_flight=2, yielded=7))
    snapshot = world.swarm(msgspec.structs.replace(busy, heartbeat=beat), gpus=(world.card(0),))
    browser = Browser(tmp_path, snapshot)
    text = browser.get("/")
    assert '<span title="Live requests">2 live,</span> 0/1' in text
    assert "Live requests: 0 under way, 0 waiting; 7 batch requests gave way" in text
    assert "2/4<small>7 gave way</small>" in browser.get("/workers/worker-1")


def test_sixteen_cards_one_lost_and_a_model_with_a_hostile_name(tmp_path):
    workers = [world.worker(f"worker-{i}", i, model=HOSTILE) for i in range(16)]
    cards = [world.card(i, fault="GPU is lost <b>" if i == 3 else None) for i in range(16)]
    text = Browser(tmp_path, world.swarm(*workers, gpus=tuple(cards), lanes=(world.lane(5, HOSTILE),))).get("/")
    assert text.count('href="/workers/worker-') == 16
    assert r"&lt;script&gt;alert(1)&lt;/script&gt;\u202e\x1b[2J" in text
    assert "GPU is lost &lt;b&gt;" in text


def test_a_worker_with_two_cards_and_one_without(tmp_path):
    both = world.worker("both", 0)
    row = msgspec.structs.replace(both.row, gpu_uuids=("GPU-0", "GPU-2"), gpus=(0, 2))
    cpu = world.worker("cpu", 9)
    snapshot = world.swarm(
        msgspec.structs.replace(both, row=row),
        cpu,
        gpus=(world.card(0), world.card(1), msgspec.structs.replace(world.card(2), name="Other")),
    )
    text = Browser(tmp_path, snapshot).get("/")
    assert text.count('href="/workers/both"') == 1
    assert text.count('href="/workers/cpu"') == 1
    assert "no worker" in text


def test_cards_are_grouped_by_node_where_there_are_several(tmp_path):
    assert "this machine" not in Browser(tmp_path / "one", world.healthy()).get("/")
    browser = Browser(tmp_path / "two", world.two_nodes())
    text = browser.get("/")
    here, far = text.index(">local <small>this machine, 2 cards<"), text.index(">box2 <small>2 cards<")
    assert here < text.index('"/workers/worker-1"') < far < text.index('"/workers/box2-gpu0"')
    assert "<dt>Node</dt><dd>box2</dd>" in browser.get("/workers/box2-gpu0")


def test_old_figures_say_so(tmp_path):
    browser = Browser(tmp_path, world.healthy())
    assert " old</span>" not in browser.get("/")
    browser.age_s = 95.0
    assert "1m35s old</span>" in browser.get("/")


def test_a_worker_its_tasks_and_its_log(tmp_path):
    browser = Browser(tmp_path, world.healthy())
    logs = tmp_path / "logs"
    logs.mkdir(exist_ok=True)
    (logs / "worker-1.log").write_text(f"[2026-02-07T21:05:50.123+01:00] [worker-1] ERROR {HOSTILE}\n")
    text = browser.get("/workers/worker-1")
    assert 'href="/tasks/d5de16d7"' in text
    assert '<span class="ERROR">' in text
    assert r"&lt;script&gt;alert(1)&lt;/script&gt;\u202e" in text
    assert "there is no worker" in browser.get("/workers/worker-7", 404)
    assert "there is no worker" in browser.get("/workers/%3Cscript%3Ealert", 404)


def task(browser, **more):
    document = {
        "task_class": "llm",
        "model": world.MODEL,
        "name": HOSTILE[:60],
        "request": {"messages": [{"role": "user", "content": HOSTILE}]},
    }
    return browser.queue.enqueue(document | more)


def test_a_task_its_reason_prompt_and_verbs(tmp_path):
    browser = Browser(tmp_path, world.healthy())
    task_id = task(browser)
    text = browser.get(f"/tasks/{task_id}")
    assert f'action="/swarm/tasks/{task_id}/cancel"' in text
    assert "Asked (user)" in text
    browser.queue.cancel(task_id, HOSTILE)
    text = Browser(tmp_path, world.healthy()).get(f"/tasks/{task_id}")
    assert f'action="/swarm/tasks/{task_id}/retry"' in text
    assert "cancelled: &lt;script&gt;" in text
    assert "data-refresh-ms" not in text or 'data-refresh-ms="0"' in text, "what has ended is not asked for again"


def test_who_may_only_read_gets_no_verbs(tmp_path):
    browser = Browser(tmp_path, world.healthy(), scope=Scope.READ)
    text = browser.get(f"/tasks/{task(browser)}") + browser.get("/")
    assert "data-verb" not in text
    assert 'href="/new"' not in text


def submit(browser, number=3, batch_id="b-1"):
    manifest = Manifest(
        batch_id=batch_id, source="/x/<b>.jsonl", format="openai", created_at=world.NOW, models={HOSTILE: number}
    )
    items = [(f"k{i}", {"task_class": "llm", "model": world.MODEL, "request": {"prompt": "x"}}) for i in range(number)]
    list(browser.queue.batches().submit(manifest, items))
    return list(browser.queue.batches().task_ids(batch_id))


def test_a_batch_its_failures_by_reason(tmp_path):
    browser = Browser(tmp_path, world.healthy())
    ids = submit(browser)
    for task_id in ids[:2]:
        browser.queue.cancel(task_id, "<i>no reason</i>")
    text = browser.get("/batches/b-1")
    assert text.count("&lt;i&gt;no reason&lt;/i&gt;") == 1, "the same reason once"
    assert all(f'href="/tasks/{task_id}"' in text for task_id in ids[:2])
    assert "66%" in text, "not 67 before that is done"
    assert 'action="/swarm/batches/b-1/retry"' in text
    assert 'action="/swarm/batches/b-1/cancel"' in text
    assert 'href="/batches/b-1"' in browser.get("/")
    assert 'href="/batches/b-1"' in browser.get("/batches")
    assert "there is no batch b-2" in browser.get("/batches/b-2", 404)


def over_http(browser, **more):
    batch = ApiBatch(
        id=sortable_id("batch_"),
        client=HOSTILE,
        endpoint="/v1/chat/completions",
        input_file_id="file-1",
        completion_window="24h",
        created_at=1,
        expires_at=2,
        **more,
    )
    ApiBatches(browser.queue.layout, browser.queue.storage).write(batch)
    return batch.id


def test_a_batch_whose_file_is_bad_names_the_lines(tmp_path):
    browser = Browser(tmp_path, world.healthy())
    errors = (BatchProblem(code="invalid", message=f"no model {HOSTILE}", line=7),)
    text = browser.get(f"/batches/{over_http(browser, status=BatchStatus.FAILED, errors=errors)}")
    assert "line 7: no model &lt;script&gt;" in text
    assert "data-verb" not in text, "nothing is left to cancel"


def test_a_batch_over_http_is_shown_as_its_client_sees_it(tmp_path):
    browser = Browser(tmp_path, world.healthy())
    batch_id = over_http(browser, status=BatchStatus.IN_PROGRESS, total=10, metadata={"<b>": HOSTILE})
    ids = submit(browser, batch_id=batch_id)
    browser.queue.cancel(ids[0], "for a reason")
    text = browser.get(f"/batches/{batch_id}")
    assert "10%" in text, "1 of 10, though 3 are in the queue yet"
    assert f'action="/v1/batches/{batch_id}/cancel"' in text
    assert "/retry" not in text
    assert "in progress" in browser.get("/")


def test_results_are_offered_once_a_batch_is_over(tmp_path):
    browser = Browser(tmp_path, world.healthy())
    batch_id = over_http(browser, status=BatchStatus.COMPLETED, total=3, output_file_id="file-a", error_file_id="file-b")
    submit(browser, batch_id=batch_id)
    other = over_http(browser, status=BatchStatus.FINALIZING, total=3, output_file_id="file-c")
    submit(browser, batch_id=other)
    assert "file-c" not in browser.get(f"/batches/{other}"), "it may not be whole yet"
    text = browser.get(f"/batches/{batch_id}")
    assert 'href="/v1/files/file-a/content" download' in text
    assert 'href="/v1/files/file-b/content" download' in text


@pytest.mark.parametrize(("wanted", "place"), [("worker-2", "/workers/worker-2"), ("b-1", "/batches/b-1")])
def test_find_leads_there(tmp_path, wanted, place):
    browser = Browser(tmp_path, world.healthy())
    submit(browser)
    answer = browser._client.get("/find", params={"id": f" {wanted} "}, follow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (303, place)


def test_find_says_what_is_not_there(tmp_path):
    browser = Browser(tmp_path, world.healthy())
    assert "There is no task, batch or worker &lt;script&gt;" in browser.get("/find?id=%3Cscript%3Ealert", 404)
    assert "There is no task" in browser.get("/find?id=..%2F..%2Fetc", 404)
    browser.get("/find", 404)
