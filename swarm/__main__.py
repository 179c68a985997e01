"""``python -m swarm`` and the ``swarm`` command."""

from __future__ import annotations

import os
import signal
import sys

from swarm import stdio
from swarm.errors import EXIT_INTERRUPTED, EXIT_OK

EXIT_INTERNAL = 70
"""``EX_SOFTWARE`` of sysexits."""


def main() -> None:
    """Run the command line; a Ctrl-C while it is still starting ends as any other."""
    code: object = EXIT_OK
    try:
        stdio.prepare()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some programs leave it, no end of a child could be seen
        if os.getpid() == 1:
            from swarm.proc.init import work_below_init  # noqa: PLC0415

            work_below_init()
        from swarm.cli.app import app  # noqa: PLC0415  (nothing may be opened before; an interrupt meanwhile is caught, too)

        app()
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except stdio.OutputLost as lost:  # of the help, which is printed before a command is there to end well
        code = _lost(lost)
    except Exception:  # noqa: BLE001  (the last resort: the default exit code 1 would say "some tasks failed")
        import traceback  # noqa: PLC0415

        traceback.print_exc()
        sys.stderr.write("error: this is a fault in swarm itself; please report it with the lines above\n")
        code = EXIT_INTERNAL
    try:
        sys.stdout.flush()  # here, and not in the interpreter's last breath
    except stdio.OutputLost as lost:
        code = _lost(lost) or code
    sys.exit(code)  # type: ignore[arg-type]  # as it was given to ``sys.exit``


def _lost(lost: stdio.OutputLost) -> int:
    from swarm.cli.app import output_lost  # noqa: PLC0415

    return output_lost(lost)


if __name__ == "__main__":
    main()
