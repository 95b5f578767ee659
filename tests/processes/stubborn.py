"""An agent that does not heed the end of its worker, in one of three ways: its message says which."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from worker.turn import AgentEvent, Turn

_NEVER = threading.Event()
_POOL = ThreadPoolExecutor(1, thread_name_prefix="its-own-pool")


async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
    """Swallow each cancellation (`task`), or wait for ever in a thread of the loop (`thread`) or its own (`pool`)."""
    yield "Well, "
    if turn.message == "thread":
        await asyncio.to_thread(_NEVER.wait)
    elif turn.message == "pool":
        await asyncio.get_running_loop().run_in_executor(_POOL, _NEVER.wait)
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue
