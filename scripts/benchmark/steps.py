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
    """One line of the table: how the system is made for it, and whether the crowd says something about it."""

    title: str
    variant: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
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


@dataclass(frozen=True, slots=True)
class _Cost:
    """Seconds for 100,000 deltas by role, and for 100,000 frames of the crowd, where that was measured."""

    roles: Mapping[str, float]
    crowd: float | None

    @property
    def whole(self) -> float:
        return sum(self.roles.values())


async def _table(bench: Bench, console: Console) -> str:
    costs = []
    # the first line again at the end: a machine that others use must not favour what ran at one moment
    for step in (*STEPS, STEPS[0]):
        costs.append(await _cost(bench, step))
        console.print(_line(step.title, costs[-1], costs[0]), highlight=False)
    usual = _mean(costs[0], costs.pop())
    lines = ["| without it | gateways | store | worker | all | crowd |", "|---|---:|---:|---:|---:|---:|"]
    lines.append(_line(STEPS[0].title, usual, usual))
    lines += [_line(step.title, cost, usual) for step, cost in zip(STEPS[1:], costs[1:], strict=True)]
    added, said = _deflate(), await agents_alone(bench, _THREADS)
    lines.append(f"| each frame compressed for each socket (`permessage-deflate`), added | | | | | + {number(added)} |")
    lines.append(f"| *of all this, what 16 agents use that speak to nobody* | | | {number(said)} | | |")
    return "\n".join(lines)


async def _cost(bench: Bench, step: Step) -> _Cost:
    flow = await _flow(bench, step)
    crowd = await _crowd(bench, step) if step.crowd else None
    return _Cost({role: cpu / flow.deltas * _PER for role, cpu in flow.cpu.items()}, crowd)


def _mean(one: _Cost, other: _Cost) -> _Cost:
    roles = {role: (cpu + other.roles[role]) / 2 for role, cpu in one.roles.items()}
    return _Cost(roles, ((one.crowd or 0.0) + (other.crowd or 0.0)) / 2)


def _line(title: str, cost: _Cost, usual: _Cost) -> str:
    cells = [number(cost.roles[role]) for role in ("gateway", "store", "worker")]
    cells.append(_against(cost.whole, usual.whole))
    cells.append(_against(cost.crowd, usual.crowd) if cost.crowd and usual.crowd else "")
    return f"| {title} | {' | '.join(cells)} |"


def _against(value: float, usual: float) -> str:
    return number(value) if value == usual else f"{number(value)} ({number(value / usual)} x)"


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
