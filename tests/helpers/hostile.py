"""A model server that means harm with every answer: a real HTTP server with escapes, bombs and numbers that cannot be."""

from __future__ import annotations

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

MODEL = "llama3.2:3b"
EVIL = (
    "\x1b[31m\x1b]0;owned\x07\x1b]8;;http://evil.example\x1b\\click\x9b2J\x00\b\x7f"
    "\r\n[2026-01-01T00:00:00.000+00:00] [brain] ERROR  forged\n"
    "\u202egnp.exe\u2066\u200f\ufeff\u2028[bold red]markup[/bold red][link=http://evil.example]here[/link] {task.x} %s"
)
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
"""What no output may hold; line break and tab may."""

Answer = tuple[int, dict[str, str], bytes]


def as_json(document: object, status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(document).encode()


WORK = {
    "text": {"response": f"good {EVIL}", "done": True, "done_reason": EVIL, "model": EVIL, "eval_count": 10**30},
    "negative": {"response": "x", "done": True, "eval_count": -1, "total_duration": -5, "prompt_eval_count": 1.5},
    "keys": {"response": "x", "done": True, EVIL: EVIL, "total_duration": "soon", "eval_duration": {}},
}
SHAPES = (
    {"message": "x"},
    {"response": 5},
    {"message": {"content": 7}},
    {"embeddings": 3},
    {"message": None},
    {"logprobs": 1},
)
for _number, _shape in enumerate(SHAPES):
    WORK[f"shape{_number}"] = {"done": True, "response": "x", **_shape}
RAW: dict[str, Answer] = {
    "error": as_json({"error": EVIL}),
    "status": as_json({"error": EVIL}, 500),
    "long": as_json({"error": "A" * 1_000_000 + EVIL}, 500),
    "nested": (200, {}, b"[" * 500_000),
    "nan": (200, {}, b'{"response":"x","done":true,"eval_count":NaN}'),
    "infinite": (200, {}, b'{"response":"x","done":true,"eval_count":1e999}'),
    "half": (200, {}, b'{"response":"\\ud800","done":true}'),
    "zipped": (200, {"Content-Encoding": "gzip"}, gzip.compress(b"\0" * 50_000_000)),
    "html": (403, {}, f"<html>{EVIL}</html>".encode()),
    "teapot": (418, {"X-Evil": "\x1b[31m"}, EVIL.encode()),
}
MODES = (*WORK, *RAW, "elsewhere", "elsewhere-json")


class Hostile:
    """``with Hostile() as server``: answers by the words ``mode=NAME`` in the request. ``hits`` counts what came by path."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.loaded = False
        hostile = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self._answer(b"")

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

            def _answer(self, body: bytes) -> None:
                hostile.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                status, headers, data = hostile.answer(self.path, body)
                self.send_response(status, "OK \x1b[31m")
                for name, value in {**headers, "Set-Cookie": "track=me", "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Silent."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Whoever hangs up on it has reason to."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> Answer:
        match path:
            case "/api/version":
                return as_json({"version": f"0.99 {EVIL}"})
            case "/api/tags":
                return as_json({"models": [_entry(MODEL), _entry(EVIL), {"name": f"{EVIL * 1000}:x", "size": 10**30}]})
            case "/api/ps":
                return as_json({"models": [_entry(MODEL), _entry(EVIL, size_vram=-7)] if self.loaded else []})
            case "/api/show":
                told = {"capabilities": ["completion", EVIL], "parameters": EVIL * 100}
                return as_json({**told, "model_info": {"general.architecture": EVIL}})
            case "/api/generate" | "/api/chat":
                return self._work(body)
            case _:
                return as_json({"error": EVIL}, 404)

    def _work(self, body: bytes) -> Answer:
        asked: dict[str, Any] = json.loads(body)
        mode = re.search(r"mode=([a-z0-9-]+)", body.decode())
        if mode is None:
            self.loaded = asked.get("keep_alive") != 0
            return as_json({"response": "", "done": True, "done_reason": "load"})
        if mode[1].startswith("elsewhere"):
            data = b'{"error":"moved"}' if mode[1].endswith("json") else b""
            return 307, {"Location": f"{self.url}/stolen"}, data
        if mode[1] in RAW:
            return RAW[mode[1]]
        told = dict(WORK[mode[1]])
        if "messages" in asked:
            told = {"message": {"role": EVIL, "content": told.pop("response")}, **told}
        return as_json(told)


def _entry(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "model": name, "digest": EVIL, "size": 1 << 30, "size_vram": 1 << 30, "expires_at": EVIL, **more}
