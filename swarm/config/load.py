"""Loads ``Settings`` from one TOML file and the environment, and reports every finding.

Later wins: defaults, the file, ``SWARM_<SECTION>__<KEY>`` variables, ``$SWARM_ROOT``, ``--root``.
"""

from __future__ import annotations

import functools
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec

from swarm.config.check import KeyPath, check, cross_checks, dotted, is_section, table_form, types_of, words
from swarm.config.settings import Settings
from swarm.errors import ConfigError, nearest
from swarm.filesystem.ownership import Doubt, opened
from swarm.plain_text import ForeignText, without_bom

DEFAULT_FILE = Path("config/swarm.toml")
MAX_BYTES = 1 << 20
MAX_ROOT_BYTES = 3500
"""A path may have 4,095; names of lanes, buckets and tasks come below it."""
NOT_SETTINGS = frozenset(
    {"SWARM_ROOT", "SWARM_CONFIG", "SWARM_PROCESS", "SWARM_WORKER", "SWARM_SERVER", "SWARM_MODEL_SERVER", "SWARM_TASK"}
)


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration in force and where it came from."""

    settings: Settings
    path: Path | None = None
    """The file that was read; None when there is none."""
    found: bool = False
    """Nobody named that file: it lies where the command was started."""
    sources: Mapping[str, str] = {}
    """Where each set key came from (``file``, ``$NAME`` or ``--root``), by dotted key; what is absent is a default."""


def load(config: Path | None, env: Mapping[str, str], root: Path | None) -> Loaded:
    """Read file and environment. ``settings.queue.root`` comes out absolute.

    Raises ``ConfigError`` that lists every finding, one a line, with file and line (or variable), key and near name; or that
    tells who else could have written the file, which is then not obeyed (one that sets nothing does no harm).
    """
    path = _choose_file(config, env)
    raw, lines = _read(path) if path is not None else ({}, {})
    sources = {dotted(key): "file" for key in _leaves(raw)}
    problems = list(check(raw, lambda key: _file_place(path, lines, key)))
    variables, overrides = _environment(env, problems)
    _merge(raw, overrides)
    sources |= {dotted(key): f"${name}" for key, name in variables.items()}
    if problems:
        raise _refusal(problems)
    _override_root(raw, sources, env, root)
    settings = msgspec.convert(raw, Settings)
    problems.extend(cross_checks(settings, lambda key: _place_of(path, lines, sources, key)))
    if problems:
        raise _refusal(problems)
    found = path is not None and config is None and not env.get("SWARM_CONFIG")
    return Loaded(settings=settings, path=path, found=found, sources=sources)


def _choose_file(config: Path | None, env: Mapping[str, str]) -> Path | None:
    if config is not None:
        return config
    if env.get("SWARM_CONFIG"):
        return Path(env["SWARM_CONFIG"])
    return DEFAULT_FILE if os.path.lexists(DEFAULT_FILE) else None


def _read(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """The file's document and the lines of its keys. Who else could have written it is looked at on the very file read."""
    try:
        with opened(str(path)) as (fd, doubts), open(fd, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        hint = "`swarm config show` prints the settings in force; leave out --config and $SWARM_CONFIG to run on defaults"
        raise ConfigError(f"{path}: there is no such configuration file", hint=hint) from None
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{path}: cannot be read: {getattr(problem, 'strerror', problem)}") from problem
    try:
        document, lines = _parse(path, data)
    except ConfigError:
        if doubts:
            raise _distrusted(path, doubts) from None
        raise
    if doubts and _sets_anything(document):
        raise _distrusted(path, doubts)
    return document, lines


def _parse(path: Path, data: bytes) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES >> 20} MiB, the limit for a configuration")
    try:
        text = without_bom(data).decode()
        return tomllib.loads(text), _line_numbers(text)
    except ForeignText as problem:
        raise ConfigError(f"{path}: {problem}", hint="the file must be UTF-8") from problem
    except UnicodeDecodeError as problem:
        raise ConfigError(f"{path}: is not UTF-8 (byte {problem.start})", hint="save it as UTF-8") from problem
    except tomllib.TOMLDecodeError as problem:
        hint = 'strings need quotes (level = "INFO"), tables are [section]'
        raise ConfigError(f"{path}: is no valid TOML: {problem}", hint=hint) from problem
    except RecursionError as problem:
        raise ConfigError(f"{path}: is nested too deeply for a configuration") from problem


