"""An error as the API tells it."""

from __future__ import annotations


class ApiError(Exception):
    """Ends a request with this status and ``{"error": text}``; in mid-stream, with an error line."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def model_missing(name: str, *, embedding: bool = False) -> ApiError:
    """The two ways in which Ollama says that there is no such model."""
    return ApiError(404, f'model "{name}" not found, try pulling it first' if embedding else f"model '{name}' not found")


def runner_died() -> ApiError:
    """What Ollama says when a runner dies under a request."""
    return ApiError(500, "an error was encountered while running the model: unexpected EOF")


def runner_stopped() -> ApiError:
    """What Ollama says when the runner of a request turns out to be dead already."""
    return ApiError(
        500, "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error"
    )
