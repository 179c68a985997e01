"""What a batch gave, reckoned from its sums."""

from __future__ import annotations

import msgspec
import pytest

from swarm.cli.render import to_plain
from swarm.queue.batches.tally import Sums, Tally
from swarm.views.batches.batch_gave import batch_gave, gave_blocks, joules

AT = "2026-02-07T21:{:02d}:{:02d}.000+00:00"
BEGAN_S = 1770498000.0  # 21:00:00


def document(begin_s, end_s, *, worker="worker-1", energy_j=None, tokens=(20, 100), model="Llama3.2:3b"):
    attempt = {
        "worker": worker,
        "gpu": "GPU-1",
        "started_at": AT.format(*divmod(begin_s, 60)),
        "ended_at": AT.format(*divmod(end_s, 60)),
    }
    attempt |= {} if energy_j is None else {"energy_j": energy_j}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return {"model": model, "attempts": [attempt], "result": {"usage": usage}}


def tally_of(*documents, left=5):
    sums = Sums()
    for one in documents:
        sums.note(one)
    sums.settle()
    return Tally(completed=sums, failed=Sums(), cancelled=Sums(), left=left)


def test_rates_are_over_the_time_of_work_and_pauses_do_not_count():
    """Two at once for 10 s, half an hour of nothing, one for 10 s."""
    tally = tally_of(document(0, 10), document(0, 10), document(1800, 1810))
    gave = batch_gave(tally, {}, now_s=BEGAN_S + 1815)
    assert (gave.worked_s, gave.tokens_in_per_s, gave.tokens_out_per_s) == (20.0, 3.0, 15.0)
    assert gave.recent_tokens_out_per_s == pytest.approx(100 / 60, rel=0.1)
    (row,) = gave.workers
    assert (row.items, row.slots, row.share_of_best, row.energy_j) == (3, 1.5, None, None)
    assert (row.slots_over_time[0], row.slots_over_time[-1]) == (2.0, 1.0)


def test_the_share_of_the_best_is_by_card_and_model_and_only_where_a_best_is_known():
    tally = tally_of(document(0, 10), document(0, 10, worker="worker-2"))
    gave = batch_gave(tally, {("worker-1", "llama3.2:3b"): 40.0}, now_s=BEGAN_S)
    assert [row.share_of_best for row in gave.workers] == [0.25, None]
    assert gave.share_of_best == 0.25


def test_joules_are_of_the_attempts_that_have_them():
    gave = batch_gave(tally_of(document(0, 10, energy_j=600.0), document(0, 10)), {}, now_s=BEGAN_S)
    assert (gave.energy_j, gave.j_per_1k_tokens) == (600.0, 6000.0)
    unknown = batch_gave(tally_of(document(0, 10)), {}, now_s=BEGAN_S)
    assert (unknown.energy_j, unknown.j_per_1k_tokens) == (None, None)


def test_what_has_ended_has_no_rate_of_late():
    assert batch_gave(tally_of(document(0, 10), left=0), {}, now_s=BEGAN_S + 11).recent_tokens_out_per_s is None


def test_answers_from_the_cache_gave_nothing():
    gave = batch_gave(tally_of(document(0, 1) | {"cached": True}), {}, now_s=BEGAN_S)
    assert (gave.workers, gave.worked_s, gave.tokens_out_per_s) == ((), 0.0, None)
    assert gave_blocks(gave) == []


def test_all_of_it_is_said():
    tally = tally_of(document(0, 10, energy_j=600.0), document(0, 10, energy_j=600.0, tokens=(20, 300)))
    text = to_plain(gave_blocks(batch_gave(tally, {("worker-1", "llama3.2:3b"): 50.0}, now_s=BEGAN_S + 20)))
    first, head, row = (line for line in text.splitlines() if line.strip())
    assert "tokens 4.0/s in 40/s out in 10s of work; last minute" in first
    assert "80% of the best of these cards; 1,200 J, 3,000 J per 1,000 tokens" in first
    assert head.split()[:2] == ["WORKER", "MODEL"]
    assert " ".join(row.split()) == "worker-1 Llama3.2:3b 4 40 80% 2.0 1,200 J 3,000 2 2 (per 5.0s)"
    assert msgspec.json.decode(msgspec.json.encode(batch_gave(tally, {}, BEGAN_S)))["workers"][0]["slots"] == 2.0


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 J"), (9999, "9,999 J"), (12_400, "12.4 kJ"), (3_100_000, "3,100.0 kJ"), (3.1e7, "31.0 MJ")]
)
def test_joules_in_words(value, text):
    assert joules(value) == text
