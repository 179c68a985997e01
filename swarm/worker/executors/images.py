"""Images of a task, put into its request when it runs: a task holds only where they lie and what they are."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from swarm.core.faults import TaskFault
from swarm.core.task import ImageRef, Task

ReadImage = Callable[[ImageRef], bytes]
"""The content, as it was when the task was made. Raises ``OSError``; ``ValueError`` if it is not that any more."""


def with_images(body: Mapping[str, Any], task: Task, read: ReadImage) -> dict[str, Any]:
    """The body with the task's images in base64: with its last message of a user, or beside its prompt.

    Raises ``TaskFault``: ``image_unusable``.
    """
    images = [_encoded(ref, read) for ref in task.images]
    messages = body.get("messages")
    if not isinstance(messages, list):
        return {**body, "images": [*(body.get("images") or ()), *images]}
    asked = [index for index, one in enumerate(messages) if isinstance(one, dict) and one.get("role") == "user"]
    if not asked:
        raise TaskFault("deterministic", "image_unusable", "there is no message of a user that the images could go with")
    last = messages[asked[-1]]
    shown = {**last, "images": [*(last.get("images") or ()), *images]}
    return {**body, "messages": [*messages[: asked[-1]], shown, *messages[asked[-1] + 1 :]]}


def _encoded(ref: ImageRef, read: ReadImage) -> str:
    try:
        return base64.b64encode(read(ref)).decode()
    except (ValueError, FileNotFoundError) as problem:
        text = "is gone" if isinstance(problem, FileNotFoundError) else str(problem)
        raise TaskFault("deterministic", "image_unusable", f"{ref.path} {text}") from problem
    except OSError as error:
        raise TaskFault("transient", "image_unusable", f"{ref.path}: {error.strerror}") from error
