"""The plot of a soak: memory, files, processor time and latency over time, as SVG text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from scripts.benchmark.plot import line, text
from scripts.endurance.flat import WARM, Point, growth
from scripts.endurance.samples import Sample, series

_COLOURS = {
    "gateway": ("#0b6e4f", "#45a57f", "#8fcdb3"),
    "worker": ("#2f5fa8", "#7ea6d9", "#b4cbea"),
    "store": ("#b3423a",),
    "all": ("#0b6e4f",),
}
"""One hue for each kind of process, a shade for each process of it."""
_WIDTH, _LEFT, _RIGHT = 880, 64, 220
_TALL, _APART, _TOP = 150, 62, 96
_LABEL = 16
"""Least distance of two labels, so that none covers another."""
_MOST_POINTS = 120
"""Points of a line: the median of what lies between two is drawn, so that the file stays small and a trend shows."""
_BOLD, _END, _MIDDLE = 'font-weight="bold"', 'text-anchor="end"', 'text-anchor="middle"'
_GREY, _PALE, _WARMING = "#6b6b6b", "#e4e4e4", "#f6f3ec"


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    unit: str
    lines: Mapping[str, Sequence[Point]]
    judged: bool = False


def svg(samples: list[Sample], about: str = "") -> str:
    """Return the plot: four panels, a line for each process; `about` stands under the title."""
    memory = series(samples, "memory", 1e6)
    memory.pop("store", None)  # it keeps the threads: beside its line the others would all look flat
    panels = [
        _Panel("Memory (RSS) of gateways and workers", "MB", memory, judged=True),
        _Panel("Open files and sockets", "", series(samples, "files"), judged=True),
        _Panel("Processor time, of one core", "%", series(samples[1:], "cpu", 0.01)),
        _Panel(
            "From append to socket, 99th percentile",
            "ms",
            {"all": [(s.at, s.p99 * 1000) for s in samples if s.p99 is not None]},
        ),
    ]
    height = _TOP + len(panels) * (_TALL + _APART) - 10
    longest = max((sample.at for sample in samples), default=0.0) or 1.0
    title = f"A fleet under steady mixed load for {_minutes(longest)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{title}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="30" fill="#222222" font-size="16" {_BOLD}>{title}</text>',
        text(_LEFT, 50, about),
    ]
    for number, panel in enumerate(panels):
        parts += _draw(_TOP + number * (_TALL + _APART), panel, longest)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def steps(highest: float) -> list[float]:
    """Return about five round numbers from 0 to just above the highest value."""
    rough = max(highest, 1e-9) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    return [number * step for number in range(max(1, math.ceil(highest / step)) + 1)]


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """Return at most so many points: the median of each stretch, in its middle."""
    size = math.ceil(len(points) / most) if points else 1
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return [(median(at for at, _ in part), median(value for _, value in part)) for part in stretches]


def _draw(top: float, panel: _Panel, longest: float) -> list[str]:
    lines = {name: thinned(points) for name, points in panel.lines.items() if points}
    bottom, right = top + _TALL, _WIDTH - _RIGHT
    marks = steps(max((value for points in lines.values() for _, value in points), default=1.0))

    def across(at: float) -> float:
        return _LEFT + at / longest * (right - _LEFT)

    def up(value: float) -> float:
        return bottom - value / marks[-1] * _TALL

    parts = [text(_LEFT, top - 12, f"{panel.title}{f', {panel.unit}' if panel.unit else ''}", _BOLD)]
    if panel.judged:
        parts += [
            f'<rect x="{_LEFT}" y="{top}" width="{across(longest * WARM) - _LEFT:.0f}" height="{_TALL}" '
            f'fill="{_WARMING}"/>',
            f'<text x="{_LEFT + 8}" y="{top + 0.62 * _TALL:.0f}" fill="{_GREY}" font-size="11">'
            "getting warm, not judged</text>",
        ]
    for value in marks:
        parts += [line(_LEFT, up(value), right, up(value), _PALE), text(_LEFT - 8, up(value) + 4, f"{value:g}", _END)]
    parts += _times(longest, across, bottom)
    for name, points in lines.items():
        path = " ".join(f"{across(at):.1f},{up(value):.1f}" for at, value in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{_colour(name)}" stroke-width="1.8" '
            'stroke-linejoin="round"/>'
        )
    return parts + _labels(panel, lines, {name: up(points[-1][1]) for name, points in lines.items()}, top)


def _times(longest: float, across: Callable[[float], float], bottom: float) -> list[str]:
    unit, word = (1.0, "s") if longest < 90 else (60.0, "min")
    parts = []
    for at in steps(longest / unit):
        if at * unit <= longest * 1.001:
            x = across(at * unit)
            parts += [line(x, bottom, x, bottom + 4, _GREY), text(x, bottom + 18, f"{at:g}", _MIDDLE)]
    return [*parts, text(across(longest) + 14, bottom + 18, word)]


def _labels(panel: _Panel, lines: Mapping[str, Sequence[Point]], ends: Mapping[str, float], top: float) -> list[str]:
    """Return the names at the ends of the lines, each with where it ended and by how much it grew."""
    parts, right = [], _WIDTH - _RIGHT
    names = sorted(lines, key=lambda one: ends[one])
    for name, y in zip(names, apart([ends[name] + 4 for name in names], top + 4, top + _TALL + 4), strict=True):
        grew = growth(panel.lines[name])
        if not panel.judged:
            said = f"{median(value for _, value in panel.lines[name]):.2g} {panel.unit}, median"
        else:
            said = f"{lines[name][-1][1]:.3g} {panel.unit}".strip()
            said += "" if math.isnan(grew) else f", grew by {grew:.1f}"
        colour = _colour(name)
        parts.append(
            f'<path d="M{right + 2:.0f},{ends[name]:.0f} L{right + 12:.0f},{y - 4:.0f}" stroke="{colour}" fill="none"/>'
        )
        who = "" if name == "all" else f'<tspan fill="{colour}" {_BOLD}>{name}</tspan> '
        parts.append(f'<text x="{right + 16}" y="{y:.0f}" fill="#222222">{who}{said}</text>')
    return parts


def apart(wanted: Sequence[float], first: float, last: float) -> list[float]:
    """Return places from the top down, each as near to where it is wanted as its neighbours allow."""
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + _LABEL if places else first))
    for number, place in enumerate(places):
        places[number] = min(place, last - (len(places) - 1 - number) * _LABEL)
    return places


def _colour(name: str) -> str:
    kind, _, number = name.partition("-")
    shades = _COLOURS.get(kind, (_GREY,))
    return shades[int(number or 0) % len(shades)]
