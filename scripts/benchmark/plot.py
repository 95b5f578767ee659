"""The plot of docs/performance.md: SVG text, written by hand, so that a change of figures is a readable change."""

from __future__ import annotations

import math
from html import escape

from scripts.benchmark.results import Results
from scripts.benchmark.rows import Measure, Row

_COLOURS = {"threadline": "#0b6e4f", "stock": "#b3423a", "node": "#3b6fb5", "node-sharded": "#7ea6d9"}
_LABELS = {
    "threadline": "Threadline",
    "stock": "stock python-socketio",
    "node": "Node, classic",
    "node-sharded": "Node, sharded",
}
_NODES = (1, 2, 4, 8)
_WIDTH, _LEFT, _TOP, _PLOT = 760, 70, 60, 220
_BAR, _BARS_LEFT = 22, 420
_LINE = 14


def svg(results: Results) -> str:
    """Return the plot: CPU over the number of nodes, and by how much Threadline leads in each row."""
    bars = _bars(results)
    growth = _growth(results) if "growth" in results.values else []
    begin = _TOP + _PLOT + 90 if growth else 50
    height = begin + _BAR * len(bars) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        *growth,
        *(_draw_bars(bars, begin) or [text(_LEFT, 30, "Not measured yet")]),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def text(x: float, y: float, said: str, more: str = "") -> str:
    """Return words at a place, in SVG; `more` are attributes."""
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="#222222" {more}>{escape(said)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    """Return a straight line, in SVG."""
    return f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke="{colour}"/>'


# --- CPU over nodes ------------------------------------------------------------------------------------------


def _growth(results: Results) -> list[str]:
    """Return the upper half: a line for each system, on a logarithmic scale."""
    points = {
        system: [results.median("growth", system, f"nodes_{nodes}") for nodes in _NODES]
        for system in results.values["growth"]
    }
    known = [value for values in points.values() for value in values if value > 0]
    if not known:
        return []
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    span = max(1, high - low)

    def place(value: float) -> float:
        return _TOP + _PLOT * (1 - (math.log10(value) - low) / span)

    parts = [text(_LEFT, 30, "CPU seconds of the gateways per 100,000 deltas, over the number of nodes", _BOLD)]
    for power in range(low, low + span + 1):
        y = place(10**power)
        parts += [line(_LEFT, y, _x(3), y, "#dddddd"), text(_LEFT - 8, y + 4, f"{10**power:g}", _END)]
    parts += [text(_x(index), _TOP + _PLOT + 20, str(nodes), _MIDDLE) for index, nodes in enumerate(_NODES)]
    label = 0.0
    # from the top line down, so that labels of lines that end close together make room for each other
    for system, values in sorted(points.items(), key=lambda found: -_last(found[1])):
        places = [(_x(index), place(value)) for index, value in enumerate(values) if value > 0]
        if places:
            label = max(label + _LINE, places[-1][1] + 4)
            parts += _system(system, places, label)
    return parts


def _last(values: list[float]) -> float:
    return next((value for value in reversed(values) if value > 0), 0.0)


_BOLD, _END, _MIDDLE = 'font-weight="bold"', 'text-anchor="end"', 'text-anchor="middle"'


def _x(index: int) -> float:
    return _LEFT + index * 160


def _system(name: str, places: list[tuple[float, float]], label_y: float) -> list[str]:
    colour = _COLOURS.get(name, "#555555")
    path = " ".join(f"{x:.0f},{y:.0f}" for x, y in places)
    dots = [f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4" fill="{colour}"/>' for x, y in places]
    label = (
        f'<text x="{places[-1][0] + 10:.0f}" y="{label_y:.0f}" fill="{colour}">{escape(_LABELS.get(name, name))}</text>'
    )
    return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots, label]


# --- ratios --------------------------------------------------------------------------------------------------


def _bars(results: Results) -> list[tuple[str, float, str]]:
    """Return (title, ratio, colour) of each lead over stock and over Node."""
    found: list[tuple[str, float, str]] = []
    for row in results.rows:
        for measure in row.measures:
            found += _leads(results, row, measure)
    return found


def _leads(results: Results, row: Row, measure: Measure) -> list[tuple[str, float, str]]:
    leads = (
        ("stock", results.ratio(row.name, measure, "stock"), _COLOURS["stock"]),
        ("Node", results.ratio_to_node(row.name, measure), _COLOURS["node"]),
    )
    said = f"{row.name}, {measure.key.replace('_', ' ')}"
    return [(f"{said}: to {other}", ratio, colour) for other, ratio, colour in leads if not math.isnan(ratio)]


def _draw_bars(bars: list[tuple[str, float, str]], begin: float) -> list[str]:
    """Return the lower half: one bar for each lead, to the right of 1 where Threadline is ahead."""
    if not bars:
        return []
    widest = max(abs(math.log10(ratio)) for _, ratio, _ in bars) or 1.0
    parts = [text(_LEFT, begin - 20, "Times better than the others (logarithmic; left of the line: worse)", _BOLD)]
    for index, (title, ratio, colour) in enumerate(bars):
        y = begin + index * _BAR
        length = math.log10(ratio) / widest * 260
        left, width = (_BARS_LEFT, length) if length >= 0 else (_BARS_LEFT + length, -length)
        parts += [
            text(10, y + 13, title),
            f'<rect x="{left:.0f}" y="{y:.0f}" width="{max(width, 1):.0f}" height="{_BAR - 6}" fill="{colour}"/>',
            text(max(_BARS_LEFT, _BARS_LEFT + length) + 6, y + 13, f"{ratio:.3g}"),
        ]
    bottom = begin + len(bars) * _BAR
    return [*parts, line(_BARS_LEFT, begin - 6, _BARS_LEFT, bottom, "#222222")]
