"""Prefix order as a user meets it: a shuffled file, whole swarms on simulated cards whose slots keep the last prompt."""

import json
import random
import urllib.request
from itertools import pairwise

import pytest

from swarm.proc.ports import free_port
from tests.helpers.cli import user

MODEL = "llama3.2:3b"
ROWS, HEADER_TOKENS = 60, 1500
"""A simulated token is four characters."""


@pytest.mark.parametrize("ordered", [True, False])
def test_a_header_is_computed_once_for_all_who_share_it(tmp_path, ordered):
    rng = random.Random(5)
    headers = ["".join(rng.choices("abcdef ghi", k=4 * HEADER_TOKENS)) for _ in range(3)]
    prompts = [f"{headers[at % 3]} question {at}" for at in range(ROWS)]
    rng.shuffle(prompts)
    port = free_port("127.0.0.1")
    env = {
        "SWARM_OLLAMA__BASE_PORT": str(port),
        "SWARM_SIM__REQUEST_S": "0.01",
        "SWARM_LLM__SLOTS": "1",
        "SWARM_LLM__PREFIX_ORDER": str(ordered).lower(),
    }
    with user(tmp_path, **env) as someone:
        lines = (json.dumps({"prompt": prompt}) for prompt in prompts)
        (someone.folder / "in.jsonl").write_text("\n".join(lines))
        submitted = someone.json("submit", "in.jsonl", "--model", MODEL)
        someone.ok("up", "--simulate", "1", "--detach")
        someone.ok("run", "in.jsonl", "--model", MODEL, "-o", "out.jsonl")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/sim/state", timeout=60) as answer:
            evaluated = json.load(answer)["prompt_tokens_evaluated"]
        rows = [json.loads(line) for line in (someone.folder / "out.jsonl").read_text().splitlines()]
        assert [row["prompt"] for row in rows] == prompts, "results are in the input's order"
        started = sorted(rows, key=lambda row: someone.queue.read(row["task_id"])["attempts"][0]["started_at"])
        assert submitted["accepted"] == ROWS
    changes = sum(a["prompt"][:99] != b["prompt"][:99] for a, b in pairwise(started))
    least = 3 * HEADER_TOKENS + ROWS * 5
    if ordered:
        assert changes == 2
        assert evaluated <= 1.15 * least
    else:
        assert changes > 20
        assert evaluated > 5 * least
