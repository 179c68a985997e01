"""Answers of a simulated model: the same for the same prompt, and marked as simulated."""

from __future__ import annotations

import itertools
import json
import math
import random
import zlib
from typing import Any

import msgspec

MARK = "[simulated]"
_TEXT = (
    "the a small quick brown number answer follows from adding both parts then we take half of it so there are left over "
    "first second third each every day week cost price total therefore result is was makes gives and or with"
)
WORDS = _TEXT.split()
DIMENSIONS = 64
CHARS_PER_TOKEN = 4
_PIECE_CHARS = 4
RECITE, LINES = "[[recite]]", "[[lines]]"


class Answer(msgspec.Struct, frozen=True):
    """An answer as tokens: first thinking, then text."""

    thinking: list[str]
    text: list[str]
    done_reason: str = "stop"

    @property
    def tokens(self) -> int:
        return len(self.thinking) + len(self.text)


def prompt_of(body: dict[str, Any]) -> str:
    """All that a request says to the model, in one text."""
    parts = [str(body.get("system") or ""), str(body.get("prompt") or "")]
    parts += [str(message.get("content") or "") for message in body.get("messages") or [] if isinstance(message, dict)]
    return "\n".join(part for part in parts if part)


def count_tokens(text: str) -> int:
    """A token for every four characters."""
    return max(1, len(text) // CHARS_PER_TOKEN)


def obeyed(prompt: str) -> str | None:
    """What a prompt orders to be said (see the knob ``obey``), without any mark in the text; None if it orders nothing."""
    _, order, rest = prompt.rpartition(RECITE)
    if order:
        return rest.strip()
    _, order, rest = prompt.rpartition(LINES)
    return json.dumps([line.strip() for line in rest.splitlines() if line.strip()]) if order else None


def compose(
    prompt: str,
    *,
    seed: int,
    form: Any,  # noqa: ANN401 - a JSON value
    thinks: bool,
    limit: int,
    ordered: str | None = None,
) -> Answer:
    """The answer to a prompt. ``form`` is the request's ``format``; ``limit`` caps all tokens, 0 or less is open.

    ``ordered`` is said instead of an answer of our own.
    """
    pick = random.Random(zlib.crc32(prompt.encode("utf-8", "replace")) ^ seed)
    thinking = [f"{MARK} ", *_words(pick, 12)] if thinks else []
    if ordered is not None:
        text = _pieces(ordered)
    elif form:
        instance = {"answer": f"{MARK} {''.join(_words(pick, 4)).strip()}"} if form == "json" else _instance(form, pick)
        text = _pieces(json.dumps(instance))
    else:
        text = [f"{MARK} ", *_words(pick, pick.randint(24, 64))]
    if 0 < limit < len(thinking) + len(text):
        return Answer(thinking[:limit], text[: max(limit - len(thinking), 0)], "length")
    return Answer(thinking, text)


def _pieces(whole: str) -> list[str]:
    return [whole[at : at + _PIECE_CHARS] for at in range(0, len(whole), _PIECE_CHARS)]


def _words(pick: random.Random, count: int) -> list[str]:
    return [word + " " for word in pick.choices(WORDS, k=count)]


def _instance(schema: Any, pick: random.Random, depth: int = 0) -> Any:  # noqa: ANN401 - JSON Schema and an instance of it
    """Something that fits a plain JSON Schema."""
    if not isinstance(schema, dict) or depth > 8:
        return None
    if "const" in schema or schema.get("enum"):
        return schema["const"] if "const" in schema else pick.choice(schema["enum"])
    kind = schema.get("type", "object")
    low, high = schema.get("minimum", 0), schema.get("maximum", 100)
    made: Any = None
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            made = {name: _instance(sub, pick, depth + 1) for name, sub in (schema.get("properties") or {}).items()}
        case "array":
            made = [_instance(schema.get("items"), pick, depth + 1) for _ in range(max(schema.get("minItems", 1), 1))]
        case "string":
            made = f"{MARK} {''.join(_words(pick, 3)).strip()}"
        case "integer":
            made = pick.randint(low, high)
        case "number":
            made = round(pick.uniform(low, high), 2)
        case "boolean":
            made = pick.random() < 0.5
    return made


def vector(text: str, dimensions: int | None) -> list[float]:
    """A unit vector for a text."""
    pick = random.Random(zlib.crc32(text.encode("utf-8", "replace")))
    raw = [pick.gauss(0, 1) for _ in range(dimensions or DIMENSIONS)]
    length = math.sqrt(sum(x * x for x in raw)) or 1.0
    return [round(x / length, 6) for x in raw]


def grouped(tokens: list[str], pieces: int) -> list[str]:
    """Tokens joined into at most ``pieces`` texts of about the same length; 0 leaves them as they are."""
    if pieces == 0 or len(tokens) <= pieces:
        return tokens
    edges = [len(tokens) * n // pieces for n in range(pieces + 1)]
    return ["".join(tokens[a:b]) for a, b in itertools.pairwise(edges)]
