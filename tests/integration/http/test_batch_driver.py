"""The batch driver on a real queue, with a worker that takes one task at a time: every life cut off anywhere goes on."""

import logging
import os
import time
from contextlib import suppress

import msgspec
import pytest

from swarm.config.settings import Settings
from swarm.core.batches import windows as window_rules
from swarm.core.task import TaskState, Trail
from swarm.errors import StorageFault
from swarm.http.batches import followed_batch
from swarm.http.batches.driver import BatchDriver
from swarm.queue.batches.api_batches import ApiBatches
from swarm.queue.stores.file_store import FileStore
from tests.helpers.crashpoints import dies, failing, killer, watched
from tests.helpers.httpclients import http_client, jsonl, line
from tests.helpers.queues import assert_one_state_each, claim_one, finish_one, open_queue, whereabouts

CHAT = "/v1/chat/completions"
LOG = logging.getLogger("tests.driver")
SECRET = "a secret prompt"
OVER = ("completed", "failed", "expired", "cancelled")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(followed_batch, "LOOK_SHARE", 0)
    monkeypatch.setattr(followed_batch, "QUIET_S", 0.0)


class Shop:
    """One root, its API, its driver (a new one at each death) and its worker."""

    def __init__(self, queue, client):
        self.queue = queue
        self.client = client
        given = Settings()
        self.settings = msgspec.structs.replace(given, queue=msgspec.structs.replace(given.queue, root=queue.layout.root))
        self.worker = queue.worker_view("w")
        self.restart()

    def restart(self):
        self.driver = BatchDriver(self.settings, self.queue, LOG)
        self.driver._not_before_s.clear()

    def batch(self, *records, window="24h", **more):
        data = jsonl(*(records or (line("a"),)))
        made = self.client.post("/v1/files", files={"file": ("in.jsonl", data)}, data={"purpose": "batch"}).json()
        wanted = {"input_file_id": made["id"], "endpoint": CHAT, "completion_window": window, **more}
        return self.client.post("/v1/batches", json=wanted).json()["id"]

    def get(self, batch_id):
        return self.client.get(f"/v1/batches/{batch_id}").json()

    def cancel(self, batch_id):
        return self.client.post(f"/v1/batches/{batch_id}/cancel")

    def rewrite(self, batch_id, **more):
        book = ApiBatches(self.queue.layout, self.queue.storage)
        book.write(msgspec.structs.replace(book.find(batch_id), **more))

    def work(self, most=1000, state=TaskState.COMPLETED):
        done = 0
        while done < most and (claim := claim_one(self.worker)):
            text = claim.task.request["messages"][0]["content"]
            usage = {"prompt_tokens": 3, "completion_tokens": 2}
            finish_one(self.worker, claim, state, Trail(result={"message": {"content": text}, "usage": usage}))
            done += 1
        return done

    def drive(self, batch_id, statuses, *, work):
        """Without the client, whose threads a forked child does not have."""
        deadline = time.monotonic() + 60
        book = ApiBatches(self.queue.layout, self.queue.storage)
        while (now := book.find(batch_id)).status not in statuses:
            assert time.monotonic() < deadline, now
            self.driver.tick()
            if work:
                self.work()

    def tick_until(self, batch_id, *statuses, work=False):
        self.drive(batch_id, statuses, work=work)
        return self.get(batch_id)

    def lines(self, file_id):
        if file_id is None:
            return []
        content = self.client.get(f"/v1/files/{file_id}/content")
        assert content.status_code == 200
        return [msgspec.json.decode(text) for text in content.content.splitlines()]

    def results(self, batch_id):
        now = self.get(batch_id)
        good, bad = self.lines(now["output_file_id"]), self.lines(now["error_file_id"])
        counts = now["request_counts"]
        assert (len(good), len(bad)) == (counts["completed"], counts["failed"])
        return good, bad

    def check_once_each(self, batch_id, ids):
        good, bad = self.results(batch_id)
        assert sorted(row["custom_id"] for row in good + bad) == sorted(ids)


@pytest.fixture
def shop(queue):
    with http_client(queue) as client:
        yield Shop(queue, client)


