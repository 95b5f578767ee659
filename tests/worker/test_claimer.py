"""The claimer on a real store: what becomes of a claim whose answer does not come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from backplane.connection import Backplane
from backplane.errors import Unavailable
from backplane.ids import thread_ref
from backplane.scripts import Call
from backplane.turns import Start
from tests.support.waiting import wait_until
from tests.support.working import working
from worker.turn import Turn

REF = thread_ref("claimer")


@pytest.fixture
def redis_url(valkey: str) -> str:
    """Return the real store's: whole workers on fakeredis would test fakeredis' speed."""
    return valkey


async def agent(turn: Turn) -> AsyncIterator[str]:
    yield f"attempt {turn.attempt}"


async def events(backplane: Backplane) -> list[str]:
    return [event.name for event in (await backplane.log.read(REF)).events]


async def test_a_turn_whose_claim_was_done_and_not_answered_runs_at_once(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker asks again, and is given it: nobody waits for a lease, and no attempt is used up."""
    real, lost = backplane.run, 0

    async def run(call: Call) -> Any:
        nonlocal lost
        answer = await real(call)
        if call.name == "claim" and not lost:
            lost += 1
            raise Unavailable("Redis did not answer; send the same call again in a moment")
        return answer

    monkeypatch.setattr(backplane, "run", run)
    async with working(backplane, agent) as worker:
        await backplane.turns.start(REF, Start("go", "ann", "sid", policy="fail"))

        async def over() -> bool:
            return "chat_done" in await events(backplane)

        await wait_until(over, "the turn ends", seconds=5.0)
        assert (worker.claimer.tried, worker.claimer.won, lost) == (1, 1, 1)
    assert (await events(backplane)).count("inference_start") == 1
