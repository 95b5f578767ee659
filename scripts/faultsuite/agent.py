"""The agent of the fault suite: the demo agent, and two ways to do harm.

`die` kills the worker that runs it, as an agent does that breaks its process. `flood 40` yields 40 outputs of a tool
of 200 KB each, more than any socket buffer holds.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing

from worker.agents.demo import agent as demo
from worker.turn import AgentEvent, ToolResult, Turn

_OUTPUT = "x" * 200_000
_PAUSE = 0.05


async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
    """Answer as the demo agent does, or do what the message says."""
    if turn.message == "die":
        yield "The end of this process."
        os.kill(os.getpid(), signal.SIGKILL)
    if flood := re.fullmatch(r"flood (\d+)", turn.message):
        for number in range(int(flood[1])):
            yield ToolResult("flood", _OUTPUT, f"flood-{number}")
            await asyncio.sleep(_PAUSE)
        yield "That was all."
        return
    async with aclosing(demo(turn)) as said:  # type: ignore[type-var]  # async generators have aclose
        async for event in said:
            yield event
