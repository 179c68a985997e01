"""The environment of programs that others may name: the same on every box, whatever stands in our own."""

from __future__ import annotations

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def fixed_env(home: str) -> dict[str, str]:
    """All of it. Tokens and settings of whoever started swarm are not among it."""
    return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": home}
