"""A swarm in the background whose supervisor is started again by whoever runs it: here, by a kill storm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

from swarm.proc.env_markers import ROOT_MARKER, kill_marked
from swarm.queue.layout import Layout
from swarm.queue.stores import registry
from tests.helpers.wait import wait_until

END_S = 120.0


class KeptSupervisor:
    """``swarm up`` with these words, on ``home``/config.toml; what it says goes to ``home``/supervisor.out."""

    def __init__(
        self, home: str, root: str, *words: str, through: Callable[[list[str]], Sequence[str]] = list, **env: str
    ) -> None:
        """``through`` says how to start a command, where it is to run elsewhere than here."""
        self._home, self._root = home, root
        argv = [sys.executable, "-m", "swarm", "up", *words, "--root", root, "--config", f"{home}/config.toml"]
        self._argv = through(argv)
        self._env = {**os.environ, "SWARM_SIM_RUNNER": "none", **env}
        self._process: subprocess.Popen[bytes] | None = None

    def keep_up(self) -> None:
        """Start it, unless it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        with open(f"{self._home}/supervisor.out", "ab") as out:
            self._process = subprocess.Popen(self._argv, stdout=out, stderr=out, env=self._env, start_new_session=True)

    def kill(self) -> None:
        """SIGKILL to it alone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def kill_all(self) -> None:
        """And to all processes of its swarm."""
        kill_marked(0.0, **{ROOT_MARKER: self._root})
        self.kill()

    def end(self) -> bool:
        """Have it end in order, once it hears; False: it did not within ``END_S``."""
        assert self._process is not None
        wait_until(self._hears, what="the supervisor is registered")
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _hears(self) -> bool:
        """Whether it obeys signals by now: before that, one would kill it, and what it was to adopt would be left."""
        assert self._process is not None
        row = registry.read_row(Layout(self._root), "supervisor")
        return self._process.poll() is not None or (row is not None and row.process.pid == self._process.pid)
