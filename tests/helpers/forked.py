"""Work in a forked child that never goes on as a second run of the tests."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def forked(act: Callable[[], object]) -> int:
    """Run it in a child; its exit status, negative for a signal. What it raises fails the test here."""
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException:
            os.write(write_fd, traceback.format_exc().encode(errors="replace")[-60_000:])
        finally:
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    assert said == "", f"in the child: {said}"
    return os.waitstatus_to_exitcode(status)
