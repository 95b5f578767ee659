"""An agent that repeats what it is told, or says 50 MB at once."""

from __future__ import annotations

from collections.abc import AsyncIterator

from worker.turn import AgentEvent, ToolCall, ToolResult, Turn

FLOOD = "flood"
PIECES, PIECE = 200, 250_000
"""50 MB, as tool outputs: they cannot be merged away."""


async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
    """Answer a message with itself; `FLOOD` with 50 MB of tool outputs before."""
    if turn.message == FLOOD:
        for number in range(PIECES):
            yield ToolCall("pipe", {}, f"c{number}")
            yield ToolResult("pipe", "x" * PIECE, f"c{number}")
    yield turn.message
