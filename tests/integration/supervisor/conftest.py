"""Supervisors over stand-ins, ended after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swarm.config.settings import OllamaSettings, Settings, SimSettings, WorkerSpec
from swarm.core.placement.worker_plan import plan_workers
from swarm.proc.ports import free_port
from tests.helpers.supervised import FAST, Swarm


@pytest.fixture
def swarm(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Swarm]]:
    monkeypatch.setattr("swarm.supervisor.local_process.STOP_GRACE_S", 60.0)
    swarms: list[Swarm] = []

    def make(*, simulate: int | None = None, mode: str = "plain", env: dict[str, str] | None = None, **options) -> Swarm:
        ollama = OllamaSettings(
            base_port=free_port(), env=env or {}, stop_grace_s=60.0, start_timeout_s=options.pop("start_timeout_s", 60)
        )
        workers = () if simulate else tuple(WorkerSpec(name=n) for n in ("w1", "w2"))
        settings = Settings(
            ollama=options.pop("ollama", ollama), workers=workers, sim=SimSettings(start_delay_s=0.0), supervisor=FAST
        )
        plans = options.pop("plans", None)
        plans = plan_workers(settings, (), simulate=simulate) if plans is None else plans
        swarms.append(Swarm(root, plans, settings, mode, options.pop("drain_s", 300.0), **options))
        return swarms[-1]

    yield make
    for one in swarms:
        one.down()
