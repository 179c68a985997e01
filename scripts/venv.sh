# Sourced by the scripts beside: makes .venv once, and again when pyproject.toml changed.
ensure_venv() {
    local extra="${1:-}" python mark
    python="$(find_python)"
    mark=".venv/.installed${extra:+-dev}"
    if [ -f "$mark" ] && [ "$mark" -nt pyproject.toml ]; then
        return
    fi
    echo "Installing into .venv (first time, or pyproject.toml changed) ..."
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[${extra:-http}]"
    touch "$mark"
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "swarm needs Python 3.11 or newer with venv (set PYTHON=/path/to/python)" >&2
    exit 2
}
