"""Questions to a server that speaks OpenAI's API: is it ready, what does it serve.

Every call is bounded in time and size, and raises ``TaskFault``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.models.model_server import MIB, Limits
from swarm.engines.classify import error_text, fault_of_transport, shown_text
from swarm.engines.control_http import Abort, HttpClient, OnConnect, body_of, read_all
from swarm.engines.deadlines import Deadlines
from swarm.http_session import TRANSPORT_ERRORS, cause_of

MAX_BYTES = 4 * MIB


class Answer(msgspec.Struct, frozen=True):
    """A status, and the JSON object that came with it; empty where none did."""

    status: int
    document: dict[str, Any]
    text: str
    """What the server says is wrong, in one line; empty where it does not say."""


class ServedModel(msgspec.Struct, frozen=True):
    """A model that a server serves."""

    name: str
    """As it spells it."""
    context_length: int = 0
    """Tokens of one request; 0: it does not say."""


class ServerCalls:
    """One server. Thread-safe."""

    def __init__(self, base_url: str, *, key: str = "", on_connect: OnConnect | None = None) -> None:
        """``on_connect`` sees each new connection before anything is sent. Raises ``ConfigError`` for no HTTP address."""
        self.base_url = base_url
        self._http = HttpClient(base_url, on_connect)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()

    def get(self, path: str, timeout_s: float) -> Answer:
        """The answer to a question, whatever its status."""
        deadlines = Deadlines(Limits(total_s=timeout_s), streamed=False)
        response = None
        try:
            response = self._http.send("GET", path, None, self._headers, Abort(deadlines))
            status, data = response.status_code, read_all(body_of(response), MAX_BYTES)
        except TRANSPORT_ERRORS as error:
            cause = cause_of(error)
            raise (
                deadlines.fault() if isinstance(cause, TimeoutError) else fault_of_transport(cause, url=self.base_url)
            ) from error
        finally:
            if response is not None:
                response.close()
        text = data.decode("utf-8", "replace")
        return Answer(status, _object(data), shown_text(error_text(text) or "", 200))

    def trouble(self, health: str, timeout_s: float) -> str:
        """Why it is not ready, in words; empty if it is. Raises ``TaskFault`` when it does not answer at all."""
        answer = self.get(health, timeout_s)
        if answer.status == 404:  # a server without this path: what it serves is all that it can be asked
            answer = self.get("/v1/models", timeout_s)
        if answer.status == 200:
            return ""
        if answer.status == 503:
            return answer.text or "it is loading its model"
        return f"HTTP {answer.status}{f': {answer.text}' if answer.text else ''}"

    def capacity(self, timeout_s: float) -> tuple[int, int]:
        """Requests at once, and tokens of context for one, as llama-server tells; 0: it does not say."""
        told = self.get("/props", timeout_s).document
        general = told.get("default_generation_settings")
        context = general.get("n_ctx") if isinstance(general, dict) else None
        return _number(told.get("total_slots")), _number(context)

    def models(self, timeout_s: float) -> tuple[ServedModel, ...]:
        """The models that it serves."""
        answer = self.get("/v1/models", timeout_s)
        if answer.status in (401, 403):
            raise TaskFault("infra", "forbidden", f"HTTP {answer.status}: {self.base_url} refuses the key; see api_key_env")
        entries = answer.document.get("data")
        if answer.status != 200 or not isinstance(entries, list):
            what = f"HTTP {answer.status} instead of a list of models"
            raise TaskFault("infra", "garbage", f"{what}; is {self.base_url} an OpenAI-compatible server?")
        found = [(entry.get("id"), entry.get("max_model_len")) for entry in entries if isinstance(entry, dict)]
        return tuple(ServedModel(shown_text(name, 200), _number(limit)) for name, limit in found if isinstance(name, str))


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31 else 0


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
