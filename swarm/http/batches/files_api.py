"""``/v1/files``: upload, list, get, content, delete."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from swarm.errors import QueueError, StorageFault
from swarm.http.answers import ApiError, json_answer
from swarm.http.batches.documents import Reader, file_object, page_of
from swarm.http.batches.driver_process import DriverProcess
from swarm.http.batches.uploads import UploadForm
from swarm.http.parts import HttpParts, client_of
from swarm.plain_text import one_line
from swarm.queue.batches.api_batches import ApiBatches
from swarm.queue.stores.file_store import FileRecord, FileStore, Incoming, sortable_id

PURPOSE = "batch"
MOST_FILES = 10_000
_NAME_CHARS = 255
_CHUNK_BYTES = 1 << 18
_EXPIRES_S = (3600, 2_592_000)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class FilesApi:
    """Its handlers."""

    def __init__(self, parts: HttpParts, driver: DriverProcess) -> None:
        self._parts = parts
        self._driver = driver
        self._store = FileStore(parts.queue.layout, parts.queue.storage)
        self._book = ApiBatches(parts.queue.layout, parts.queue.storage)

    async def upload(self, request: Request) -> Response:
        """POST: the file is accepted as a whole, or not at all."""
        layout, storage = self._parts.queue.layout, self._parts.queue.storage
        try:
            incoming = await run_in_threadpool(Incoming, layout, storage, new_file_id())
            try:
                form = UploadForm(request, incoming, self._parts.settings.http.max_upload_mib)
                await form.receive()
                record = _record(form, incoming, client_of(request).name)
                await run_in_threadpool(incoming.publish, record)
            finally:
                await run_in_threadpool(incoming.close)
        except StorageFault as fault:
            raise no_room(fault) from fault
        except ClientDisconnect as gone:
            raise ApiError(400, "The connection was closed before the upload was complete.") from gone
        self._driver.need()
        return json_answer(file_object(record))

    async def list(self, request: Request) -> Response:
        """GET the list."""
        query = ListQuery(request, most=MOST_FILES, default=MOST_FILES)
        purpose = request.query_params.get("purpose")

        def read(file_id: str) -> dict[str, Any] | None:
            record = self._store.find(file_id)
            return None if record is None or purpose not in (None, record.purpose) else file_object(record)

        def page() -> dict[str, Any]:
            return query.page(self._store.names(), read)

        return json_answer(await run_in_threadpool(page))

    async def get(self, request: Request) -> Response:
        """GET one."""
        return json_answer(file_object(await self._find(request)))

    async def content(self, request: Request) -> Response:
        """GET its content, as it came."""
        record = await self._find(request)
        file = await run_in_threadpool(self._store.open_content, record.id)
        if file is None:
            raise no_file(record.id)
        headers = {
            "content-length": str(os.fstat(file.fileno()).st_size),
            "content-disposition": f'attachment; filename="{record.id}.jsonl"',
            "x-content-type-options": "nosniff",
        }
        return _Content(file, headers)

    async def delete(self, request: Request) -> Response:
        """DELETE one that no open batch reads."""
        file_id = request.path_params["file_id"]
        await run_in_threadpool(self._delete, file_id)
        return json_answer({"id": file_id, "object": "file", "deleted": True})

    def _delete(self, file_id: str) -> None:
        try:
            if self._store.find(file_id) is None:
                raise no_file(file_id)
        except StorageFault:
            raise
        except QueueError:
            pass  # its record is damaged, and this is how to be rid of it
        with self._book.alone():
            user = self._book.uses(file_id)
            if user is not None:
                why = f"The file is the input of batch {user}, which has not ended."
                raise ApiError(400, why, code="file_in_use", param="file_id", hint="cancel the batch first, or wait")
            self._store.remove(file_id)

    async def _find(self, request: Request) -> FileRecord:
        file_id = request.path_params["file_id"]
        record = await run_in_threadpool(self._store.find, file_id)
        if record is None:
            raise no_file(file_id)
        return record


def new_file_id() -> str:
    """For an upload."""
    return sortable_id("file-")


def no_file(file_id: str, *, status: int = 404, param: str = "id") -> ApiError:
    """The refusal of an unknown file."""
    return ApiError(status, f"No such File object: {one_line(file_id)[:80]}", param=param, code="file_not_found")


def no_room(fault: StorageFault) -> ApiError:
    """A refusal for a disk in trouble: 507 where it is full, else 503; clients try again."""
    cause = fault.__cause__
    full = isinstance(cause, OSError) and cause.errno in _NO_ROOM
    code = "insufficient_storage" if full else "storage_fault"
    return ApiError(507 if full else 503, fault.message, kind="server_error", code=code, hint=fault.hint)


def _record(form: UploadForm, incoming: Incoming, client: str) -> FileRecord:
    if form.filename is None:
        raise ApiError(400, "Missing required parameter: file.", code="missing_required_parameter", param="file")
    purpose = form.fields.get("purpose")
    if not purpose:
        raise ApiError(400, "Missing required parameter: purpose.", code="missing_required_parameter", param="purpose")
    if purpose != PURPOSE:
        why = f"The purpose must be {PURPOSE!r}, is {one_line(purpose)[:40]!r}."
        raise ApiError(400, why, code="invalid_purpose", param="purpose")
    if not incoming.size:
        raise ApiError(400, "The file is empty.", code="empty_file", param="file")
    now_s = int(time.time())
    name = one_line(form.filename)[:_NAME_CHARS] or "upload.jsonl"
    expires_s = _expires_s(form.fields)
    return FileRecord(
        id=incoming.file_id,
        filename=name,
        bytes=incoming.size,
        purpose=purpose,
        created_at=now_s,
        expires_at=None if expires_s is None else now_s + expires_s,
        client=client,
    )


def _expires_s(fields: dict[str, str]) -> int | None:
    anchor, seconds = (fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds"))
    if anchor is None and seconds is None:
        return None
    return expires_after(anchor, int(seconds) if seconds is not None and seconds.isdecimal() else seconds, "expires_after")


def expires_after(anchor: object, seconds: object, param: str) -> int:
    """Seconds of an expiry policy. Raises ``ApiError``."""
    if anchor != "created_at":
        raise ApiError(400, f"{param}[anchor] must be created_at.", code="invalid_value", param=f"{param}[anchor]")
    low, high = _EXPIRES_S
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not low <= seconds <= high:
        why = f"{param}[seconds] must be a whole number from {low} to {high}."
        raise ApiError(400, why, code="invalid_value", param=f"{param}[seconds]")
    return seconds


class ListQuery:
    """``after``, ``limit`` and ``order``. Raises ``ApiError``."""

    def __init__(self, request: Request, *, most: int, default: int) -> None:
        given = request.query_params
        self._after = given.get("after")
        self._order = given.get("order", "desc")
        limit = given.get("limit", str(default))
        if not limit.isdecimal() or not 1 <= int(limit) <= most:
            raise ApiError(400, f"limit must be a whole number from 1 to {most}.", code="invalid_value", param="limit")
        if self._order not in ("asc", "desc"):
            raise ApiError(400, "order must be asc or desc.", code="invalid_value", param="order")
        self._limit = int(limit)

    def page(self, names: list[str], read: Reader) -> dict[str, Any]:
        """See ``documents.page_of``."""
        return page_of(names, read, after=self._after, limit=self._limit, newest_first=self._order == "desc")


class _Content(StreamingResponse):
    """The content of an open file, which is closed in any case: its client may go before the first piece."""

    def __init__(self, file: BinaryIO, headers: Mapping[str, str]) -> None:
        pieces = iter(partial(file.read, _CHUNK_BYTES), b"")
        super().__init__(pieces, headers=headers, media_type="application/octet-stream")
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)
