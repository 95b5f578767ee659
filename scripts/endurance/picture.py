"""The plot of a soak: memory, files, processor time and latency over time, as SVG text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scripts.benchmark.plot import line, text
from scripts.endurance.flat import Point
from scripts.endurance.samples import Sample, series

_COLOURS = ("#0b6e4f", "#3b6fb5", "#b3423a", "#c98b1b", "#7a4fa3", "#4d9aa5", "#8a8a3a", "#b5579b")
_WIDTH, _LEFT, _RIGHT = 760, 60, 110
_TALL, _APART, _TOP = 150, 60, 40
_BOLD, _END = 'font-weight="bold"', 'text-anchor="end"'


def svg(samples: list[Sample]) -> str:
    """Return the plot: four panels, a line for each process."""
    panels: list[tuple[str, Mapping[str, Sequence[Point]]]] = [
        ("Memory (RSS), MB", series(samples, "memory", 1e6)),
        ("Open files and sockets", series(samples, "files")),
        ("Processor time, % of a core", series(samples, "cpu", 0.01)),
        ("Append to socket, p99, ms", {"all": [(s.at, s.p99 * 1000) for s in samples if s.p99 is not None]}),
    ]
    height = _TOP + len(panels) * (_TALL + _APART)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for number, (title, lines) in enumerate(panels):
        parts += _panel(_TOP + number * (_TALL + _APART), title, lines)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(top: float, title: str, lines: Mapping[str, Sequence[Point]]) -> list[str]:
    points = [point for some in lines.values() for point in some]
    longest = max((at for at, _ in points), default=0.0) or 1.0
    highest = max((value for _, value in points), default=0.0) * 1.05 or 1.0
    bottom, right = top + _TALL, _WIDTH - _RIGHT
    parts = [text(_LEFT, top - 10, title, _BOLD), text(right, bottom + 18, f"{longest / 60:.1f} minutes", _END)]
    for part in (0.0, 0.5, 1.0):
        y = bottom - part * _TALL
        parts += [line(_LEFT, y, right, y, "#dddddd"), text(_LEFT - 6, y + 4, f"{part * highest:.3g}", _END)]
    for number, (name, some) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(
            f"{_LEFT + at / longest * (right - _LEFT):.1f},{bottom - value / highest * _TALL:.1f}" for at, value in some
        )
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        y = top + 10 + number * 15
        parts += [line(right + 10, y - 4, right + 24, y - 4, colour), text(right + 28, y, name)]
    return parts
