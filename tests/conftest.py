"""What holds for all tests: they see nothing of the settings and the shell of whoever starts them."""

import os
import signal

for name in [name for name in os.environ if name.startswith("SWARM_") and not name.startswith("SWARM_TEST_")]:
    del os.environ[name]

# Whoever is started in the background ignores Ctrl-C, and so does every program that is started from there.
signal.signal(signal.SIGINT, signal.default_int_handler)
