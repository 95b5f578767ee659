"""Steps on a real worker: what was done once is not done again, and what was said stands or is void, as told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from backplane.connection import Backplane
from backplane.events import Event
from backplane.ids import thread_ref
from backplane.turns import Start, Started
from tests.support.lapsing import SOON, lapse
from tests.support.waiting import wait_until
from tests.support.working import working
from worker.turn import Agent, AgentError, AgentEvent, Thinking, Turn, Unlinked

REF = thread_ref("steps")


@pytest.fixture
def redis_url(valkey: str) -> str:
    """Return the real store's: whole workers on fakeredis would test fakeredis' speed."""
    return valkey


async def start(backplane: Backplane, **given: Any) -> Started:
    return await backplane.turns.start(REF, Start("go", "ann", "sid", **given))


async def events(backplane: Backplane) -> list[Event]:
    return (await backplane.log.read(REF)).events


async def ended(backplane: Backplane) -> Event:
    async def over() -> bool:
        return (await events(backplane))[-1].name in {"chat_done", "chat_error"}

    await wait_until(over, "the turn ends")
    return (await events(backplane))[-1]


def standing(found: list[Event]) -> str:
    """Return the text that a client shows, by the rules of docs/protocol.md."""
    text = ""
    for event in found:
        if event.name == "text_delta":
            text += event.fields["delta"]
        elif event.name == "turn_restarted":
            text = text[: event.fields.get("kept_text", 0)]
    return text


def nested() -> Any:
    """Return a list in a list in a list …: JSON, but no encoder gets to its end."""
    inner: Any = 0
    for _ in range(100_000):
        inner = [inner]
    return inner


async def twice(open_backplane: Any, agent: Callable[[Turn, Awaitable[Any]], AsyncIterator[Any]], policy: Any) -> Event:
    """Run a turn on a worker that is lost where the agent waits for `dead`, and then on another. Return its end."""
    reached, never = asyncio.Event(), asyncio.Event()

    def at(attempt: int) -> Agent:
        async def dead() -> None:
            if attempt == 1:
                reached.set()
                await never.wait()

        return lambda turn: agent(turn, dead())

    async with (
        open_backplane(**SOON, lease=7200.0, heartbeat=3600.0, slots=1, node_id="one") as one,
        open_backplane(**SOON, node_id="two") as two,
        working(one, at(1)) as first,
    ):
        first._canceller.heard = lambda message: None  # type: ignore[method-assign]  # as a stopped process
        started = await start(one, policy=policy)
        await reached.wait()
        await lapse(one, REF, started.request_id)
        async with working(two, at(2)):
            last = await ended(two)
            first._canceller.missed()
            await wait_until(lambda: first.turns == 0, "the lost worker notices")
        return last


@pytest.mark.parametrize("policy", ["retry", "resume"])
async def test_a_finished_step_is_not_run_again(open_backplane: Any, policy: str) -> None:
    ran: list[str] = []

    def paid(what: str) -> dict[str, Any]:
        ran.append(what)
        return {"paid": what, "at": (1, 2)}

    async def agent(turn: Turn, dead: Awaitable[None]) -> AsyncIterator[str]:
        yield str(await turn.step("pay", paid, "tea"))
        yield str(await turn.step("pay", paid, "cake"))
        await dead
        yield str(await turn.step("pay", paid, "jam"))

    last = await twice(open_backplane, agent, policy)
    assert ran == ["tea", "cake", "jam"]
    assert last.fields["full_response"] == "".join(str({"paid": what, "at": [1, 2]}) for what in ("tea", "cake", "jam"))


async def test_with_resume_the_text_of_finished_steps_is_kept_and_not_said_again(open_backplane: Any) -> None:
    """What came behind the last finished step is void, and clients are told from where."""
    said: list[int] = []

    async def draft(turn: Turn) -> str:
        await turn.say("streamed ä😀 ")
        said.append(turn.attempt)
        return "draft"

    async def agent(turn: Turn, dead: Awaitable[None]) -> AsyncIterator[str | AgentEvent]:
        yield "before "
        yield await turn.step("draft", draft, turn)
        yield f" attempt {turn.attempt}"
        yield Thinking("lost too")
        await dead
        yield " after"

    last = await twice(open_backplane, agent, "resume")
    assert said == [1]
    assert last.fields["full_response"] == "before streamed ä😀 draft attempt 2 after"
    async with open_backplane() as backplane:
        found = await events(backplane)
        assert standing(found) == last.fields["full_response"]
        restarted = next(e for e in found if e.name == "turn_restarted")
        step_done = next(e for e in found if e.name == "step_done")
        assert (restarted.fields["policy"], restarted.fields["attempt"]) == ("resume", 2)
        assert restarted.fields["kept_offset"] == step_done.offset
        assert restarted.fields["kept_text"] == len("before streamed ä😀 ")
        assert step_done.fields["step"] == "draft"
        stored = (await backplane.sessions.history(REF))[1]
        assert stored[-1]["content"] == last.fields["full_response"]


async def test_an_agent_that_goes_another_way_than_before_is_told_so(open_backplane: Any) -> None:
    """Not answered with half of what it says: with `resume` it must come to its last finished step again."""

    async def agent(turn: Turn, dead: Awaitable[None]) -> AsyncIterator[str]:
        yield "one way "
        if turn.attempt == 1:
            await turn.step("one", lambda: 1)
        await dead
        yield "another way"

    last = await twice(open_backplane, agent, "resume")
    assert last.fields["error_type"] == "not_resumable"


async def test_with_retry_everything_is_said_again(open_backplane: Any) -> None:
    async def agent(turn: Turn, dead: Awaitable[None]) -> AsyncIterator[str]:
        yield "before "
        await turn.step("one", lambda: 1)
        await dead
        yield "after"

    last = await twice(open_backplane, agent, "retry")
    assert last.fields["full_response"] == "before after"
    async with open_backplane() as backplane:
        found = await events(backplane)
    restarted = next(e for e in found if e.name == "turn_restarted")
    assert "kept_offset" not in restarted.fields
    assert standing(found) == "before after"


async def test_with_fail_a_lost_worker_ends_the_turn_at_once(open_backplane: Any) -> None:
    async def agent(turn: Turn, dead: Awaitable[None]) -> AsyncIterator[str]:
        yield "half"
        await dead

    last = await twice(open_backplane, agent, "fail")
    assert last.fields["error_type"] == "worker_lost"


async def test_an_unfinished_step_is_told_apart_and_keeps_its_key(open_backplane: Any) -> None:
    """So that a side effect can be made idempotent."""
    keys: list[tuple[str, bool]] = []

    async def agent(turn: Turn, dead: Awaitable[None]) -> AsyncIterator[str]:
        async def pay() -> None:
            keys.append((turn.step_key, turn.step_began_before))
            await dead

        await turn.step("pay", pay)
        yield "paid"

    last = await twice(open_backplane, agent, "resume")
    request_id = last.request_id
    assert keys == [(f"{request_id}:pay", False), (f"{request_id}:pay", True)]


async def test_a_step_that_fails_is_not_recorded_and_may_be_tried_again(backplane: Backplane) -> None:
    keys: list[str] = []

    async def agent(turn: Turn) -> AsyncIterator[str]:
        def shaky() -> str:
            keys.append(turn.step_key.split(":")[1])
            if len(keys) == 1:
                raise OSError("no")
            return "yes"

        try:
            await turn.step("shaky", shaky)
        except OSError:
            yield await turn.step("shaky", shaky)

    async with working(backplane, agent):
        await start(backplane)
        assert (await ended(backplane)).fields["full_response"] == "yes"
    assert keys == ["shaky", "shaky#2"]


async def test_steps_that_run_at_the_same_time_know_their_own_keys(backplane: Backplane) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        async def key() -> str:
            await asyncio.sleep(0)
            return turn.step_key.partition(":")[2]

        yield ",".join(await asyncio.gather(turn.step("a", key), turn.step("b", key)))

    async with working(backplane, agent):
        await start(backplane)
        assert (await ended(backplane)).fields["full_response"] == "a,b"


@pytest.mark.parametrize(
    ("name", "result", "error_type"),
    [
        ("a b", 1, "invalid_step"),
        ("", 1, "invalid_step"),
        ("a", object(), "invalid_step"),
        ("a", float("nan"), "invalid_step"),
        ("a", nested(), "invalid_step"),
        ("a", "x" * 1000, "step_too_large"),
    ],
)
async def test_what_cannot_be_recorded_ends_the_turn_with_a_clear_error(
    open_backplane: Any, name: str, result: Any, error_type: str
) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        await turn.step(name, lambda: result)
        yield "x"

    async with open_backplane(max_steps_bytes=900) as backplane, working(backplane, agent):
        await start(backplane)
        assert (await ended(backplane)).fields["error_type"] == error_type


async def test_without_a_worker_steps_run_and_what_they_say_is_kept() -> None:
    turn = Turn("t", "r", "default", "ann", "go", [])

    async def speak() -> str:
        await turn.say("hello")
        return turn.step_key

    assert await turn.step("speak", speak) == "unlinked:speak"
    assert isinstance(turn.link, Unlinked)
    assert turn.link.said == ["hello"]
    with pytest.raises(RuntimeError, match="inside a step"):
        _ = turn.step_key
    with pytest.raises(AgentError):
        await turn.step("no name", speak)
