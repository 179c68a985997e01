"""``python -m swarm.simulator``."""

from __future__ import annotations

import sys

from swarm import stdio
from swarm.simulator import main

if __name__ == "__main__":
    stdio.prepare()
    sys.exit(main())
