"""Models that no card has room for, or that no server has: said with the numbers, waited for by nobody without end."""

import json

import pytest

from swarm import Swarm
from swarm.core.task import TaskState
from swarm.errors import ModelDoesNotFit
from tests.helpers.cli import user
from tests.helpers.queues import llm
from tests.helpers.wait import wait_until

SMALL, BIG, OTHER = "llama3.2:1b", "qwen2.5:32b", "other:large"
LOADS_OF_BIG = 22784


def test_a_run_whose_model_cannot_fit_ends_before_anything_is_accepted(tmp_path):
    with user(tmp_path, SWARM_SIM__VRAM_MIB="8192") as someone:
        someone.prompts(3)
        done = someone.run("run", "prompts.jsonl", "-o", "out.jsonl", "--model", BIG, "--simulate", "2")
        assert done.returncode == 2, done
        assert f"{BIG} does not fit on any card: it needs 20480 MiB, the largest card has 8192 MiB" in done.stderr
        assert "num_ctx" in done.stderr
        assert someone.queue.stats().pending == {}
        assert not someone.ours()


@pytest.fixture(scope="module")
def somebody(tmp_path_factory):
    """With two cards, both hot; of the big model only the load shows that it has no room."""
    models = json.dumps([SMALL, BIG, f"{OTHER}=19000"])
    env = {"SWARM_SIM__VRAM_MIB": "20000", "SWARM_SIM__REQUEST_S": "0.1", "SWARM_SIM__MODELS": models}
    with user(tmp_path_factory.mktemp("big"), **env) as person:
        person.ok("up", "--simulate", "2", "--detach")
        wait_until(lambda: both_hot(person), what="both hot")
        wait_until(lambda: not sum(person.queue.stats().pending.values()), what="what made them so is done")
        yield person


def both_hot(person):
    """Whether each has the small model; while one has not, there is work for it."""
    if not sum(person.queue.stats().pending.values()):
        list(person.queue.enqueue_many(llm(model=SMALL) for _ in range(40)))
    return [w["model"] for w in person.json("workers")["workers"]] == [SMALL, SMALL]


def alarms(someone):
    return " | ".join(alarm["text"] for alarm in someone.json("status")["alarms"])


def test_a_run_ends_when_only_what_fits_nowhere_is_left_and_goes_on_later(somebody):
    rows = [{"prompt": "a"}, {"prompt": "b", "model": SMALL}, {"prompt": "c"}]
    (somebody.folder / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = somebody.run("run", "mixed.jsonl", "-o", "mixed.out", "--model", BIG)
    assert done.returncode == 1, done
    words = f"{BIG} does not fit on any card: it needs {LOADS_OF_BIG} MiB, the largest card has 20000 MiB"
    assert f"not done: {words}" in done.stdout
    assert "1 completed, 0 failed, 2 not finished" in done.stdout
    status = [json.loads(line)["status"] for line in (somebody.folder / "mixed.out").read_text().splitlines()]
    assert status == ["unfinished", "completed", "unfinished"]
    tried = [somebody.log(f"worker-{n}").count(f"Loading model {BIG}") for n in (1, 2)]
    assert sum(tried) == 1, "one hot card was the price, not two"
    assert len(list(somebody.queue.list(TaskState.PENDING))) == 2, "they wait for a bigger card"
    wait_until(lambda: f"needs {LOADS_OF_BIG} MiB" in alarms(somebody), what="the alarm")
    assert words in " ".join(somebody.ok("explain", BIG).split())
    again = somebody.run("run", "mixed.jsonl", "-o", "mixed.out", "--model", BIG)
    assert (again.returncode, words in again.stderr) == (2, True), "by now it is known beforehand"
    waited = somebody.run("submit", "mixed.jsonl", "--model", BIG, "--wait", "--json")
    assert waited.returncode == 1, waited
    assert f"note: {words}" in waited.stderr, "whoever submits to a swarm that stays up may mean to add a card"
    assert json.loads(waited.stdout)["unfinished"] == 2
    assert words in json.loads(waited.stdout)["unservable"][BIG]


def test_a_single_task_that_waits_for_such_a_model_is_accepted_and_says_so(somebody):
    submit = ("submit", "--prompt", "x", "--model", BIG, "--wait")
    somebody.run(*submit)  # the first load of it may show that it has no room
    told = somebody.run(*submit)
    assert told.returncode == 1, told
    assert f"note: {BIG} does not fit on any card" in told.stderr
    assert "waits until that has changed" in told.stdout


def test_who_waits_from_python_is_told_as_well(somebody, monkeypatch):
    monkeypatch.setenv("SWARM_SIM__VRAM_MIB", somebody.env["SWARM_SIM__VRAM_MIB"])
    with Swarm(root=somebody.root) as door:
        waited = door.submit("x", model=OTHER)
        with pytest.raises(ModelDoesNotFit, match=f"{OTHER} does not fit on any card: it needs [0-9]+ MiB, the largest"):
            waited.result(timeout_s=90)
        assert somebody.queue.find(waited.id) is not None, "nothing is lost"
    with Swarm(root=somebody.root) as door, pytest.raises(ModelDoesNotFit):
        door.submit("y", model=OTHER)


def test_a_model_that_no_server_has_is_one_alarm_that_goes_with_its_task(somebody):
    somebody.queue.cancel_many([task.task_id for task in somebody.queue.list(TaskState.PENDING)], "of other tests")
    path = somebody.root / "pending" / "lost.json"
    path.write_text(json.dumps(llm(model="nosuch:1b", task_id="lost")))
    wait_until(lambda: "1 tasks wait for nosuch:1b, which no server has" in alarms(somebody), what="the alarm")
    found = {f["code"]: f for f in json.loads(somebody.run("doctor", "--json").stdout)["findings"]}
    assert found["model-missing"]["subject"] == "nosuch:1b"
    assert not found.keys() & {"load-failed", "fits-nowhere"}
    assert "failed to load nosuch" not in alarms(somebody)
    somebody.ok("queue", "cancel", "lost")
    wait_until(lambda: "nosuch" not in alarms(somebody), what="quiet again")
