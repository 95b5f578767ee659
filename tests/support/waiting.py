"""Waiting for a condition, instead of sleeping."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def wait_until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str, seconds: float = 10.0
) -> None:
    """Return as soon as the condition holds; fail after some seconds, saying what did not happen."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                result = condition()
                if result if isinstance(result, bool) else await result:
                    return
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"did not happen within {seconds} s: {what}") from None
