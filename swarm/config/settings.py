"""All settings, frozen and typed, with their defaults.

* ``swarm.config.load`` reads them from file and environment.
* Suffixes are units: ``_s`` seconds, ``_mib`` mebibytes.
* Constraints are part of the types, so a wrong value is refused when it is read, with its key.
* The docstrings are the descriptions of the JSON Schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from swarm.config.http_settings import HttpSettings, LiveSettings
from swarm.config.section import (
    Count,
    EngineNameText,
    NodeNameText,
    NoOrMore,
    NotNegative,
    Port,
    Positive,
    Section,
    VariableName,
    WorkerNameText,
)


class QueueSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The queue: its directory, and what is flushed."""

    root: str = "./queue"
    durability: Literal["full", "fast"] = "full"
    """``full``: accepted and finished tasks survive a power cut. ``fast``: they survive ``kill -9`` only."""


class BrainSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Ticks, limits, reports and retention of the brain."""

    tick_s: Positive = 1.0
    stuck_after_s: NotNegative = 300.0
    """A running task without progress for this long is reported as stuck; 0: never."""
    stale_queued_s: NotNegative = 300.0
    """A task that waits longer than this counts as stale; 0: never."""
    load_warn_s: NotNegative = 60.0
    """A waiting ``load_llm`` task older than this causes a warning; 0: never."""
    max_wait_s: Positive = 600.0
    """Longest time that a model with waiting tasks has no card while cards serve other models."""
    monitor_s: NotNegative = 30.0
    """Longest time between two MONITOR lines while there is work; 0: no such lines."""
    retention_days: NotNegative = 0.0
    """Ended tasks older than this are purged; 0: none. Set it longer than your longest batch takes."""
    retention_count: NoOrMore = 0
    """Above this number of ended tasks the oldest are purged, but none within a day of its end; 0: no limit."""


class WorkerSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One worker process."""

    heartbeat_s: Positive = 2.0
    heartbeat_stale_s: Positive = 15.0
    """A heartbeat older than this causes a warning; at four times this the worker is killed as hung."""
    poll_s: Positive = 0.05
    """Polling interval of idle workers, after 1 s five times this; at most half of ``heartbeat_stale_s``."""
    max_tasks_per_worker: Count = 5
    cpu_slots: Count = 1


class LlmSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Requests to model servers."""

    engine: EngineNameText = "ollama"
    """Which engine serves the models: ``ollama``, ``llama-server``, ``openai`` or one of ``[engines]``."""
    slots: Count | Literal["auto"] = "auto"
    """Requests at once per worker, and slots of its model server. ``auto``: chosen from memory and measured tokens/s."""
    slots_max: Count = 64
    """Most that ``auto`` chooses."""
    timeout_s: Positive = 600.0
    """Limit for a whole request, unless the task sets its own."""
    first_token_s: Positive = 300.0
    token_gap_s: Positive = 120.0
    max_reply_mib: Positive = 16.0
    """A longer answer fails."""
    on_cpu_spill: Literal["refuse", "warn", "allow"] = "refuse"
    num_predict: int = 2048
    """Limit on generated tokens where neither task nor model sets one; Ollama itself sets none."""
    prefix_order: bool = True
    """Run prompts of a batch that begin alike (512 characters and more) one after the other, each group on one card while
    all cards have work, so that a server computes what they share once; not with ``--sort`` or ``depends_on``."""
    cache: bool = False
    """Answer from the cache if the same model, by digest, has answered the same request; a task's own setting wins."""
    cache_mib: Count = 1024
    """Largest size of the cache; the least recently used answers are removed first."""


class CommandSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Tasks of class ``cpu`` and ``script``."""

    timeout_s: Positive = 600.0
    stop_grace_s: Positive = 5.0
    output_cap_kib: Count = 256
    """Size kept of stdout and of stderr; the rest is discarded."""


class RetrySettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How often a task is retried."""

    max_attempts: Count = 3
    crash_limit: Count = 3
    """A task fails after this many deaths of a worker that held it."""
    infra_limit: Count = 20
    """A task fails after this many faults of server or card, which use up no attempt."""
    poison_limit: Count = 3
    """A request that breaks two working servers fails; if there is only one server, after this many times."""
    backoff_base_s: Positive = 1.0
    backoff_cap_s: Positive = 300.0


class SupervisorSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Restarts: at once after a death while working, with growing delays after a failed start."""

    restart_base_s: Positive = 10.0
    restart_cap_s: Positive = 300.0
    healthy_s: NotNegative = 600.0
    """Up to twenty deaths within this time cause a restart at once; after that each waits a twentieth of it."""


class OllamaSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The model servers swarm starts."""

    binary: str = "ollama"
    base_port: Port = 11435
    env: dict[str, str] = msgspec.field(default_factory=dict)
    start_timeout_s: Positive = 120.0
    stop_grace_s: Positive = 10.0


class GpuSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cards: which may be used, and when one is hot (degrees Celsius)."""

    warn_c: Positive = 85.0
    """A card at this temperature gets no new llm tasks; running ones go on."""
    resume_c: Positive = 80.0
    """A hot card gets llm tasks again at this temperature."""
    check_s: Positive = 5.0
    """How often a worker reads its cards."""
    ignore_visible: bool = False
    """Use all cards, also those hidden by ``CUDA_VISIBLE_DEVICES``."""


class RepairSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The repair ladder: how many hangs in a row are answered by each step before the next one."""

    cut_requests: Annotated[int, msgspec.Meta(ge=0)] = 1
    kill_runners: Annotated[int, msgspec.Meta(ge=0)] = 1
    restart_servers: Annotated[int, msgspec.Meta(ge=0)] = 1
    crashes: Count = 3
    """This many crashes of a runner in a row cause a restart of its server."""
    timeouts: Count = 3
    """This many silent timeouts in a row, of more than one task and of a probe, cause the next step of the ladder."""
    wedged_after_s: Positive = 30.0
    """A status request without an answer for this long, repeats included, counts as a hang."""
    quarantine_s: Positive = 900.0
    """A quarantined card is tried again after this time, then after twice that and so on."""
    quarantine_cap_s: Positive = 14400.0


class SimSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Simulated cards and servers (``--simulate N``)."""

    vram_mib: Count = 24576
    start_delay_s: NotNegative = 0.1
    load_s: NotNegative = 1.0
    tokens_per_s: Positive = 500.0
    request_s: NotNegative = 0.0
    """If above 0, the duration of every request."""
    curve: tuple[str, ...] = ()
    """In place of ``tokens_per_s``: total tokens/s by requests at once, which they share: ``"1:40"``, ``"8:140"`` …"""
    drift: tuple[str, ...] = ()
    """``"seconds:factor"``: from so long after a load on, tokens come by this factor faster."""
    noise: NotNegative = 0.0
    """How much the speed of single requests differs: 0.1 is 10 %."""
    prompt_tokens_per_s: NotNegative = 0.0
    """If above 0, prompts take time, which requests share; tokens found in a slot's context take none."""
    overflow: Literal["partial", "refuse"] = "partial"
    """What does not fit on the card spills to the CPU, or the load fails."""
    oom_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    """If above 0, the runner dies of lack of memory once more tokens than this are at work."""
    models: tuple[str, ...] = (
        "llama3.2:1b",
        "llama3.2:3b",
        "llama3.1:8b",
        "qwen2.5:7b",
        "qwen2.5:32b",
        "nomic-embed-text:latest",
    )


