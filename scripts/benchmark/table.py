"""The table: for the terminal, and for docs/performance.md."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table

from scripts.benchmark.results import Results
from scripts.benchmark.rows import Measure, Row

_HEAD = ("row", "measure", "Threadline", "stock", "Node classic", "Node sharded", "to stock", "to Node", "goal")
_SYSTEMS = ("threadline", "stock", "node", "node-sharded")
_LEFT = 2


def number(value: float) -> str:
    """Return a value with three figures that mean something; a dash for none."""
    if math.isnan(value):
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def lines(results: Results) -> list[tuple[str, ...]]:
    """Return the table's lines, one a measure, as text."""
    return [_line(results, row, measure) for row in results.rows for measure in row.measures]


def _line(results: Results, row: Row, measure: Measure) -> tuple[str, ...]:
    title = f"{measure.title} ({measure.unit})" if measure.unit else measure.title
    ratios = (results.ratio(row.name, measure, "stock"), results.ratio_to_node(row.name, measure))
    goal = str(measure.goal) if measure.goal else ""
    met = results.met(row.name, measure)
    verdict = "" if met is None else ": met" if met else ": missed"
    return (
        row.name,
        title,
        *(number(results.median(row.name, system, measure.key)) for system in _SYSTEMS),
        *(f"{number(ratio)} x" if not math.isnan(ratio) else "-" for ratio in ratios),
        goal + verdict,
    )


def show(results: Results, console: Console) -> None:
    """Print the table. Ratios say how many times better Threadline is: above 1 it leads."""
    table = Table(title="medians; ratios above 1: Threadline leads")
    for index, name in enumerate(_HEAD):
        table.add_column(name, justify="left" if index < _LEFT or index == len(_HEAD) - 1 else "right")
    before = ""
    for row, *rest in lines(results):
        table.add_row("" if row == before else row, *rest)
        before = row
    console.print(table)


def markdown(results: Results) -> str:
    """Return the table as Markdown."""
    rule = "|".join(["---"] * _LEFT + ["---:"] * (len(_HEAD) - _LEFT - 1) + ["---"])
    body = [f"| {' | '.join(line)} |" for line in lines(results)]
    return "\n".join([f"| {' | '.join(_HEAD)} |", f"|{rule}|", *body])
