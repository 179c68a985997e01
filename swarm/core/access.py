"""What a client of the HTTP server may do."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """Each includes those before it."""

    READ = "read"
    """Look at everything, prompts and answers included."""
    SUBMIT = "submit"
    """Have work done, and end or repeat it."""
    ADMIN = "admin"
    """Change how the swarm runs: pause, resume, restart."""

    def covers(self, needed: Scope) -> bool:
        """Whether a client of this scope may do what needs that one."""
        return _RANK[self] >= _RANK[needed]


_RANK = {scope: rank for rank, scope in enumerate(Scope)}
