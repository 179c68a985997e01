"""A stranger in the place of a model server: another process, and if wished another user's, that keeps all it is sent."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.helpers.wait import wait_until

NOBODY = 65534

_PROGRAM = """
import os, socket, sys, threading
port, uid, kept = int(sys.argv[1]), int(sys.argv[2]), os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND)
if uid:
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
server = socket.create_server(("127.0.0.1", port), backlog=64)
print("up", flush=True)
BODY = (b'{"version":"0.99.0","models":[{"name":"llama3.2:3b","size":1,"size_vram":1}],"model":"llama3.2:3b",'
        b'"response":"believe me","message":{"role":"assistant","content":"believe me"},"done":true,"done_reason":"stop"}')
def serve(peer):
    while data := peer.recv(65536):
        os.write(kept, data)
        head = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(BODY)
        peer.sendall(head + BODY)
while True:
    peer, _ = server.accept()
    threading.Thread(target=serve, args=(peer,), daemon=True).start()
"""


class Impostor:
    """``with Impostor(port) as stranger: …; stranger.heard``. ``uid`` 0: the same user as the test."""

    def __init__(self, port: int, uid: int = 0) -> None:
        self.port = port
        self._uid = uid
        self._folder = tempfile.TemporaryDirectory(prefix="impostor-")
        self._kept = Path(self._folder.name) / "heard"
        self._kept.touch()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def heard(self) -> bytes:
        """Every byte that it was sent."""
        return self._kept.read_bytes()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def __enter__(self) -> Self:
        argv = [sys.executable, "-c", _PROGRAM, str(self.port), str(self._uid), str(self._kept)]
        env = {name: value for name, value in os.environ.items() if not name.startswith("SWARM_")}
        self.process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, cwd="/")
        assert self.process.stdout is not None
        assert wait_until(self.process.stdout.readline, what="the impostor to listen") == b"up\n"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._folder.cleanup()
