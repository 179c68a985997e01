"""Tables from a results file: medians, and our aims as ratios taken within each repeat."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks.work import Floor

Results = dict[str, Any]
OURS_FAST, OURS_FULL = "swarm (fast)", "swarm (full)"
OURS_FAST_TURN, OURS_TURN = f"{OURS_FAST}, as its worker does it", f"{OURS_FULL}, as its worker does it"
SQLITE, SQLITE_FULL, BEANSTALKD = "SQLite by hand, NORMAL", "SQLite by hand, FULL", "beanstalkd -b"
SQLITE_TURN = "SQLite by hand, FULL, done + next in one transaction"


def median(results: Results, key: str) -> float | None:
    values = results["cells"].get(key)
    return statistics.median(values) if values else None


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def cell(results: Results, key: str) -> str:
    if f"error|{key}" in results["words"]:
        return "error"
    return number(median(results, key)) + (" ⏱" if key in results["capped"] else "")


def ratio(results: Results, above: str, below: str) -> float | None:
    """Median over the repeats of the ratio within one repeat."""
    pairs = zip(results["cells"].get(above, ()), results["cells"].get(below, ()), strict=False)
    found = [a / b for a, b in pairs if b]
    return statistics.median(found) if found else None


def samples(results: Results, name: str) -> list[float]:
    return sorted(x for part in results["cells"].get(f"pick-up|{name}|1", ()) for x in part)


def at(values: list[float], share: float) -> float | None:
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def render(results: Results) -> str:
    parts = [_machine(results), _floor(results), _queues(results), _waits(results), _aims(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_file(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return render(json.load(file))


def _machine(results: Results) -> str:
    facts = results["machine"]
    shares = results["busy_shares"] or [0.0]
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    text = (
        f"Machine: {facts['cores']} cores ({facts['cpu']}), kernel {facts['kernel']}, {facts['file_system']}, Python "
        f"{facts['python']}, SQLite {facts['sqlite']}; {facts['date']}. {versions}. {results['repeats']} interleaved "
        f"repeats, medians. Load {results['load_before'][0]:.1f} before, {results['load_after'][0]:.1f} after; just before "
        f"the cells other programs used {100 * statistics.median(shares):.0f} % of the processors in the median, "
        f"{100 * (at(shares, 0.9) or 0):.0f} % at the 90th percentile."
    )
    left_out = "; ".join(f"{name} ({reason})" for name, reason in results["skipped"].items())
    return text + (f"\n\nLeft out: {left_out}." if left_out else "")


def _floor(results: Results) -> str:
    if not any(key.startswith("floor|") for key in results["cells"]):
        return ""
    lines = ["### The floor: plain system calls from Python, operations a second", ""]
    lines += ["| operation | flushed | 1 process | 2 | 4 |", "|---|---|--:|--:|--:|"]
    names = {"none": "nothing", "lean": "files, directories that gain a name", "all": "files, all changed directories"}
    for operation in Floor.OPERATIONS:
        for sync, words in names.items():
            keys = [f"floor|{operation}, {sync}|{k}" for k in (1, 2, 4)]
            if keys[0] in results["cells"]:
                lines.append(f"| {Floor.LABELS[operation]} | {words} | " + " | ".join(cell(results, k) for k in keys) + " |")
    lines.append(f"| a directory of files, one `syncfs`, one rename | all at once | {cell(results, 'floor|bulk|1')} | | |")
    return "\n".join(lines)


def _queues(results: Results) -> str:
    depths = results["depths"]
    heads = " | ".join(f"first of {d:,}" for d in depths)
    lines = ["### The queues: tasks a second", ""]
    lines.append(f"| queue | flushes | enqueue | claim + finish, 1 process | 2 | 4 | {heads} | given twice |")
    lines.append("|---|---|" + "--:|" * (5 + len(depths)))
    for peer in results["peers"]:
        name = peer["name"]
        keys = [f"enqueue|{name}|1", *(f"drain|{name}|{k}" for k in (1, 2, 4)), *(f"depth|{name}|{d}" for d in depths)]
        twice = sum(int(results["words"].get(f"twice|drain|{name}|{k}", 0)) for k in (1, 2, 4))
        figures = " | ".join(cell(results, k) for k in keys)
        lines.append(f"| {name} | {peer['durability']} | {figures} | {twice} |")
        if name == OURS_FULL:
            slots = cell(results, f"slots|{name}|{results['slots']}")
            lines.append(
                f"| {name}, {results['slots']} slots | fsync, shared | | {slots} | | | " + " | " * len(depths) + " |"
            )
    bulk = ", ".join(f"{n}: {cell(results, f'bulk|{n}|1')}" for n in (OURS_FAST, OURS_FULL))
    lines += ["", f"In bulk, tasks a second: {bulk}. ⏱: stopped by the time limit; the rate is what it did until then."]
    return "\n".join(lines)


def _waits(results: Results) -> str:
    lines = ["### Pick-up by a waiting process, and what becomes of a killed worker's task", ""]
    lines += ["| queue | how it waits | median ms | p99 ms | samples | after SIGKILL |", "|---|---|--:|--:|--:|---|"]
    hintless = {"name": f"{OURS_FAST}, no hint", "waits": "polls every 0.25 s"}
    for peer in [*results["peers"], hintless]:
        found = samples(results, peer["name"])
        fate = results["words"].get(f"killed|{peer['name']}", "")
        if found or fate:
            row = (peer["name"], peer["waits"], number(at(found, 0.5)), number(at(found, 0.99)), str(len(found)), fate)
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _aims(results: Results) -> str:
    lines = ["### Aims", "", "| aim | wanted | measured | |", "|---|--:|--:|---|"]
    for words, wanted, value, at_most in _wanted(results):
        if value is not None:
            good = value <= wanted if at_most else value >= wanted
            sign = "at most" if at_most else "at least"
            lines.append(f"| {words} | {sign} {wanted:,g} | {_fine(value)} | {'reached' if good else '**missed**'} |")
    return "\n".join(lines) if len(lines) > 4 else ""


def _fine(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _wanted(results: Results) -> Iterator[tuple[str, float, float | None, bool]]:
    for k, least in ((1, 0.75), (2, 0.9), (4, 0.9)):
        for name, words in ((OURS_FAST, "call by call"), (OURS_FAST_TURN, "as its worker does it")):
            for other, rival, aim in (
                (f"floor|cycle-result, none|{k}", "the floor `cycle-result`", least),
                (f"drain|{SQLITE}|{k}", SQLITE, 1.0),
                (f"drain|{BEANSTALKD}|{k}", BEANSTALKD, 1.0),
            ):
                yield (
                    f"unflushed claim + finish, {words}, over {rival}, {k} process{'es' * (k > 1)}",
                    aim,
                    ratio(results, f"drain|{name}|{k}", other),
                    False,
                )
    yield (
        "unflushed claim + finish over the floor `cycle-result`, by processor time, 1 process",
        0.75,
        ratio(results, "cpu floor|cycle-result, none|1", f"cpu drain|{OURS_FAST}|1"),
        False,
    )
    for k in (1, 2, 4):
        for name, words in ((OURS_FULL, "call by call"), (OURS_TURN, "as its worker does it")):
            for other, rival, least in (
                (f"floor|cycle-result, all|{k}", "the flushed floor", 1.0),
                (f"drain|{SQLITE_FULL}|{k}", SQLITE_FULL, 1.5),
            ):
                yield (
                    f"flushed claim + finish, {words}, over {rival}, {k} process{'es' * (k > 1)}",
                    least,
                    ratio(results, f"drain|{name}|{k}", other),
                    False,
                )
    slots = f"slots|{OURS_FULL}|{results['slots']}"
    floor = "floor|cycle-result, all|1"
    yield f"flushed, {results['slots']} slots, over the flushed floor", 2.5, ratio(results, slots, floor), False
    over_sqlite = ratio(results, slots, f"drain|{SQLITE_FULL}|1")
    yield f"flushed, {results['slots']} slots, over {SQLITE_FULL}, 1 process", 1.5, over_sqlite, False
    yield "enqueue one by one over its floor, unflushed", 0.8, _enqueue(results, OURS_FAST, "none"), False
    yield "enqueue one by one over its floor, flushed", 0.8, _enqueue(results, OURS_FULL, "all"), False
    yield "bulk enqueue, flushed, tasks a second", 10_000, median(results, f"bulk|{OURS_FULL}|1"), False
    deepest = results["depths"][-1]
    for name in (OURS_FAST, OURS_FAST_TURN, OURS_FULL, OURS_TURN):
        value = ratio(results, f"depth|{name}|1000", f"depth|{name}|{deepest}")
        spent = ratio(results, f"cpu depth|{name}|{deepest}", f"cpu depth|{name}|1000")
        yield f"{name}: the same by processor time", 1.2, spent, True
        yield f"{name}: cost of the first of {deepest:,} over the first of 1,000", 1.2, value, True
    for peer in results["peers"]:
        if not peer["name"].startswith("swarm") and peer["name"] not in (BEANSTALKD, SQLITE_TURN):
            ours = OURS_TURN if peer["sync"] == "fsync" else OURS_FAST_TURN
            value = ratio(results, f"depth|{ours}|10000", f"depth|{peer['name']}|10000")
            yield f"{ours} over {peer['name']} at 10,000 deep", 1.0, value, False
    found = samples(results, OURS_FAST)
    yield "pick-up with the hint, median ms", 1.0, at(found, 0.5), True
    yield "pick-up with the hint, p99 ms", 10.0, at(found, 0.99), True
    yield "pick-up without the hint, p99 ms", 250.0, at(samples(results, f"{OURS_FAST}, no hint"), 0.99), True


def _enqueue(results: Results, name: str, sync: str) -> float | None:
    return ratio(results, f"enqueue|{name}|1", f"floor|put, {sync}|1")
