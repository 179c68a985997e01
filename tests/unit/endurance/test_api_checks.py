"""What a batch API must not answer is found, each kind by its own words."""

from __future__ import annotations

import pytest

from tests.helpers.api_checks import BatchSeen, Look, of_batch, of_files


def good(**changes):
    answered = {"response": {"status_code": 200, "body": {"choices": [{"message": {"content": "blue"}}]}}, "error": None}
    whole = {
        "batch_id": "b1",
        "wanted": ["1", "2"],
        "looks": [Look("validating", 0, 0, 0), Look("in_progress", 2, 1, 0), Look("completed", 2, 1, 1)],
        "output": [{"custom_id": "1", **answered}],
        "errors": [{"custom_id": "2", "response": None, "error": {"code": "poison", "message": "it broke three servers"}}],
    }
    return BatchSeen(**(whole | changes))


def test_a_good_batch_has_no_findings():
    assert of_batch(good()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"errors": []}, "lost: 2 is in neither file"),
        ({"errors": good().output}, "twice: 1 is there 2 times"),
        ({"wanted": ["1"]}, "nobody asked for 2"),
        ({"errors": [{"custom_id": "2", "error": None}]}, "2 failed without a reason"),
        ({"output": [{"custom_id": "1", "response": {"status_code": 200, "body": {"choices": []}}}]}, "without an answer"),
        ({"looks": [Look("in_progress", 2, 2, 0), Look("in_progress", 2, 1, 0)]}, "counts went back"),
        ({"looks": [Look("finalizing", 2, 1, 1), Look("in_progress", 2, 1, 1)]}, "its status went back: finalizing"),
        ({"looks": [Look("completed", 2, 1, 1), Look("failed", 2, 1, 1)]}, "it was completed, then failed"),
        ({"looks": [Look("in_progress", 2, 2, 1)]}, "more ended than there are"),
        ({"looks": [Look("expired", 2, 1, 1)]}, "it ended as expired"),
        ({"looks": [Look("completed", 2, 2, 0)]}, "its last counts are 2, 2, 0"),
    ],
)
def test_each_fault_is_named(changes, words):
    assert words in "\n".join(of_batch(good(**changes)))


def test_an_input_file_is_whole_or_it_is_found():
    assert of_files([("f1", 3, b"abc")], [b"abc"]) == []
    assert "nobody uploaded" in of_files([("f1", 2, b"ab")], [b"abc"])[0]
    assert "is said to have 3 bytes and has 2" in of_files([("f1", 3, b"ab")], [b"ab"])[0]
