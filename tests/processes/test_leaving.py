"""A process ends when it is told to, whatever an agent has left running in it."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cli.exits import Exit
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet

pytestmark = [pytest.mark.processes]
WAYS = {"task": "agent-", "thread": "uvloop_0", "pool": "its-own-pool_0"}
"""How the stubborn agent goes on, and how the log names what does."""


async def test_a_worker_ends_in_order_though_its_agent_goes_on(tmp_path: Path) -> None:
    settings = {"agent": "tests.processes.stubborn:agent", "drain_grace": 0.1, "slots": 1, "lease": 60}
    async with Fleet(tmp_path, 1, len(WAYS), settings) as fleet, AsyncExitStack() as stack:
        turns: dict[str, str] = {}
        for way in WAYS:
            thread = await stack.enter_async_context(Conversation(fleet, f"t-{way}", checked=False))
            turns[way] = await thread.say(way)
            await thread.words(turns[way], 1)
        owners = {way: await fleet.owner(f"t-{way}", turn) for way, turn in turns.items()}
        assert len(set(owners.values())) == len(WAYS), "a worker for each way"
        for worker in owners.values():
            worker.signal(signal.SIGTERM)
        for way, worker in owners.items():
            assert await worker.ended() == 0
            await worker.says("turn handed back", turns[way])
            await worker.says("leaves behind", WAYS[way])


async def test_a_second_signal_ends_a_worker_though_its_agent_goes_on(tmp_path: Path) -> None:
    # the grace is far longer than anybody waits for its end
    async with Fleet(tmp_path, 1, 1, {"agent": "tests.processes.stubborn:agent", "drain_grace": 600}) as fleet:
        (worker,) = fleet.workers
        async with Conversation(fleet, "t-1", checked=False) as thread:
            turn = await thread.say("task")
            await thread.words(turn, 1)
            worker.signal(signal.SIGTERM)
            await worker.says("draining")
            worker.signal(signal.SIGTERM)
            assert await worker.ended() == Exit.INTERRUPTED
