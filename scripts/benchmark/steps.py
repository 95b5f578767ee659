"""What each step of the hot path gives: the same load, with one step left out at a time, side by side in one run.

    scripts/bench steps                 print the table
    scripts/bench steps --write-docs    and renew it in docs/design.md

Two loads. *flow*: 16 threads talk at 100 deltas a second to one socket each, over 4 nodes; what all processes use for
100,000 deltas. *crowd*: 4 threads with 100 sockets each on one node, 20 events a second, not coalesced; what that node
uses for 100,000 frames.
"""

from __future__ import annotations

import asyncio
import sys
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import typer
from rich.console import Console

from scripts.benchmark import page
from scripts.benchmark.bench import Bench, settled
from scripts.benchmark.pace import Plan
from scripts.benchmark.peers import ROOT, loop_factory
from scripts.benchmark.streaming import Flow, agents_alone, names, stream
from scripts.benchmark.systems import SOON
from scripts.benchmark.table import number

_PAGE = ROOT / "docs" / "design.md"
_MARK = "steps"
_PER = 100_000
_THREADS, _NODES = 16, 4
_CROWD, _TALKING, _RATE, _SECONDS = 400, 4, 20.0, 5.0
_FRAME = 260
"""Bytes of a frame with one delta."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the table: how the system is made for it, and which loads it is put under."""

    title: str
    variant: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    flow: bool = True
    crowd: bool = False


STEPS = (
    Step("**as it is**", crowd=True),
    Step("each delta appended at once (`coalesce` 0)", settings={"COALESCE": 0}),
    # with 16 that talk, the beat is 2.5 times `coalesce`
    Step("a beat of 20 ms, however many talk", settings={"COALESCE": 0.008}),
    Step("one append after the other, in place of pipelines", "one-by-one"),
    Step("redis-py's pipelines", "library-pipelines"),
    Step("redis-py's pub/sub, in place of our own connection", "library-pubsub", crowd=True),
    Step("one channel for all threads: every node hears every event", "one-channel"),
    Step("each event encoded for each socket", "encoded-each", crowd=True),
    Step("each frame made for each socket, by the library", "framed-each", crowd=True),
    Step("frames through ASGI: a queue and a task for each socket", "asgi", crowd=True),
    Step("asyncio's event loop, in place of uvloop", "asyncio", crowd=True),
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    scale: Annotated[float, typer.Option(min=0.001, max=1, help="Part of the full sizes; for trying out.")] = 1.0,
    write_docs: Annotated[bool, typer.Option("--write-docs", help="Renew the table in docs/design.md.")] = False,
) -> None:
    """Measure what each step of the hot path gives."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        table = runner.run(_table(Bench(scale), Console(soft_wrap=True)))
    print(table)
    if write_docs:
        _PAGE.write_text(page.put(_PAGE.read_text(), _MARK, table))


async def _table(bench: Bench, console: Console) -> str:
    lines = ["| without it | gateways | store | worker | all | crowd |", "|---|---:|---:|---:|---:|---:|"]
    first: tuple[float, float] = (0.0, 0.0)
    for step in STEPS:
        flow = await _flow(bench, step) if step.flow else None
        crowd = await _crowd(bench, step) if step.crowd else None
        spent = {role: cpu / flow.deltas * _PER for role, cpu in flow.cpu.items()} if flow else {}
        whole = sum(spent.values())
        first = first if first[0] else (whole, crowd or 0.0)
        cells = [number(spent[role]) for role in ("gateway", "store", "worker")]
        cells.append(_against(whole, first[0]))
        cells.append(_against(crowd, first[1]) if crowd else "")
        lines.append(f"| {step.title} | {' | '.join(cells)} |")
        console.print(lines[-1], highlight=False)
    added = _deflate()
    lines.append(f"| each frame compressed for each socket (`permessage-deflate`), added | | | | | + {number(added)} |")
    said = await agents_alone(bench, _THREADS)
    lines.append(f"| *of all this, what 16 agents use that speak to nobody* | | | {number(said)} | | |")
    return "\n".join(lines)


def _against(value: float, first: float) -> str:
    return number(value) if value == first else f"{number(value)} ({number(value / first)} x)"


async def _flow(bench: Bench, step: Step) -> Flow:
    async with bench.threadline(_NODES, variant=step.variant, **step.settings) as (system, clients):
        return await stream(bench, system, clients, _THREADS)


async def _crowd(bench: Bench, step: Step) -> float:
    """Return the seconds that a node uses for 100,000 frames."""
    sockets, talking = bench.count(_CROWD, _TALKING), names(_TALKING)
    plan = Plan(((_RATE, bench.seconds(_SECONDS)),))
    async with bench.threadline(1, variant=step.variant, COALESCE=0) as (system, clients):
        await system.prepare(talking)
        await clients.open(system.targets(talking, sockets))
        await clients.reset()
        before = system.processes.cpu("gateway")
        await system.flood(talking, plan)
        await asyncio.sleep(SOON + plan.seconds)
        tally, _ = await settled(clients, plan.deltas * plan.letters * sockets)
        return (system.processes.cpu("gateway") - before) / tally.frames * _PER


def _deflate() -> float:
    """Return the seconds that it takes to compress 100,000 frames, in the manner of RFC 7692."""
    windows = [zlib.compressobj(wbits=-15) for _ in range(_CROWD)]
    frames = [f'42["text_delta",{{"offset":{n},"delta":"token "}}]'.ljust(_FRAME, "x").encode() for n in range(25)]
    begin = time.process_time()
    for frame in frames:
        for window in windows:
            window.compress(frame)
            window.flush(zlib.Z_SYNC_FLUSH)
    return (time.process_time() - begin) / (len(frames) * len(windows)) * _PER


if __name__ == "__main__":
    sys.exit(app())
