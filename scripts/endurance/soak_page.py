"""Puts a soak into docs/reliability.md, between its marks, and its plot beside the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from scripts.benchmark.machine import described
from scripts.benchmark.page import put
from scripts.endurance.flat import Verdict
from scripts.endurance.picture import svg
from scripts.endurance.samples import Sample
from scripts.faultsuite.page import PAGE

PLOT = PAGE.with_name("soak.svg")
_HEAD = ("process", "memory at the end", "grew by", "files at the end", "grew by", "of a core", "result")


def write(
    kept: dict[str, Any], samples: list[Sample], judged: Sequence[Verdict], page: Path = PAGE, plot: Path = PLOT
) -> None:
    """Renew the block `soak` of the page, and the plot.

    Args:
        kept: what soak.json holds beside the samples.
        samples: of the whole run, at least two.
        judged: every process, by memory and by open files.
        page: the page.
        plot: the plot.

    Raises:
        NoMarks: when the page has no marks for it.
    """
    page.write_text(put(page.read_text(), "soak", "\n".join([told(kept), "", table(samples, judged), "", _IMAGE])))
    plot.write_text(svg(samples, about(kept)))


_IMAGE = "![Memory, open files, processor time and latency of each process over the run](soak.svg)"


def about(kept: dict[str, Any]) -> str:
    """Return what stands under the title of the plot."""
    machine = kept["machine"]
    return (
        f"{kept['clients']} talkers, {kept['watchers']} clients or more on each thread; {machine['cores']} cores, "
        f"{machine['memory_gb']} GB, {machine['date']}"
    )


def told(kept: dict[str, Any]) -> str:
    """Return the run in a few sentences."""
    machine, seen = kept["machine"], kept["noticed"]
    return (
        f"Run on {machine['date']} for {kept['minutes']:g} minutes: {described(machine)}, "
        f"Python {machine['python']}.\n"
        f"{seen['threads']:,} threads, {seen['turns']:,} turns, {seen['events']:,} events, "
        f"{seen['reconnects']:,} reconnects; {len(kept['wrong'])} threads with something wrong."
    )


def table(samples: list[Sample], judged: Sequence[Verdict]) -> str:
    """Return Markdown: a line for each process."""
    found = {(one.process, one.what): one for one in judged}
    rows = []
    for name, held in samples[-1].processes.items():
        memory, files = found.get((name, "memory")), found[name, "files"]
        flat = all(one.flat for one in (memory, files) if one)
        cpu = fmean(sample.processes[name].cpu for sample in samples[1:])
        grew = f"{memory.growth / 1e6:.1f} MB of {memory.allowed / 1e6:.1f}" if memory else "not judged"
        more = f"{files.growth:.1f} of {files.allowed:.0f}"
        cells = (name, f"{held.memory / 1e6:.0f} MB", grew, f"{held.files}", more, f"{cpu:.2f}")
        rows.append(f"| {' | '.join(cells)} | {'flat' if flat else 'grows'} |")
    return "\n".join([f"| {' | '.join(_HEAD)} |", "|---" + "|---:" * (len(_HEAD) - 2) + "|---|", *rows])
