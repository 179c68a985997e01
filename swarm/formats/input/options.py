"""How an input is to be read: what the command line says about a batch, as one frozen value.

One item of an input, before it is turned into a task.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Format = Literal["openai", "jsonl", "csv", "text"]
Endpoint = Literal["/api/chat", "/api/generate", "/api/embed"]


class ReadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that turns lines into tasks. Whatever a line says itself wins over what is said here.

    The one exception is ``model`` with OpenAI input: there every line must name a model, most often one that no local
    server has, so ``model`` replaces it.
    """

    format: Format | None = None
    """None: found by the file's extension; for ``.jsonl`` by its first line, OpenAI batch or plain."""
    prompt_field: str | None = None
    """Column that holds the prompt (text) or the messages (list). None: ``prompt`` or ``messages``."""
    template: str | None = None
    """Prompt built from columns: ``Translate {text} to {lang}``; ``{{`` and ``}}`` stand for braces."""
    system: str | None = None
    """System prompt; a line whose messages bring their own keeps its own."""
    model: str | None = None
    endpoint: Endpoint = "/api/chat"
    """Where plain lines go; OpenAI lines say it by their ``url``."""
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    """Generation options in Ollama's format, such as ``{"temperature": 0, "num_predict": 200}``."""
    schema: dict[str, Any] | None = None
    """A JSON Schema that every answer must fit; a line that brings its own ``format`` keeps it."""
    images_dir: str | None = None
    """Directory of the images that lines name. None: that of the input, for pipes the current one. No part of the batch's
    identity, since each item's own covers its images."""
    limit: int | None = None
    """Read only so many items. No part of the batch's identity: a later run without it does the rest."""
    name_field: str | None = None
    """Column whose value names the task in lists and logs."""

    def meaning(self) -> dict[str, Any]:
        """The options that change what is asked, ready to be hashed; ``format`` is left to whoever resolved it."""
        schema = {} if self.schema is None else {"schema": self.schema}
        return schema | {
            "model": self.model,
            "template": self.template,
            "prompt_field": self.prompt_field,
            "system": self.system,
            "endpoint": self.endpoint,
            "options": self.options,
        }


class InputItem(msgspec.Struct, frozen=True):
    """One line (CSV: one row) as columns and values."""

    line_no: int
    """From 1; of a row that spans lines, the first."""
    record: dict[str, Any]
