"""The simulation's own routes: what it has done so far, and turning its knobs while it runs."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import msgspec

from swarm.simulator import faults
from swarm.simulator.errors import ApiError
from swarm.simulator.knobs import turned

if TYPE_CHECKING:
    from swarm.simulator.app import App


def describe(app: App) -> dict[str, Any]:
    """The answer of ``GET /sim/state``."""
    scheduler = app.scheduler
    runners = [
        {
            "model": one.model.name,
            "pid": one.process.pid if one.process else None,
            "port": one.process.port if one.process else None,
            "slots": one.parallel,
            "in_use": one.refs,
            "size_mib": one.size_mib,
            "vram_mib": one.vram_mib,
            "num_ctx": one.options.num_ctx,
        }
        for one in scheduler.loaded
    ]
    return {
        "simulated": True,
        "pid": os.getpid(),
        "port": app.env.port,
        "requests": app.requests,
        "served": app.served,
        "in_flight": app.in_flight,
        "queued_loads": scheduler.queued,
        "loads": scheduler.loads,
        "unloads": scheduler.unloads,
        "faults": app.picker.drawn,
        "runners": runners,
        "environment": app.env,
        "knobs": app.knobs,
    }


def turn(app: App, changes: dict[str, Any]) -> None:
    """Turn knobs. Raises ``ApiError`` 400 for an unknown name or a wrong value; then nothing is changed."""
    try:
        knobs = turned(app.knobs, changes)
        faults.check(knobs)
    except (msgspec.ValidationError, ValueError) as error:
        raise ApiError(400, f"simulated: {error}") from error
    app.knobs = knobs
    app.picker.turned()
    event, app.turned = app.turned, asyncio.Event()
    event.set()
