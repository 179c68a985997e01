"""What holds for all tests: they see nothing of the settings and the shell of whoever starts them, nor a busy machine."""

import os
import random
import signal
from collections import deque

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from swarm.proc import ports
from swarm.queue import layout

for name in list(os.environ):
    if name in ("SWARM_ROOT", "SWARM_CONFIG") or (name.startswith("SWARM_") and "__" in name):
        del os.environ[name]

# Whoever is started in the background ignores Ctrl-C, by `nohup` the end of the terminal, and so does what is started there.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

hypothesis_settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("unhurried")


SHARES = 8
ROOM = 16
TRIES = 50


class _PortsOfThisProcess:
    """Draws from a share of the ports, so that tests in two processes at once never draw the same one.

    Nor does one test draw two that lie close together: the servers of one might take the port of the other.
    """

    def __init__(self) -> None:
        self._drawn: deque[int] = deque(maxlen=32)

    def randrange(self, first: int, end: int) -> int:
        number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES
        size = (end - first) // SHARES
        port = first
        for _ in range(TRIES):
            port = random.randrange(first + number * size, first + (number + 1) * size)
            if all(abs(port - other) >= ROOM for other in self._drawn):
                break
        self._drawn.append(port)
        return port


ports.random = _PortsOfThisProcess()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Names that are no UTF-8 show in captured logs; what is sent from one process to another must be text."""
    report = yield
    report.sections = [(head, text.encode(errors="backslashreplace").decode()) for head, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def _ids_of_now():
    """One test may set the clock forward, and a process never goes back behind its last id."""
    layout._here._last_ms = 0
