"""Requests at which a server breaks whenever it gets them: the others are answered, these end with the evidence."""

from __future__ import annotations

import json
import urllib.request

from swarm.core.task import TERMINAL, TaskState
from swarm.simulator.faults import MODES
from tests.helpers.cli import user
from tests.helpers.wait import wait_until

MODEL, EMBED = "llama3.2:1b", "nomic-embed-text:latest"
KINDS = sorted(MODES - {"busy", "slow", "length_cut"})
TOO_LONG = {"endless", "long_line"}
EMBED_KINDS = ("error_500", "kill_runner", "html", "reset")
LIMITS = {
    "SWARM_LLM__FIRST_TOKEN_S": "4",
    "SWARM_LLM__TOKEN_GAP_S": "4",
    "SWARM_LLM__MAX_REPLY_MIB": "1",
    "SWARM_LLM__SLOTS": "2",
    "SWARM_RETRY__BACKOFF_BASE_S": "0.2",
}


def task(text, n, **more):
    asked = {"messages": [{"role": "user", "content": text}]} if n % 2 else {"prompt": text}
    endpoint = "/api/chat" if n % 2 else "/api/generate"
    return {"task_class": "llm", "model": MODEL, "endpoint": endpoint, "request": asked, **more}


def embedding(text):
    return {"task_class": "llm", "model": EMBED, "endpoint": "/api/embed", "request": {"input": text}}


def ended(me, ids):
    documents = {task_id: me.queue.read(task_id) for task_id in ids}
    return documents if all(one["state"] in set(map(str, TERMINAL)) for one in documents.values()) else None


def test_poison_of_every_kind_ends_and_costs_the_others_nothing(tmp_path):
    poison = ",".join(f"MARK-{kind}-={kind}" for kind in KINDS)
    with user(tmp_path, SWARM_OLLAMA__ENV=json.dumps({"SWARM_SIM_POISON": poison}), **LIMITS) as me:
        me.ok("up", "--simulate", "3", "--detach")
        bad = {me.queue.enqueue(task(f"MARK-{kind}- {n}", n)): kind for n, kind in enumerate(KINDS)}
        bad |= {me.queue.enqueue(embedding(f"MARK-{kind}- embedded")): kind for kind in EMBED_KINDS}
        good = [me.queue.enqueue(task(f"good {n}", n)) for n in range(20)]
        good += [me.queue.enqueue(embedding(f"good {n}")) for n in range(4)]
        documents = wait_until(lambda: ended(me, [*bad, *good]), what="all ended", timeout_s=150)
        for task_id in good:
            assert documents[task_id]["state"] == TaskState.COMPLETED
            assert documents[task_id]["attempts"][-1]["attempt"] == 1, "no attempt was used up"
        for task_id, kind in bad.items():
            error = documents[task_id]["error"]
            assert error["type"] == ("reply_too_large" if kind in TOO_LONG else "poison"), (kind, documents[task_id])
            if error["type"] == "poison":
                assert "that served others (worker-" in error["message"]
        shown = me.ok("queue", "show", next(task_id for task_id, kind in bad.items() if kind == "html"))
        assert "poison" in shown
        assert "the server answered" in " ".join(shown.split())
        states = [one["state"] for one in me.json("workers")["workers"]]
        assert set(states) <= {"idle", "ready", "busy", "loading"}, "no server was taken out of service for it"


def test_an_outage_of_all_servers_uses_up_no_task_and_is_soon_over(tmp_path):
    with user(tmp_path, **{**LIMITS, "SWARM_SIM__REQUEST_S": "0.1"}) as me:
        me.ok("up", "--simulate", "3", "--detach")
        first = [me.queue.enqueue(task("warm", n)) for n in range(6)]
        wait_until(lambda: ended(me, first), what="models loaded", timeout_s=60)
        urls = [one["url"] for one in me.json("workers")["workers"]]

        def turn(faults):
            for url in urls:
                request = urllib.request.Request(f"{url}/sim/knobs", data=json.dumps({"faults": faults}).encode())
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60).close()

        turn(["error_500"])
        ids = [me.queue.enqueue(task(f"waits {n}", n)) for n in range(20)]
        wait_until(lambda: all("Circuit open" in me.log(f"worker-{n}") for n in (1, 2, 3)), what="the outage noticed")
        turn([])
        documents = wait_until(lambda: ended(me, ids), what="all done", timeout_s=60)
        assert {one["state"] for one in documents.values()} == {TaskState.COMPLETED}
        assert {one["attempts"][-1]["attempt"] for one in documents.values()} == {1}
