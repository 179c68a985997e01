"""One process that serves one model: started, adopted, ended; owned by the worker that started it.

A note beside the registrations names it, a marker in its environment proves it. It outlives a worker that is killed: the
worker's next life adopts it, or ends it.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import select
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.worker import ProcessIdentity
from swarm.engines.classify import fault_of_text, shown_text
from swarm.engines.processes.model_spec import ModelServerSpec
from swarm.engines.processes.programs import find_program, version_of
from swarm.filesystem.entries import open_file
from swarm.filesystem.temporary import read_note, remove_note, write_note
from swarm.proc.child import Child, Exit, rotate_if_large
from swarm.proc.env_markers import find_marked, find_marked_values, is_marked, kill_marked
from swarm.proc.ports import describe, is_free, who_listens

log = logging.getLogger(__name__)
ORPHAN_GRACE_S = 2.0
_POLL_S = 0.02
_LAST_LINES, _LAST_BYTES, _SHOWN_LINES = 200, 32768, 2
"""vLLM tells the cause before two traces of some 60 lines each."""
_NO_ROOM = ("out_of_memory", "does_not_fit")
_UNKNOWN_FLAG = re.compile(
    r"invalid argument:|unknown argument|unrecognized arguments?|error while handling argument|unexpected value for",
    re.IGNORECASE,
)
_FOREIGN_FILE = re.compile(r"invalid magic|not a gguf|failed to read magic|bad magic|invalid gguf", re.IGNORECASE)
_UNKNOWN_MODEL = re.compile(
    r"unknown model architecture|unknown pre-tokenizer|done_getting_tensors: wrong number", re.IGNORECASE
)
_PORT = re.compile(r"couldn't bind|address already in use|bind.*in use", re.IGNORECASE)
_RAISED = re.compile(r"\b\w*(Error|Exception): ")
"""The first of them is the cause of the others."""


class ModelNote(msgspec.Struct, frozen=True, kw_only=True):
    """``workers/<worker>.models.json``: which process serves which model, for the worker's next life."""

    engine: str
    model: str
    process: ProcessIdentity
    port: int
    fingerprint: str
    slots: int = 1
    embedding: bool = False
    options: dict[str, Any] = msgspec.field(default_factory=dict)


def running_note(path: Path, markers: Mapping[str, str]) -> ModelNote | None:
    """The note, if that very process lives and carries these markers."""
    note = read_note(path, ModelNote)
    return note if note is not None and is_marked(note.process, **markers) else None


