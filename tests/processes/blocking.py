"""An agent that does what none must: it blocks the event loop of its worker until a file is there."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

from worker.turn import AgentEvent, Turn


async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
    """Block in the first attempt, until the file that the message names is there; then answer."""
    yield "Well, "
    if turn.attempt == 1:
        _wait(Path(turn.message))
    yield f"I answer in attempt {turn.attempt}."


def _wait(for_path: Path) -> None:
    while not for_path.exists():
        time.sleep(0.05)
