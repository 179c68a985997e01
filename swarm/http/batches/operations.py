"""The operations of files and batches, for the OpenAPI document: OpenAI's objects as types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from swarm.core.access import Scope
from swarm.core.batches.life import BatchStatus
from swarm.http.batches.batches_api import MOST_LISTED
from swarm.http.batches.files_api import MOST_FILES
from swarm.http.operations import NoQuery, Operation

Order = Annotated[Literal["asc", "desc"], Meta(description="By time of creation.")]
After = Annotated[str, Meta(description="The last id of the page before.")]


class OpenAIFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: str
    status_details: str | None


class OpenAIFilePage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of files."""

    object: Literal["list"]
    data: tuple[OpenAIFile, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


class OpenAIFileDeleted(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is no more."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class OpenAIBatchCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of a batch."""

    total: int
    completed: int
    failed: int


class OpenAIBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: dict[str, Any] | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int | None
    in_progress_at: float | None
    finalizing_at: float | None
    completed_at: float | None
    failed_at: float | None
    expired_at: float | None
    cancelling_at: float | None
    cancelled_at: float | None
    request_counts: OpenAIBatchCounts
    usage: dict[str, Any] | None
    metadata: dict[str, str] | None


class OpenAIBatchPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of batches."""

    object: Literal["list"]
    data: tuple[OpenAIBatch, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FilePageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /v1/files``."""

    after: After | None = None
    limit: Annotated[int, Meta(ge=1, le=MOST_FILES)] = MOST_FILES
    order: Order = "desc"
    purpose: str | None = None


class BatchPageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /v1/batches``."""

    after: After | None = None
    limit: Annotated[int, Meta(ge=1, le=MOST_LISTED)] = 20
    order: Order = "desc"


class FileUpload(msgspec.Struct, frozen=True, kw_only=True):
    """The form of an upload."""

    file: Annotated[str, Meta(extra_json_schema={"format": "binary"})]
    """A line of JSON for each request: ``custom_id``, ``method``, ``url``, ``body``."""
    purpose: Literal["batch"]


class ExpiresAfter(msgspec.Struct, frozen=True, kw_only=True):
    """When files that a batch makes are removed."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3600, le=2_592_000)]


class NewBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch that is to be made."""

    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    completion_window: Annotated[str, Meta(extra_json_schema={"pattern": "^[1-9][0-9]{0,5}[smhd]$"})]
    """At most 30 days: ``24h``."""
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None


def _one(  # the fields in the order in which people read them
    method: Literal["GET", "POST", "DELETE"],
    path: str,
    name: str,
    summary: str,
    answer: Any,  # noqa: ANN401 - a type
    *,
    query: type[msgspec.Struct] = NoQuery,
    errors: tuple[int, ...] = (404,),
    **more: Any,  # noqa: ANN401
) -> Operation:
    scope = Scope.READ if method == "GET" else Scope.SUBMIT
    return Operation(
        method=method,
        path=path,
        name=name,
        group="batches",
        summary=summary,
        scope=scope,
        answer=answer,
        query=query,
        errors=errors,
        **more,
    )


OPERATIONS: tuple[Operation, ...] = (
    _one(
        "POST",
        "/v1/files",
        "upload_file",
        "Upload a file: accepted as a whole, or not at all.",
        OpenAIFile,
        body=FileUpload,
        body_media_type="multipart/form-data",
        errors=(507,),
    ),
    _one("GET", "/v1/files", "list_files", "All files.", OpenAIFilePage, query=FilePageQuery, errors=()),
    _one("GET", "/v1/files/{file_id}", "get_file", "One file.", OpenAIFile),
    _one("DELETE", "/v1/files/{file_id}", "delete_file", "Remove a file that no open batch reads.", OpenAIFileDeleted),
    _one(
        "GET",
        "/v1/files/{file_id}/content",
        "file_content",
        "What is in a file.",
        None,
        media_types=("application/octet-stream",),
    ),
    _one("POST", "/v1/batches", "create_batch", "Make a batch of a file.", OpenAIBatch, body=NewBatch, errors=(507,)),
    _one("GET", "/v1/batches", "list_batches", "All batches.", OpenAIBatchPage, query=BatchPageQuery, errors=()),
    _one("GET", "/v1/batches/{batch_id}", "get_batch", "One batch.", OpenAIBatch),
    _one("POST", "/v1/batches/{batch_id}/cancel", "cancel_api_batch", "Cancel a batch.", OpenAIBatch),
)
