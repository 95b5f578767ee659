"""People who come with their first message: how long a start took, and whose was not answered."""

from __future__ import annotations

import math
from typing import Any

import pytest

from scripts.endurance.newcomers import Newcomers
from tests.clients.python.scripted_gateway import ScriptedThread, gateways
from tests.support.waiting import wait_until


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("chat_done", {"full_response": "stone-0"}, []),
        ("chat_error", {"error_type": "worker_lost", "message": "why"}, ["worker_lost: why"]),
    ],
)
async def test_they_say_how_long_a_start_took_and_whose_turn_failed(name: str, fields: Any, said: list[str]) -> None:
    async with gateways(1) as (deployment, (node,)), Newcomers([node.url]) as newcomers:

        def answer(thread: ScriptedThread, request_id: str, payload: dict[str, Any]) -> None:
            deployment.append(thread.id, request_id, name, **fields)

        deployment.on_start = answer
        await newcomers.come()
        await wait_until(lambda: len(deployment.starts) > 0, "somebody came")

        async def told() -> bool:
            return await newcomers.slowest(0, math.inf) > 0

        await wait_until(told, "a start was acknowledged")
        assert await newcomers.slowest(0, 0) == 0
        answered, wrong = await newcomers.leave()
        assert answered + len(wrong) == len(deployment.starts)
        assert [one.partition(": ")[2] for one in wrong[:1]] == said
