"""What holds for all tests: they see nothing of the settings and the shell of whoever starts them, nor a busy machine."""

import os
import random
import signal

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from swarm.proc import ports
from swarm.queue import layout

for name in list(os.environ):
    if name in ("SWARM_ROOT", "SWARM_CONFIG") or (name.startswith("SWARM_") and "__" in name):
        del os.environ[name]

# Whoever is started in the background ignores Ctrl-C, and so does every program that is started from there.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis_settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("unhurried")


SHARES = 8


class _PortsOfThisProcess:
    """Draws from a share of the ports, so that tests in two processes at once never draw the same one."""

    def randrange(self, first: int, end: int) -> int:
        number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES
        size = (end - first) // SHARES
        return random.randrange(first + number * size, first + (number + 1) * size)


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
