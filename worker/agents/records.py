"""What an agent framework has done once in a turn: the model's answers and the tools' results, recorded as steps."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Any

from worker.turn import Turn

_STRANGE = re.compile(r"[^A-Za-z0-9_.-]", re.ASCII)


async def recorded(turn: Turn, name: str, run: Callable[[], Awaitable[Any]]) -> tuple[Any, bool]:
    """Run something as a step; return its result as JSON gives it back, and whether it has run now.

    Raises:
        AgentError: as `Turn.step`.
    """
    ran = False

    async def noticed() -> Any:
        nonlocal ran
        ran = True
        return await run()

    return await turn.step(name, noticed), ran


def tool_step(tool_name: str, call_id: str) -> str:
    """Return the name of a tool call's step: calls run beside each other, so each is known by the model's id for it."""
    digest = hashlib.sha256(call_id.encode(errors="replace")).hexdigest()[:16]
    return f"tool:{_STRANGE.sub('_', tool_name)[:60]}:{digest}"


def said_before(turn: Turn, ran: bool) -> bool:
    """Tell whether what a step said stands already: it ran in an earlier attempt, and the turn resumes."""
    return not ran and turn.policy == "resume"