class ModelProcess:
    """The process of one specification. Not thread-safe, but for ``poll``."""

    def __init__(self, spec: ModelServerSpec, child: Child, key: str, log_start: int) -> None:
        self.spec = spec
        self.key = key
        """What its requests have to bring; empty: nothing."""
        self._child = child
        self._log_start = log_start

    @classmethod
    def start(cls, spec: ModelServerSpec) -> ModelProcess:
        """Start it, after ending what an earlier one left. Raises ``TaskFault``: ``engine_missing``, ``port_taken`` …"""
        program = find_program(spec.argv[0], spec.env)
        if not program.path:
            message = f"{spec.engine} cannot be started: {program.name!r} {program.trouble}"
            raise TaskFault("deterministic", "engine_missing", f"{message}; set command in [engines.{spec.engine}]")
        end_marked(spec.markers)
        if not is_free("127.0.0.1", spec.port):
            holder = who_listens(spec.port) or "an unknown process"
            message = (
                f"port {spec.port}, where {spec.model} is to be served, is taken by {holder}; stop it, or set another port"
            )
            raise TaskFault("infra", "port_taken", message)
        for directory in spec.card_dirs:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        log_path = Path(spec.log_path)
        rotate_if_large(log_path)
        log_start = log_path.stat().st_size if log_path.is_file() else 0
        key = secrets.token_urlsafe(32) if spec.key_variable else spec.key
        env = spec.env | ({spec.key_variable: key} if spec.key_variable else {})
        try:
            child = Child.spawn((program.path, *spec.argv[1:]), env=env, markers=spec.markers, log_path=log_path)
        except OSError as error:
            raise TaskFault("infra", "load_failed", f"{program.path} cannot be started: {error.strerror}") from error
        found = cls(spec, child, key, log_start)
        found._write_note()
        return found

    @classmethod
    def adopt(cls, spec: ModelServerSpec, note: ModelNote) -> ModelProcess | None:
        """Take over the running process of an earlier life of this worker, which ``running_note`` has found."""
        child = Child.adopt(note.process, markers=spec.markers)
        if child is None:
            return None
        keys = find_marked_values(spec.key_variable, **spec.markers) if spec.key_variable else {}
        log_path = Path(spec.log_path)
        log_start = log_path.stat().st_size if log_path.is_file() else 0
        return cls(spec, child, keys.get(note.process, spec.key), log_start)

    @property
    def identity(self) -> ProcessIdentity:
        """The process."""
        return self._child.identity

    def poll(self) -> Exit | None:
        """How it ended; None while it runs."""
        return self._child.poll()

    def wait(self, timeout_s: float) -> None:
        """Wait until it has ended, so long at most."""
        poll = select.poll()
        if self._child.pidfd >= 0:
            poll.register(self._child.pidfd, select.POLLIN)
            poll.poll(timeout_s * 1000)

    def pids(self) -> frozenset[int]:
        """Of it and its descendants."""
        return frozenset(one.pid for one in find_marked(**self.spec.markers))

    def end(self) -> None:
        """SIGTERM to it and all it started, SIGKILL after the grace; the note goes. Waits for the end.

        Raises ``TaskFault`` kind ``unload_stuck`` when something cannot be killed.
        """
        if self._child.poll() is None:
            self._child.begin_stop(grace_s=self.spec.stop_grace_s, sig=signal.SIGTERM)
        while (gone := self._child.stop_step()) is None:
            time.sleep(_POLL_S)
        if not gone:
            names = "; ".join(describe(one.pid) for one in self._child.marked())
            message = (
                f"the server of {self.spec.model} cannot be killed: {names}; see `dmesg`: it is stuck in the GPU driver"
            )
            raise TaskFault("infra", "unload_stuck", message)
        self._remove_note()

    def release(self) -> None:
        """Leave it running for the worker's next life."""
        self._child.close()

    def last_words(self) -> tuple[str, ...]:
        """The last lines that it wrote in this life."""
        try:
            with open(open_file(self.spec.log_path, os.O_RDONLY), "rb") as file:
                file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - _LAST_BYTES))
                said = file.read(_LAST_BYTES)
        except (OSError, ValueError):  # an odd entry is a ValueError
            return ()
        lines = (line.strip() for line in said.decode("utf-8", "replace").splitlines())
        return tuple(line for line in lines if line)[-_LAST_LINES:]

    def death(self) -> TaskFault:
        """What its end before it was ready means, by its last words."""
        words = self.last_words()
        text = "\n".join(words)
        no_room = next((one.kind for one in map(fault_of_text, words) if one.kind in _NO_ROOM), None)
        exit_ = self.poll()
        before = words[:-_SHOWN_LINES]
        telling = next((one for says in (_tells, _RAISED.search) for one in before if says(one)), None)
        said = shown_text(" | ".join([*([telling] if telling else []), *words[-_SHOWN_LINES:]])) or "it wrote nothing"
        what = f"the server of {self.spec.model} ended ({exit_}): {said}; see {self.spec.log_path}"
        if no_room is not None:
            return TaskFault("infra", no_room, what)
        if _UNKNOWN_FLAG.search(text):
            version = version_of(find_program(self.spec.argv[0], self.spec.env).path, self.spec.env)
            old = f"{self.spec.argv[0]} ({version or 'it tells no version'}) does not know a flag that swarm needs: too old?"
            return TaskFault("deterministic", "engine_too_old", f"{old} {said}")
        if _PORT.search(text):
            return TaskFault("infra", "port_taken", what)
        if _FOREIGN_FILE.search(text):
            return TaskFault("deterministic", "bad_model_file", what)
        if _UNKNOWN_MODEL.search(text):
            return TaskFault("deterministic", "model_incompatible", what)
        return TaskFault("infra", "load_failed", what)

    def _write_note(self) -> None:
        spec = self.spec
        note = ModelNote(
            engine=spec.engine,
            model=spec.model,
            process=self._child.identity,
            port=spec.port,
            fingerprint=spec.fingerprint,
            slots=spec.slots,
            embedding=spec.embedding,
            options=spec.options,
        )
        try:
            write_note(Path(spec.note_path), note)
        except OSError as error:
            # Only adoption is lost: the next life finds the process by its marker, and ends it.
            log.warning("cannot write %s: %s", spec.note_path, error.strerror)

    def _remove_note(self) -> None:
        try:
            remove_note(Path(self.spec.note_path))
        except OSError as error:
            # Harmless: whom a note names is looked for, alive and with our marker, before it is believed.
            log.warning("cannot remove %s: %s", self.spec.note_path, error.strerror)


def _tells(line: str) -> bool:
    """Whether a line gives a cause by itself."""
    causes = (_UNKNOWN_FLAG, _FOREIGN_FILE, _UNKNOWN_MODEL, _PORT)
    return fault_of_text(line).kind in _NO_ROOM or any(cause.search(line) for cause in causes)


def end_marked(markers: Mapping[str, str]) -> int:
    """End what carries these markers; how many. Raises ``TaskFault`` when something cannot be killed."""
    found = len(find_marked(**markers))
    if found and (left := kill_marked(ORPHAN_GRACE_S, **markers)):
        names = "; ".join(describe(one.pid) for one in left)
        raise TaskFault("infra", "unload_stuck", f"{names} of an earlier start cannot be killed; see `dmesg`")
    return found
