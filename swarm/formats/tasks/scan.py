"""Reading a whole input before any work starts: all its problems at once, and what it holds."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from swarm.errors import InputError
from swarm.formats.input.detect import read_items, resolve_format
from swarm.formats.input.options import Format, ReadOptions
from swarm.formats.input.problems import MAX_LISTED, FieldError, Problems
from swarm.formats.input.source import Source, source_of
from swarm.formats.tasks.duplicates import DIGEST_BYTES, Repeats
from swarm.formats.tasks.task_builder import Built, builder

MAX_SLUG = 40
MOST_TARGETS = 1000


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """What a checked input holds."""

    label: str
    format: Format
    batch_id: str
    items: int
    models: dict[str, int]
    """Items per model."""
    repeated: frozenset[bytes]
    """Digests of contents that occur more than once; those items are told apart by their number of occurrence."""
    stamp: tuple[int, int]
    """Size and modification time (ns) of the file when it was read."""
    linked: bool = False
    """Some item depends on another task; see ``swarm.formats.tasks.links``."""
    targets: dict[str, int] = msgspec.field(default_factory=dict)
    """Who is told of the end of items (``MOST_TARGETS`` of them), with the first line that names each."""


Check = Callable[[dict[str, Any]], None]
"""Whatever else a document must be; raises ``FieldError``."""


def validate(path: str | Source, options: ReadOptions, check: Check | None = None) -> Scan:
    """Read the whole input once. Raises ``InputError`` with all ``problems`` (the first 100) when there is any.

    ``check`` sees each document as well.

    Memory: flat, about 24 bytes an item up to 64 MiB (see ``Repeats``; twice that with custom_ids), plus 80 bytes for
    each content that occurs more than once.
    """
    source = source_of(path)
    stamp = source.stamp()
    form = resolve_format(source, options)
    problems = Problems(source.label)
    items, models, linked = 0, Counter[str](), False
    targets: dict[str, int] = {}
    with Repeats() as contents, Repeats() as ids:
        for built in built_items(source, form, options, problems, check):
            items += 1
            linked = linked or "depends_on" in built.document
            models[built.document["model"]] += 1
            for target in built.document.get("notify", ()):
                if len(targets) < MOST_TARGETS:
                    targets.setdefault(target, built.line_no)
            contents.add(built.digest, built.line_no)
            custom_id = built.document.get("custom_id")
            if custom_id is not None:
                ids.add(_digest(custom_id), built.line_no)
        _report_duplicates(source, form, options, ids, problems)
        problems.raise_if_any()
        repeated = frozenset(digest for digest, _, _ in contents.found())
    if not items:
        raise InputError(f"{source.label}: there is no item in it", hint="give it at least one prompt")
    return Scan(
        label=source.label,
        format=form,
        batch_id=_batch_id(source, form, options),
        items=items,
        models=dict(models),
        repeated=repeated,
        stamp=stamp,
        linked=linked,
        targets=targets,
    )


def built_items(
    source: Source, form: Format, options: ReadOptions, problems: Problems, check: Check | None = None
) -> Iterator[Built]:
    """The good items in the input's order; the others go to ``problems``."""
    if options.images_dir is None:
        options = msgspec.structs.replace(options, images_dir=source.folder)
    build = builder(form, options)
    left = options.limit
    for item in read_items(source, form, options, problems):
        if left is not None:
            if left <= 0:
                return
            left -= 1
        try:
            built = build(item)
            if check is not None:
                check(built.document)
        except FieldError as error:
            problems.add(item.line_no, error.field, error.message)
            continue
        yield built


def batch_id(path: str | Source, options: ReadOptions) -> str:
    """``<slug of the file's name>-<8 hex>``: the same for the same path and the same meaning, so that a second run resumes.

    Raises ``InputError`` when the format cannot be told.
    """
    source = source_of(path)
    return _batch_id(source, resolve_format(source, options), options)


def _batch_id(source: Source, form: Format, options: ReadOptions) -> str:
    meaning = msgspec.json.encode([source.identity, form, options.meaning()], order="sorted")
    mark = hashlib.blake2b(meaning, digest_size=4, person=b"swarm-batch-1").hexdigest()
    stem = os.path.splitext(os.path.basename(source.label))[0]
    slug = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-").lower()[:MAX_SLUG].strip("-")
    return f"{slug or 'batch'}-{mark}"


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def _report_duplicates(source: Source, form: Format, options: ReadOptions, ids: Repeats, problems: Problems) -> None:
    """Only line numbers were kept, so the first duplicates are read once more to name their ids."""
    first_lines: dict[int, int] = {}
    more: list[int] = []
    for _, first, line_no in ids.found():
        first_lines[line_no] = first
        if len(first_lines) > MAX_LISTED * 2:
            worst = max(first_lines)
            more.append(worst)
            del first_lines[worst]
    if not first_lines:
        return
    for item in read_items(source, form, options, Problems(source.label)):
        if item.line_no in first_lines:
            first_line = first_lines[item.line_no]
            problems.add(item.line_no, "custom_id", f"{item.record['custom_id']!r} is already used on line {first_line}")
    for line_no in more:
        problems.add(line_no, "custom_id", "is already used on an earlier line")
