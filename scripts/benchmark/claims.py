"""The row about claims: whether workers are woken for nothing, and the more so the more of them there are."""

from __future__ import annotations

import asyncio
import re

from scripts.benchmark.bench import Bench
from scripts.benchmark.pace import Plan
from scripts.benchmark.processes import PATIENCE, Process
from scripts.benchmark.streaming import Values

_SHORT = Plan(((50.0, 0.1),))
"""Five words: a turn that a worker is soon done with."""
_SLOTS = 4
"""Of each worker, so that with few of them turns wait, and with many workers wait."""
_AT_ONCE = 32
"""Calls under way by HTTP."""
_SAID = re.compile(r"claims_tried=(\d+) claims_won=(\d+)")


async def claims(bench: Bench, name: str) -> Values:
    """Start 400 short turns at once with 1, 2, 4 and 8 workers; count the claims that are tried for each turn."""
    found: Values = {}
    for workers in (1, 2, 4, 8):
        threads = [f"claims-{index}" for index in range(bench.count(400, 20))]
        async with bench.threadline(workers=workers, SLOTS=_SLOTS) as (system, _):
            for begin in range(0, len(threads), _AT_ONCE):
                await asyncio.gather(*(system.start_turn(each, _SHORT) for each in threads[begin : begin + _AT_ONCE]))
            for thread in threads:
                await system.idle(thread)
            counts = [await _stopped(process) for process in system.processes.of("worker")]
        tried, won = (sum(column) for column in zip(*counts, strict=True))
        found[f"workers_{workers}"] = tried / len(threads)
        found[f"won_{workers}"] = won / len(threads)
    return found


async def _stopped(process: Process) -> tuple[int, int]:
    """Let a worker end in order; return how many claims it says that it tried, and won."""
    process.handle.terminate()
    async with asyncio.timeout(PATIENCE):
        await process.handle.wait()
    said = _SAID.search(process.said)
    if said is None:
        raise RuntimeError(f"expected the worker to say what it claimed; it said last:\n{process.said[-2000:]}")
    return int(said[1]), int(said[2])
