"""What the brain says of the whole: the MONITOR line, stuck tasks, alarms; each when it changes, not each turn."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from swarm.config.settings import Settings
from swarm.core.explain.monitor import has_work, monitor_line, stuck_line
from swarm.core.health.stuck import stuck
from swarm.core.policy.decisions import Decision, Warn
from swarm.core.snapshot import SwarmSnapshot

MONITOR_GAP_S = 5.0
"""A changing MONITOR line is logged no more often."""


class Announcer:
    """Remembers what has been said."""

    def __init__(self, settings: Settings, log: logging.Logger) -> None:
        self._settings = settings
        self._log = log
        self._line = ""
        self._said_s = float("-inf")
        self._stuck: frozenset[tuple[str, int]] = frozenset()
        self._alarms: dict[str, str] = {}

    def announce(self, snapshot: SwarmSnapshot, decisions: Iterable[Decision]) -> None:
        """Once per turn."""
        self._announce_alarms({d.key: d.reason for d in decisions if isinstance(d, Warn)}, grace=snapshot.grace)
        self._announce_stuck(snapshot)
        self._announce_monitor(snapshot)

    def _announce_alarms(self, alarms: dict[str, str], *, grace: bool) -> None:
        for key, text in alarms.items():
            if key not in self._alarms:
                self._log.warning("%s", text)
        # In a turn of grace ages are not judged, so an alarm's absence means nothing.
        kept = {key: text for key, text in self._alarms.items() if grace}
        for key, text in self._alarms.items():
            if key not in alarms and key not in kept:
                self._log.info("Cleared: %s", text)
        self._alarms = {**kept, **{key: self._alarms.get(key, text) for key, text in alarms.items()}}

    def _announce_stuck(self, snapshot: SwarmSnapshot) -> None:
        if snapshot.grace:
            return
        found = stuck(snapshot, self._settings)
        now = frozenset((c.task_id, c.attempt) for c in found)
        if now and now != self._stuck:
            self._log.warning("%s", stuck_line(found))
        elif self._stuck and not now:
            self._log.info("Stuck tasks: none any more")
        self._stuck = now

    def _announce_monitor(self, snapshot: SwarmSnapshot) -> None:
        if not self._settings.brain.monitor_s:
            return
        line = monitor_line(snapshot, self._settings)
        since_s = snapshot.mono_s - self._said_s
        changed = line != self._line and since_s >= MONITOR_GAP_S
        if changed or (has_work(snapshot) and since_s >= self._settings.brain.monitor_s):
            self._log.info("%s", line)
            self._line, self._said_s = line, snapshot.mono_s
