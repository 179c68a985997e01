"""``python -m swarm`` and the ``swarm`` command."""

from __future__ import annotations

import sys
import traceback

from swarm.errors import EXIT_INTERRUPTED

EXIT_INTERNAL = 70
"""``EX_SOFTWARE`` of sysexits."""


def main() -> None:
    """Run the command line; a Ctrl-C while it is still starting ends as any other."""
    try:
        from swarm.cli.app import app  # noqa: PLC0415  (an interrupt during this import is caught, too)

        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception:  # noqa: BLE001  (the last resort: the default exit code 1 would say "some tasks failed")
        traceback.print_exc()
        sys.stderr.write("error: this is a fault in swarm itself; please report it with the lines above\n")
        sys.exit(EXIT_INTERNAL)


if __name__ == "__main__":
    main()
