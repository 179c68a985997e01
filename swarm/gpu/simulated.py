"""Simulated cards: their memory use is what the simulated servers' runners say they hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from swarm.core.gpu_reading import GpuProcess, GpuReading
from swarm.core.health.visible_gpus import Visibility
from swarm.errors import OddEntry
from swarm.filesystem.entries import read_file
from swarm.proc.identity import read_stat

STATE_FILE = "state.json"
IDLE_W = 30.0
LOADED_W = 250.0
_NOTE_BYTES = 1 << 16


class RunnerNote(msgspec.Struct, frozen=True):
    """``<card_dir>/<pid>.json``: written by the runner of a simulated server."""

    pid: int
    used_mib: int
    model: str = ""


class CardState(msgspec.Struct, frozen=True):
    """``<card_dir>/state.json``, if there is one: readings that the simulated card is to report."""

    temperature_c: int | None = None
    power_w: float | None = None
    """Made up where it is None: ``IDLE_W``, or ``LOADED_W`` while a runner holds memory."""
    fault: str | None = None


class SimulatedReader:
    """Fits the ``GpuReader`` port: ``count`` cards ``SIM-GPU-<i>`` of ``vram_mib`` each, one directory per card."""

    unavailable: str | None = None
    visibility = Visibility()
    """No environment hides a simulated card."""

    def __init__(self, count: int, vram_mib: int, card_dirs: Sequence[Path]) -> None:
        if len(card_dirs) != count:
            raise ValueError(f"{count} cards need as many directories, got {len(card_dirs)}")
        self._vram_mib = vram_mib
        self._card_dirs = tuple(card_dirs)

    def read(self) -> tuple[GpuReading, ...]:
        """All cards now. What a dead runner left behind does not count, as memory of a dead process does not."""
        return tuple(self._card(index, path) for index, path in enumerate(self._card_dirs))

    def _card(self, index: int, path: Path) -> GpuReading:
        notes = _living_notes(path)
        state = _state(path)
        used_mib = sum(note.used_mib for note in notes)
        return GpuReading(
            index=index,
            uuid=f"SIM-GPU-{index}",
            name="Simulated GPU",
            simulated=True,
            memory_total_mib=self._vram_mib,
            memory_used_mib=used_mib,
            temperature_c=state.temperature_c,
            power_w=state.power_w if state.power_w is not None else LOADED_W if notes else IDLE_W,
            processes=tuple(GpuProcess(pid=note.pid, used_mib=note.used_mib) for note in notes),
            fault=state.fault,
        )


def _living_notes(card_dir: Path) -> list[RunnerNote]:
    notes = []
    try:
        paths = sorted(card_dir.glob("*.json"))
    except FileNotFoundError:
        return []
    for path in paths:
        try:
            note = msgspec.json.decode(read_file(str(path), _NOTE_BYTES), type=RunnerNote)
        except (FileNotFoundError, OddEntry, msgspec.MsgspecError):
            continue  # removed or half-written at this instant: the next reading will see it
        stat = read_stat(note.pid)
        if stat is not None and stat.alive:
            notes.append(note)
    return notes


def _state(card_dir: Path) -> CardState:
    try:
        return msgspec.json.decode(read_file(str(card_dir / STATE_FILE), _NOTE_BYTES), type=CardState)
    except (FileNotFoundError, OddEntry, msgspec.MsgspecError):
        return CardState()
