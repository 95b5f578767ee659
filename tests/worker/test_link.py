"""The link of a turn: whatever an agent asks of it is a safe point, from which a cancelled turn does not come back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from backplane.connection import Backplane
from backplane.events import Event
from backplane.ids import thread_ref
from backplane.turns import Start
from tests.support.waiting import wait_until
from tests.support.working import working
from worker.turn import Turn

REF = thread_ref("link")
ALONE = {"heartbeat": 3600.0, "lease": 7200.0, "canary_interval": 3600.0}
"""No heartbeat comes in between, nor one that a canary asks for which was heard late."""


@pytest.fixture
def redis_url(valkey: str) -> str:
    """Return the real store's: whole workers on fakeredis would test fakeredis' speed."""
    return valkey


async def ended(backplane: Backplane) -> Event:
    async def over() -> bool:
        return (await backplane.log.read(REF)).events[-1].name in {"chat_done", "chat_error"}

    await wait_until(over, "the turn ends")
    return (await backplane.log.read(REF)).events[-1]


Cancel = Callable[[], Awaitable[None]]


async def a_step_begins(turn: Turn, cancel: Cancel, ran: list[str]) -> None:
    await cancel()
    await turn.step("one", ran.append, "the step")


async def a_step_ends(turn: Turn, cancel: Cancel, ran: list[str]) -> None:
    await turn.step("one", cancel)


async def it_asks_a_person(turn: Turn, cancel: Cancel, ran: list[str]) -> None:
    await cancel()
    await turn.approve("rm", {})


async def it_takes_steers(turn: Turn, cancel: Cancel, ran: list[str]) -> None:
    await cancel()
    await turn.steers()


@pytest.mark.parametrize("safe_point", [a_step_begins, a_step_ends, it_asks_a_person, it_takes_steers])
async def test_a_cancelled_turn_does_not_come_back_from(
    open_backplane: Any, safe_point: Callable[[Turn, Cancel, list[str]], Awaitable[None]]
) -> None:
    """The answer tells of the cancel: its push is lost, and no heartbeat comes."""
    ran: list[str] = []

    async def agent(turn: Turn) -> AsyncIterator[str]:
        async def cancel() -> None:
            await backplane.turns.cancel(REF, "ann")

        await safe_point(turn, cancel, ran)
        ran.append("the agent")
        yield "late"

    async with open_backplane(**ALONE) as backplane, working(backplane, agent) as worker:
        worker._canceller.heard = lambda message: None  # type: ignore[method-assign]
        await backplane.turns.start(REF, Start("go", "ann", "sid"))
        last = (await ended(backplane)).fields
        assert (last["error_type"], last["stopped"]) == ("cancelled", "cooperative")
    assert ran == []


async def test_a_turn_that_waits_for_a_decision_looks_only_when_it_is_told_to(
    open_backplane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the second time: what told of one decision does not tell of the next."""
    looks = 0

    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield f"{await turn.ask('One?')} {await turn.ask('Two?')}"

    async with open_backplane(**ALONE) as backplane, working(backplane, agent):
        real = backplane.approvals.ask

        async def ask(*args: Any) -> Any:
            nonlocal looks
            looks += 1
            return await real(*args)

        monkeypatch.setattr(backplane.approvals, "ask", ask)
        await backplane.turns.start(REF, Start("go", "ann", "sid"))
        for number, answer in enumerate(("a", "b"), 1):

            async def asked(count: int = number) -> bool:
                events = (await backplane.log.read(REF)).events
                return [event.name for event in events].count("approval_request") == count

            await wait_until(asked, "it asks")
            request = [e for e in (await backplane.log.read(REF)).events if e.name == "approval_request"][-1]
            await backplane.approvals.decide(REF, "ann", request.fields["approval_id"], answer)
        assert (await ended(backplane)).fields["full_response"] == "a b"
    assert looks == 4


async def test_a_turn_that_asks_too_many_questions_ends_with_a_clear_error(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with a refusal that nobody has spoken."""
    monkeypatch.setattr("backplane.approvals.MOST_OF_A_TURN", 0)

    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield str(await turn.ask("One?"))

    async with working(backplane, agent):
        await backplane.turns.start(REF, Start("go", "ann", "sid"))
        assert (await ended(backplane)).fields["error_type"] == "too_many_questions"
