"""What a process is doing, told in its log."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest
from structlog.testing import capture_logs

from cli import tasks
from tests.support.waiting import wait_until


async def wait_for(event: asyncio.Event) -> None:
    await event.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGUSR1 there")
async def test_a_process_tells_its_tasks_by_kind_when_it_is_asked() -> None:
    event = asyncio.Event()
    waiting = [asyncio.create_task(wait_for(event)) for _ in range(3)]
    tasks.tell_when_asked()
    try:
        with capture_logs() as lines:
            os.kill(os.getpid(), signal.SIGUSR1)
            await wait_until(lambda: bool(lines), "the line")
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)
        event.set()
        await asyncio.gather(*waiting)
    assert "wait_for 3" in lines[0]["kinds"]
    assert lines[0]["count"] == 4, "three, and this test"


async def test_a_task_that_has_ended_is_not_counted() -> None:
    before = tasks.counted()
    ended = asyncio.create_task(asyncio.sleep(0))
    await ended
    assert tasks.counted() == before