def test_a_batch_to_its_output_file(shop):
    batch_id = shop.batch(*(line(f"id {i}", f"text {i}") for i in range(5)), metadata={"who": "me"})
    now = shop.tick_until(batch_id, "in_progress")
    assert (now["request_counts"]["total"], now["model"]) == (5, "llama3.2:3b")
    shop.driver.tick()
    assert shop.queue.batches().manifest(batch_id).items == 5, "visible as any batch"
    assert shop.work(2) == 2
    shop.driver.tick()
    assert shop.get(batch_id)["request_counts"] == {"total": 5, "completed": 2, "failed": 0}
    shop.work(1, TaskState.FAILED)
    now = shop.tick_until(batch_id, *OVER, work=True)
    assert now["status"] == "completed"
    assert now["request_counts"] == {"total": 5, "completed": 4, "failed": 1}
    assert now["usage"]["total_tokens"] == 20
    assert now["created_at"] <= now["in_progress_at"] <= now["finalizing_at"] <= now["completed_at"]
    good, bad = shop.results(batch_id)
    assert good[-1]["response"]["body"]["choices"][0]["message"]["content"] == "text 4"
    assert [row["custom_id"] for row in good] == sorted(row["custom_id"] for row in good), "in the input's order"
    assert bad[0]["error"]["code"]
    names = FileStore(shop.queue.layout, shop.queue.storage).names()
    assert set(names) == {now["input_file_id"], now["output_file_id"], now["error_file_id"]}
    record = shop.client.get(f"/v1/files/{now['output_file_id']}").json()
    assert (record["purpose"], record["filename"]) == ("batch_output", f"{batch_id}_output.jsonl")


def test_a_bad_file_fails_its_batch_and_nothing_is_submitted(shop):
    batch_id = shop.batch(line("a"), line("a"), line("b", method="GET"))
    now = shop.tick_until(batch_id, *OVER)
    assert (now["status"], now["output_file_id"], now["error_file_id"]) == ("failed", None, None)
    assert [(p["code"], p["line"]) for p in now["errors"]["data"]] == [("duplicate_custom_id", 2), ("invalid_method", 3)]
    assert now["failed_at"] >= now["created_at"]
    assert shop.queue.stats().pending == {}
    assert shop.cancel(batch_id).status_code == 400


def test_a_file_that_was_removed_from_the_disk_fails_its_batch(shop):
    batch_id = shop.batch(line("a"))
    os.unlink(f"{shop.queue.layout.files}/{shop.get(batch_id)['input_file_id']}/content")
    now = shop.tick_until(batch_id, *OVER)
    assert (now["status"], now["errors"]["data"][0]["code"]) == ("failed", "file_not_found")


def test_a_batch_in_trouble_holds_up_no_other(shop, caplog, monkeypatch):
    damaged, broken, good = (shop.batch(line("a", SECRET)) for _ in range(3))
    with open(f"{shop.queue.layout.batches}/{damaged}.open.json", "w") as file:
        file.write("{")
    real = BatchDriver._check

    def check(driver, followed):
        if followed.batch.id == broken:
            raise RuntimeError(SECRET)
        return real(driver, followed)

    monkeypatch.setattr(BatchDriver, "_check", check)
    assert shop.tick_until(good, *OVER, work=True)["status"] == "completed"
    said = [record.getMessage() for record in caplog.records]
    assert any(damaged in text and "damaged" in text for text in said)
    assert any(broken in text and "RuntimeError" in text for text in said)
    assert SECRET not in caplog.text


def test_cancelled_half_way_what_ran_is_in_the_output(shop):
    batch_id = shop.batch(*(line(str(i)) for i in range(6)))
    shop.tick_until(batch_id, "in_progress")
    shop.driver.tick()
    shop.work(2)
    assert shop.cancel(batch_id).json()["status"] == "cancelling"
    now = shop.tick_until(batch_id, *OVER)
    assert now["status"] == "cancelled"
    assert now["cancelling_at"] <= now["cancelled_at"]
    good, bad = shop.results(batch_id)
    assert (len(good), {row["error"]["code"] for row in bad}) == (2, {"batch_cancelled"})
    shop.check_once_each(batch_id, map(str, range(6)))
    assert shop.work() == 0


def test_cancelled_before_it_was_read(shop):
    good, bad = shop.batch(line("a"), line("b")), shop.batch(line("a"), line("a"))
    shop.cancel(good)
    shop.cancel(bad)
    assert shop.tick_until(good, *OVER)["status"] == "cancelled"
    shop.check_once_each(good, ["a", "b"])
    now = shop.tick_until(bad, *OVER)
    assert (now["status"], now["error_file_id"], now["errors"]["data"][0]["code"]) == (
        "cancelled",
        None,
        "duplicate_custom_id",
    )


