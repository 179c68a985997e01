"""The limit on open files of this process."""

from __future__ import annotations

import resource


def allow_many_files() -> str:
    """As many as the system allows us; the usual 1,024 are few for connections. What came of it, empty if all is well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        return f"it keeps to {soft} open files: {error}"
    return ""
