"""An end for everything that the suite waits for, and what each task was waiting for when it was reached."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

_LEAVING = 10
"""Seconds that a task which was cancelled may take to leave; then it is left behind."""
_MOST = 20
"""Tasks that are told of."""
_TREE = Path(__file__).parents[2]
_Value = TypeVar("_Value")


class Hung(AssertionError):
    """It did not come to its end in time. The message says which tasks there were, and what they waited for."""


async def bounded(work: Coroutine[Any, Any, _Value], seconds: float, what: str) -> _Value:
    """Return what `work` returns, or give it up, even if it does not heed its cancellation.

    Raises:
        Hung: naming `what`.
    """
    task = asyncio.create_task(work, name=what)
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
        if done:
            return task.result()
        report = waiting(task)
    finally:
        await leave([task])
    stays = "" if task.done() else f"\n  it stays at {told(task)} although it was cancelled"
    raise Hung(f"{what} did not come to its end within {seconds:g} s; what waited:\n  {report}{stays}")


async def leave(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended, or for so long that no more is to be hoped for."""
    for _ in range(_LEAVING):
        if left := [task for task in tasks if not task.done()]:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=1)


def waiting(first: asyncio.Task[Any]) -> str:
    """Return what each task of this program waits for that stands in code of the suite, a line for each."""
    others = asyncio.all_tasks() - {first, asyncio.current_task()}
    lines = [told(first), *sorted({line for task in others if (line := told(task))})]
    return "\n  ".join([*lines[:_MOST], *([f"and {len(lines) - _MOST} more"] if len(lines) > _MOST else [])])


def told(task: asyncio.Task[Any]) -> str:
    """Return where a task stands, as one line; nothing when it stands in none of our code."""
    found = " > ".join(places(task))
    return f"{task.get_name()}: {found}" if found else ""


def places(task: asyncio.Task[Any]) -> Iterator[str]:
    """Yield the lines of this tree where a task stands, outermost first, with what is waited for where they say it."""
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = _first(awaited, "cr_frame", "gi_frame", "ag_frame")
        if frame is not None and _is_ours(frame):
            yield _place(frame)
        awaited = _first(awaited, "cr_await", "gi_yieldfrom", "ag_await")


def _first(awaited: Any, *names: str) -> Any:
    return next((getattr(awaited, name) for name in names if hasattr(awaited, name)), None)


def _is_ours(frame: FrameType) -> bool:
    path = Path(frame.f_code.co_filename)
    return path.is_relative_to(_TREE) and "site-packages" not in path.parts


def _place(frame: FrameType) -> str:
    what = frame.f_locals.get("what")
    where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_qualname}"
    return f"{where} ({what})" if isinstance(what, str) else where
