"""The bench of what a worker adds to a request sees each moment of every task, in the worker as it is."""

from __future__ import annotations

from scripts.benchmarks.overhead import overhead
from tests.helpers.simserver import REPOSITORY


def test_each_task_is_seen_whole(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    said: list[str] = []
    found = overhead(str(tmp_path), "fast", 8, said.append)
    assert said == ["8 of 8 tasks seen whole, durability fast"]
    assert found["together"] >= found["exchange"] > 0
