"""Agents for the tests of gateways, which look at what becomes of their words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from worker.turn import Turn


async def echo(turn: Turn) -> AsyncIterator[str]:
    """Say what the person said, in two pieces."""
    yield "You said: "
    yield turn.message


async def count(turn: Turn) -> AsyncIterator[str]:
    """Count up to what the person said."""
    for number in range(int(turn.message)):
        yield f"{number} "


async def endless(turn: Turn) -> AsyncIterator[str]:
    """Say three words, and wait for the cancel."""
    yield "on and on"
    await asyncio.Event().wait()
