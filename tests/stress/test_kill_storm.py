"""A small kill storm with real processes, and how soon a restarted brain is ready. The large ones: ``scripts/torture``."""

import pytest

from tests.helpers.killstorm import Storm
from tests.helpers.restarts import readiness
from tests.helpers.stormplan import Plan


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ollama", "llama-server", "vllm"])
def test_ten_kills_lose_nothing_and_leave_nothing(engine):
    storm = Storm(Plan(tasks=300, kills=10, seed=20260207, workers=2, engine=engine), print)
    report = storm.blow()
    assert report.violations == 0, (report, storm.home)
    assert report.completed + report.failed == 300
    assert report.executions >= report.completed


@pytest.mark.slow
def test_a_brain_is_ready_soon_after_its_start():
    assert readiness(pending=2_000, processing=16) < 30.0  # 2 s on a quiet machine, which `scripts/torture` holds it to
