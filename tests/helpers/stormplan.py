"""What a kill storm is made of: the configuration it runs with, its size and seed, and the report of what came of it."""

from __future__ import annotations

from collections import Counter

import msgspec

from swarm.proc.ports import free_port

CONFIG = """
[brain]
tick_s = 0.5
[worker]
heartbeat_s = 0.5
heartbeat_stale_s = 4.0
[llm]
engine = "{engine}"
slots = {slots}
[retry]
backoff_base_s = 0.1
backoff_cap_s = 1.0
infra_limit = 1000
[supervisor]
restart_base_s = 0.05
restart_cap_s = 0.2
healthy_s = 2.0
[ollama]
base_port = {port}
start_timeout_s = 30.0
stop_grace_s = 2.0
[engines.llama-server]
stop_grace_s = 2.0
[engines.vllm]
command = [
    "vllm", "serve", "{{model}}", "--port", "{{port}}", "--max-num-seqs", "{{slots}}", "--max-model-len", "{{context}}",
]
stop_grace_s = 2.0
[sim]
start_delay_s = 0.0
load_s = 0.05
request_s = {request_s}
"""


def storm_config(*, request_s: float, slots: int, engine: str = "ollama") -> str:
    """The configuration, with a free port for its servers."""
    return CONFIG.format(port=free_port(), request_s=request_s, slots=slots, engine=engine)


MODELS = ("llama3.2:3b", "llama3.2:3b", "llama3.2:3b", "llama3.2:1b")
TARGETS = ("worker",) * 10 + ("server",) * 4 + ("brain",) * 2 + ("pause",) * 3 + ("supervisor",)
STUCK_S = 120.0
"""No task ends for so long: those left are stuck."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One storm."""

    tasks: int
    kills: int
    seed: int
    workers: int = 4
    slots: int = 4
    engine: str = "ollama"
    every_s: float = 0.3
    """Between two shots, on average."""

    @property
    def request_s(self) -> float:
        """Long enough that work lasts about as long as the shooting."""
        return max(0.02, 0.7 * self.kills * self.every_s * self.workers * self.slots / self.tasks)


class Report(msgspec.Struct, kw_only=True):
    """What came of it. All of ``violations`` must be 0."""

    tasks: int = 0
    shots: Counter[str] = msgspec.field(default_factory=Counter)
    completed: int = 0
    failed: int = 0
    executions: int = 0
    """Requests of tasks that reached a server: at least once each, more after a death."""
    lost: int = 0
    recorded_twice: int = 0
    changed_records: int = 0
    stuck: int = 0
    without_reason: int = 0
    processes_left: int = 0
    fsck_violations: tuple[str, ...] = ()
    fsck_cleared: int = 0
    """Leftovers of the dead that fsck found, meanwhile and at the end, and removed."""
    claimable_s: list[float] = msgspec.field(default_factory=list)
    """From a worker's SIGKILL until none of its tasks was in its hands any more; only while a brain lived throughout."""
    took_s: float = 0.0

    @property
    def violations(self) -> int:
        """0 is the only good number."""
        counts = (self.lost, self.recorded_twice, self.changed_records, self.stuck, self.without_reason, self.processes_left)
        return sum(counts) + len(self.fsck_violations)
