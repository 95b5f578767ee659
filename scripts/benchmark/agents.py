"""The agent of the measured worker: says what the plan in its turn's metadata asks for, and notes what befalls it.

Notes are lines `request_id what attempt pid time` in the file that `BENCHMARK_NOTES` names, if it names one.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

from scripts.benchmark.pace import Plan, due, word
from worker.turn import AgentEvent, Text, Turn

NOTES = "BENCHMARK_NOTES"


async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
    """Say the plan's deltas at its pace, then be silent for as long as it says."""
    _note(turn, "started")
    plan = Plan.of(turn.metadata["plan"])
    number = 0
    try:
        async for count in due(plan):
            for _ in range(count):
                number += 1
                yield Text(word(plan, number), round=1 + number % 2 if plan.apart else 1)
        await asyncio.sleep(plan.hold)
    except (asyncio.CancelledError, GeneratorExit):  # the second when the cancel met us at a yield
        _note(turn, "cancelled")
        raise


def _note(turn: Turn, what: str) -> None:
    path = os.environ.get(NOTES)
    if path:
        line = f"{turn.request_id} {what} {turn.attempt} {os.getpid()} {time.time():.6f}\n"
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)
