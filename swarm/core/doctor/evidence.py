"""Evidence and findings of ``swarm doctor``, as data.

Evidence is readings and quotations, never opinions. Sizes end in ``_mib``, ages in ``_s``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from swarm.core.doctor.node_evidence import NodeEvidence
from swarm.core.doctor.root_check import Check
from swarm.core.gpu_reading import GpuReading
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.core.snapshot import SwarmSnapshot


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a file."""

    path: str
    line: int
    text: str
    age_s: float | None = None
    """Since it was written; None where nothing tells."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


class ProcessEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """One process of ours: brain, supervisor, HTTP server, a worker or (``ollama-<worker>``) a worker's model server."""

    name: str
    role: str
    alive: bool
    """Its process lock is held; for a server: the process it was started as runs."""
    pid: int | None = None
    """Of its registry row."""
    row_path: str = ""
    registered_runs: bool = False
    """The process of its registry row runs."""
    lock_holder: str = ""
    """Who holds the process lock, by the kernel's list, if that is not the process of the row: ``pid 4711 (sleep 60)``."""
    number_taken_by: str = ""
    """The row's process has ended, and its number belongs to this one now."""
    kernel_state: str = ""
    """The state letter of ``/proc``: R, S, D, T …"""
    state: str = ""
    """The supervisor's word for it: running, backoff, quarantined …; empty where no supervisor tells."""
    reason: str = ""
    last_exit: str = ""
    restarts: int = 0
    beat_age_s: float | None = None
    """Of the last heartbeat of this life, by the wall clock; None: none, or the clock is not to be trusted."""
    ended: Quote | None = None
    """The supervisor's line on its last end."""
    crash: Quote | None = None
    """The last line of the last traceback in its log or on its stderr."""
    last_words: Quote | None = None
    disk_trouble: Quote | None = None
    """The last line in which it said that the disk refuses."""


class ServerEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's model server, asked just now."""

    worker: str
    url: str
    adopted: bool = False
    ollama: bool = True
    """Whether it is Ollama's; else it speaks OpenAI's API."""
    error: str = ""
    """Why it did not answer."""
    installed: tuple[str, ...] | None = None
    """Canonical names of the models on its disk; None: it did not say."""
    port: int | None = None
    port_holder: str = ""
    """Who listens there, if that is not our server."""

    @property
    def name(self) -> str:
        """As its log is called."""
        return f"ollama-{self.worker}" if self.ollama else f"models-{self.worker}"


class EngineEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """The program of one engine."""

    name: str
    program: str
    """As configured."""
    path: str = ""
    """Empty: it cannot be started."""
    version: str = ""
    trouble: str = ""
    """Why it cannot be started."""
    workers: tuple[str, ...] = ()
    """Those planned that start it."""

    def __str__(self) -> str:
        if not self.path:
            return f"{self.name}: {self.program!r} {self.trouble}"
        return f"{self.name}: {self.path}" + (f", {self.version}" if self.version else "")


class ModelFileEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """The file of a configured model, for an engine that loads files."""

    model: str
    engine: str
    file: str
    """Empty where none was found."""
    trouble: str = ""


class DiskEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """The file system of the queue root."""

    path: str
    """What was looked at: the root, or the nearest directory above it that exists."""
    free_mib: int = 0
    total_mib: int = 0
    free_inodes: int | None = None
    """None on a file system that does not count them."""
    read_only: bool = False
    refused: str = ""
    """Why a test file could not be written."""


class QuarantineEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """A card that was taken out of use."""

    worker: str
    reason: str
    left_s: float
    path: str


class BoxEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """All evidence about this machine."""

    root: str
    root_exists: bool
    root_trouble: str = ""
    """Why the root cannot be used: owner, mode, no directory."""
    root_mend: str = ""
    """A command that ends that, where there is one."""
    checks: tuple[Check, ...] = ()
    """What this host and the root's file system can do, tried just now."""
    look_trouble: str = ""
    """Why the queue could not be looked into."""
    snapshot: SwarmSnapshot | None = None
    disk: DiskEvidence
    open_files: int
    """The soft limit."""
    clock_ahead: Quote | None = None
    """A file that was written later than now, with both times; ``line`` 0."""
    simulated: bool = False
    plan: tuple[WorkerPlan, ...] = ()
    plan_trouble: str = ""
    """Why no plan could be made from configuration and cards."""
    binary: str = ""
    """The model server's program, as configured."""
    binary_found: bool = True
    engines: tuple[EngineEvidence, ...] = ()
    model_files: tuple[ModelFileEvidence, ...] = ()
    open_programs: tuple[tuple[str, str, str], ...] = ()
    """Programs of the configuration that others could replace: where it is named, how, and a command that ends it."""
    cards: tuple[GpuReading, ...] = ()
    cards_note: str = ""
    """Which of the machine's cards they are and why, where they are not all."""
    cards_trouble: str = ""
    """Why no cards are read: no driver, no library."""
    supervisor_phase: str = ""
    """What its last status says; true only while it lives."""
    orphans: int = 0
    """Processes that still run although their supervisor died unexpectedly."""
    processes: tuple[ProcessEvidence, ...] = ()
    version: str = ""
    """Of swarm here."""
    nodes: tuple[NodeEvidence, ...] = ()
    """Other machines whose cards are used."""
    servers: tuple[ServerEvidence, ...] = ()
    quarantines: tuple[QuarantineEvidence, ...] = ()
    kernel_kills: tuple[tuple[int, Quote], ...] = ()
    """Processes the kernel killed for want of memory, by number, with its words; what is readable of them."""
    cgroup_kills: Quote | None = None
    """The counter of such kills in our control group, if it is not 0."""

    def process(self, name: str) -> ProcessEvidence | None:
        """The process of that name, or None."""
        return next((p for p in self.processes if p.name == name), None)


class DoctorFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong."""

    code: str
    """For machines and for ``docs/troubleshooting.md``."""
    severity: Literal["critical", "warning"]
    """``critical``: work stands still, or will, until somebody does something."""
    subject: str
    """A process, ``gpu-1``, or ``box``."""
    concerns: str = ""
    """The worker it is about, or several with commas, where the subject does not say it."""
    what: str
    evidence: tuple[str, ...] = ()
    """Files with lines, numbers, words: what can be checked by hand."""
    next: str
    """What to do."""


def critical(
    code: str, subject: str, what: str, *, todo: str, evidence: tuple[str, ...] = (), concerns: str = ""
) -> DoctorFinding:
    """Work stands still, or will, until somebody does something."""
    return DoctorFinding(
        code=code, severity="critical", subject=subject, concerns=concerns, what=what, evidence=evidence, next=todo
    )


def warning(
    code: str, subject: str, what: str, *, todo: str, evidence: tuple[str, ...] = (), concerns: str = ""
) -> DoctorFinding:
    """Work goes on."""
    return msgspec.structs.replace(
        critical(code, subject, what, todo=todo, evidence=evidence, concerns=concerns), severity="warning"
    )
