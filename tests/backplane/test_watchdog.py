"""The watchdog: names the line that blocks the event loop, while it does and afterwards."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from structlog.dev import ConsoleRenderer
from structlog.testing import capture_logs

from backplane.watchdog import Watchdog
from tests.support.waiting import wait_until

BEAT = 0.1
"""Seconds. A busy machine holds a loop up for a fraction of it: below that, one that goes on would be told of too."""


async def block(until: threading.Event) -> None:
    """Wait as an agent must not."""
    until.wait(10)


WHERE = f"{__file__}:{block.__code__.co_firstlineno + 2}"


def of(logs: list[Any], word: str) -> list[Any]:
    return [line for line in logs if word in line["event"]]


async def test_the_line_that_blocks_is_named_while_it_does_with_its_task_and_whose_that_is() -> None:
    seen, troubles, lags = threading.Event(), list[str | None](), list[float]()

    def whose(task: str) -> dict[str, str]:
        if task == "agent-r1":
            troubles.append(watchdog.trouble())
            seen.set()
        return {"turn_of": task}

    with capture_logs() as logs:
        async with Watchdog(lags.append, "nobody is served", whose, beat=BEAT) as watchdog:
            assert watchdog.trouble() is None
            await asyncio.create_task(block(seen), name="agent-r1")
            assert seen.is_set(), "it was seen while it lasted"
            await wait_until(lambda: WHERE in [line["at"] for line in of(logs, "goes on")], "the end is told")
            await wait_until(lambda: watchdog.trouble() is None, "all is well again")
    # a machine that is busy may have held the loop up before, too
    (blocked,) = [line for line in of(logs, "is blocked") if line["task"]]
    assert (blocked["at"], blocked["task"], blocked["turn_of"]) == (WHERE, "agent-r1", "agent-r1")
    assert blocked["means"] == "nobody is served"
    assert f"{WHERE} block" in blocked["calls"]
    assert not any("base_events.py" in call or "runners.py" in call for call in blocked["calls"])
    assert f"{WHERE} block" in ConsoleRenderer(colors=False)(None, "warning", dict(blocked)), "people read it, too"
    assert troubles[0] is not None
    assert WHERE in troubles[0]
    assert max(lags) >= BEAT


async def test_a_process_that_stood_still_as_a_whole_blames_no_line() -> None:
    """Stopped, or starved: its thread did not look either, so whatever stands on the stack afterwards is innocent."""
    with capture_logs() as logs:
        async with Watchdog(lambda late: None, "nobody is served", beat=BEAT) as watchdog:
            watchdog._beaten -= 100
            await wait_until(
                lambda: max([0, *(line["seconds"] for line in of(logs, "stood still"))]) >= 99, "it is told"
            )
            assert watchdog.trouble() is None
    assert of(logs, "is blocked") == []


async def test_a_loop_that_goes_on_is_timed_and_not_told_of() -> None:
    lags: list[float] = []
    with capture_logs() as logs:
        async with Watchdog(lags.append, "nobody is served", beat=BEAT) as watchdog:
            await wait_until(lambda: len(lags) > 3, "some beats")
            thread = watchdog._thread
    assert of(logs, "is blocked") == []
    assert not thread.is_alive()
