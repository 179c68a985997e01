"""Where the scripts run: in the checkout's own .venv, which is made and completed on the way like for ``scripts/test``."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
VENV = HOME / ".venv"
PYTHON = VENV / "bin" / "python"
NEEDED = ("filelock", "msgspec", "psutil", "rich", "typer")
FOR_TESTS = ("pytest", "hypothesis")


def enter(*, tests: bool = False) -> None:
    """Go on in ``.venv`` if there is one, else here if all that is needed is here; what is missing is installed first.

    ``tests``: tests are run, too. Exits 2 if it cannot be installed.
    """
    if PYTHON.exists() and Path(sys.prefix) != VENV:
        os.execv(PYTHON, [str(PYTHON), *sys.argv])
    names = (*NEEDED, *(FOR_TESTS if tests else ()))
    if not _missing(names):
        return
    install = ["bash", "-ec", '. scripts/venv.sh; ensure_venv "$@"', "install", *(["dev"] if tests else [])]
    done = subprocess.run(install, cwd=HOME, stdout=sys.stderr, check=False)
    if done.returncode == 0 and Path(sys.prefix) != VENV:
        os.execv(PYTHON, [str(PYTHON), *sys.argv])
    if missing := _missing(names):
        print(f"{sys.argv[0]}: {', '.join(missing)} could not be installed into {VENV}", file=sys.stderr)
        raise SystemExit(2)


def _missing(names: tuple[str, ...]) -> list[str]:
    importlib.invalidate_caches()
    return [name for name in names if importlib.util.find_spec(name) is None]
