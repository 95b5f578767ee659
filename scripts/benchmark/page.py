"""Puts figures into docs/performance.md: between its marks, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.benchmark.machine import described
from scripts.benchmark.peers import ROOT
from scripts.benchmark.plot import svg
from scripts.benchmark.results import Results
from scripts.benchmark.table import markdown

PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance.svg"


class NoMarks(Exception):
    """The page lacks the marks between which figures are put."""


def write(results: Results, page: Path = PAGE, plot: Path = PLOT) -> None:
    """Renew the figures of the page, and the plot.

    Raises:
        NoMarks: naming the marks that are missing.
    """
    text = page.read_text()
    for mark, figures in (("machine", _machine(results)), ("table", markdown(results))):
        text = put(text, mark, figures)
    plot.write_text(svg(results))
    page.write_text(text)


def put(text: str, mark: str, figures: str) -> str:
    """Return a page with other figures between `<!-- mark -->` and `<!-- /mark -->`.

    Raises:
        NoMarks: when they are not there.
    """
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    found = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not found.search(text):
        raise NoMarks(f"expected {begin} and {end} in the page, found none; put them where the figures belong")
    return found.sub(lambda _: f"{begin}\n{figures}\n{end}", text, count=1)


def _machine(results: Results) -> str:
    facts = results.facts
    libraries = ", ".join(f"{name} {number}" for name, number in facts["libraries"].items())
    programs = ", ".join(facts.get("programs", {}).values())
    return (
        f"Measured on {facts['date']}: {described(facts)}; Python {facts['python']}, {libraries}; {programs}. "
        f"Rounds: {facts['rounds']}; scale {facts['scale']:g}; "
        f"load of the machine before: {facts['load_before']:g}. "
        f"The client alone took {facts['client_events_per_second']:,.0f} events/s, and opened "
        f"{facts['client_joins_per_second']:,.0f} sockets/s."
    )