def test_expired_what_ran_is_in_the_output(shop):
    batch_id = shop.batch(*(line(str(i)) for i in range(4)))
    shop.tick_until(batch_id, "in_progress")
    shop.driver.tick()
    shop.work(1)
    shop.rewrite(batch_id, expires_at=int(time.time()) - 1)
    shop.restart()
    now = shop.tick_until(batch_id, *OVER)
    assert (now["status"], now["expired_at"] >= now["expires_at"]) == ("expired", True)
    good, bad = shop.results(batch_id)
    assert (len(good), {row["error"]["code"] for row in bad}) == (1, {"batch_expired"})
    shop.check_once_each(batch_id, map(str, range(4)))


def test_the_command_line_cancels_and_retries(shop):
    batch_id = shop.batch(*(line(str(i)) for i in range(4)))
    shop.tick_until(batch_id, "in_progress")
    shop.driver.tick()
    shop.work(1, TaskState.FAILED)
    shop.driver.tick()
    assert shop.get(batch_id)["request_counts"]["failed"] == 1
    assert shop.queue.retry_many(shop.queue.batches().task_ids(batch_id)) == 1
    shop.driver.tick()
    assert shop.get(batch_id)["request_counts"]["failed"] == 1, "counts do not go back"
    shop.work(1)
    now = shop.tick_until(batch_id, *OVER, work=True)
    assert now["request_counts"] == {"total": 4, "completed": 4, "failed": 0}


def test_retried_when_it_is_over_changes_nothing_that_clients_see(shop):
    batch_id = shop.batch(line("a"), line("b"))
    shop.tick_until(batch_id, "in_progress")
    shop.driver.tick()
    shop.work(2, TaskState.FAILED)
    now = shop.tick_until(batch_id, *OVER)
    before = shop.results(batch_id)
    assert shop.queue.retry_many(shop.queue.batches().task_ids(batch_id)) == 2
    shop.work()
    shop.restart()
    shop.driver.tick()
    assert shop.get(batch_id) == now
    assert shop.results(batch_id) == before


def test_a_damaged_result_does_not_hold_up_its_batch(shop):
    batch_id = shop.batch(line("a"), line("b"))
    shop.tick_until(batch_id, "in_progress")
    shop.driver.tick()
    shop.work(1)
    tasks = map(shop.queue.find, shop.queue.batches().task_ids(batch_id))
    path = next(found.path for found in tasks if found.state is TaskState.COMPLETED)
    with open(path, "w") as file:
        file.write("{")
    assert shop.tick_until(batch_id, *OVER, work=True)["status"] == "completed"
    good, bad = shop.results(batch_id)
    assert ([row["custom_id"] for row in good], bad[0]["error"]["code"]) == (["b"], "task_lost")


