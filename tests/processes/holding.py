"""The demo agent, whose first attempt can be held in the middle of an answer until a file is there.

What a test does meanwhile meets a turn that runs, however slow the machine is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

from tests.support.waiting import wait_until
from worker.agents.demo import agent as demo
from worker.turn import AgentEvent, Text, Turn


async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
    """Answer as the demo agent does; behind `metadata.held_at` words wait for the file `metadata.until`."""
    held_at, words = turn.metadata.get("held_at"), 0
    async with aclosing(demo(turn)) as said:  # type: ignore[type-var]  # async generators have aclose
        async for event in said:
            yield event
            words += isinstance(event, Text)
            if turn.attempt == 1 and words == held_at:
                await wait_until(Path(turn.metadata["until"]).exists, "the test to let it go on", seconds=600)
                held_at = None
