"""The table of what came out: for the terminal, and for docs/reliability.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from scripts.faultsuite.suite import Result

_HEAD = ("row", "fault", "until", "s", "bound", "result")


def lines(results: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    """Yield a line for each thing that was measured, with the row's name on the first of its lines."""
    for result in results:
        first = (result.case.name, result.case.fault)
        for one in result.settled:
            verdict = "late" if one.seconds > one.bound else result.verdict if result.wrong else "holds"
            yield (*first, one.what, f"{one.seconds:.2f}", f"{one.bound:g}", verdict)
            first = ("", "")
        if not result.settled:
            yield (*first, result.skipped, "", "", result.verdict)


def show(results: Sequence[Result], console: Console) -> None:
    """Print the table, and in words what does not hold."""
    table = Table(title="every fault, and when all was well again")
    for name in _HEAD:
        table.add_column(name, justify="right" if name in ("s", "bound") else "left")
    for line in lines(results):
        table.add_row(*line)
    console.print(table)
    for result in results:
        if result.wrong:
            console.print(f"{result.case.name} ({result.case.fault}) is broken: {result.wrong}", markup=False)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return the lines of a table as Markdown."""
    head = [f"| {' | '.join(_HEAD)} |", "|---|---|---|---:|---:|---|"]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in rows)])
