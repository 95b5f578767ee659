"""The life of a process of the product: until a signal asks it to stop, and then no longer than stopping takes."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
import typer

from cli.exits import Exit
from cli.tasks import tell_when_asked

LAST = 5.0
"""Seconds that tasks and threads have to end once the process has done all that it must. Those of an agent may never: a
library that swallows cancellations, a call that blocks a thread."""

_log = structlog.get_logger("cli.process")


def run_until_stopped(start: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run a process until SIGINT or SIGTERM asks it to stop; a second one ends it at once.

    Args:
        start: does all that the process is there for, until the event is set that it is given.

    Raises:
        typer.Exit: with 130 at the second signal.
    """
    leaving: list[threading.Timer] = []

    async def run() -> None:
        stop, task, loop = asyncio.Event(), asyncio.current_task(), asyncio.get_running_loop()

        def ask() -> None:
            if stop.is_set() and task is not None:
                task.cancel()
                leaving.append(leave_within(LAST, Exit.INTERRUPTED, loop))
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # Windows: KeyboardInterrupt ends the process there
                loop.add_signal_handler(number, ask)
        tell_when_asked()
        code, failed = Exit.FAILED, None
        try:
            await start(stop)
            code = Exit.DONE
        except asyncio.CancelledError:
            code = Exit.INTERRUPTED
            raise
        except Exception as error:
            failed = error
            raise
        finally:
            leaving.append(leave_within(LAST, code, loop, failed))

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(run())
    except asyncio.CancelledError:
        raise typer.Exit(Exit.INTERRUPTED) from None
    finally:
        for timer in leaving:
            timer.cancel()


def leave_within(
    seconds: float, code: int, loop: asyncio.AbstractEventLoop | None = None, failed: Exception | None = None
) -> threading.Timer:
    """End this process behind so many seconds, if it has not ended by itself, and log what it had to leave behind.

    Args:
        seconds: until then; cancel what is returned to stay.
        code: the exit code.
        loop: whose tasks are named.
        failed: why the process ends, if it failed: nobody else would say so any more.
    """

    def leave() -> None:
        tasks = [] if loop is None else sorted(task.get_name() for task in asyncio.all_tasks(loop))
        threads = sorted(one.name for one in threading.enumerate() if not one.daemon and one.name != "MainThread")
        _log.error(
            "the process ends, and leaves behind what does not end", tasks=tasks, threads=threads, exc_info=failed
        )
        os._exit(code)

    timer = threading.Timer(seconds, leave)
    timer.name, timer.daemon = "leaving", True
    timer.start()
    return timer


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows has none
        return None
    return uvloop.new_event_loop
