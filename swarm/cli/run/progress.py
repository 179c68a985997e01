"""Progress of a batch: a live bar with rates per card on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, Self, TextIO

import msgspec

from swarm.plain_text import one_line
from swarm.views.blocks import SIMULATED
from swarm.views.words import count, duration, rate

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console, Group
    from rich.live import Live

LINE_EVERY_S = 5.0
SAME_EVERY_S = 60.0
"""A line without news comes no more often."""


class RunCard(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's part."""

    worker: str
    status: str
    model: str | None = None
    slots_busy: int = 0
    slots: int = 1
    done: int = 0
    tokens_per_s: float | None = None
    """Generated, over about the last minute."""
    share_of_best: float | None = None
    """Of the best that its card has shown for the model, from 0 to 1."""


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A batch at one moment. ``done``, ``failed``, ``cancelled`` count since this run began; ``earlier`` ended before it."""

    done: int
    failed: int
    total: int
    cancelled: int = 0
    earlier: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    elapsed_s: float = 0.0
    items_per_s: float | None = None
    """Of late, not over the whole run; None while nothing can be said."""
    tokens_in_per_s: float | None = None
    tokens_out_per_s: float | None = None
    cards: tuple[RunCard, ...] = ()
    simulated: bool = False
    state: Literal["running", "draining", "finished"] = "running"

    @property
    def left(self) -> int:
        """Items that have not ended."""
        return max(0, self.total - self.earlier - self.ended)

    @property
    def ended(self) -> int:
        """Items that have ended since this run began."""
        return self.done + self.failed + self.cancelled

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at the present rate."""
        return self.left / self.items_per_s if self.items_per_s else None


Show = Callable[[RunView], None]


def _share(view: RunView) -> str:
    return f"{(view.earlier + view.ended) / view.total * 100:.0f}%" if view.total else "100%"


def _counts(view: RunView) -> Iterator[tuple[str, str]]:
    """What became of the items in this run, each with its style."""
    yield f"{view.done:,} done", "green"
    yield f"{view.failed:,} failed", "red" if view.failed else "dim"
    if view.cancelled:
        yield f"{view.cancelled:,} cancelled", "yellow"
    yield f"{view.left:,} left", ""


def headline(view: RunView) -> str:
    """All of it in one line, for logs and pipes."""
    parts = [f"{view.earlier + view.ended:,}/{view.total:,} ({_share(view)})", *(text for text, _ in _counts(view))]
    if view.earlier:
        parts.append(f"{view.earlier:,} from before")
    parts += _rates(view)
    if view.state == "finished":
        parts.append(f"{duration(view.elapsed_s)} in all")
    elif view.eta_s is not None:
        parts.append(f"ETA {duration(view.eta_s)}")
    return ", ".join(parts) + (", draining" if view.state == "draining" else "") + (", simulated" if view.simulated else "")


def _rates(view: RunView) -> list[str]:
    """Of late while it runs, over all of it at its end (workers report their tokens seconds later, so then without those).

    Nothing where nothing is known yet.
    """
    if view.state == "finished":
        return [f"{rate(view.ended / view.elapsed_s)} items"] if view.ended and view.elapsed_s else []
    if view.items_per_s is None:
        return []
    tokens = (view.tokens_in_per_s, view.tokens_out_per_s)
    words = [f"tokens {rate(tokens[0])} in {rate(tokens[1])} out"] if any(tokens) else []
    return [f"{rate(view.items_per_s)} items", *words]


def card_line(card: RunCard) -> str:
    """One worker in one line of at most 78 characters, whatever its names are."""
    model = one_line(card.model or "no model")
    tokens = f"{rate(card.tokens_per_s)} tok" if card.tokens_per_s is not None else ""
    tokens += f" {card.share_of_best:.0%}" if card.share_of_best is not None else ""
    slots = f"{card.slots_busy}/{card.slots}"
    line = f"{one_line(card.worker)[:14]:14} {card.status[:9]:9} {model[:24]:24} {slots} {count(card.done):>6} done {tokens}"
    return line.rstrip()[:78]


def picture(view: RunView, width: int) -> Group:
    """Bar, rates and cards for a terminal of this width."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    ended = view.earlier + view.ended if view.total else 1
    bar = ProgressBar(total=max(view.total, 1), completed=ended, width=max(10, min(40, width - 45)))
    top = Table.grid(padding=(0, 1))
    top.add_row(bar, _share(view), Text("  ").join(Text(text, style) for text, style in _counts(view)))
    gone = f"{duration(view.elapsed_s)} {'in all' if view.state == 'finished' else 'gone'}"
    eta = f"{gone}, ETA {duration(view.eta_s)}" if view.state != "finished" and view.eta_s is not None else gone
    lines: list[Text] = [Text("  ".join([*_rates(view), eta]), no_wrap=True, overflow="ellipsis")]
    if view.earlier:
        lines.append(Text(f"{view.earlier:,} were done by an earlier run", style="dim"))
    if view.simulated:
        lines.append(Text(SIMULATED, style="yellow"))
    if view.state == "draining":
        lines.append(Text("draining: running items end, then this stops; Ctrl-C again stops now", style="yellow"))
    lines += [
        Text(card_line(card), style="" if card.slots_busy else "dim", no_wrap=True, overflow="ellipsis")
        for card in view.cards
    ]
    return Group(top, *lines)


def _news(view: RunView) -> tuple[object, ...]:
    """What makes a line worth saying; times go on by themselves."""
    return (view.state, view.ended, view.total, view.tokens_out)


class Progress:
    """Shows views as they come. Use as a context manager; ``update`` is cheap and may be called often."""

    def __init__(
        self,
        *,
        quiet: bool = False,
        every_s: float = LINE_EVERY_S,
        out: TextIO | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Goes to standard error (``out``), so that results may be piped; ``quiet`` shows nothing."""
        self._quiet = quiet
        self._every_s = every_s
        self._out = out or sys.stderr
        self._clock = clock or time.monotonic
        self._next_s = 0.0
        self._last: RunView | None = None
        self._told: tuple[object, float] = (None, 0.0)
        self._console: Console | None = None
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Begin."""
        if not self._quiet and self._out.isatty():
            from rich.console import Console
            from rich.live import Live

            self._console = Console(file=self._out, highlight=False)
            self._live = Live(console=self._console, refresh_per_second=8, transient=False)
            self._live.start()
        self._next_s = self._clock()
        return self

    def update(self, view: RunView) -> None:
        """Show this now (terminal), or when the next line is due."""
        self._last = view
        if self._live is not None and self._console is not None:
            self._live.update(picture(view, self._console.width))
        elif not self._quiet and self._clock() >= self._next_s:
            now_s = self._clock()
            self._next_s = now_s + self._every_s
            if _news(view) != self._told[0] or now_s - self._told[1] >= SAME_EVERY_S:
                self._line(view)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the last view standing."""
        if self._live is not None:
            self._live.stop()
        elif not self._quiet and self._last is not None:
            self._line(self._last)

    def _line(self, view: RunView) -> None:
        self._told = (_news(view), self._clock())
        print(headline(view), file=self._out, flush=True)
