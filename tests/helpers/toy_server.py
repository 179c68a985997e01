"""A program that serves one model with OpenAI's API, as far as its process matters: for tests of starting and ending it.

    python toy_server.py --port N [--alias NAME] [--load-s S] [--say TEXT] [--exit CODE] [--deaf] [--key-file PATH] …

Flags that it does not know are ignored. ``--say`` goes to standard error; ``--exit`` ends it before it listens.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def flag(name: str, default: str = "") -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ready = time.monotonic() >= READY_S
        if self.path == "/health":
            self.answer(200 if ready else 503, {"status": "ok"} if ready else {"error": {"message": "Loading model"}})
        elif KEY and self.headers.get("Authorization") != f"Bearer {KEY}":
            self.answer(401, {"error": {"message": "Invalid API Key"}})
        elif self.path == "/v1/models":
            self.answer(200, {"data": [{"id": flag("--alias", "toy")}]})
        elif self.path == "/die":
            os._exit(3)
        elif self.path == "/seen":
            self.answer(200, {"argv": sys.argv[1:], "env": dict(os.environ)})
        else:
            self.answer(404, {"error": {"message": "File Not Found"}})

    def answer(self, status: int, document: object) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


if "--version" in sys.argv:
    print("version: 1 (toy)")
    raise SystemExit(0)
print(flag("--say", "toy server starts"), file=sys.stderr, flush=True)
if "--exit" in sys.argv:
    raise SystemExit(int(flag("--exit")))
if "--deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
KEY = os.environ.get("LLAMA_API_KEY", "")
READY_S = time.monotonic() + float(flag("--load-s", "0"))
ThreadingHTTPServer(("127.0.0.1", int(flag("--port"))), Handler).serve_forever()
