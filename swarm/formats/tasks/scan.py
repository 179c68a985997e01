"""Reads an input twice in flat memory: to check all of it, then to make its tasks.

Each item has a key that survives reordering: it is made of the item's content, never of its line.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import msgspec

from swarm.errors import InputError
from swarm.formats.input.problems import MAX_LISTED, FieldError, Problems
from swarm.formats.input.readers import read_items, resolve_format
from swarm.formats.input.source import Format, ReadOptions, Source, source_of
from swarm.formats.tasks.task_builder import DIGEST_BYTES, Built, builder

MAX_SLUG = 40
MOST_TARGETS = 1000
_KEY_BYTES = 10
"""80 bits: among 10 million items of one batch a clash has a chance of 1 in 10^10."""
_BUCKETS = 64
_ENTRY_BYTES = DIGEST_BYTES + 8
_IN_MEMORY_BYTES = 1 << 20
"""Per bucket, before it goes to disk: 2.8 million items in all."""
Check = Callable[[dict[str, Any]], object]
"""Whatever else a document must be; raises ``FieldError``."""


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """What a checked input holds."""

    label: str
    format: Format
    batch_id: str
    items: int
    models: dict[str, int]
    """Items per model."""
    digests: bytes
    """Of the items' contents, in the input's order."""
    repeated: frozenset[bytes]
    """Digests that occur more than once; such items are numbered by occurrence."""
    stamp: tuple[int, int]
    """Size and modification time (ns) of the file when it was read."""
    linked: bool
    """Some item depends on another task; see ``swarm.formats.tasks.links``."""
    targets: dict[str, int]
    """Who is notified of the end of items (``MOST_TARGETS`` of them), with the first line that names each."""

    def item_keys(self) -> Iterator[str]:
        """The items' keys in the input's order, without another look at it."""
        starts = range(0, len(self.digests), DIGEST_BYTES)
        return map(ItemKeys(self.repeated), (self.digests[start : start + DIGEST_BYTES] for start in starts))


class ItemKeys:
    """Gives the next item of a content its key: identical items are counted, so keys do not depend on where they stand."""

    def __init__(self, repeated: Collection[bytes] | None = None) -> None:
        """``repeated``: the only contents that occur more than once, where that is known."""
        self._repeated = repeated
        self._seen: dict[bytes, int] = {}

    def __call__(self, digest: bytes) -> str:
        """20 hex digits."""
        occurrence = 0
        if self._repeated is None or digest in self._repeated:
            occurrence = self._seen.get(digest, 0)
            self._seen[digest] = occurrence + 1
        if occurrence == 0:
            return digest[:_KEY_BYTES].hex()
        return hashlib.blake2b(digest + occurrence.to_bytes(8, "big"), digest_size=_KEY_BYTES).hexdigest()


class Draft(msgspec.Struct, frozen=True):
    """One item on its way into the queue."""

    item_key: str
    """20 hex digits: who this item is within its batch, by content (custom_id included)."""
    line_no: int
    document: dict[str, Any]
    """A task without ``task_id``, ``batch_id`` and ``created_at``; ``depends_on`` as the line has it."""


def validate(path: str | Source, options: ReadOptions, check: Check | None = None) -> Scan:
    """Read the whole input once. Raises ``InputError`` with all ``problems`` (the first 100) when there is any.

    ``check`` sees each document as well. Memory: 16 bytes an item, and about 24 more up to 64 MiB (see ``Repeats``; twice
    that with custom_ids), plus 80 bytes for each content that occurs more than once.
    """
    source = source_of(path)
    stamp = source.stamp()
    form = resolve_format(source, options)
    problems = Problems(source.label)
    digests, models, linked, targets = bytearray(), Counter[str](), False, dict[str, int]()
    with Repeats() as contents, Repeats() as ids:
        for built in _built_items(source, form, options, problems, check):
            document = built.document
            linked = linked or "depends_on" in document
            models[document["model"]] += 1
            for target in document.get("notify", ()):
                if len(targets) < MOST_TARGETS:
                    targets.setdefault(target, built.line_no)
            digests += built.digest
            contents.add(built.digest, built.line_no)
            if document.get("custom_id") is not None:
                digest = hashlib.blake2b(document["custom_id"].encode(), digest_size=DIGEST_BYTES).digest()
                ids.add(digest, built.line_no)
        _report_duplicates(source, form, options, ids, problems)
        problems.raise_if_any()
        repeated = frozenset(digest for digest, _, _ in contents.found())
    if not digests:
        raise InputError(f"{source.label}: there is no item in it", hint="give it at least one prompt")
    return Scan(
        label=source.label,
        format=form,
        batch_id=_batch_id(source, form, options),
        items=len(digests) // DIGEST_BYTES,
        models=dict(models),
        digests=bytes(digests),
        repeated=repeated,
        stamp=stamp,
        linked=linked,
        targets=targets,
    )


def drafts(path: str | Source, options: ReadOptions, scan: Scan) -> Iterator[Draft]:
    """The items of an input that ``validate`` found good, in its order, in flat memory.

    Raises ``InputError`` when the file is no longer what ``validate`` saw.
    """
    source = source_of(path)
    _check_same(source, scan)
    problems = Problems(source.label)
    key_of = ItemKeys(scan.repeated)
    for built in _built_items(source, scan.format, options, problems):
        problems.raise_if_any()
        yield Draft(key_of(built.digest), built.line_no, built.document)
    problems.raise_if_any()
    _check_same(source, scan)


def _check_same(source: Source, scan: Scan) -> None:
    if source.stamp() != scan.stamp:
        raise InputError(
            f"{source.label}: the file changed while it was being read",
            hint="run the same command again: what was submitted already is not done twice",
        )


def _built_items(
    source: Source, form: Format, options: ReadOptions, problems: Problems, check: Check | None = None
) -> Iterator[Built]:
    """The good items in the input's order; the others go to ``problems``."""
    if options.images_dir is None:
        options = msgspec.structs.replace(options, images_dir=source.folder)
    build = builder(form, options)
    for number, item in enumerate(read_items(source, form, options, problems)):
        if number == options.limit:
            return
        try:
            built = build(item)
            if check is not None:
                check(built.document)
        except FieldError as error:
            problems.add(item.line_no, error)
            continue
        yield built


