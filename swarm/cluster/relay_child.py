"""The relay of one card as a child of the card's actor: started, heard, asked once, ended. Knows nothing of Ray.

* It ends with us, however we end: it watches the far end of a pipe that we hold.
* The token goes by a file of our user's alone, never on a command line.
* One relay per card and directory: it takes over what an earlier one left running there.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import requests

from swarm import __version__
from swarm.core.nodes.card_report import CardOrder, CardPhase, CardReport
from swarm.core.nodes.relay_wire import NodeState, RelayReady
from swarm.filesystem.temporary import replacement
from swarm.http_session import PlainSession
from swarm.proc.child import rotate_if_large
from swarm.proc.env_markers import PROCESS_MARKER, ROOT_MARKER

LEASE_S = 120.0
"""A relay that nobody has asked for anything for so long ends with its servers."""
START_S = 120.0
ASK_S = 8.0
"""Below what the driver takes for silence: an actor that asks answers nobody meanwhile."""
_LOG_MAX_BYTES = 10 << 20
_LAST_WORDS = 3


def relay_root(order: CardOrder) -> Path:
    """Directory of the relays of this queue on that machine."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(state).absolute() / "swarm" / "ray" / order.namespace / order.node


class RelayChild:
    """Not thread-safe. Raises ``OSError`` when made: it could not be started."""

    def __init__(self, order: CardOrder, gpu: str | None) -> None:
        """``gpu``: the card that Ray gave, as Ray names it; None: a simulated one."""
        self._order = order
        self._root = relay_root(order)
        self._err = self._root / "logs" / f"relay-{order.slot if gpu is None else gpu}.err"
        self._err.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        rotate_if_large(self._err, _LOG_MAX_BYTES)
        self._from = self._err.stat().st_size if self._err.exists() else 0
        self._heard = b""
        self._ready: RelayReady | None = None
        self._state: NodeState | None = None
        self._began_s = time.monotonic()
        self._why = ""
        watched, self._held = os.pipe()
        try:
            self._process = self._spawn(gpu, watched)
        except BaseException:
            os.close(self._held)
            raise
        finally:
            os.close(watched)

    def report(self) -> CardReport:
        """How it is. Takes up to ``ASK_S`` while a relay that is ready has not answered yet."""
        code = self._process.poll()
        if code is not None:
            self.stop()
            return self._said(CardPhase.ENDED, reason=f"its relay ended ({_exit_words(code)}): {self._last_words()}")
        if self._ready is None:
            self._listen()
        if self._ready is not None and self._state is None:
            self._ask()
        if self._state is None and time.monotonic() - self._began_s > START_S:
            self.stop()
            return self._said(CardPhase.ENDED, reason=f"its relay did not serve within {START_S:.0f} s; {self._why}")
        if self._state is None:
            return self._said(CardPhase.STARTING, reason=self._why)
        return self._said(CardPhase.SERVING)

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """Have it end its servers and itself; does not wait. Harmless when repeated."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within that time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _spawn(self, gpu: str | None, watched: int) -> subprocess.Popen[bytes]:
        token = self._root / f"token-{self._order.slot if gpu is None else gpu}"
        with replacement(str(token), durable=False) as fd:
            os.write(fd, self._order.token.encode())
        fd = os.open(self._err, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            return subprocess.Popen(
                self._argv(token, watched),
                env=self._env(gpu),
                cwd=self._root,  # where no configuration of somebody else lies
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=fd,
                pass_fds=(watched,),
                start_new_session=True,
            )
        finally:
            os.close(fd)

    def _argv(self, token: Path, watched: int) -> list[str]:
        order = self._order
        words = ["serve", "--relay", "--json", "--root", str(self._root), "--listen", f"{order.address}:0"]
        words += ["--node", order.node, "--token-file", str(token), "--watch-fd", str(watched), "--lease-s", f"{LEASE_S:g}"]
        if order.simulate is not None:
            words += ["--simulate", str(order.simulate), "--card", f"gpu{order.slot}"]
        return [sys.executable, "-P", "-m", "swarm", *words]

    def _env(self, gpu: str | None) -> dict[str, str]:
        """Settings come from beside the queue alone: those of this machine's environment are left out."""
        env = {name: value for name, value in os.environ.items() if not _is_setting(name)}
        env |= self._order.env
        env |= {ROOT_MARKER: str(self._root), PROCESS_MARKER: "relay"}
        if gpu is not None:  # what the number means is CUDA's business, not the driver library's: only the relay can tell
            env["CUDA_VISIBLE_DEVICES"] = gpu
        return env

    def _listen(self) -> None:
        """Take in what it has said of where it serves."""
        pipe = self._process.stdout
        assert pipe is not None
        if pipe.closed:
            return
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while selector.select(0):
                part = os.read(pipe.fileno(), 65536)
                if not part:
                    return
                self._heard += part
        line, end, _ = self._heard.partition(b"\n")
        if end:
            try:
                self._ready = msgspec.json.decode(line, type=RelayReady)
            except msgspec.MsgspecError as error:
                self._why = f"its relay said something else than where it serves: {error}"

    def _ask(self) -> None:
        assert self._ready is not None
        try:
            head = {"Authorization": f"Bearer {self._order.token}"}
            with PlainSession() as session:  # no proxy of the environment is given the token
                answer = session.get(f"{self._ready.url}/node", headers=head, timeout=ASK_S)
            answer.raise_for_status()
            self._state = msgspec.json.decode(answer.content, type=NodeState)
        except (requests.RequestException, msgspec.MsgspecError) as error:
            self._why = f"its relay does not answer here: {type(error).__name__}"

    def _said(self, phase: CardPhase, reason: str = "") -> CardReport:
        url = self._ready.cards[0] if self._ready is not None else ""
        card = url.rpartition("/")[2] or (f"gpu{self._order.slot}" if self._order.simulate is not None else "")
        serving = phase is CardPhase.SERVING
        return CardReport(
            phase=phase,
            version=__version__,
            card=card,
            url=url if serving else "",
            reason=reason,
            state=self._state if serving else None,
        )

    def _last_words(self) -> str:
        """What it said on standard error, without the lines before this life."""
        try:
            with open(self._err, "rb") as file:
                file.seek(max(self._from, self._err.stat().st_size - 4096))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError as error:
            return f"{self._err} cannot be read: {error.strerror}"
        said = [line.strip() for line in lines if line.strip()]
        errors = [line for line in said if line.startswith(("error: ", "hint: "))]
        return "; ".join((errors or said)[-_LAST_WORDS:])[:500] or f"it left no message in {self._root}/logs"


def _is_setting(name: str) -> bool:
    """Knobs of the simulated server are none."""
    return name.startswith("SWARM_") and (not name.startswith("SWARM_SIM_") or name.startswith("SWARM_SIM__"))


def _exit_words(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
