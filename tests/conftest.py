"""What holds for all tests: they see nothing of the settings and the shell of whoever starts them."""

import os
import signal

for name in list(os.environ):
    if name in ("SWARM_ROOT", "SWARM_CONFIG") or (name.startswith("SWARM_") and "__" in name):
        del os.environ[name]

# Whoever is started in the background ignores Ctrl-C, and so does every program that is started from there.
signal.signal(signal.SIGINT, signal.default_int_handler)
