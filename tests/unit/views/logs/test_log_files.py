"""Logs are read forwards and backwards, through rotations, merged by time."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from swarm.views.logs import log_files as logfiles
from swarm.views.logs.log_files import Wanted


def stamp(second: float, name: str = "worker-1", level: str = "INFO ", text: str = "x") -> str:
    clock = f"{int(second) // 60:02d}:{int(second) % 60:02d}.{int(second * 1000) % 1000:03d}"
    return f"[2026-02-07T21:{clock}+01:00] [{name}] {level} {text}"


def write(folder: Path, name: str, *lines: str) -> None:
    (folder / name).write_text("".join(line + "\n" for line in lines))


def texts(entries) -> list[str]:
    return [line.rsplit(" ", 1)[-1] for entry in entries for line in entry.lines]


def test_files_are_grouped_by_log_oldest_first(tmp_path):
    for name in ("brain.log", "worker-1.log", "worker-1.log.2", "worker-1.log.1", "worker-1.log.10", "notes.txt"):
        (tmp_path / name).touch()
    found = {name: [p.rsplit("/", 1)[1] for p in paths] for name, paths in logfiles.sources(str(tmp_path)).items()}
    assert found == {
        "brain": ["brain.log"],
        "worker-1": ["worker-1.log.10", "worker-1.log.2", "worker-1.log.1", "worker-1.log"],
    }


def test_several_logs_are_merged_by_time_across_zones(tmp_path):
    write(tmp_path, "a.log", stamp(1, text="one"), stamp(3, text="three"))
    write(tmp_path, "b.log", stamp(2, text="two").replace("T21:", "T20:").replace("+01:00", "+00:00"), stamp(4, text="four"))
    streams = [logfiles.forwards(n, p) for n, p in logfiles.sources(str(tmp_path)).items()]
    assert texts(logfiles.merged(streams)) == ["one", "two", "three", "four"]


def test_a_traceback_stays_with_its_line_and_is_searched_with_it(tmp_path):
    write(
        tmp_path,
        "a.log",
        stamp(1, text="crash t1"),
        stamp(1, text="| Traceback"),
        stamp(1, text="| boom"),
        stamp(2, text="next"),
    )
    (paths,) = logfiles.sources(str(tmp_path)).values()
    wanted = Wanted(pattern=re.compile("t1"))
    assert texts(filter(wanted, logfiles.forwards("a", paths))) == ["t1", "Traceback", "boom"]
    assert texts(logfiles.last("a", paths, 5, wanted)) == ["t1", "Traceback", "boom"]
    assert texts(logfiles.last("a", paths, 1, Wanted())) == ["next"]


def test_a_clock_set_back_does_not_turn_lines_round(tmp_path):
    write(tmp_path, "a.log", stamp(10, text="first"), stamp(5, text="second"), stamp(11, text="third"))
    write(tmp_path, "b.log", stamp(7, text="other"))
    streams = [logfiles.forwards(n, p) for n, p in logfiles.sources(str(tmp_path)).items()]
    assert texts(logfiles.merged(streams)) == ["other", "first", "second", "third"]


def test_lines_of_model_servers_take_their_place(tmp_path):
    write(
        tmp_path,
        "ollama-w.log",
        "time=2026-02-07T21:00:02.000+01:00 level=WARN source=x msg=low",
        "ggml_init: found 1 device",
        "[GIN] 2026/02/07 - 21:00:04 | 200 | /api/chat",
    )
    (paths,) = logfiles.sources(str(tmp_path)).values()
    first, second, third = logfiles.forwards("ollama-w", paths)
    assert (first.level, second.level) == ("WARNING", None)
    assert first.time_s == second.time_s < third.time_s or third.time_s > 0
    assert [e.time_s for e in logfiles.last("ollama-w", paths, 3, Wanted())][:2] == [first.time_s, second.time_s]


def test_level_means_this_and_worse(tmp_path):
    write(
        tmp_path, "a.log", *(stamp(1, level=level, text=level.strip()) for level in ("DEBUG", "INFO ", "WARNING", "ERROR"))
    )
    (paths,) = logfiles.sources(str(tmp_path)).values()
    assert texts(filter(Wanted(level="WARNING"), logfiles.forwards("a", paths))) == ["WARNING", "ERROR"]


def test_control_characters_of_foreign_logs_are_escaped(tmp_path):
    (tmp_path / "a.log").write_bytes(b"\x1b[2Jhello \xff\n")
    (paths,) = logfiles.sources(str(tmp_path)).values()
    (entry,) = logfiles.forwards("a", paths)
    assert entry.lines == ("\\x1b[2Jhello \\xff",)


@given(
    sizes=st.lists(st.integers(0, 90), max_size=60), cuts=st.lists(st.integers(0, 60), max_size=3), number=st.integers(0, 70)
)
def test_reading_backwards_gives_the_end_of_reading_forwards(tmp_path_factory, sizes, cuts, number):
    folder = tmp_path_factory.mktemp("logs")
    lines = [
        stamp(i, text=f"{i}" + "é" * size + ("" if i % 5 else "\n" + stamp(i, text="| more")))
        for i, size in enumerate(sizes)
    ]
    edges = [0, *sorted(min(c, len(lines)) for c in cuts), len(lines)]
    parts = [lines[a:b] for a, b in pairwise(edges)]
    for age, part in enumerate(reversed(parts)):
        write(folder, "a.log" + (f".{age}" if age else ""), *part)
    (paths,) = logfiles.sources(str(folder)).values()
    small, logfiles.BLOCK_BYTES = logfiles.BLOCK_BYTES, 64
    try:
        backwards = logfiles.last("a", paths, number, Wanted())
    finally:
        logfiles.BLOCK_BYTES = small
    everything = list(logfiles.forwards("a", paths))
    assert [e.lines for e in backwards] == [e.lines for e in everything[max(0, len(everything) - number) :]]
