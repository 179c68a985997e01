"""Every setting there is: frozen, typed, with its default. ``swarm.config.load`` reads them from file and environment.

Units live in the names: ``_s`` seconds, ``_mib`` mebibytes. Constraints live in the types, so a wrong value is refused
where it is read, with its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
NoOrMore = Annotated[int, msgspec.Meta(ge=0)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
VariableName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(?!\n)$")]
WorkerNameText = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}(?!\n)$")]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections: unknown keys are refused."""


class QueueSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where tasks live and how hard they are flushed."""

    root: str = "./queue"
    durability: Literal["full", "fast"] = "full"
    """``full``: what was accepted or finished survives a power cut. ``fast``: it survives ``kill -9`` only."""


class BrainSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How often the brain looks, and when it speaks up."""

    tick_s: Positive = 1.0
    stuck_after_s: NotNegative = 300.0
    """A claimed task without progress for so long is flagged as stuck; 0: none ever is."""
    stale_queued_s: NotNegative = 300.0
    """A task waiting longer than this is counted as stale; 0: none ever is."""
    load_warn_s: NotNegative = 60.0
    """A ``load_llm`` task waiting longer than this is warned about; 0: never."""
    max_wait_s: Positive = 600.0
    """No lane waits longer than this while cards serve other models."""
    monitor_s: NotNegative = 30.0
    """The MONITOR line is logged at least this often while there is work; 0: never."""
    retention_days: NotNegative = 0.0
    """Finished tasks older than this are purged; 0 keeps everything. Longer than your longest batch takes, at least."""
    retention_count: NoOrMore = 0
    """Beyond so many finished tasks the oldest are purged, none of them within a day of its end; 0: no such limit."""


class WorkerSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One worker process."""

    heartbeat_s: Positive = 2.0
    heartbeat_stale_s: Positive = 15.0
    """A worker whose heartbeat number stands still for so long is warned about; at four times that it is killed as hung."""
    poll_s: Positive = 0.05
    """Idle workers look this often without a hint, after 1 s at five times this; half of ``heartbeat_stale_s`` at most."""
    max_tasks_per_worker: Count = 5
    cpu_slots: Count = 1


class LlmSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Requests to model servers."""

    slots: Count = 1
    """Requests a worker keeps in flight: the server's parallel slots (``OLLAMA_NUM_PARALLEL``)."""
    timeout_s: Positive = 600.0
    """Whole request, unless the task says otherwise."""
    first_token_s: Positive = 300.0
    token_gap_s: Positive = 120.0
    max_reply_mib: Positive = 16.0
    """A longer answer is cut off and fails: no output is unbounded."""
    on_cpu_spill: Literal["refuse", "warn", "allow"] = "refuse"
    num_predict: int = 2048
    """Cap on generated tokens where neither task nor model names one; Ollama's own default is open-ended."""
    cache: bool = False
    """Answer a request from the cache when the same model (by digest) has answered it before; a task's own word wins."""
    cache_mib: Count = 1024
    """The cache never takes more; what was used longest ago goes first."""


class CommandSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Tasks of class ``cpu`` and ``script``."""

    timeout_s: Positive = 600.0
    stop_grace_s: Positive = 5.0
    output_cap_kib: Count = 256
    """Kept from each of stdout and stderr; the rest is read and dropped."""


class RetrySettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How often a task is tried again."""

    max_attempts: Count = 3
    crash_limit: Count = 3
    """Worker deaths while holding a task before it is dead-lettered."""
    infra_limit: Count = 20
    """Faults of server or card (they use up no attempt) before a task is dead-lettered all the same."""
    poison_limit: Count = 3
    """A request that breaks two servers which serve others is dead-lettered; where there is one, after so many times."""
    backoff_base_s: Positive = 1.0
    backoff_cap_s: Positive = 300.0


class SupervisorSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How soon what died is started again: what died at its work at once, what fails at its start ever more slowly."""

    restart_base_s: Positive = 10.0
    restart_cap_s: Positive = 300.0
    healthy_s: NotNegative = 600.0
    """Twenty deaths at work within so long are followed by a start at once; more of them wait a twentieth of it each."""


class OllamaSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The model servers swarm starts."""

    binary: str = "ollama"
    base_port: Port = 11435
    env: dict[str, str] = msgspec.field(default_factory=dict)
    start_timeout_s: Positive = 120.0
    stop_grace_s: Positive = 10.0


class GpuSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The cards: which may be used, and their health. Temperatures in degrees Celsius."""

    warn_c: Positive = 85.0
    """A card this hot is given no more llm work; what runs on it goes on."""
    resume_c: Positive = 80.0
    """It works again once it is down to this."""
    check_s: Positive = 5.0
    """A worker reads its own cards this often."""
    ignore_visible: bool = False
    """Use all cards there are, also those that ``CUDA_VISIBLE_DEVICES`` hides from this process."""


class RepairSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The repair ladder: how many hangs in a row each rung answers before the next, harder one."""

    cut_requests: Annotated[int, msgspec.Meta(ge=0)] = 1
    kill_runners: Annotated[int, msgspec.Meta(ge=0)] = 1
    restart_servers: Annotated[int, msgspec.Meta(ge=0)] = 1
    crashes: Count = 3
    """Runner deaths in a row that count like a hang past the killed runner."""
    timeouts: Count = 3
    """Requests in a row, not all of one task, that timed out in silence (as did a probe): a hang past the cut request."""
    wedged_after_s: Positive = 30.0
    """A status request unanswered for so long, repeats included, counts as a hang."""
    quarantine_s: Positive = 900.0
    """A card given up is tried again after this; after twice that the next time, and so on."""
    quarantine_cap_s: Positive = 14400.0


class SimSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Simulated cards and servers (``--simulate N``)."""

    vram_mib: Count = 24576
    start_delay_s: NotNegative = 0.1
    load_s: NotNegative = 1.0
    tokens_per_s: Positive = 500.0
    request_s: NotNegative = 0.0
    """If above 0, every request takes exactly so long, whatever its length."""
    models: tuple[str, ...] = (
        "llama3.2:1b",
        "llama3.2:3b",
        "llama3.1:8b",
        "qwen2.5:7b",
        "qwen2.5:32b",
        "nomic-embed-text:latest",
    )


class WorkerSpec(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One worker as written in ``[[workers]]``."""

    name: WorkerNameText
    gpus: tuple[int, ...] = ()
    port: Port | None = None
    ollama_url: str | None = None
    """Use this running server; swarm neither starts nor stops it."""


class ModelSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fixed per model, so that nothing reloads by accident."""

    options: dict[str, Any] = msgspec.field(default_factory=dict)
    keep_alive: str | int | float | None = -1
    gpus_needed: Count = 1


class ScriptSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One program that tasks of class ``cpu`` and ``script`` may run, and what else a task may say about it."""

    command: tuple[str, ...]
    """The argv that the name stands for; the task's own arguments follow it."""
    env: tuple[VariableName, ...] = ()
    """Variables that a task may set. One that decides what is run (PYTHONPATH, LD_PRELOAD) hands the program over."""
    cwd: str | None = None
    """A task's ``cwd`` may be this directory or one below it. Without it every task runs in a fresh directory of its own."""


class FeedSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Marks between which a feed keeps its lane."""

    min: Count = 5
    target: Count = 10


class LoggingSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Log files."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    max_mb: Count = 100
    keep: Count = 3
    """Rotated files kept beside the current one."""


class MetricsSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The metrics endpoint."""

    host: str = "127.0.0.1"
    port: Port | None = None


class NotifySettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who is told when a task or batch ends."""

    timeout_s: Positive = 10.0
    max_tries: Count = 12
    """Waits grow from 2 s to 10 min between them; then the message is undeliverable."""
    targets: dict[str, str] = msgspec.field(default_factory=dict)
    """Names for targets, so that tasks need not hold addresses and secrets: http(s)://…, script:NAME, or an apprise URL."""


class Settings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole configuration; each part of the program is given only its own section."""

    queue: QueueSettings = QueueSettings()
    brain: BrainSettings = BrainSettings()
    worker: WorkerSettings = WorkerSettings()
    llm: LlmSettings = LlmSettings()
    command: CommandSettings = CommandSettings()
    retry: RetrySettings = RetrySettings()
    supervisor: SupervisorSettings = SupervisorSettings()
    ollama: OllamaSettings = OllamaSettings()
    gpu: GpuSettings = GpuSettings()
    repair: RepairSettings = RepairSettings()
    sim: SimSettings = SimSettings()
    workers: tuple[WorkerSpec, ...] = ()
    models: dict[str, ModelSettings] = msgspec.field(default_factory=dict)
    scripts: dict[str, tuple[str, ...] | ScriptSettings] = msgspec.field(default_factory=dict)
    """The allow-list of ``cpu`` and ``script`` tasks: a name and the argv it stands for, or a table. Empty: none may run."""
    feed: FeedSettings = FeedSettings()
    notify: NotifySettings = NotifySettings()
    logging: LoggingSettings = LoggingSettings()
    metrics: MetricsSettings = MetricsSettings()


def script_entry(entry: Sequence[str] | ScriptSettings) -> ScriptSettings:
    """An entry of ``[scripts]`` in its long form; the short one allows a task neither variables nor a directory."""
    return entry if isinstance(entry, ScriptSettings) else ScriptSettings(command=tuple(entry))
