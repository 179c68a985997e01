"""``python -m swarm.ollama.sim``."""

from __future__ import annotations

import sys

from swarm import stdio
from swarm.ollama.sim import main

if __name__ == "__main__":
    stdio.prepare()
    sys.exit(main())