def _batch_id(source: Source, form: Format, options: ReadOptions) -> str:
    """``<slug of the file's name>-<8 hex>``: the same for the same path and meaning, so that a second run resumes."""
    meaning = msgspec.json.encode([source.identity, form, options.meaning()], order="sorted")
    mark = hashlib.blake2b(meaning, digest_size=4, person=b"swarm-batch-1").hexdigest()
    return f"{slug(os.path.splitext(os.path.basename(source.label))[0], MAX_SLUG) or 'batch'}-{mark}"


def slug(name: str, limit: int) -> str:
    """A name as part of an id: lower case letters, digits and hyphens, perhaps none."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:limit].strip("-")


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
            used = f"{item.record['custom_id']!r} is already used on line {first_lines[item.line_no]}"
            problems.add(item.line_no, f"custom_id: {used}")
    for line_no in more:
        problems.add(line_no, "custom_id: is already used on an earlier line")


class Repeats:
    """Finds the digests that occur twice: 24 bytes an item up to 64 MiB, then disk; sorts out one bucket at a time."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._buckets = [self._bucket() for _ in range(_BUCKETS)]
        self._writes = [bucket.write for bucket in self._buckets]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def _bucket(self) -> BinaryIO:
        return cast("BinaryIO", self._stack.enter_context(tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)))

    def add(self, digest: bytes, line_no: int) -> None:
        """Note one occurrence; line numbers must not fall."""
        self._writes[digest[0] % _BUCKETS](digest + line_no.to_bytes(8, "big"))

    def found(self) -> Iterator[tuple[bytes, int, int]]:
        """Every occurrence after a first one: digest, line of the first, line of this one."""
        for bucket in self._buckets:
            bucket.seek(0)
            data = bucket.read()
            digests = [data[i : i + DIGEST_BYTES] for i in range(0, len(data), _ENTRY_BYTES)]
            if len(set(digests)) == len(digests):
                continue
            first: dict[bytes, int] = {}
            for index, digest in enumerate(digests):
                end = (index + 1) * _ENTRY_BYTES
                line_no = int.from_bytes(data[end - 8 : end], "big")
                seen = first.setdefault(digest, line_no)
                if seen != line_no:
                    yield digest, seen, line_no
