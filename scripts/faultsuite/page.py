"""Puts figures into docs/reliability.md: between its marks, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from scripts.benchmark.machine import described
from scripts.benchmark.page import put
from scripts.faultsuite.record import Record
from scripts.faultsuite.table import markdown
from tests.fleet.fleet import CODE

PAGE = CODE / "docs" / "reliability.md"


def write(record: Record, page: Path = PAGE) -> None:
    """Renew the figures of the page, as far as the record has them.

    Raises:
        NoMarks: naming the marks that are missing.
    """
    text = page.read_text()
    if "rows" in record:
        text = put(text, "machine", _machine(record))
        text = put(text, "rows", markdown(record["rows"]))
    if "mutants" in record:
        text = put(text, "mutants", _mutants(record))
    if "random" in record:
        text = put(text, "random", "\n".join(f"- {line}" for line in record["random"]))
    page.write_text(text)


def _machine(record: Record) -> str:
    facts = record["machine"]
    return (
        f"Measured on {facts['date']}: {described(facts)}, Python {facts['python']}; "
        f"load of the machine when it ended: {facts['load']:g}."
    )


def _mutants(record: Record) -> str:
    head = ["| mutant | row | result | what the row said |", "|---|---|---|---|"]
    body = [
        f"| {name} | {row} | {'red' if said else 'GREEN'} | {_one_line(said)} |"
        for name, row, said in record["mutants"]
    ]
    return "\n".join([*head, *body])


def _one_line(said: str) -> str:
    words = " ".join(said.replace("|", "/").split())
    return words if len(words) <= 160 else f"{words[:159]}…"
