"""An interval of 0 turns a loop or warning off, and says so; where it makes no sense it is refused."""

from __future__ import annotations

import logging

import pytest

from swarm.brain.brain import Announcer
from swarm.brain.main import switched_off
from swarm.config.load import load
from swarm.config.settings import BrainSettings, Settings
from swarm.core.health.liveness import stuck
from swarm.core.policy.alarms import alarms
from swarm.errors import ConfigError
from tests.support.builders import a_claim, a_snapshot, a_worker, cold_workers, llm_waiting, load_waiting

NAMES = ("monitor_s", "stuck_after_s", "stale_queued_s", "load_warn_s")


def off(*names: str) -> Settings:
    return Settings(brain=BrainSettings(retention_days=7, **dict.fromkeys(names, 0.0)))


def test_each_is_named_with_its_key():
    assert switched_off(off()) == ()
    for name in NAMES:
        (line,) = switched_off(off(name))
        assert f"brain.{name} = 0" in line
    assert switched_off(Settings()) == ("purging of finished tasks (brain.retention_days and brain.retention_count = 0)",)


@pytest.mark.parametrize(("settings", "said"), [(off(), True), (off("monitor_s"), False)])
def test_the_monitor_line(settings, said, caplog):
    caplog.set_level(logging.INFO, "test.announce")
    teller = Announcer(settings, logging.getLogger("test.announce"))
    teller.announce(a_snapshot(lanes=[llm_waiting(3)]), ())
    assert any("MONITOR" in r.message for r in caplog.records) is said


def test_nothing_is_stuck():
    picture = a_snapshot(workers=[a_worker()], claims=[a_claim(quiet_s=1e6)])
    assert stuck(picture, off())
    assert not stuck(picture, off("stuck_after_s"))


def test_waiting_loads_are_not_warned_about():
    picture = a_snapshot(workers=cold_workers(1), lanes=[llm_waiting(9), load_waiting("worker-1", wait_s=1e6)])
    assert any(one.key.startswith("load-stale") for one in alarms(picture, off()))
    assert not any(one.key.startswith("load-stale") for one in alarms(picture, off("load_warn_s")))


@pytest.mark.parametrize(
    "text", ["[brain]\ntick_s = 0\n", "[worker]\nheartbeat_s = 0\n", "[worker]\npoll_s = 0\n", "[llm]\ntimeout_s = 0\n"]
)
def test_what_cannot_be_off_is_refused_and_says_so(tmp_path, text):
    file = tmp_path / "my.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="cannot be switched off"):
        load(file, {}, None)
