"""Running a piece of the benchmark in forked processes, so that no connection or lock is shared over a fork."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

ctx = multiprocessing.get_context("fork")


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """What ``function`` returns, run in a forked child. Raises ``RuntimeError`` with its error."""
    here, there = ctx.Pipe(duplex=False)

    def body() -> None:
        try:
            there.send((True, function(*args)))
        except Exception as exc:  # noqa: BLE001  # told to the parent
            there.send((False, f"{type(exc).__name__}: {exc}"))

    process = ctx.Process(target=body)
    process.start()
    there.close()
    try:
        good, value = here.recv()
    except EOFError:
        good, value = False, "the measuring process died"
    process.join()
    if not good:
        raise RuntimeError(value)
    return value


def together(count: int, body: Callable[[int, Any], Any]) -> list[Any]:
    """Run ``body(number, barrier)`` in so many processes; what each returns."""
    barrier = ctx.Barrier(count)
    pipes = []
    for number in range(count):
        here, there = ctx.Pipe(duplex=False)

        def run(number: int = number, there: Any = there) -> None:
            try:
                there.send(body(number, barrier))
            except Exception as exc:
                barrier.abort()
                there.send(exc)
                raise

        process = ctx.Process(target=run)
        process.start()
        there.close()
        pipes.append((process, here))
    found = [here.recv() for _, here in pipes]
    for process, _ in pipes:
        process.join()
    for value in found:
        if isinstance(value, Exception):
            raise RuntimeError(f"{type(value).__name__}: {value}") from value  # noqa: TRY004
    return found
