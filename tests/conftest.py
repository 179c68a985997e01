"""What holds for all tests."""

import signal

# Whoever is started in the background ignores Ctrl-C, and so does every program that is started from there.
signal.signal(signal.SIGINT, signal.default_int_handler)
