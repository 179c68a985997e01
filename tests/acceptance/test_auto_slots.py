"""`slots = "auto"` as a user meets it: on a simulated card whose requests share a curve of tokens a second."""

import json
import re
from collections import Counter

from tests.helpers.cli import user
from tests.helpers.wait import wait_until

NO_ROOM = re.compile(r"does not fit for (\d+) requests at once: loading it for (\d+)")
LOADED = re.compile(r"Model loaded: \S+ in \S+, .*, (\d+) at once")


def records(someone):
    return json.loads((someone.root / "workers" / "worker-1.slots.json").read_text())["records"]


def test_a_card_with_less_room_than_it_says_is_loaded_for_fewer_and_no_number_fails_twice(tmp_path):
    server = {"SWARM_SIM_CURVE": "1:400,8:3200,64:3300", "SWARM_SIM_VRAM_MIB": "9700"}
    models = {"llama3.1:8b": {"options": {"num_ctx": 8192}}}
    env = {"SWARM_OLLAMA__ENV": json.dumps(server), "SWARM_MODELS": json.dumps(models), "SWARM_SIM__LOAD_S": "0.1"}
    with user(tmp_path, **env) as someone:
        for number in (1, 2):
            someone.prompts(150, f"{number}.jsonl", turn=number)
            told = someone.json("run", f"{number}.jsonl", "-o", f"{number}.out", "--model", "llama3.1:8b", "--simulate", "1")
            assert (told["completed"], told["failed"]) == (150, 0)
        log = someone.log("worker-1")
        failed = Counter(found[0] for found in NO_ROOM.findall(log))
        assert {"16", "8"} <= set(failed)
        assert set(failed.values()) == {1}, failed
        assert LOADED.findall(log)[0] == "4"
        found = records(someone)
        smallest = min(record["failed"] for record in found if "failed" in record)
        assert 4 < smallest <= 8
        (shown,) = [record for record in found if "in_flight" in record]
        assert 3 <= shown["in_flight"] <= shown["capacity"] < smallest


def test_on_a_card_with_room_it_climbs_and_the_next_run_begins_where_this_one_ended(tmp_path):
    env = {"SWARM_OLLAMA__ENV": json.dumps({"SWARM_SIM_CURVE": "1:200,64:9000"}), "SWARM_SIM__LOAD_S": "0.1"}
    with user(tmp_path, **env) as someone:
        for number, prompts in ((1, 1200), (2, 400)):
            someone.prompts(prompts, f"{number}.jsonl", turn=number)
            told = someone.json("run", f"{number}.jsonl", "-o", f"{number}.out", "--model", "llama3.2:1b", "--simulate", "1")
            assert (told["completed"], told["failed"]) == (prompts, 0)
        log = someone.log("worker-1")
        assert "Slots of llama3.2:1b: 16, 8 slots:" in log
        assert " failed" not in log
        (record,) = records(someone)
        assert record["in_flight"] >= 16
        first, *_, last = LOADED.findall(log)
        assert (int(first), int(last) >= record["in_flight"]) == (16, True)
        assert "Model server stays" not in log


def test_a_server_that_is_kept_without_a_supervisor_is_started_again_as_well(tmp_path):
    with user(tmp_path, SWARM_SIM__LOAD_S="0.1", SWARM_SIM__REQUEST_S="0.02") as someone:
        someone.queue.prepare()
        started = [
            someone.start("serve", "worker-1", "--simulate", "1"),
            someone.start("worker", "worker-1", "--simulate", "1"),
        ]
        someone.prompts(150)
        someone.ok("submit", "prompts.jsonl", "--model", "llama3.2:1b")
        started.append(someone.start("brain"))
        wait_until(lambda: someone.json("queue", "stats")["completed"] == 150, timeout_s=60, what="all answered")
        log = someone.log("worker-1")
        assert "The model server is started again for 16 slots, it has 4" in log
        assert LOADED.findall(log)[0] == "16"
        assert "ollama-worker-1: restarting, as asked" in someone.log("serve-worker-1")
        for process in reversed(started):
            process.terminate()
            process.communicate(timeout=60)
