"""A small kill storm over the HTTP server, driven by OpenAI's own client. The large one: ``scripts/torture --only http``."""

import pytest

from tests.helpers.api_storm import ApiPlan, ApiStorm


@pytest.mark.slow
def test_kills_while_a_client_drives_batches_lose_nothing_and_count_nothing_twice():
    storm = ApiStorm(ApiPlan(batches=3, lines=40, kills=8, seed=5, workers=2), print)
    report = storm.blow()
    assert report.findings == [], (report, storm.home)
    assert report.batches >= 3
    assert report.shots.total() > 0
    assert report.cut_uploads >= report.batches - report.created_twice
    assert report.lines == 40 * report.batches
