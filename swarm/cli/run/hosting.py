"""The swarm that works on a run: the one that is up, or one of the run's own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from swarm.config.settings import Settings
from swarm.errors import EngineError, LockHeld, NotRunning
from swarm.proc.identity import read_stat
from swarm.runtime.bootstrap import RunOptions
from swarm.runtime.open import lives, swarm_lives
from swarm.supervisor.background import start_background, wait_until_up
from swarm.supervisor.down import end_without_supervisor
from swarm.supervisor.what_runs import orphans, run_served
from swarm.views.words import plural

READY_MARGIN_S = 30.0
STOP_MARGIN_S = 60.0
ENDING_POLL_S = 0.1
LIFE_S = 0.5
GONE_S = 5.0


@dataclass
class Hosting:
    """The swarm that works on a run. ``own`` is the supervisor started for it; None: a swarm was up already.

    ``guest_of`` is then the run that it was started for and ends with; None: it stays up.
    """

    own: subprocess.Popen[bytes] | None
    asked: int = field(default=0)
    guest_of: int | None = None

    def drain(self) -> None:
        """Ask our own swarm to finish what runs and end; a swarm of others is left alone."""
        self._signal(signal.SIGTERM)

    def stop(self) -> None:
        """Ask our own swarm to end now."""
        self._signal(signal.SIGQUIT)

    def ended(self) -> bool:
        """Our own swarm has ended."""
        return self.own is not None and self.own.poll() is not None

    def _signal(self, number: int) -> None:
        if self.own is not None and self.own.poll() is None:
            self.own.send_signal(number)


class SwarmGone(NotRunning):
    """Nobody works on the tasks any more; finished results are kept."""


class LifeWatch:
    """Checks now and then that a swarm still works on what somebody waits for."""

    def __init__(self, settings: Settings, host: Hosting, again: str) -> None:
        """``again``: what to do to go on once a swarm works again."""
        self._settings = settings
        self._host = host
        self._again = again
        self._asked_s = self._seen_s = time.monotonic()

    def check(self) -> None:
        """Raises ``EngineError`` when the swarm that was started here has ended, ``SwarmGone`` when no other is left."""
        if self._host.ended():
            log = f"{self._settings.queue.root}/logs/supervisor.log"
            raise EngineError(
                "the swarm started here has ended; finished results are kept", hint=f"see {log}; {self._again} to go on"
            )
        now_s = time.monotonic()
        if self._host.own is not None or now_s - self._asked_s < LIFE_S:
            return
        self._asked_s = now_s
        if swarm_lives(self._settings):
            self._seen_s = now_s
        elif self._host.guest_of is not None or now_s - self._seen_s > GONE_S:
            hint = f"`swarm up`, then {self._again} to go on"
            raise SwarmGone("no swarm is running any more; finished results are kept", hint=hint)


@contextmanager
def hosting(options: RunOptions, *, quiet: bool = True) -> Iterator[Hosting]:
    """A swarm for the time of the block: the living one, or a fresh one that is drained at the end.

    Unless ``quiet``, a fresh one is announced on standard error, for its servers take some seconds to start. One whose
    `swarm run` was killed is ending: that is waited for.
    Raises ``ConfigError`` (no GPU and no ``--simulate``), ``EngineError`` when no worker comes up.
    """
    _outwait_ending(options.settings)
    process = None if swarm_lives(options.settings) else _start(options, quiet=quiet)
    if process is not None:
        host = Hosting(own=process)
        try:
            if _comes_up(options, process):
                yield host
                return
        finally:
            host.drain()
            _reap(process, options.settings)
    if options.simulate:
        print("note: a swarm is already running and does the work; --simulate is ignored", file=sys.stderr)
    elif not lives(options.settings, "supervisor"):
        whose = "workers without a supervisor" if orphans(options.settings) else "workers started alone"
        print(f"note: {whose} do the work", file=sys.stderr)
    yield Hosting(own=None, guest_of=run_served(options.settings))


def _outwait_ending(settings: Settings) -> None:
    """A swarm outlives the run it was started for by what it still runs; a run that joined it now would soon be alone."""
    run = run_served(settings)
    stat = read_stat(run) if run is not None else None
    if run is None or (stat is not None and stat.alive):
        return
    print("note: the swarm of an earlier run is ending; this run waits for it", file=sys.stderr)
    while swarm_lives(settings):
        time.sleep(ENDING_POLL_S)


def _start(options: RunOptions, *, quiet: bool) -> subprocess.Popen[bytes] | None:
    """A swarm for this run; None when somebody else has just started one."""
    try:
        if quiet:
            return start_background(options, parent=True)
        return start_background(options, parent=True, planned=_say_starting, noted=_say)
    except LockHeld:
        return None


def _comes_up(options: RunOptions, process: subprocess.Popen[bytes]) -> bool:
    """Wait for it; False when it gave way to one that somebody else started at the same moment."""
    try:
        wait_until_up(options, process, timeout_s=options.settings.ollama.start_timeout_s + READY_MARGIN_S)
    except EngineError:
        if process.poll() is None or not lives(options.settings, "supervisor"):
            raise
        return False
    return True


def _say_starting(workers: int, note: str) -> None:
    on = f" on {note}" if note else ""
    what = plural(workers, "worker") if workers else "the Ray driver"
    print(f"starting {what}{on} …", file=sys.stderr, flush=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _reap(process: subprocess.Popen[bytes], settings: Settings) -> None:
    patience_s = STOP_MARGIN_S + settings.llm.timeout_s + settings.command.timeout_s  # it may have claimed others' programs
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired as exc:
        raise EngineError(f"the swarm of this run did not end within {patience_s:.0f} s", hint="`swarm down --now`") from exc
    left = orphans(settings)
    if left:  # its supervisor was killed; nothing else would ever end them
        end_without_supervisor(settings, left, now=True)
