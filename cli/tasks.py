"""What a process is doing: the number of its tasks, by kind, in one line of its log when it gets SIGUSR1."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import suppress

import structlog

_log = structlog.get_logger("cli.tasks")


def counted() -> Counter[str]:
    """Return how many tasks of the running loop run which coroutine."""
    return Counter(
        getattr(task.get_coro(), "__qualname__", "unknown") for task in asyncio.all_tasks() if not task.done()
    )


def tell() -> None:
    """Write them to the log. A number that grows from one quiet moment to another is a leak, and its kind the place."""
    found = counted()
    kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(found.items()))
    _log.info("tasks", count=found.total(), kinds=kinds)


def tell_when_asked() -> None:
    """Have SIGUSR1 call `tell`; without effect where there is no such signal."""
    with suppress(NotImplementedError, AttributeError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)
