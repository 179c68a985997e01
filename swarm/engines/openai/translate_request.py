"""Requests from Ollama's form to OpenAI's. Pure.

* ``/api/chat`` becomes ``/v1/chat/completions``. So does ``/api/generate``, for it applies the chat template to its prompt;
  only what is raw or has a suffix is a text completion (``/v1/completions``).
* Only what was asked for is sent: defaults are the server's, as with Ollama.
* What has no counterpart is refused (``swarm.core.models.engines``), nothing is left out silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.models.engines import EngineKind, text_only, unsupported
from swarm.core.models.model_options import LOAD_OPTIONS
from swarm.engines.openai.translate_messages import content_with_images, openai_messages, refusal

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
_SCHEMA_NAME = "answer"
"""OpenAI's form wants a name for each schema."""


class OpenAIRequest(msgspec.Struct, frozen=True):
    """Where a request goes and what it says; ``stream`` is for the caller to add."""

    path: str
    body: dict[str, Any]


def openai_request(kind: EngineKind, endpoint: str, request: Mapping[str, Any]) -> OpenAIRequest:
    """Translate a whole request, its ``model`` included.

    Raises ``TaskFault`` (deterministic): ``bad_request``, naming the field that the engine cannot do or that is wrong.
    """
    problems = unsupported(kind, endpoint, request)
    if problems:
        field, why = problems[0]
        raise TaskFault("deterministic", "bad_request", f"request.{field}: {why} (engine {kind})")
    given = {name: value for name, value in request.items() if value is not None}
    body: dict[str, Any] = {"model": given.get("model")}
    if endpoint == "/api/embed":
        return OpenAIRequest(EMBEDDINGS, body | _embedding(given))
    if endpoint == "/api/generate" and text_only(given):
        path = COMPLETIONS
        body |= {"prompt": _text(given, "prompt")} | ({"suffix": given["suffix"]} if given.get("suffix") else {})
    else:
        path = CHAT
        body["messages"] = _prompt_messages(given) if endpoint == "/api/generate" else openai_messages(given.get("messages"))
        body |= {"tools": given["tools"]} if given.get("tools") else {}
        body |= _thinking(kind, given.get("think"))
    body |= _sampling(kind, given.get("options") or {})
    body |= _format(kind, path, given.get("format"))
    body |= _logprobs(kind, path, given)
    if given.get("truncate"):
        body["truncate_prompt_tokens"] = -1  # vLLM's word; a server without it refuses what is too long
    return OpenAIRequest(path, body)


def _text(given: Mapping[str, Any], field: str) -> str:
    value = given.get(field)
    if not isinstance(value, str) or not value:
        raise refusal(field, "must be a text that is not empty")
    return value


def _prompt_messages(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = content_with_images(_text(given, "prompt"), given.get("images"), "images")
    system = [{"role": "system", "content": _text(given, "system")}] if given.get("system") else []
    return [*system, {"role": "user", "content": content}]


def _embedding(given: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"input": given.get("input"), "encoding_format": "float"}
    if "dimensions" in given:
        made["dimensions"] = given["dimensions"]
    if given.get("truncate"):
        made["truncate_prompt_tokens"] = -1
    return made


def _thinking(kind: EngineKind, think: object) -> dict[str, Any]:
    """Templates differ in the word they look for, and pass over the others.

    That no effort is wanted is said in no field of its own: many a vLLM and SGLang refuses the word ``none`` there.
    """
    if think is None:
        return {}
    level = think if isinstance(think, str) else None
    enabled = level not in ("", "none") if level is not None else bool(think)
    words: dict[str, Any] = {"enable_thinking": enabled, "thinking": enabled}
    effort = {"reasoning_effort": level} if level and enabled else {}
    if kind == "llama-server":
        return {"chat_template_kwargs": words | effort}
    return {"chat_template_kwargs": words} | effort


def _sampling(kind: EngineKind, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options under OpenAI's names; those that are nobody's but a server's own go there under the name they have."""
    made: dict[str, Any] = {}
    for name, value in options.items():
        if value is None or name in LOAD_OPTIONS:
            continue
        match name:
            case "num_predict":
                if value > 0:  # what is below has no limit, which is OpenAI's default
                    made["max_tokens"] = value
            case "top_k" if kind == "openai":
                made["top_k"] = value if value > 0 else -1  # no limit: 0 in Ollama and llama.cpp, -1 in vLLM and SGLang
            case "num_keep":
                made["n_keep"] = value
            case "repeat_penalty" if kind == "openai":
                made |= {"repetition_penalty": value, "repeat_penalty": value}  # vLLM's and SGLang's word, and llama.cpp's
            case _:
                made[name] = value
    return made


def _format(kind: EngineKind, path: str, wanted: object) -> dict[str, Any]:
    if wanted in (None, ""):
        return {}
    if wanted != "json" and not isinstance(wanted, dict):
        raise refusal("format", 'must be "json" or a JSON Schema')
    schema = wanted if isinstance(wanted, dict) else None
    if path == COMPLETIONS and kind == "llama-server":  # it reads response_format of chats only
        return {"json_schema": schema if schema is not None else {"type": "object"}}
    if schema is None:
        return {"response_format": {"type": "json_object"}}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": _SCHEMA_NAME, "schema": schema}}}


def _logprobs(kind: EngineKind, path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if not given.get("logprobs"):
        return {}
    number = given.get("top_logprobs", 0)
    if kind == "llama-server":
        number = max(1, number)  # with 0 it gives none at all; the answer is cut to what was asked for
    return {"logprobs": number} if path == COMPLETIONS else {"logprobs": True, "top_logprobs": number}
