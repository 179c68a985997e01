"""`swarm top` on a real terminal: it shows, obeys, resizes, and leaves the terminal as it found it, however it ends."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import resource
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from tests.helpers.cli import User
from tests.helpers.wait import wait_until

ALTERNATE, NORMAL = b"\x1b[?1049h", b"\x1b[?1049l"


class Terminal:
    """A pseudo-terminal of some size with a command on it."""

    def __init__(self, someone: User, *words: str, rows: int = 24, columns: int = 80) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "swarm", *words],
            cwd=someone.folder,
            env={**someone.env, "TERM": "xterm-256color"},
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
        )

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def until(self, text: bytes) -> None:
        def there() -> bool:
            while select.select([self.master], [], [], 0)[0]:
                self.seen += os.read(self.master, 65536)
            return text in self.seen

        wait_until(there, timeout_s=60, what=f"{text!r} on the screen")

    def ended(self) -> int:
        deadline_s = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < deadline_s:
            if select.select([self.master], [], [], 0.02)[0]:
                self.seen += os.read(self.master, 65536)
        code = self.process.wait(60)
        self.until(b"")
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def someone(tmp_path):
    person = User(tmp_path)
    person.queue.prepare()
    return person


@pytest.fixture
def terminal(someone):
    made = []

    def make(*words, **size):
        made.append(Terminal(someone, *words, **size))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_it_shows_obeys_resizes_and_leaves_the_terminal_as_it_was(someone, terminal):
    one = terminal("top")
    one.until(b"nothing is running")
    assert ALTERNATE in one.seen
    assert termios.tcgetattr(one.slave) != one.before, "single keys, no echo"
    one.press("?")
    one.until(b"swarm top: keys")
    one.press("\x1b[D")  # the left arrow: back
    one.seen = b""
    one.resize(40, 150)
    one.process.send_signal(signal.SIGWINCH)
    one.until(b"s:name")
    one.press("q")
    assert one.ended() == 0
    assert NORMAL in one.seen
    assert termios.tcgetattr(one.slave) == one.before


def test_sigterm_puts_the_terminal_back(terminal):
    one = terminal("top")
    one.until(b"no workers are registered")
    one.process.terminate()
    assert one.ended() == 128 + signal.SIGTERM
    assert one.seen.rindex(NORMAL) > one.seen.rindex(ALTERNATE)
    assert termios.tcgetattr(one.slave) == one.before


def test_an_error_in_the_middle_puts_the_terminal_back_and_is_told(someone, terminal):
    one = terminal("top")
    one.until(b"no workers are registered")
    resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE, (3, 3))  # it can open nothing any more
    code = one.ended()
    assert code != 0
    assert termios.tcgetattr(one.slave) == one.before
    assert b"error: " in one.seen[one.seen.rindex(NORMAL) :]


def test_in_a_pipe_it_prints_one_look_and_json_is_one_document(someone):
    plain, document = someone.run("top"), someone.run("top", "--json")
    assert (plain.returncode, document.returncode) == (3, 3), "nothing is running"
    assert "not running" in plain.stdout
    assert "\x1b" not in plain.stdout
    assert json.loads(document.stdout)["queue"]["pending"]["total"] == 0
