"""What clients wait for is loaded by a real brain on real workers, and batches go on beside it."""

from __future__ import annotations

import threading
from typing import Self

from swarm.clock import now_iso
from swarm.core.live.demand import REFRESH_S, LiveDemand, ModelDemand
from swarm.proc.identity import current
from swarm.queue.stores import registry
from swarm.queue.stores.live_demand import write_demand
from tests.helpers.cli import User, user
from tests.helpers.wait import wait_until

BATCH, LIVE, PAUSED = "llama3.2:1b", "qwen2.5:7b", "llama3.1:8b"


class Clients:
    """What an HTTP server in this process would say that clients want, again and again."""

    def __init__(self, me: User) -> None:
        self._me = me
        self._models: dict[str, ModelDemand] = {}
        self._over = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._go_on)

    def want(self, model: str = "", **numbers: int) -> None:
        """From now on; without a model nothing."""
        self._models = {model: ModelDemand(**numbers)} if model else {}
        self._say()

    def _say(self) -> None:
        with self._writing:
            demand = LiveDemand(process=current(), written_at=now_iso(), models=self._models)
            write_demand(self._me.queue.layout, self._me.queue.storage, demand)
        self._me.queue.wake()

    def _go_on(self) -> None:
        while not self._over.wait(REFRESH_S / 5):
            self._say()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def holders(me: User, model: str) -> list[str]:
    beats = [registry.read_heartbeat(me.queue.layout, name) for name in me.queue.worker_names()]
    return [beat.name for beat in beats if beat is not None and beat.model == model]


def ended(me: User, state: str = "completed") -> int:
    return sum(not located.task_id.startswith("load-") for located in me.queue.list(state))


def reasons(me: User, model: str) -> dict[str, str]:
    return {reason["code"]: reason["text"] for reason in me.json("explain", model)["reasons"]}


def test_a_model_that_clients_wait_for_takes_one_card_and_the_batch_goes_on_with_the_other(tmp_path):
    with user(tmp_path, SWARM_SIM__REQUEST_S="0.1", SWARM_LLM__SLOTS="1") as me:
        me.ok("up", "--simulate", "2", "--detach")
        me.ok("submit", str(me.prompts(2000)), "--model", BATCH)
        wait_until(lambda: len(holders(me, BATCH)) == 2 and ended(me) > 10, what="both cards at work for the batch")
        with Clients(me) as clients:
            clients.want(LIVE, waiting=2)
            (worker,) = wait_until(lambda: holders(me, LIVE), what="the model is loaded")
            clients.want(LIVE, in_flight=1)
            (done,) = wait_until(
                lambda: [at.task_id for at in me.queue.list("completed") if at.task_id.endswith("-live")], what="its record"
            )
            load = me.queue.read(done)
            assert (load["model"], load["target_worker"], load["metadata"]["live"]) == (LIVE, worker, True)
            said = f"Live requests (2) wait for {LIVE}, which no card holds - inserting load_llm task for {worker}"
            assert said in me.log("brain")

            before = ended(me)
            wait_until(lambda: ended(me) > before + 20, what="the batch goes on")
            assert holders(me, LIVE) == [worker]
            assert len(holders(me, BATCH)) == 1
            found = reasons(me, LIVE)
            assert found["live"] == f"1 live request for {LIVE} under way, 0 waiting."
            assert f"live requests use {LIVE}" in found["loaded"]
            live = me.json("status")["live"]
            assert (live["in_flight"], live["waiting"], live["models"][0]["model"]) == (1, 0, LIVE)

            clients.want()
            wait_until(lambda: len(holders(me, BATCH)) == 2, what="nobody uses it any more: the batch has the card back")
            me.queue.cancel_many([at.task_id for at in me.queue.list("pending")], "seen enough")
            wait_until(lambda: ended(me) + ended(me, "cancelled") == 2000, what="the batch ends")
            assert not ended(me, "failed")

            me.ok("queue", "pause", "--model", PAUSED)
            clients.want(PAUSED, waiting=1)
            words = f"{PAUSED} is not loaded for live requests, because model {PAUSED} is paused"
            wait_until(lambda: words in reasons(me, PAUSED).get("paused", ""), what="the reason is told")
            assert holders(me, PAUSED) == []
            me.ok("queue", "resume", "--model", PAUSED)
            wait_until(lambda: holders(me, PAUSED), what="loaded once it may be")
