"""What holds for all tests: they see nothing of the settings and the shell of whoever starts them, nor a busy machine."""

import os
import signal

from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

for name in list(os.environ):
    if name in ("SWARM_ROOT", "SWARM_CONFIG") or (name.startswith("SWARM_") and "__" in name):
        del os.environ[name]

# Whoever is started in the background ignores Ctrl-C, and so does every program that is started from there.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis_settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("unhurried")