class WorkerSpec(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One worker as written in ``[[workers]]``."""

    name: WorkerNameText
    gpus: tuple[int, ...] = ()
    port: Port | None = None
    engine: EngineNameText | None = None
    """Engine of this worker, in place of that of ``[llm]``."""
    ollama_url: str | None = None
    """Use this running server; swarm neither starts nor stops it."""
    url: str | None = None
    """A card of another machine, at the relay there (``swarm serve --relay``): ``http://box2:11500/cards/gpu0``."""
    node: NodeNameText | None = None
    """What that machine is called, in tables and for `swarm nodes drain`. Default: the host of ``url``."""
    token: str | None = None
    """Token of that relay. Better in a variable: ``token_env``."""
    token_env: VariableName | None = None
    """Variable that holds the token of that relay."""


class ModelSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options fixed per model, so that no request reloads it by accident."""

    options: dict[str, Any] = msgspec.field(default_factory=dict)
    keep_alive: str | int | float | None = -1
    gpus_needed: Count = 1
    engine: EngineNameText | None = None
    """Engine that serves this model, on every worker."""
    file: str | None = None
    """The model's GGUF file, by absolute path, for engines that load files. Without it: the file in Ollama's own store."""


class EngineSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One engine besides Ollama (``[ollama]``): how its server is started for a loaded model, or where it runs."""

    kind: Literal["llama-server", "openai"] | None = None
    """What it speaks. Default: that of the built-in engine of this name, else ``openai``."""
    command: tuple[str, ...] = ()
    """Argv that starts a server for one model; {model}, {file}, {host}, {port}, {gpu}, {slots} and {context} are filled in.
    For ``llama-server``: the program and further flags; swarm adds those it needs."""
    url: str | None = None
    """Use this running server, which serves whatever models it serves; swarm neither starts nor stops it."""
    api_key_env: VariableName | None = None
    """Variable that holds the key sent to it. A llama-server that swarm starts gets a random one without this."""
    env: dict[str, str] = msgspec.field(default_factory=dict)
    """Added to the environment of every server of this engine."""
    health: str = "/health"
    """Path that answers 200 once the server is ready."""
    start_timeout_s: Positive = 600.0
    """Limit for the start of a server, in which it loads its model."""
    stop_grace_s: Positive = 10.0


class ScriptSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One program that tasks of class ``cpu`` and ``script`` may run, and what else a task may set."""

    command: tuple[str, ...]
    """The argv that the name stands for; the task's own arguments follow it."""
    env: tuple[VariableName, ...] = ()
    """Variables that a task may set. Some (PYTHONPATH, LD_PRELOAD) let the task run any code."""
    cwd: str | None = None
    """A task's ``cwd`` may be this directory or one below it. Without it every task runs in a fresh directory."""


class RaySettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[ray]``: cards of a Ray cluster; needs the extra ``ray``."""

    address: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    """``HOST:PORT`` of the cluster's head, or ``auto``: the cluster that this machine is in. Unset: no Ray."""


class FeedSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A feed refills its lane to ``target`` when fewer than ``min`` tasks wait."""

    min: Count = 5
    target: Count = 10


class LoggingSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Log files."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    max_mb: Count = 100
    keep: Count = 3
    """Rotated files kept beside the current one."""


class MetricsSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The metrics endpoint."""

    host: str = "127.0.0.1"
    port: Port | None = None


class NotifySettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Notifications of the end of tasks and batches."""

    timeout_s: Positive = 10.0
    max_tries: Count = 12
    """Tries per target, with delays from 2 s to 10 min; then the message is undeliverable."""
    targets: dict[str, str] = msgspec.field(default_factory=dict)
    """Named targets, to keep addresses and secrets out of tasks: http(s)://…, script:NAME, or an apprise URL."""


class Settings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole configuration."""

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
    engines: dict[EngineNameText, EngineSettings] = msgspec.field(default_factory=dict)
    """Engines besides Ollama. ``llama-server`` and ``openai`` are there without an entry."""
    scripts: dict[str, tuple[str, ...] | ScriptSettings] = msgspec.field(default_factory=dict)
    """The allow-list of ``cpu`` and ``script`` tasks: a name and the argv it stands for, or a table. Empty: none may run."""
    ray: RaySettings = RaySettings()
    feed: FeedSettings = FeedSettings()
    notify: NotifySettings = NotifySettings()
    logging: LoggingSettings = LoggingSettings()
    metrics: MetricsSettings = MetricsSettings()
    http: HttpSettings = HttpSettings()
    live: LiveSettings = LiveSettings()


def script_entry(entry: Sequence[str] | ScriptSettings) -> ScriptSettings:
    """An entry of ``[scripts]`` in its long form; the short one allows a task neither variables nor a directory."""
    return entry if isinstance(entry, ScriptSettings) else ScriptSettings(command=tuple(entry))
