"""Optional packages: whether those of an extra are installed, and how to install them."""

from __future__ import annotations

from importlib.util import find_spec

from swarm.errors import ConfigError

HTTP_MODULES = ("starlette", "uvicorn", "uvloop", "httptools", "sse_starlette", "jinja2", "python_multipart")
"""Of the extra ``http``, as ``pyproject.toml`` has it."""


def need_http() -> None:
    """Raises ``ConfigError`` with the command that installs what the HTTP server needs, where something is missing."""
    missing = [name for name in HTTP_MODULES if find_spec(name) is None]
    if missing:
        what = f"the HTTP server needs packages that are not installed: {', '.join(missing)}"
        raise ConfigError(what, hint="pip install 'gpu-swarm[http]'")
