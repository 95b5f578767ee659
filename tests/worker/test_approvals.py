"""Approvals on a real worker: agents ask, people decide, and nobody waits in a slot who need not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from backplane.connection import Backplane
from backplane.events import Event
from backplane.ids import thread_ref
from backplane.settings import Policy
from backplane.turns import Start
from tests.support.waiting import wait_until
from tests.support.working import working
from worker.turn import Agent, AgentError, Decision, Turn, Unlinked

REF = thread_ref("ask")


@pytest.fixture
def redis_url(valkey: str) -> str:
    """Return the real store's: whole workers on fakeredis would test fakeredis' speed."""
    return valkey


async def start(backplane: Backplane, policy: Policy) -> None:
    await backplane.turns.start(REF, Start("go", "ann", "sid", policy=policy))


async def events(backplane: Backplane, name: str = "") -> list[Event]:
    return [e for e in (await backplane.log.read(REF)).events if name in {"", e.name}]


async def asked(backplane: Backplane, count: int = 1) -> str:
    async def there() -> bool:
        return len(await events(backplane, "approval_request")) >= count

    await wait_until(there, "it asks")
    return str((await events(backplane, "approval_request"))[count - 1].fields["approval_id"])


async def ended(backplane: Backplane) -> Event:
    async def over() -> bool:
        return (await events(backplane))[-1].name in {"chat_done", "chat_error"}

    await wait_until(over, "the turn ends")
    return (await events(backplane))[-1]


async def test_a_turn_that_waits_takes_no_slot_and_any_worker_takes_it_up(open_backplane: Any) -> None:
    """With `resume`: it is parked, and goes on elsewhere without a word twice or a step done again."""
    steps: list[str] = []

    def agent_of(name: str) -> Agent:
        async def agent(turn: Turn) -> AsyncIterator[str]:
            await turn.step("look", steps.append, name)
            yield "May I? "
            decision = await turn.approve("rm", {"path": "/"})
            yield f"{name} was told {decision.decision} by {decision.by}."

        return agent

    async with open_backplane(node_id="one", slots=1) as one, open_backplane(node_id="two") as two:
        async with working(one, agent_of("one")) as first:
            await start(one, "resume")
            approval_id = await asked(one)
            await wait_until(lambda: first.turns == 0, "its slot is free")
            assert (await one.turns.lanes(REF, "ann"))[1] == "waiting"
        async with working(two, agent_of("two")):
            await two.approvals.decide(REF, "ann", approval_id, "approved")
            last = await ended(two)
        assert last.fields["full_response"] == "May I? two was told approved by ann."
        text = "".join(e.fields["delta"] for e in await events(two, "text_delta"))
        assert text == last.fields["full_response"]
        assert await events(two, "turn_restarted") == []
    assert steps == ["one"]


async def test_with_retry_the_turn_waits_in_its_slot_and_hears_at_once(open_backplane: Any) -> None:
    """By the push, not by the next heartbeat."""

    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield str((await turn.approve("rm", {})).approved)
        yield str(await turn.ask("Which?", ["left", "right"]))

    async with open_backplane(heartbeat=3600.0, lease=7200.0) as backplane, working(backplane, agent) as worker:
        await start(backplane, "retry")
        approval_id = await asked(backplane)
        assert worker.turns == 1
        await backplane.approvals.decide(REF, "ann", approval_id, "denied")
        await backplane.approvals.decide(REF, "ann", await asked(backplane, 2), "left")
        assert (await ended(backplane)).fields["full_response"] == "Falseleft"
        question = (await events(backplane, "approval_request"))[1].fields
    assert (question["kind"], question["question"], question["options"]) == ("question", "Which?", ["left", "right"])


async def test_a_decision_is_heard_although_its_push_is_lost(open_backplane: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield str((await turn.approve("rm", {})).approved)

    async with open_backplane(heartbeat=0.02) as backplane, working(backplane, agent) as worker:
        worker._canceller.heard = lambda message: None  # type: ignore[method-assign]
        await start(backplane, "retry")
        await backplane.approvals.decide(REF, "ann", await asked(backplane), "approved")
        assert (await ended(backplane)).fields["full_response"] == "True"


@pytest.mark.parametrize("policy", ["retry", "resume"])
async def test_silence_is_a_no(open_backplane: Any, policy: Policy) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        decision = await turn.approve("rm", {}, expires=0.01)
        yield f"{decision.approved} {decision.by} {await turn.ask('Why?', expires=0.01)}"

    async with open_backplane(recover_interval=0.01) as backplane, working(backplane, agent):
        await start(backplane, policy)
        assert (await ended(backplane)).fields["full_response"] == "False None None"


async def test_a_decision_counts_only_for_what_was_shown(open_backplane: Any) -> None:
    """An agent that asks something else after it was taken up asks anew."""
    paths = iter(["/tmp", "/"])

    async def agent(turn: Turn) -> AsyncIterator[str]:
        path = next(paths, "/")
        decision = await turn.approve("rm", {"path": path})
        yield f"{path} {decision.decision}"

    async with open_backplane() as backplane, working(backplane, agent):
        await start(backplane, "resume")
        await backplane.approvals.decide(REF, "ann", await asked(backplane), "approved")
        second = await asked(backplane, 2)
        await backplane.approvals.decide(REF, "ann", second, "denied")
        assert (await ended(backplane)).fields["full_response"] == "/ denied"


async def test_the_same_question_twice_is_two_questions(open_backplane: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        for _ in range(2):
            yield f"{await turn.ask('More?')} "

    async with open_backplane() as backplane, working(backplane, agent):
        await start(backplane, "resume")
        await backplane.approvals.decide(REF, "ann", await asked(backplane), "yes")
        await backplane.approvals.decide(REF, "ann", await asked(backplane, 2), "no")
        assert (await ended(backplane)).fields["full_response"] == "yes no "


async def test_a_cancel_ends_a_turn_that_waits_in_its_slot(open_backplane: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        await turn.approve("rm", {})

    async with open_backplane(heartbeat=3600.0, lease=7200.0) as backplane, working(backplane, agent):
        await start(backplane, "retry")
        await asked(backplane)
        await backplane.turns.cancel(REF, "ann")
        assert (await ended(backplane)).fields["error_type"] == "cancelled"
        assert (await events(backplane))[-2].fields["state"] == "withdrawn"


@pytest.mark.parametrize(
    ("question", "options"),
    [("?", ["x"] * 21), ("?", [""]), ("?", ["x" * 201]), ("x" * 400_000, [])],
)
async def test_a_question_of_a_wrong_form_ends_the_turn_with_a_clear_error(
    backplane: Backplane, question: str, options: list[str]
) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield str(await turn.ask(question, options))

    async with working(backplane, agent):
        await start(backplane, "retry")
        assert (await ended(backplane)).fields["error_type"] == "invalid_question"


@pytest.mark.parametrize("path", [object(), float("nan")], ids=["an object", "no number"])
async def test_what_is_asked_must_be_json(backplane: Backplane, path: object) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield str(await turn.approve("rm", {"path": path}))

    async with working(backplane, agent):
        await start(backplane, "retry")
        assert (await ended(backplane)).fields["error_type"] == "invalid_question"


async def test_without_a_worker_decisions_are_given_and_then_refused() -> None:
    link = Unlinked("approved", "blue")
    turn = Turn("t", "r", "default", "ann", "go", [], link=link)
    assert (await turn.approve("rm", {})).approved
    assert await turn.ask("Which?") == "blue"
    assert await turn.approve("rm", {}) == Decision(None, None)
    assert [ask.fields["kind"] for ask in link.asked] == ["approval", "question", "approval"]
    with pytest.raises(AgentError):
        await turn.ask("?", [""])
