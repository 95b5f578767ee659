"""A worker in this process, for the length of a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backplane.connection import Backplane
from worker.runtime import Worker
from worker.turn import Agent


@asynccontextmanager
async def working(backplane: Backplane, agent: Agent) -> AsyncIterator[Worker]:
    """Run a worker for the length of the block, then drain it."""
    stop = asyncio.Event()
    worker = Worker(backplane, agent)
    running = asyncio.create_task(worker.run(stop))
    try:
        yield worker
    finally:
        stop.set()
        await running
