"""Waiting for what is to become true, never for time to pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

_LOOK_AGAIN = 0.01
"""Seconds between two looks at what cannot tell us by itself: a process, a port, a key of the store."""
PATIENCE = 20.0
"""Seconds until a wait is given up: far more than any takes, so that a slow machine fails nothing."""

Found = TypeVar("Found")


async def eventually(look: Callable[[], Awaitable[Found | None]], what: str, within: float = PATIENCE) -> Found:
    """Return what `look` finds, as soon as that is true.

    Raises:
        AssertionError: naming `what`, and what was seen last, when it did not come true in time.
    """
    found: Found | None = None
    try:
        async with asyncio.timeout(within):
            while True:
                if found := await look():
                    return found
                await asyncio.sleep(_LOOK_AGAIN)
    except TimeoutError:
        raise AssertionError(f"expected {what} within {within:g} s; seen last: {found!r}") from None
