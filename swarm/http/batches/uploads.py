"""Receives an upload: multipart form data, its file streamed to the disk, flat in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from swarm.http.answers import ApiError
from swarm.queue.stores.file_store import Incoming

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_PIECE_BYTES = 1 << 20
"""Goes to the disk at once."""
_MOST_PARTS = 16
_FIELD_BYTES = 4096
_HEADERS_BYTES = 16384
_FORM_BYTES = 1 << 16
"""What a form may have besides the file."""


class UploadForm:
    """What a form has said. One ``file`` is written to ``incoming``; other fields are kept as text."""

    def __init__(self, request: Request, incoming: Incoming, most_mib: int) -> None:
        """Raises ``ApiError`` for what is no such form, or says that it is too long."""
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise ApiError(400, "The upload must be multipart/form-data with a boundary, a `file` and a `purpose`.")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._most_bytes = most_mib << 20
        self._too_large = ApiError(
            413,
            f"The file is larger than {most_mib} MiB.",
            code="file_too_large",
            param="file",
            hint="split it, or raise max_upload_mib in [http]",
        )
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._most_bytes + _FORM_BYTES:
            raise self._too_large
        self._request = request
        self._incoming = incoming
        self._parts = 0
        self._headers: dict[bytes, bytes] = {}
        self._header = (bytearray(), bytearray())
        self._name: str | None = None
        self._is_file = False
        self._text = bytearray()
        self._piece = bytearray()
        self._ended = False
        self._parser = MultipartParser(options[b"boundary"], self._callbacks(), max_size=float("inf"))

    def _callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    async def receive(self) -> None:
        """Read the whole body. Raises ``ApiError``, ``StorageFault``, ``ClientDisconnect``."""
        try:
            async for chunk in self._request.stream():
                self._parser.write(chunk)
                if self._incoming.size + len(self._piece) > self._most_bytes:
                    raise self._too_large
                if len(self._piece) >= _PIECE_BYTES:
                    await self._write()
            self._parser.finalize()
        except FormParserError as error:
            raise ApiError(400, f"The form is damaged: {error}.") from error
        if not self._ended:
            raise ApiError(400, "The form is incomplete: its last boundary is missing.")
        await self._write()

    async def _write(self) -> None:
        piece, self._piece = bytes(self._piece), bytearray()
        if piece:
            await run_in_threadpool(self._incoming.write, piece)

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise ApiError(400, f"The form has more than {_MOST_PARTS} parts.")
        self._headers, self._header, self._text = {}, (bytearray(), bytearray()), bytearray()

    def _header_end(self) -> None:
        name, value = (bytes(part) for part in self._header)
        if len(name) + len(value) + sum(map(len, self._headers.values())) > _HEADERS_BYTES:
            raise ApiError(400, "The headers of a part are too long.")
        self._headers[name.lower()] = value
        self._header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._is_file = self._name == "file"
        if not self._is_file:
            return
        if self.filename is not None:
            raise ApiError(400, "The form has more than one file.", param="file")
        self.filename = options.get(b"filename", b"").decode(errors="replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._piece += data[start:end]
            return
        self._text += data[start:end]
        if len(self._text) > _FIELD_BYTES:
            raise ApiError(400, f"The field {self._name} is longer than {_FIELD_BYTES} bytes.", param=self._name)

    def _part_end(self) -> None:
        if self._name and not self._is_file:
            self.fields[self._name] = self._text.decode(errors="replace")

    def _end(self) -> None:
        self._ended = True
