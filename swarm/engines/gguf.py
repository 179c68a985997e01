"""Reads the header of a GGUF file (versions 2 and 3, little-endian); no tensor is read.

Own code, since the package ``gguf`` brings numpy, PyYAML and tqdm for what are a hundred lines here. A file is not trusted:
every length is checked against the file's size and a limit before anything is kept.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from swarm.core.models.model_file import ModelFile
from swarm.core.models.model_server import MIB
from swarm.errors import ModelFileInvalid
from swarm.plain_text import one_line

T = TypeVar("T")
MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_MAX_HEADER_BYTES: Final = 128 * MIB
_MAX_ENTRIES: Final = 1 << 20
"""Of metadata, and of tensors."""
_MAX_NAME_BYTES: Final = 1 << 16
_KEPT_BYTES: Final = MIB
"""A longer text is passed over, as are longer arrays: they are vocabularies."""
_KEPT_ITEMS: Final = 4096
_MAX_DIMENSIONS: Final = 8
_MAX_LAYERS: Final = 4096
_CHUNK: Final = MIB
_STRING, _ARRAY = 8, 9
_NUMBERS: Final[Mapping[int, struct.Struct]] = {
    number: struct.Struct("<" + code)
    for number, code in (
        (0, "B"),
        (1, "b"),
        (2, "H"),
        (3, "h"),
        (4, "I"),
        (5, "i"),
        (6, "f"),
        (7, "?"),
        (10, "Q"),
        (11, "q"),
    )
} | {12: struct.Struct("<d")}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_FILE_TYPES: Final[Mapping[int, str]] = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S"), 7)),
    **dict(enumerate(("Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL"), 17)),
    **dict(enumerate(("IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16"), 26)),
    **dict(enumerate(("TQ1_0", "TQ2_0", "MXFP4", "NVFP4"), 36)),
}
"""Names of ``general.file_type``."""
_ENCODERS: Final = ("bert", "t5encoder")
"""Parts of the names of architectures that only give vectors."""


def read_gguf(path: Path) -> ModelFile:
    """The header of a model file, with the size of all files where this is the first of several.

    Raises ``ModelFileInvalid``, which says what is wrong with which file.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileInvalid(f"{path} is no file")
            header = _Header(_Reader(file, status.st_size))
        size = status.st_size + sum(part.stat().st_size for part in _other_files(path, header.files))
    except OSError as error:
        raise ModelFileInvalid(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    except _Broken as problem:
        raise ModelFileInvalid(f"{path} is no usable GGUF file: {problem}", hint=_HINT) from problem
    return header.model_file(-(-size // MIB))


def _other_files(path: Path, number: int) -> Iterator[Path]:
    """The further ones of a model in so many files, as llama.cpp names and loads them. Raises ``_Broken``."""
    if number < 2:
        return
    ending = f"-of-{number:05}.gguf"
    if not path.name.endswith(f"-00001{ending}"):
        raise _Broken(f"it is one of {number} files of a model; name the first of them, which ends in -00001{ending}")
    stem = path.name.removesuffix(f"-00001{ending}")
    yield from (path.with_name(f"{stem}-{part:05}{ending}") for part in range(2, number + 1))


_HINT = "name a .gguf file as llama.cpp reads it; a file that was still being downloaded has to be fetched again"


class _Broken(Exception):
    """What is wrong, in words; the caller knows the file."""


class _Reader:
    """Takes bytes from the front of a file, which has to hold them."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = min(size, _MAX_HEADER_BYTES)
        self._cut = size > _MAX_HEADER_BYTES
        self._buffer = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        missing = size - (len(self._buffer) - self._at)
        if missing > 0:
            if missing > self._left:
                raise self._too_short()
            more = self._file.read(min(max(_CHUNK, missing), self._left))
            if len(more) < missing:
                raise self._too_short()
            self._left -= len(more)
            self._buffer, self._at = self._buffer[self._at :] + more, 0
        start, self._at = self._at, self._at + size
        return self._buffer[start : self._at]

    def skip(self, size: int) -> None:
        """Pass over so many bytes."""
        here = len(self._buffer) - self._at
        if size <= here:
            self._at += size
        elif size - here > self._left:
            raise self._too_short()
        else:
            self._file.seek(size - here, os.SEEK_CUR)
            self._left -= size - here
            self._buffer, self._at = b"", 0

    def skip_strings(self, count: int) -> None:
        """Pass over so many strings: the bulk of a header, so most are passed over within the buffer."""
        for _ in range(count):
            end = self._at + _U64.size
            if end <= len(self._buffer):
                end += _U64.unpack_from(self._buffer, self._at)[0]
                if end <= len(self._buffer):
                    self._at = end
                    continue
            self.skip(self.number(_U64))

    def number(self, form: struct.Struct) -> Any:  # noqa: ANN401
        return form.unpack(self.take(form.size))[0]

    def text(self, limit: int) -> str | None:
        """A string; None for one longer than ``limit``, which is passed over."""
        size = self.number(_U64)
        if size > limit:
            self.skip(size)
            return None
        return self.take(size).decode("utf-8", "replace")

    def _too_short(self) -> _Broken:
        return _Broken(
            f"its header is longer than {_MAX_HEADER_BYTES // MIB} MiB" if self._cut else "it ends within its header"
        )


class _Header:
    """The metadata that were small enough to keep, and what the list of tensors tells."""

    def __init__(self, reader: _Reader) -> None:
        if reader.take(4) != MAGIC:
            raise _Broken("it does not begin with the letters GGUF")
        version = reader.number(_U32)
        if version not in _VERSIONS:
            big = version & 0xFFFF == 0
            raise _Broken(
                "it is big-endian" if big else f"version {version} is not known, only {_VERSIONS[0]} and {_VERSIONS[1]}"
            )
        tensors, entries = reader.number(_U64), reader.number(_U64)
        if tensors > _MAX_ENTRIES or entries > _MAX_ENTRIES:
            raise _Broken(f"it claims to hold {tensors} tensors and {entries} metadata")
        self._values: dict[str, Any] = {}
        for _ in range(entries):
            name = self._name(reader)
            self._values[name] = _value(reader, reader.number(_U32))
        self._elements = sum(self._tensor_elements(reader) for _ in range(tensors))

    @staticmethod
    def _name(reader: _Reader) -> str:
        name = reader.text(_MAX_NAME_BYTES)
        if name is None:
            raise _Broken("one of its names is too long")
        return name

    def _tensor_elements(self, reader: _Reader) -> int:
        self._name(reader)
        dimensions = reader.number(_U32)
        if dimensions > _MAX_DIMENSIONS:
            raise _Broken(f"one of its tensors has {dimensions} dimensions")
        elements: int = prod(reader.number(_U64) for _ in range(dimensions))
        reader.skip(_U32.size + _U64.size)  # its type, and where it is
        return elements

    @property
    def files(self) -> int:
        """In how many the model is kept."""
        return self._count("split.count")

    def model_file(self, size_mib: int) -> ModelFile:
        architecture = one_line(self._get("general.architecture", str) or "", 100)
        file_type = self._get("general.file_type", int)
        pooling = self._get(f"{architecture}.pooling_type", int)
        return ModelFile(
            architecture=architecture,
            name=one_line(self._get("general.name", str) or "", 200),
            size_mib=size_mib,
            parameter_count=self._get("general.parameter_count", int) or self._elements,
            quantisation="" if file_type is None else _FILE_TYPES.get(file_type, ""),
            context_length=self._count(f"{architecture}.context_length"),
            embedding_length=self._count(f"{architecture}.embedding_length"),
            kv_heads=self._kv_heads(architecture),
            key_length=self._head_length(architecture, "key_length"),
            value_length=self._head_length(architecture, "value_length"),
            sliding_window=self._count(f"{architecture}.attention.sliding_window"),
            window_layers=self._window_layers(architecture),
            has_chat_template=self._known("tokenizer.chat_template"),
            embedding=bool(pooling) or any(part in architecture for part in _ENCODERS),
            projector=architecture == "clip" or self._get("general.type", str) == "mmproj",
        )

    def _known(self, name: str) -> bool:
        return name in self._values

    def _get(self, name: str, kind: type[T]) -> T | None:
        value = self._values.get(name)
        return value if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) else None

    def _count(self, name: str) -> int:
        value: int | None = self._get(name, int)
        return value if value is not None and 0 <= value < 1 << 31 else 0

    def _per_layer(self, name: str, layers: int) -> tuple[int, ...] | None:
        """One number for all layers, or a list with one for each."""
        value = self._values.get(name)
        if isinstance(value, list) and all(isinstance(item, int) and 0 <= item < 1 << 31 for item in value):
            return tuple(int(item) for item in (*value, *(0,) * layers)[:layers])
        return (self._count(name),) * layers if self._known(name) and not isinstance(value, list) else None

    def _kv_heads(self, architecture: str) -> tuple[int, ...]:
        layers = min(self._count(f"{architecture}.block_count"), _MAX_LAYERS)
        heads = self._per_layer(f"{architecture}.attention.head_count_kv", layers)
        heads = heads or self._per_layer(f"{architecture}.attention.head_count", layers) or (0,) * layers
        if self._get(f"{architecture}.attention.causal", bool) is False:
            return (0,) * layers  # an encoder reads its input once and keeps nothing
        every = self._count(f"{architecture}.full_attention_interval") or 1
        sharing = self._count(f"{architecture}.attention.shared_kv_layers")
        keeps: Callable[[int], bool] = lambda layer: (layer + 1) % every == 0 and layer < layers - sharing  # noqa: E731
        return tuple(number if keeps(layer) else 0 for layer, number in enumerate(heads))

    def _head_length(self, architecture: str, which: str) -> int:
        given = self._count(f"{architecture}.attention.{which}")
        heads = self._per_layer(f"{architecture}.attention.head_count", 1)
        return given or (self._count(f"{architecture}.embedding_length") // heads[0] if heads and heads[0] else 0)

    def _window_layers(self, architecture: str) -> tuple[bool, ...]:
        """A list says it of each layer; a number n, that every n-th one looks back at everything."""
        layers = min(self._count(f"{architecture}.block_count"), _MAX_LAYERS)
        name = f"{architecture}.attention.sliding_window_pattern"
        pattern = self._values.get(name)
        if isinstance(pattern, list):
            return tuple(bool(item) for item in pattern[:layers])
        every = self._count(name)
        return tuple((layer + 1) % every != 0 for layer in range(layers)) if every > 1 else ()


def _value(reader: _Reader, kind: int) -> Any:  # noqa: ANN401
    """A value of the metadata; None for one that is too large to be worth keeping."""
    if kind == _STRING:
        return reader.text(_KEPT_BYTES) or ""
    if kind != _ARRAY:
        return reader.number(_number_form(kind))
    inner, length = reader.number(_U32), reader.number(_U64)
    if inner == _STRING:
        reader.skip_strings(length)
        return None
    form = _number_form(inner)
    if length > _KEPT_ITEMS:
        reader.skip(form.size * length)
        return None
    return [reader.number(form) for _ in range(length)]


def _number_form(kind: int) -> struct.Struct:
    form = _NUMBERS.get(kind)
    if form is None:
        raise _Broken(f"a value of it is of type {kind}, which is not known")
    return form
