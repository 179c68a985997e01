"""The picture: what one task costs against how many wait, log axes. SVG by hand, so that it needs nothing."""

from __future__ import annotations

import math
import statistics
from typing import Any

WIDTH, HEIGHT = 960, 520
LEFT, RIGHT, TOP, BOTTOM = 70, 350, 40, 56
COLOURS = ("#777777", "#8c564b", "#9467bd", "#e377c2", "#bcbd22", "#17becf", "#ff7f0e", "#7f9f5f", "#aa4444", "#4477aa")


def _points(results: dict[str, Any], name: str) -> list[tuple[float, float]]:
    """(tasks waiting, microseconds per task)."""
    found = []
    for depth in results["depths"]:
        rates = results["cells"].get(f"depth|{name}|{depth}")
        if rates and statistics.median(rates) > 0:
            found.append((float(depth), 1e6 / statistics.median(rates)))
    return found


def picture(results: dict[str, Any]) -> str:
    """An SVG document; ours in heavy lines, all others in light ones, each named at its right end."""
    lines = {p["name"]: _points(results, p["name"]) for p in results["peers"]}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return "<svg xmlns='http://www.w3.org/2000/svg'/>\n"
    costs = [cost for points in lines.values() for _, cost in points]
    low, high = math.floor(math.log10(min(costs))), math.ceil(math.log10(max(costs)))
    first, last = math.log10(results["depths"][0]), math.log10(results["depths"][-1])

    def x(depth: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(depth) - first) / max(1e-9, last - first)

    def y(cost: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (math.log10(cost) - low) / max(1, high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        (
            f'<text x="{LEFT}" y="22" font-size="15">'
            "Cost of claiming and finishing one task, by tasks waiting (one process)</text>"
        ),
    ]
    for power in range(low, high + 1):
        label = f"{10**power} µs" if power < 3 else f"{10 ** (power - 3)} ms" if power < 6 else f"{10 ** (power - 6)} s"
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(10**power)}" y2="{y(10**power)}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(10**power) + 4}" text-anchor="end">{label}</text>')
    for depth in results["depths"]:
        parts.append(f'<line x1="{x(depth)}" x2="{x(depth)}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#eee"/>')
        parts.append(f'<text x="{x(depth)}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{depth:,}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 14}" text-anchor="middle">tasks waiting</text>')
    labels = _spread({name: y(points[-1][1]) for name, points in lines.items()})
    for number, (name, points) in enumerate(lines.items()):
        ours = name.startswith("swarm")
        colour = ("#d62728" if "full" in name else "#1a7f37") if ours else COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x(d):.1f},{y(c):.1f}" for d, c in points)
        width = 3.5 if ours else 1.4
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        parts += [f'<circle cx="{x(d):.1f}" cy="{y(c):.1f}" r="{width}" fill="{colour}"/>' for d, c in points]
        weight = ' font-weight="bold"' if ours else ""
        end = x(points[-1][0])
        place = f'x="{WIDTH - RIGHT + 12}" y="{labels[name] + 4:.1f}"'
        parts.append(
            f'<line x1="{end:.1f}" y1="{y(points[-1][1]):.1f}" x2="{WIDTH - RIGHT + 9}" y2="{labels[name]:.1f}" '
            f'stroke="{colour}" stroke-width="0.6"/>'
        )
        parts.append(f'<text {place} fill="{colour}"{weight}>{name}</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _spread(wanted: dict[str, float], gap: float = 15.0) -> dict[str, float]:
    """Places for labels near where they belong, none over another."""
    placed: dict[str, float] = {}
    last = -gap
    for name, place in sorted(wanted.items(), key=lambda entry: entry[1]):
        last = max(place, last + gap)
        placed[name] = last
    lowest = float(HEIGHT - BOTTOM)
    for name in sorted(placed, key=placed.__getitem__, reverse=True):  # none past the lower edge: they move up together
        placed[name] = min(placed[name], lowest)
        lowest = placed[name] - gap
    return placed