def _sets_anything(document: Mapping[str, Any]) -> bool:
    return any(_sets_anything(value) if isinstance(value, dict) else True for value in document.values())


def _distrusted(path: Path, doubts: tuple[Doubt, ...]) -> ConfigError:
    reasons = "\n".join(f"  {doubt}" for doubt in doubts)
    message = f"{path}: is refused: others could have written it, and it names programs that run as you\n{reasons}"
    ways = "; ".join(dict.fromkeys(doubt.mend for doubt in doubts))
    return ConfigError(
        message, hint=f"look through the file, then: {ways}; or name another with --config, or start in another directory"
    )


def _line_numbers(text: str) -> dict[KeyPath, int]:
    """The line of each table and key, as far as a line-by-line look can tell (keys inside inline tables are not found)."""
    found: dict[KeyPath, int] = {}
    table: KeyPath = ()
    counts: dict[KeyPath, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*(\[\[?)\s*(.+?)\s*\]\]?\s*(?:#.*)?$", line):
            table = _parts(header[2])
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            found.setdefault(table, number)
        elif assignment := re.match(r"""\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_.\s-])+?)\s*=""", line):
            found.setdefault((*table, *_parts(assignment[1])), number)
    return found


def _parts(text: str) -> KeyPath:
    return tuple(a or b or c for a, b, c in re.findall(r""""([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+)""", text))


def _file_place(path: Path | None, lines: Mapping[KeyPath, int], key: KeyPath) -> str:
    for size in range(len(key), 0, -1):
        if key[:size] in lines:
            return f"{path}, line {lines[key[:size]]}: "
    return f"{path}: "


def _place_of(path: Path | None, lines: Mapping[KeyPath, int], sources: Mapping[str, str], key: KeyPath) -> str:
    """Where a key of the whole configuration was set: a variable, or a line of the file."""
    for size in range(len(key), 0, -1):
        source = sources.get(dotted(key[:size]), "")
        if source.startswith("$"):
            return f"{source}: "
    return _file_place(path, lines, key) if path is not None else "environment: "


def _environment(env: Mapping[str, str], problems: list[str]) -> tuple[dict[KeyPath, str], dict[str, Any]]:
    """Settings from variables. Findings are added to ``problems``."""
    given = sorted(name for name in env if name.startswith("SWARM_") and not _is_foreign(name))
    known = _variables() if given else {}
    squeezed = {name.replace("_", ""): name for name in known}
    used: dict[KeyPath, str] = {}
    tree: dict[str, Any] = {}
    for name in given:
        key, kind = known.get(name) or _table_entry(name)
        if kind is None:
            meant = next(iter(nearest(name, known)), None) if "__" in name else squeezed.get(name.replace("_", ""))
            if meant or "__" in name:  # the rest may be somebody else's
                problems.append(f"${name}: no such setting" + (f", did you mean ${meant}?" if meant else ""))
            continue
        place = f"${name} ({dotted(key)})" + (f" = {env[name]!r}" if key[0] != "workers" else "")  # they may hold tokens
        try:
            value = _typed(env[name], kind)
        except (msgspec.ValidationError, msgspec.DecodeError) as problem:
            problems.append(f"{place}: {words(problem, kind)}")
            continue
        except UnicodeEncodeError:
            problems.append(f"{place}: is not UTF-8")
            continue
        problems.extend(f"{place}: {finding}" for finding in check(value, lambda _key: "", kind, key))
        _merge(tree, _nest(key, value))
        used[key] = name
    return used, tree


def _is_foreign(name: str) -> bool:
    """Variables of other purpose: knobs of the simulated server, and what swarm tells its children."""
    return name in NOT_SETTINGS or (name.startswith("SWARM_SIM_") and not name.startswith("SWARM_SIM__"))


@functools.cache
def _variables() -> dict[str, tuple[KeyPath, Any]]:
    """Name of each variable, with the key it sets and its type. Whole tables and lists are set as JSON."""
    found: dict[str, tuple[KeyPath, Any]] = {}
    for section, kind in types_of(Settings).items():
        if is_section(kind):
            found |= {f"SWARM_{section}__{k}".upper(): ((section, k), types_of(kind)[k]) for k in kind.__struct_fields__}
        else:
            found[f"SWARM_{section}".upper()] = ((section,), kind)
    return found


def _table_entry(name: str) -> tuple[KeyPath, Any]:
    """``SWARM_SCRIPTS__RESIZE`` names one entry of a free table."""
    section, _, entry = name.removeprefix("SWARM_").lower().partition("__")
    kind = types_of(Settings).get(section)
    if entry and get_origin(kind) is dict:
        return (section, entry), get_args(kind)[1]
    return (), None


def _typed(text: str, kind: Any) -> object:  # noqa: ANN401  (a type form, which has no type of its own yet)
    """A variable's text as the plain value of its field: scalars as they are written, tables and lists as JSON."""
    if get_origin(kind) in (dict, tuple) or is_section(kind) or table_form(kind):
        value = msgspec.json.decode(text)
        msgspec.convert(value, kind)
        return value
    if text == "" and type(None) in get_args(kind):
        return None
    return msgspec.convert(text, kind, strict=False)


def _override_root(raw: dict[str, Any], sources: dict[str, str], env: Mapping[str, str], root: Path | None) -> None:
    queue = raw.setdefault("queue", {})
    if root is not None:
        queue["root"], sources["queue.root"] = str(root), "--root"
    elif env.get("SWARM_ROOT"):
        queue["root"], sources["queue.root"] = env["SWARM_ROOT"], "$SWARM_ROOT"
    queue["root"] = _absolute_root(queue.get("root") or Settings().queue.root)


def _absolute_root(named: str) -> str:
    """A link is followed here, once: all processes of a root know it by one name, and none looks again where it leads."""
    try:
        path = "/" + os.path.abspath(os.path.expanduser(named)).lstrip("/")  # two slashes mean no more than one here
    except FileNotFoundError as problem:
        message = "the current directory has been deleted, and the queue's root is relative to it"
        hint = "cd to a directory that exists, or name the root with its absolute path"
        raise ConfigError(message, hint=hint) from problem
    if path == "/":
        raise ConfigError(
            "/ cannot be a queue's root: its directories would lie among the system's", hint="name one below it"
        )
    if len(os.fsencode(path)) > MAX_ROOT_BYTES:
        raise ConfigError(f"{path[:40]}…: is too long for a queue's root, which may have {MAX_ROOT_BYTES:,} bytes")
    if os.path.islink(path):
        if not os.path.isdir(path):
            hint = "mount or make what it leads to, or choose another --root"
            raise ConfigError(f"{path}: is a link that leads to no directory", hint=hint)
        return os.path.realpath(path)
    return path


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for name, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


def _nest(key: KeyPath, value: object) -> dict[str, Any]:
    first, *rest = key
    return {str(first): _nest(tuple(rest), value) if rest else value}


def _leaves(value: object, key: KeyPath = ()) -> Iterator[KeyPath]:
    if isinstance(value, dict) and (value or not key):
        for name, item in value.items():
            yield from _leaves(item, (*key, name))
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, (*key, index))
    else:
        yield key


def _refusal(problems: list[str]) -> ConfigError:
    hint = "`swarm config schema` lists every key; config/swarm.toml shows them with their defaults"
    return ConfigError("\n".join(problems), hint=hint)
