"""One model server process: found or started, watched until ready, ended with its runners.

Nothing here waits for long.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from swarm.core.worker import ProcessIdentity
from swarm.engines.ollama.parallel import VARIABLE, wanted_parallel
from swarm.engines.ollama.server_spec import ServerSpec
from swarm.engines.processes.programs import find_program
from swarm.engines.server_proof import ServerProof
from swarm.errors import ConfigError, ModelServerError, PortTaken
from swarm.filesystem.temporary import read_note, remove_note, write_note
from swarm.proc.child import Child, KeptProcess, rotate_if_large
from swarm.proc.env_markers import ROOT_MARKER, SERVER_MARKER, find_marked, is_marked
from swarm.proc.identity import is_same
from swarm.proc.ports import is_free, who_listens

if TYPE_CHECKING:
    from swarm.engines.ollama.client import OllamaClient
    from swarm.engines.ollama.readiness import ReadinessProbe

GET_OLLAMA = (
    "install Ollama (https://ollama.com/download), or set [ollama] binary to its path; or name a running server "
    "(ollama_url in [[workers]]); or try --simulate 4"
)
ORPHAN_GRACE_S = 2.0
"""Between SIGTERM and SIGKILL of what an earlier life left behind; short, since the caller waits."""
log = logging.getLogger(__name__)


class ServerNote(msgspec.Struct, frozen=True, kw_only=True):
    """``workers/<worker>.server.json``: who runs, so that a later supervisor can adopt or stop it."""

    worker: str
    process: ProcessIdentity
    url: str
    port: int
    fingerprint: str
    slots: int = 0
    """Requests at once that it was started for; 0: an earlier release did not say."""
    simulated: bool = False


def running_server(note_path: Path, markers: Mapping[str, str]) -> ServerNote | None:
    """The note, if that very process lives and carries these markers: a note alone is only a hint."""
    note = read_note(note_path, ServerNote)
    return note if note is not None and is_marked(note.process, **markers) else None


def server_proof(worker: str, root: Path) -> ServerProof:
    """Of the server that some supervisor keeps for this worker, for whoever is about to send it something."""
    path = root / "workers" / f"{worker}.server.json"
    markers = {SERVER_MARKER: worker, ROOT_MARKER: str(root)}

    def noted() -> ProcessIdentity | None:
        note = running_server(path, markers)
        return note.process if note is not None else None

    return ServerProof(markers, known=noted)


def client_of(worker: str, url: str, *, root: Path, adopted: bool) -> OllamaClient:
    """A client that speaks only to the server swarm started for this worker, or to an adopted ``url``."""
    from swarm.engines.ollama.client import OllamaClient  # noqa: PLC0415  (HTTP: many commands import this and ask no server)

    return OllamaClient(url, on_connect=None if adopted else server_proof(worker, root))


def find_binary(spec: ServerSpec) -> str:
    """Path of the program to run. Raises ``ConfigError`` saying how to get it."""
    found = find_program(spec.argv[0], spec.env)
    if not found.path:
        raise ConfigError(
            f"there is no program to serve models for {spec.worker}: [ollama] binary = {found.name!r} {found.trouble}",
            hint=GET_OLLAMA,
        )
    return found.path


class ServerProcess(KeptProcess):
    """Keeps to one ``ServerSpec``. ``on_ready`` is called from the probe's thread."""

    def __init__(self, spec: ServerSpec, *, on_ready: Callable[[], None] = lambda: None) -> None:
        super().__init__(f"ollama-{spec.worker}", "server", spec.markers, min(ORPHAN_GRACE_S, spec.stop_grace_s))
        self.spec = spec
        self._on_ready = on_ready
        self._slots = 0
        self._probe: ReadinessProbe | None = None
        self._proof = ServerProof(spec.markers, known=lambda: self.identity)

    def adopt(self) -> str | None:
        """Take over the running server of an earlier supervisor if it is the right one; returns a line for the log."""
        note = running_server(Path(self.spec.note_path), self.spec.markers)
        if note is None or note.fingerprint != self.spec.fingerprint:
            return None
        child = Child.adopt(note.process, markers=self.spec.markers)
        if child is None:
            return None
        self._child = child
        self._watch(child)
        return f"{self.name} adopted: it runs as pid {note.process.pid} on port {self.spec.port}"

    def start(self) -> str:
        """Adopt the running server of an earlier supervisor if it is the right one, else start a new one.

        Orphans of an earlier run are ended first; processes of others are named, never touched. Returns a line for the log.
        Raises ``ConfigError``: no such program; ``PortTaken``; ``ModelServerError``: orphan that cannot be killed.
        """
        adopted = self.adopt()
        if adopted:
            return adopted
        orphans = self._end_orphans()
        self._check_port()
        self._spawn()
        child = self._child
        assert child is not None
        self._write_note(child.identity)
        self._watch(child)
        cleared = f", after ending {orphans} left over from an earlier start" if orphans else ""
        return f"{self.name} started as pid {child.identity.pid} on port {self.spec.port}{cleared}"

    def ready(self) -> bool:
        """Whether it has answered ``/api/version`` and ``/api/ps`` in this life."""
        return self._probe is not None and self._probe.ready

    def overdue(self) -> str | None:
        """Why it must be given up: not ready within ``start_timeout_s``. None while it is not overdue."""
        probe = self._probe
        if probe is None or probe.ready or probe.age_s < self.spec.start_timeout_s:
            return None
        return f"not ready within {self.spec.start_timeout_s:g} s: {probe.last_answer}; see {self.spec.log_path}"

    def worked(self) -> bool:
        """Whether it has been ready in this life."""
        return self.ready()

    def drain(self) -> None:
        """A server cannot drain: its requests are cut. The same as ``stop``; its worker is drained before."""
        self.stop()

    def stop(self) -> None:
        """Begin its end: SIGTERM to the group, SIGKILL after the grace. ``stop_step`` sees it through."""
        self._end_probe()
        if self._child is not None:
            self._child.begin_stop(grace_s=self.spec.stop_grace_s, sig=signal.SIGTERM)

    def clean_up(self) -> str | None:
        """After its end: kill the runners it left. Returns a complaint if one cannot be killed."""
        self._end_probe()
        return super().clean_up()

    def close(self) -> None:
        """Release it without stopping it: the next supervisor adopts it."""
        self._end_probe()
        super().close()

    def _end_orphans(self) -> int:
        orphans = len(find_marked(**self.spec.markers))
        if orphans and self._end_remains():
            names = "; ".join(self.leftovers())
            raise ModelServerError(
                f"{self.name}: {names} of an earlier start cannot be killed",
                hint="it is stuck in the kernel, most likely in the GPU driver: see `dmesg`; a reboot frees the card",
            )
        return orphans

    def _check_port(self) -> None:
        if not is_free(self.spec.host, self.spec.port):
            raise PortTaken(
                f"{self.name}: port {self.spec.port} is taken by {who_listens(self.spec.port) or 'an unknown process'}",
                hint="stop it, choose another ollama.base_port, or adopt that server with ollama_url in [[workers]]",
            )

    def _spawn(self) -> None:
        spec = self.spec
        binary = find_binary(spec)
        for directory in spec.card_dirs:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        log_path = Path(spec.log_path)
        rotate_if_large(log_path)
        self._slots = spec.slots or wanted_parallel(Path(spec.parallel_path), has_card=spec.has_card)
        env = {**spec.env, VARIABLE: str(self._slots)}
        try:
            self._child = Child.spawn((binary, *spec.argv[1:]), env=env, markers=spec.markers, log_path=log_path)
        except OSError as error:
            raise ModelServerError(
                f"{self.name}: cannot start {binary}: {error.strerror}", hint=f"run `{binary} serve` by hand to see why"
            ) from error

    def _watch(self, child: Child) -> None:
        from swarm.engines.ollama.readiness import ReadinessProbe  # noqa: PLC0415  (HTTP: commands that only look need none of it)

        identity = child.identity
        probe = ReadinessProbe(
            self.spec.url,
            alive=lambda: is_same(identity),
            on_ready=self._on_ready,
            on_connect=self._proof,
        )
        try:
            probe.start()
        except RuntimeError as error:
            if child.adopted:
                self.close()
            else:
                self.clean_up()
            raise ModelServerError(
                f"{self.name}: nobody can ask whether it is ready: {error}",
                hint="a limit on processes was reached (`ulimit -u`, pids.max of the control group)",
            ) from error
        self._probe = probe

    def _write_note(self, identity: ProcessIdentity) -> None:
        spec = self.spec
        note = ServerNote(
            worker=spec.worker,
            process=identity,
            url=spec.url,
            port=spec.port,
            fingerprint=spec.fingerprint,
            slots=self._slots,
            simulated=spec.simulated,
        )
        try:
            write_note(Path(spec.note_path), note)
        except OSError as error:
            # Only adoption is lost: a later supervisor finds the server by its marker and replaces it.
            log.warning("%s: cannot write %s: %s", self.name, spec.note_path, error.strerror)

    def _end_probe(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None

    def _forget(self) -> None:
        ended, self._child = self.identity, None
        self._end_probe()
        path = Path(self.spec.note_path)
        note = read_note(path, ServerNote)
        if note is not None and note.process != ended and is_same(note.process):
            return  # another tree lies there now, or another supervisor has come: the note is theirs
        try:
            remove_note(path)
        except OSError as error:
            # Harmless: whom a note names is looked for, alive and with our marker, before it is believed.
            log.warning("%s: cannot remove %s: %s", self.name, self.spec.note_path, error.strerror)
