"""Log lines reach their file whole, in their format, through rotation, full disks and crashes."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest

from swarm.runtime import logging as logsetup

LINE = re.compile(r"^\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d\] \[worker-1\] (DEBUG|INFO |WARNING|ERROR) (.*)$")
log = logging.getLogger("swarm.test")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., logsetup.Logs]]:
    opened: list[logsetup.Logs] = []

    def starter(level: logsetup.Level = "INFO", **more: int) -> logsetup.Logs:
        opened.append(logsetup.setup("worker-1", tmp_path / "logs/worker-1.log", level, console=False, **more))
        return opened[-1]

    yield starter
    for one in opened:
        one.close()


def lines(tmp_path: Path) -> list[str]:
    return (tmp_path / "logs/worker-1.log").read_text().splitlines()


def test_a_line_has_time_name_level_and_message(tmp_path, start):
    start()
    log.info("Worker initialized: %s", "worker-1")
    log.warning("slow")
    log.debug("not shown")
    assert [LINE.match(line).groups() for line in lines(tmp_path)] == [
        ("INFO ", "Worker initialized: worker-1"),
        ("WARNING", "slow"),
    ]


def test_debug_shows_with_its_level(tmp_path, start):
    start("DEBUG")
    log.debug("Attempting claim")
    assert lines(tmp_path)[0].endswith("] DEBUG Attempting claim")


def test_file_and_directory_are_private(tmp_path, start):
    start()
    log.info("x")
    assert stat.S_IMODE((tmp_path / "logs/worker-1.log").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "logs").stat().st_mode) == 0o700


def test_text_from_outside_cannot_forge_a_line_or_move_a_cursor(tmp_path, start):
    start()
    evil = "a\n[2026-01-01T00:00:00.000+00:00] [brain] ERROR fake\r\x1b[2J\u2028end\udc80"
    record = log.makeRecord(log.name, logging.INFO, "", 0, "name: %s", (evil,), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logsetup.LineHandler):  # not the test run's own: it could not pass the half character on
            handler.handle(record)
    first, second = lines(tmp_path)
    assert LINE.match(first)[2] == "name: a"
    assert LINE.match(second)[2] == "| [2026-01-01T00:00:00.000+00:00] [brain] ERROR fake\\r\\x1b[2J\\u2028end\\udc80"


def test_every_line_of_a_traceback_has_the_header(tmp_path, start):
    start()
    try:
        raise RuntimeError("boom\nagain")
    except RuntimeError:
        log.exception("Worker worker-1 crashed in main loop")
    found = [LINE.match(line) for line in lines(tmp_path)]
    assert all(found)
    assert {hit[1] for hit in found} == {"ERROR"}
    assert [hit[2] for hit in found][1] == "| Traceback (most recent call last):"
    assert "| RuntimeError: boom" in [hit[2] for hit in found]


def test_an_endless_message_is_cut_and_says_so(tmp_path, start):
    start()
    log.info("x" * 100_000)
    assert len(lines(tmp_path)[0]) < 17_000
    assert lines(tmp_path)[0].endswith("(83616 more characters)")


def test_a_message_that_does_not_fit_its_values_is_still_seen(tmp_path, start):
    start()
    log.info("%d tasks", "three")
    assert "'%d tasks' with ('three',)" in lines(tmp_path)[0]


def file_handler():
    return next(h for h in logging.getLogger().handlers if isinstance(h, RotatingFileHandler))


def test_rotation_keeps_so_many_and_loses_no_line(tmp_path, start, monkeypatch):
    start(keep=3)
    monkeypatch.setattr(file_handler(), "maxBytes", 1000)
    for number in range(40):
        log.info("line %02d %s", number, "x" * 20)
    files = sorted(p.name for p in (tmp_path / "logs").iterdir())
    assert files == ["worker-1.log", "worker-1.log.1", "worker-1.log.2", "worker-1.log.3"]
    assert all((tmp_path / "logs" / name).stat().st_size <= 1000 for name in files)
    text = "".join((tmp_path / "logs" / name).read_text() for name in reversed(files))
    assert re.findall(r"line (\d\d)", text) == [f"{n:02d}" for n in range(40)][-text.count("\n") :]
    assert all(stat.S_IMODE((tmp_path / "logs" / name).stat().st_mode) == 0o600 for name in files)


def test_a_directory_in_the_way_of_a_rotation_costs_no_line(tmp_path, start, monkeypatch):
    start(keep=3)
    monkeypatch.setattr(file_handler(), "maxBytes", 500)
    (tmp_path / "logs/worker-1.log.1").mkdir()
    (tmp_path / "logs/worker-1.log.1/kept").touch()
    for number in range(40):
        log.info("line %02d", number)
    text = "".join(path.read_text() for path in (tmp_path / "logs").iterdir() if path.is_file())
    assert sorted(re.findall(r"line (\d\d)", text)) == [f"{n:02d}" for n in range(40)]
    assert list((tmp_path / "logs").glob("*/kept"))


def test_a_file_moved_away_is_made_anew(tmp_path, start):
    start()
    log.info("one")
    os.rename(tmp_path / "logs/worker-1.log", tmp_path / "gone")
    log.info("two")
    assert lines(tmp_path)[0].endswith("two")


def test_no_symlink_is_followed(tmp_path, start):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/worker-1.log").symlink_to(tmp_path / "elsewhere")
    logs = start()
    log.info("x")
    assert logs.dropped == 1
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_kills_nobody_and_is_reported_on_recovery(tmp_path, start, monkeypatch):
    logs = start()
    real, room = os.write, [5]

    def full(fd: int, data: bytes) -> int:
        if room[0]:
            cut, room[0] = room[0], 0
            return real(fd, data[:cut])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    for number in range(3):
        log.info("lost %d", number)
    assert logs.dropped == 3
    monkeypatch.setattr(os, "write", real)
    log.info("well again")
    torn, report, last = lines(tmp_path)
    assert len(torn) == 5
    assert LINE.match(report)[2].startswith("3 log lines were lost before this one: [Errno 28] No space left on device")
    assert last.endswith("well again")
    assert logs.dropped == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_console_that_takes_nothing_kills_nobody(tmp_path):
    code = (
        "import logging, sys; from pathlib import Path; from swarm.runtime.logging import setup\n"
        f"setup('worker-1', Path({str(tmp_path / 'a.log')!r}), 'INFO', console=True)\n"
        "logging.getLogger('swarm').info('still here'); print('done'); sys.stdout.flush(); import os; os._exit(0)"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stderr=full, stdout=subprocess.PIPE, text=True, check=False)
    assert done.stdout == "done\n"
    assert "still here" in (tmp_path / "a.log").read_text()


def test_an_uncaught_exception_in_a_thread_is_logged(tmp_path, start):
    start()
    thread = threading.Thread(target=lambda: 1 / 0, name="heart")
    thread.start()
    thread.join()
    assert "Uncaught in heart: ZeroDivisionError: division by zero" in lines(tmp_path)[0]
    assert lines(tmp_path)[-1].endswith("| ZeroDivisionError: division by zero")


def test_lines_before_a_crash_and_its_traceback_are_in_the_file(tmp_path):
    code = (
        "import logging, os; from pathlib import Path; from swarm.runtime.logging import setup\n"
        f"setup('worker-1', Path({str(tmp_path / 'a.log')!r}), 'INFO', console=False)\n"
        "logging.getLogger('swarm').info('last words')\n"
    )
    subprocess.run([sys.executable, "-c", code + "os.kill(os.getpid(), 9)"], check=False)
    assert (tmp_path / "a.log").read_text().endswith("INFO  last words\n")
    done = subprocess.run([sys.executable, "-c", code + "raise RuntimeError('boom')"], check=False, capture_output=True)
    assert done.returncode == 1
    assert "Uncaught RuntimeError: boom" in (tmp_path / "a.log").read_text()


def test_closing_puts_everything_back(tmp_path, start):
    before = (
        sys.excepthook,
        threading.excepthook,
        sys.unraisablehook,
        logging.raiseExceptions,
        list(logging.getLogger().handlers),
    )
    logs = start()
    logs.close()
    after = (
        sys.excepthook,
        threading.excepthook,
        sys.unraisablehook,
        logging.raiseExceptions,
        list(logging.getLogger().handlers),
    )
    assert before == after
