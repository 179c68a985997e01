"""Builds the stand-in for NVIDIA's library and lets tests change what it says while a reader is running."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[1] / "data" / "nvml" / "fake_nvml.c"


def compiler() -> str | None:
    """A C compiler, None without one: tests then skip aloud."""
    return shutil.which("gcc") or shutil.which("cc")


def build(directory: Path, *defines: str) -> Path:
    """Compile the library into ``directory``; returns the directory for ``LD_LIBRARY_PATH``."""
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / "libnvidia-ml.so.1"
    flags = ["-shared", "-fPIC", "-O1", "-Wl,-soname,libnvidia-ml.so.1", *(f"-D{d}" for d in defines)]
    subprocess.run([compiler() or "gcc", *flags, "-o", str(target), str(SOURCE)], check=True, capture_output=True)
    return directory


CUDA = """
int cuInit(unsigned flags) { return 0; }
char *getenv(const char *);
int cuDeviceGetCount(int *number) { *number = getenv("CUDA_VISIBLE_DEVICES") ? 1 : 2; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetUuid(unsigned char *uuid, int device) { uuid[0] = device ? 1 : 3; return 0; }
"""


def build_cuda(directory: Path) -> Path:
    """A stand-in for CUDA's library: it counts card 3 before card 1, and hides one where a variable asks for it."""
    source = directory / "cuda.c"
    source.write_text(CUDA)
    flags = ["-shared", "-fPIC", "-w", "-o", str(directory / "libcuda.so.1")]
    subprocess.run([compiler() or "gcc", *flags, str(source)], check=True, capture_output=True)
    return directory


class FakeDriver:
    """The state behind the library: cards that can be lost, a driver that can go away."""

    def __init__(self, path: Path, count: int = 4) -> None:
        self.path = path
        self.init = 0
        self.delay_ms = 0
        self.count = count
        self.lost: set[int] = set()
        self.load = 50
        self.write()

    def write(self) -> None:
        lines = [f"init {self.init}", f"count {self.count}", f"delay {self.delay_ms}"]
        for i in range(self.count):
            state = "lost" if i in self.lost else "ok"
            lines.append(
                f"card {i} GPU-{i:08d} TestCard {1000 + i} 24576 {self.load} {40 + i} {100_000 + i} {4000 + i} 900 {state}"
            )
        fresh = self.path.with_suffix(".tmp")
        fresh.write_text("\n".join(lines) + "\n")
        os.replace(fresh, self.path)


_LOOP = """
import json, sys
from swarm.gpu.nvml import NvmlReader
import msgspec
reader = NvmlReader()
for _ in sys.stdin:
    cards = msgspec.to_builtins(reader.read())
    print(json.dumps({"cards": cards, "unavailable": reader.unavailable}), flush=True)
"""


class ReaderProcess:
    """An ``NvmlReader`` in a process of its own, because a library can be loaded only once per process."""

    def __init__(self, library_dir: Path, state: Path) -> None:
        env = {**os.environ, "LD_LIBRARY_PATH": str(library_dir), "FAKE_NVML_STATE": str(state)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOOP], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def read(self) -> tuple[list[dict[str, Any]], str | None]:
        """One reading: cards as plain data, and why there are none."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["cards"], answer["unavailable"]

    def close(self) -> None:
        self._process.communicate(timeout=60)
