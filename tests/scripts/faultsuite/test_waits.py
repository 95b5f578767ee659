"""Nothing that the suite waits for is without an end."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from scripts.faultsuite import waits
from scripts.faultsuite.waits import Hung, bounded


async def _stand(what: str) -> None:
    await asyncio.Event().wait()


async def test_what_is_done_in_time_is_returned() -> None:
    async def work() -> int:
        return 7

    assert await bounded(work(), 5, "work") == 7


async def test_what_hangs_is_given_up_with_what_it_and_others_waited_for() -> None:
    other = asyncio.create_task(_stand("a frame"), name="a client")
    with pytest.raises(Hung, match=r"row 99 did not come .*\n  row 99: .*_stand \(the end of a turn\)") as told:
        await bounded(_stand("the end of a turn"), 0.01, "row 99")
    assert "a client: test_waits.py" in str(told.value)
    other.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await other


async def test_what_ignores_its_cancellation_once_is_cancelled_again() -> None:
    async def deaf() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    with pytest.raises(Hung):
        await bounded(deaf(), 0.01, "a deaf one")
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "a deaf one"]


async def test_what_never_ends_is_left_behind_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "_LEAVING", 1)
    enough = asyncio.Event()

    async def stubborn() -> None:
        while not enough.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await enough.wait()

    with pytest.raises(Hung, match="although it was cancelled"):
        await bounded(stubborn(), 0.01, "a stubborn one")
    enough.set()
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == "a stubborn one"))
