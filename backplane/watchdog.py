"""The watchdog: sees that the event loop of this process stands still, and says at which line.

Code that sleeps or computes where it should await holds up everything else of its process: heartbeats, cancels, other
turns. From outside that looks like a dead process, and nobody learns why. So the loop beats, and a thread looks whether
it does. When it does not, the thread reads the loop's stack.

The thread counts its own looks and not the time: a process that was stopped, or starved of the processor, has no line
to blame, and then both come late.
"""

from __future__ import annotations

import asyncio
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from traceback import walk_stack
from types import FrameType, TracebackType

import structlog

_log = structlog.get_logger("backplane.watchdog")

LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds for a histogram of how late the loop is, in seconds."""
BEAT = 0.5
"""Seconds between two beats, and between two looks: an idle process is not to wake often."""
_MISSED = 2
"""Looks without a beat after which the loop is said to be blocked: a second, well before a lease lapses."""
_SAY_AGAIN = 4
"""How many times as long it must last until that is said again, with where it stands then."""
_DEPTH = 12
"""Calls of the stack that are shown, the innermost first."""
_LIBRARY = sysconfig.get_path("stdlib")
_LOOP = ("runners.py", "base_events.py", "events.py")
"""Modules of asyncio behind which the stack says nothing more about what blocks."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What the thread saw of a blocked loop."""

    at: str
    """`file:line`: the innermost call outside of Python's own library."""
    task: str
    """The name of the asyncio task that runs; empty for none."""
    stack: list[str]
    """`file:line function`, the innermost first."""


class Watchdog:
    """Watches the loop in which it is entered.

    Args:
        lag: takes how late the loop came to each beat, in seconds.
        means: what a blocked loop means here, for the log.
        whose: returns fields for the log that say whose a task is, by its name; called on the thread.
        beat: seconds between two beats.
    """

    def __init__(
        self,
        lag: Callable[[float], None],
        means: str,
        whose: Callable[[str], Mapping[str, str]] = lambda task: {},
        *,
        beat: float = BEAT,
    ) -> None:
        self._lag = lag
        self._means = means
        self._whose = whose
        self._beat = beat
        self._beats = 0
        self._beaten = time.monotonic()
        self._missed = 0
        self._say_at = _MISSED
        self._seen: Sight | None = None
        self._closing = threading.Event()

    async def __aenter__(self) -> Watchdog:
        self._loop = asyncio.get_running_loop()
        self._loops_thread = threading.get_ident()
        self._beaten = time.monotonic()
        self._task = asyncio.create_task(self._run(), name="watchdog")
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._thread.join(timeout=1)  # it may hang in the log, and is a daemon

    def trouble(self) -> str | None:
        """Return what is wrong with the loop, None when it goes on. May be called on any thread."""
        if self._missed < _MISSED:
            return None
        where = f" at {self._seen.at}" if self._seen else ""
        return f"the event loop has been blocked for {self._blocked():.1f} s{where}"

    def _blocked(self) -> float:
        return time.monotonic() - self._beaten - self._beat

    # --- on the loop -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._beat)
            late = max(0.0, self._blocked())
            self._beats += 1
            self._beaten = time.monotonic()
            self._lag(late)
            if late >= _MISSED * self._beat or self._seen is not None:
                self._over(late)

    def _over(self, seconds: float) -> None:
        seen, self._seen = self._seen, None
        if seen is None:
            _log.warning(
                "this process stood still: it was stopped, had no processor, or native code let no thread run",
                seconds=round(seconds, 1),
                means=self._means,
            )
            return
        _log.warning("the event loop goes on; it was blocked", seconds=round(seconds, 1), at=seen.at, means=self._means)

    # --- on the thread ---------------------------------------------------------------------------------

    def _watch(self) -> None:
        beats = self._beats
        while not self._closing.wait(self._beat):
            if self._beats != beats:
                beats, self._missed, self._say_at = self._beats, 0, _MISSED
                continue
            self._missed += 1
            if self._missed >= self._say_at:
                self._say_at *= _SAY_AGAIN
                self._see()

    def _see(self) -> None:
        frame = sys._current_frames().get(self._loops_thread)
        task = asyncio.current_task(self._loop)
        if frame is None:  # the loop's thread has ended
            return
        name = task.get_name() if task else ""
        self._seen = seen = _sight(frame, name)
        _log.warning(
            "the event loop is blocked; await what takes long, or give it to asyncio.to_thread",
            seconds=round(self._blocked(), 1),
            at=seen.at,
            task=seen.task,
            **self._whose(name),
            means=self._means,
            calls=seen.stack,  # `stack` has a meaning of its own for those who write lines as text
        )


def _sight(innermost: FrameType, task: str) -> Sight:
    calls: list[tuple[str, str]] = []
    for frame, line in walk_stack(innermost):
        code = frame.f_code
        if len(calls) == _DEPTH or (_of_library(code.co_filename) and code.co_filename.endswith(_LOOP)):
            break
        calls.append((code.co_filename, f"{code.co_filename}:{line} {code.co_name}"))
    own = next((call for file, call in calls if not _of_library(file)), calls[0][1] if calls else "the loop itself")
    return Sight(own.rpartition(" ")[0] or own, task, [call for _, call in calls])


def _of_library(file: str) -> bool:
    return file.startswith("<frozen") or (file.startswith(_LIBRARY) and "site-packages" not in file)
