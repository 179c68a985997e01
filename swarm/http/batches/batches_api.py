"""``/v1/batches``: create, get, list, cancel. The batch driver does the rest."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from swarm.core.batches.life import CANCELLABLE, OVER, BatchStatus
from swarm.errors import StorageFault
from swarm.http.answers import ApiError, json_answer
from swarm.http.batches.documents import batch_object
from swarm.http.batches.driver_process import DriverProcess
from swarm.http.batches.files_api import PURPOSE, ListQuery, expires_after, no_file, no_room
from swarm.http.parts import HttpParts, client_of
from swarm.plain_text import one_line
from swarm.queue.batches.api_batches import ApiBatch, ApiBatches
from swarm.queue.stores.file_store import FileStore, sortable_id

MOST_LISTED = 100
_DEFAULT_LISTED = 20
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
_PARAMETERS = ("input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after")
_WINDOW = re.compile(r"([1-9][0-9]{0,5})([smhd])").fullmatch
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MOST_WINDOW_S = 30 * 86400
_METADATA = (16, 64, 512)
"""Pairs, characters of a key and of a value."""


class BatchesApi:
    """Its handlers."""

    def __init__(self, parts: HttpParts, driver: DriverProcess) -> None:
        self._parts = parts
        self._driver = driver
        self._store = FileStore(parts.queue.layout, parts.queue.storage)
        self._book = ApiBatches(parts.queue.layout, parts.queue.storage)

    async def create(self, request: Request) -> Response:
        """POST: the batch is on record when this answers; its file is checked after that, as OpenAI does it."""
        batch = _new_batch(await request.body(), client_of(request).name)
        try:
            await run_in_threadpool(self._create, batch)
        except StorageFault as fault:
            raise no_room(fault) from fault
        self._driver.need()
        return await self._answer(batch)

    def _create(self, batch: ApiBatch) -> None:
        with self._book.alone():
            record = self._store.find(batch.input_file_id)
            if record is None:
                raise no_file(batch.input_file_id, status=400, param="input_file_id")
            if record.purpose != PURPOSE:
                why = f"The file {record.id} has the purpose {record.purpose!r}; a batch needs {PURPOSE!r}."
                raise ApiError(400, why, code="invalid_purpose", param="input_file_id")
            self._book.write(batch)
        self._parts.queue.wake()

    async def list(self, request: Request) -> Response:
        """GET the list."""
        query = ListQuery(request, most=MOST_LISTED, default=_DEFAULT_LISTED)

        def page() -> dict[str, Any]:
            return query.page(self._book.names(), lambda name: self._read(self._book.find(name)))

        return json_answer(await run_in_threadpool(page))

    async def get(self, request: Request) -> Response:
        """GET one."""
        batch_id = request.path_params["batch_id"]
        batch = await run_in_threadpool(self._book.find, batch_id)
        if batch is None:
            raise _no_batch(batch_id)
        return await self._answer(batch)

    async def cancel(self, request: Request) -> Response:
        """POST: it is on record when this answers; what has not run by then does not run, what runs is stopped."""
        batch_id = request.path_params["batch_id"]
        batch = await run_in_threadpool(self._book.ask_cancel, batch_id)
        if batch is None:
            raise _no_batch(batch_id)
        if batch.status not in (*CANCELLABLE, BatchStatus.CANCELLING):
            raise ApiError(400, f"Cannot cancel a batch with status {str(batch.status)!r}.", code="batch_not_cancellable")
        return await self._answer(batch)

    async def _answer(self, batch: ApiBatch) -> Response:
        return json_answer(await run_in_threadpool(self._read, batch))

    def _read(self, batch: ApiBatch | None) -> dict[str, Any] | None:
        if batch is None:
            return None
        shown, cancel_asked_at = self._book.shown(batch.id), self._book.cancel_asked_at(batch.id)
        if batch.status not in OVER:  # once it is, both are removed: what is missing may mean that
            batch = self._book.find(batch.id) or batch
        return batch_object(batch, shown, cancel_asked_at)


def _no_batch(batch_id: str) -> ApiError:
    return ApiError(404, f"No batch found with id '{one_line(batch_id)[:80]}'.", param="batch_id", code="batch_not_found")


def _new_batch(body: bytes, client: str) -> ApiBatch:
    """The batch that a body asks for. Raises ``ApiError``."""
    try:
        wanted = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ApiError(400, f"The body is not a JSON object: {error}.", code="invalid_json") from error
    for name in wanted:
        if name not in _PARAMETERS:
            raise ApiError(400, f"Unknown parameter: {one_line(name)[:80]}.", code="unknown_parameter", param=name[:80])
    file_id, endpoint, window = (_text(wanted, name) for name in ("input_file_id", "endpoint", "completion_window"))
    if endpoint not in ENDPOINTS:
        why = f"{one_line(endpoint)[:80]!r} is not served; there is {', '.join(ENDPOINTS)}."
        raise ApiError(400, why, code="invalid_value", param="endpoint")
    now_s = int(time.time())
    return ApiBatch(
        id=sortable_id("batch_"),
        client=client,
        endpoint=endpoint,
        input_file_id=file_id,
        completion_window=window,
        created_at=now_s,
        expires_at=now_s + _window_s(window),
        metadata=_metadata(wanted.get("metadata")),
        output_expires_s=_output_expires_s(wanted.get("output_expires_after")),
    )


def _text(wanted: Mapping[str, Any], name: str) -> str:
    value = wanted.get(name)
    if value is None:
        raise ApiError(400, f"Missing required parameter: {name}.", code="missing_required_parameter", param=name)
    if not isinstance(value, str):
        raise ApiError(400, f"{name} must be a text.", code="invalid_type", param=name)
    return value


def _window_s(window: str) -> int:
    found = _WINDOW(window)
    seconds = int(found[1]) * _UNIT_S[found[2]] if found else 0
    if not 0 < seconds <= _MOST_WINDOW_S:
        why = "completion_window must be a time of at most 30 days, such as 24h; s, m, h and d are known."
        raise ApiError(400, why, code="invalid_value", param="completion_window")
    return seconds


def _metadata(given: object) -> dict[str, str] | None:
    pairs, key_chars, value_chars = _METADATA
    if given is None:
        return None
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise ApiError(400, "metadata must be an object of texts.", code="invalid_type", param="metadata")
    if len(given) > pairs:
        raise ApiError(400, f"metadata may have {pairs} pairs, has {len(given)}.", code="invalid_value", param="metadata")
    for key, value in given.items():
        if len(key) > key_chars or len(value) > value_chars:
            why = f"A key of metadata may have {key_chars} characters, a value {value_chars}."
            raise ApiError(400, why, code="invalid_value", param=f"metadata.{key[:key_chars]}")
    return given


def _output_expires_s(given: object) -> int | None:
    if given is None:
        return None
    if not isinstance(given, dict):
        raise ApiError(400, "output_expires_after must be an object.", code="invalid_type", param="output_expires_after")
    return expires_after(given.get("anchor"), given.get("seconds"), "output_expires_after")
