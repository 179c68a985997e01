"""What the configuration has switched off, in words for the log."""

from __future__ import annotations

from swarm.config.settings import Settings


def switched_off(settings: Settings) -> tuple[str, ...]:
    """One entry for each loop or warning that an interval of 0 turns off, with its key."""
    brain = settings.brain
    found = [
        ("the MONITOR line", "monitor_s", brain.monitor_s),
        ("looking for stuck tasks", "stuck_after_s", brain.stuck_after_s),
        ("counting stale tasks", "stale_queued_s", brain.stale_queued_s),
        ("warning of loads that wait", "load_warn_s", brain.load_warn_s),
    ]
    off = [f"{what} (brain.{key} = 0)" for what, key, value in found if not value]
    if not brain.retention_days and not brain.retention_count:
        off.append("purging of finished tasks (brain.retention_days and brain.retention_count = 0)")
    return tuple(off)