def test_a_task_that_is_gone_does_not_hold_up_its_batch(shop):
    batch_id = shop.batch(line("a"), line("b"))
    shop.tick_until(batch_id, "in_progress")
    shop.driver.tick()
    task_id = next(iter(shop.queue.batches().task_ids(batch_id)))
    shop.queue.storage.quarantine(shop.queue.find(task_id).path, "a bad sector")
    now = shop.tick_until(batch_id, *OVER, work=True)
    assert now["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert shop.results(batch_id)[1][0]["error"]["code"] == "task_lost"


def test_purged_with_its_tasks_and_not_before(shop):
    batch_id = shop.batch(line("a"), line("b"))
    shop.tick_until(batch_id, "in_progress")
    shop.driver.tick()
    shop.work(1)
    ended = (TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED)
    removed = shop.queue.purge(ended, older_than_s=0.0)
    assert not any(r.documents for r in removed.values()), "an open batch needs them"
    now = shop.tick_until(batch_id, *OVER, work=True)
    assert now["request_counts"]["completed"] == 2
    shop.queue.purge(ended, older_than_s=-1.0)
    assert shop.queue.purge_batches(older_than_s=-1.0) == (batch_id,)
    assert shop.client.get(f"/v1/batches/{batch_id}").status_code == 404
    assert shop.client.get(f"/v1/files/{now['output_file_id']}").status_code == 404
    assert shop.client.get(f"/v1/files/{now['input_file_id']}").status_code == 200, "it is the client's"


def test_a_large_batch_leaves_room_for_anothers_small_one(shop, monkeypatch):
    monkeypatch.setattr(window_rules, "WINDOW", 20)
    monkeypatch.setattr(window_rules, "LEAST", 5)
    large = shop.batch(*(line(f"large {i}") for i in range(100)))
    shop.tick_until(large, "in_progress")
    shop.driver.tick()
    small = shop.batch(line("small 1"), line("small 2"))
    shop.rewrite(small, client="other")
    shop.tick_until(small, "in_progress")
    shop.driver.tick()
    assert shop.work(30) == 22, "the window of one, all of the other"
    assert shop.tick_until(small, *OVER)["status"] == "completed"
    assert shop.tick_until(large, *OVER, work=True)["status"] == "completed"
    shop.check_once_each(large, [f"large {i}" for i in range(100)])
    book = shop.queue.batches()
    order = [finished["custom_id"] for _, finished in book.documents(large) if finished]
    assert order == [f"large {i}" for i in range(100)], "`swarm results` has the input's order"


IDS = [f"id {i}" for i in range(4)]


def killed_life(shop, batch_id, k, *, work):
    """The driver in a child that dies at its file call number ``k``; whether it came so far. The worker lives."""
    kill, working = killer(k, half=k % 2 == 1), False

    def hook(call):
        return None if working else kill(call)

    def life():
        nonlocal working
        with watched(shop.queue.layout.root, hook):
            while ApiBatches(shop.queue.layout, shop.queue.storage).find(batch_id).status not in OVER:
                shop.driver.tick()
                working = True
                if work:
                    shop.work()
                working = False

    shop.restart()
    return dies(life)


@pytest.mark.parametrize("ending", ["completed", "cancelled", "expired"])
def test_killed_at_every_file_call_it_goes_on(tmp_path, ending):
    k, died = 0, True
    while died:
        queue = open_queue(tmp_path / str(k))
        with http_client(queue) as client:
            shop = Shop(queue, client)
            batch_id = shop.batch(*(line(i) for i in IDS))
            if ending == "cancelled" and k % 3 == 0:
                shop.cancel(batch_id)  # before it was read
            elif ending != "completed" and k % 3 == 1:
                killed_life(shop, batch_id, 23, work=False)  # in the midst of its submission
                shop.work(2)
            if ending == "cancelled":
                shop.cancel(batch_id)
            elif ending == "expired":
                shop.rewrite(batch_id, expires_at=int(time.time()) - 1)
            died = killed_life(shop, batch_id, k, work=ending == "completed")
            killed_life(shop, batch_id, k * 5 % 17, work=ending == "completed")
            shop.restart()
            assert shop.tick_until(batch_id, *OVER, work=ending == "completed")["status"] == ending
            shop.driver.tick()  # a death may have come between its end and this
            shop.check_once_each(batch_id, IDS)
            assert_one_state_each(queue, sorted(set(whereabouts(queue))))
            assert ApiBatches(queue.layout, queue.storage).open_names() == []
            names = FileStore(queue.layout, queue.storage).names()
            now = shop.get(batch_id)
            assert os.listdir(queue.layout.corrupt) == []
            assert set(names) == {now["input_file_id"], now["output_file_id"], now["error_file_id"]} - {None}
        k += 1
    assert k > 20


@pytest.mark.parametrize("fault", ["ENOSPC", "EIO"])
def test_a_disk_in_trouble_at_every_file_call_is_waited_for(shop, fault):
    k = ended = 0
    while not ended:
        batch_id = shop.batch(*(line(i) for i in IDS))
        with watched(shop.queue.layout.root, failing(fault, k, lasting=True)):
            for _ in range(6):
                shop.restart()
                with suppress(StorageFault):
                    shop.driver.tick()
        shop.work(2)
        with watched(shop.queue.layout.root, failing(fault, k // 2, lasting=False)):
            for _ in range(6):
                shop.restart()
                with suppress(StorageFault):
                    shop.driver.tick()
        ended = ApiBatches(shop.queue.layout, shop.queue.storage).find(batch_id).status in OVER
        shop.restart()
        assert shop.tick_until(batch_id, *OVER, work=True)["status"] == "completed"
        shop.check_once_each(batch_id, IDS)
        assert os.listdir(shop.queue.layout.corrupt) == []
        k += 3
        ended = ended or k > 60
    assert k > 20
