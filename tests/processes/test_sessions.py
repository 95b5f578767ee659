"""What the agent remembers of a thread, on any worker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]


async def test_the_history_is_the_same_on_every_worker(fleet: Fleet, talk: Callable[[], Conversation]) -> None:
    """Turns alternate between the workers, so that each finds its own local copy behind the session."""
    async with talk() as thread:
        answered: list[str] = []
        # a worker whose connection was lost in the test before may be away from the doorbell for some turns
        while len(answered) < 8 or set(answered) != {worker.node_id for worker in fleet.workers}:
            number = len(answered) + 1
            assert number <= 100, f"every turn was taken by the same worker: {answered}"
            text = "what did I say first?" if number % 2 else "how many messages?"
            turn = await thread.say(text, node=number % 2, pace=0)
            answer = (await thread.ended(turn))["full_response"]
            answered.append((await fleet.turn(thread.thread_id, turn))["worker"])
            if number % 2 == 0:
                assert f"number {number}. I have answered {number - 1}" in answer
            elif number > 1:
                assert 'You said first: "what did I say first?"' in answer
