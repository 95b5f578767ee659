"""A worker on a real store: turns run, stop, fail, move on, and are remembered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pytest

from backplane.connection import Backplane
from backplane.events import Event
from backplane.ids import ThreadRef, thread_ref
from backplane.recoverer import Recoverer
from backplane.turns import Start, Started
from tests.support.lapsing import SOON, lapse
from tests.support.waiting import wait_until
from tests.support.working import working
from worker.runtime import Worker
from worker.slot import cut, storable
from worker.turn import (
    Agent,
    AgentError,
    AgentEvent,
    Iteration,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolResult,
    Turn,
    Usage,
)

REF = thread_ref("worker")


@pytest.fixture
def redis_url(valkey: str) -> str:
    """Return the real store's: whole workers on fakeredis would test fakeredis' speed."""
    return valkey


async def start(backplane: Backplane, message: str = "go", **given: Any) -> Started:
    return await backplane.turns.start(REF, Start(message, "ann", "sid", **given))


async def events(backplane: Backplane) -> list[Event]:
    return (await backplane.log.read(REF)).events


def seen(backplane: Backplane, name: str, count: int = 1) -> Callable[[], Any]:
    async def there() -> bool:
        return [event.name for event in await events(backplane)].count(name) >= count

    return there


async def ended(backplane: Backplane, count: int = 1) -> Event:
    """Wait for the terminal event number `count`."""

    async def over() -> bool:
        return sum(e.name in {"chat_done", "chat_error"} for e in await events(backplane)) >= count

    await wait_until(over, "the turn ends")
    return [e for e in await events(backplane) if e.name in {"chat_done", "chat_error"}][count - 1]


async def test_every_kind_of_event_reaches_the_log_in_order(backplane: Backplane) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
        yield Iteration(1)
        yield Thinking("hm")
        yield ToolArgs('{"a":', "c1", "clock")
        yield ToolCall("clock", {"a": 1}, "c1")
        yield ToolResult("clock", "noon", "c1")
        yield Text("It is ", round=2)
        yield Text("", round=2)
        yield Text("noon.", round=2)
        yield Usage(3, 4, "m")

    async with working(backplane, agent):
        await start(backplane)
        last = await ended(backplane)
    found = await events(backplane)
    assert [e.name for e in found[:7]] == [
        "chat_accepted", "inference_start", "iteration_start", "thinking_delta", "tool_args_delta", "tool_call",
        "tool_result",
    ]  # fmt: skip
    assert "".join(e.fields["delta"] for e in found if e.name == "text_delta") == "It is noon."
    assert last.fields["full_response"] == "It is noon."
    assert last.fields["usage"] == {"input_tokens": 3, "output_tokens": 4, "model": "m"}
    assert [e.fields["seq"] for e in found] == list(range(len(found)))


async def test_history_holds_every_earlier_turn_on_any_worker(open_backplane: Any) -> None:
    """Invariant 8, with local copies on two workers at once: whoever takes a turn sees the same history."""
    histories: list[tuple[str, list[tuple[Any, ...]]]] = []

    def remembering(name: str) -> Agent:
        async def agent(turn: Turn) -> AsyncIterator[str]:
            histories.append((name, [(m.role, m.content, m.request_id, m.ts) for m in turn.history]))
            yield f"{name} heard {turn.message}"

        return agent

    async with (
        open_backplane(node_id="a") as one,
        open_backplane(node_id="b") as two,
        working(one, remembering("a")),
        working(two, remembering("b")),
    ):

        async def both_wait() -> bool:
            return bool((await one.redis.info("clients"))["blocked_clients"] == 2)

        await wait_until(both_wait, "both wait at the doorbell")
        for number in range(12):
            await start(one, f"m{number}")
            await ended(one, number + 1)
        _, stored = await one.sessions.history(REF, most=100)
    whole = [(m["role"], m["content"], m["request_id"], m["ts"]) for m in stored]
    assert {name for name, _ in histories} == {"a", "b"}
    for number, (_, history) in enumerate(histories):
        assert history == whole[: number * 2]


async def test_a_local_copy_is_used_and_dropped_when_the_session_moved_on_elsewhere(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    histories: list[int] = []
    real = backplane.sessions.history

    async def counted(*args: Any, **given: Any) -> Any:
        nonlocal reads
        reads += 1
        return await real(*args, **given)

    async def agent(turn: Turn) -> AsyncIterator[str]:
        histories.append(len(turn.history))
        yield "ok"

    monkeypatch.setattr(backplane.sessions, "history", counted)
    async with working(backplane, agent):
        for number in range(3):
            await start(backplane)
            await ended(backplane, number + 1)
        assert reads == 1
        await backplane.redis.hincrby(backplane.keys.thread(REF).thread, "session_version", 1)
        await start(backplane)
        await ended(backplane, 4)
    assert reads == 2
    assert histories == [0, 2, 4, 6]


async def test_a_silent_agent_is_cancelled_as_fast_as_one_that_talks(open_backplane: Any) -> None:
    """By the push: neither the next word nor the next heartbeat is waited for."""
    stopped = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[str]:
        try:
            yield "thinking"
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with open_backplane(heartbeat=3600.0, lease=7200.0) as backplane, working(backplane, agent):
        started = await start(backplane)
        await wait_until(seen(backplane, "text_delta"), "it talks")
        cancelled = await backplane.turns.cancel(REF, "ann", started.request_id)
        assert cancelled.cancelled
        await stopped.wait()
        fields = (await ended(backplane)).fields
        assert (fields["error_type"], fields["stopped"]) == ("cancelled", "cooperative")


async def test_a_cancel_arrives_although_its_push_is_lost(open_backplane: Any) -> None:
    """The heartbeat hears the verdict."""

    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "silent from now on"
        await asyncio.Event().wait()

    async with open_backplane(heartbeat=0.02) as backplane, working(backplane, agent) as worker:
        worker._canceller.heard = lambda message: None  # type: ignore[method-assign]
        started = await start(backplane)
        await wait_until(seen(backplane, "text_delta"), "it talks")
        await backplane.turns.cancel(REF, "ann", started.request_id)
        assert (await ended(backplane)).fields["error_type"] == "cancelled"


async def test_an_agent_that_ignores_its_cancellation_cannot_hold_the_thread(open_backplane: Any) -> None:
    async def stubborn(turn: Turn) -> AsyncIterator[str]:
        yield "no"
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    released = asyncio.Event()
    # no recoverer: on a machine that is slow it would end the turn first, and say so in another way
    settings = {"cancel_grace": 0.1, "recover_interval": 3600.0}
    async with open_backplane(**settings) as backplane, working(backplane, stubborn) as worker:
        await start(backplane)
        await wait_until(seen(backplane, "text_delta"), "it talks")
        await backplane.turns.cancel(REF, "ann")
        fields = (await ended(backplane)).fields
        assert (fields["error_type"], fields["stopped"]) == ("cancelled", "hard")
        assert fields["cancel_requested_ms"] <= fields["cancel_seen_ms"] <= fields["cancel_stopped_ms"]
        await wait_until(lambda: worker.turns == 0, "its slot is free")
        released.set()
    assert [e.name for e in await events_of(open_backplane)][-1] == "chat_error"


async def events_of(open_backplane: Any) -> list[Event]:
    async with open_backplane() as backplane:
        return await events(backplane)


async def test_an_agent_that_fails_ends_its_turn_without_its_own_words(backplane: Backplane) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "half"
        raise RuntimeError("password=hunter2")

    async with working(backplane, agent):
        await start(backplane)
        last = await ended(backplane)
    assert (last.fields["error_type"], last.fields["error_source"]) == ("agent_error", "agent")
    assert "hunter2" not in last.text
    _, messages = await backplane.sessions.history(REF)
    assert (messages[-1]["content"], messages[-1]["interrupted"]) == ("half", True)


async def test_an_agents_own_error_is_shown_as_it_said(backplane: Backplane) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        raise AgentError("Come back.", error_type="rate_limited", source="provider", retryable=True, retry_after_ms=9)
        yield ""

    async with working(backplane, agent):
        await start(backplane)
        fields = (await ended(backplane)).fields
    assert {k: v for k, v in fields.items() if k.startswith(("error_", "message"))} == {
        "message": "Come back.",
        "error_type": "rate_limited",
        "error_source": "provider",
        "error_retryable": True,
        "error_retry_after_ms": 9,
    }


async def test_an_agent_that_cancels_itself_is_not_taken_for_a_cancelled_turn(backplane: Backplane) -> None:
    """Our own cancellation is told from the world's."""

    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "x"
        raise asyncio.CancelledError

    async with working(backplane, agent):
        await start(backplane)
        assert (await ended(backplane)).fields["error_type"] == "agent_error"


async def test_what_is_not_an_event_ends_the_turn_with_a_clear_error(backplane: Backplane) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield 42

    async with working(backplane, agent):
        await start(backplane)
        assert "int" in (await ended(backplane)).fields["message"]


NOT_JSON: dict[str, Any] = {
    "an exception for a message": AgentError(ValueError("password=hunter2")),  # type: ignore[arg-type]  # as agents do
    "half a pair in a message": AgentError("half \ud83d"),
    "a number of no kind that JSON knows": AgentError("later", retry_after_ms=Decimal(9)),  # type: ignore[arg-type]
    "half a pair in a usage": Usage(model="\ud83d"),
    "a decimal in a usage": Usage(input_tokens=Decimal(1)),  # type: ignore[arg-type]
    "no number in a usage": Usage(output_tokens=float("nan")),  # type: ignore[arg-type]
    "bytes for a text": Text(b"bytes"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("ends", NOT_JSON.values(), ids=NOT_JSON)
async def test_an_agent_whose_words_are_not_json_fails_once_and_harms_nobody(backplane: Backplane, ends: Any) -> None:
    """Its worker would fail at the end of the turn, and the whole agent would run again when its lease had lapsed."""
    attempts: list[int] = []

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        attempts.append(turn.attempt)
        yield "half"
        if isinstance(ends, AgentError):
            raise ends
        yield ends

    async with working(backplane, agent) as worker:
        await start(backplane)
        last = await ended(backplane)
        await wait_until(lambda: worker.turns == 0, "its slot is free")
    assert (last.name, last.fields["error_type"], last.fields["error_source"]) == ("chat_error", "agent_error", "agent")
    assert "hunter2" not in last.text
    assert attempts == [1]
    _, messages = await backplane.sessions.history(REF)
    assert (messages[-1]["content"], messages[-1]["interrupted"]) == ("half", True)


@pytest.mark.parametrize(
    "said",
    ["x" * 100, Thinking("é" * 50), ToolArgs("x" * 100, "c1"), ToolCall("look", {"at": "x" * 90}, "c1")],
    ids=["text", "thinking", "args", "calls"],
)
async def test_an_answer_that_grows_without_end_is_stopped(open_backplane: Any, said: str | AgentEvent) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
        while True:
            yield said

    async with open_backplane(max_answer_bytes=1000, max_thinking_bytes=1000) as backplane, working(backplane, agent):
        await start(backplane)
        assert (await ended(backplane)).fields["error_type"] == "answer_too_large"


async def test_arguments_that_were_streamed_are_counted_once(open_backplane: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[AgentEvent]:
        for number in range(3):
            yield ToolArgs(f'{{"at":"{"x" * 200}"}}', f"c{number}")
            yield ToolCall("look", {"at": "x" * 200}, f"c{number}")

    async with open_backplane(max_thinking_bytes=1000) as backplane, working(backplane, agent):
        await start(backplane)
        assert (await ended(backplane)).name == "chat_done"


async def test_a_lost_worker_is_replaced_and_clients_are_told_to_drop_the_partial_text(open_backplane: Any) -> None:
    """The first worker stops beating, as if stopped; the second takes over; the first's late words are refused."""
    resumed = asyncio.Event()

    async def sleeper(turn: Turn) -> AsyncIterator[str]:
        yield "lost "
        await resumed.wait()
        yield "late"

    async def healthy(turn: Turn) -> AsyncIterator[str]:
        yield f"attempt {turn.attempt}"

    async with (
        open_backplane(**SOON, lease=7200.0, heartbeat=3600.0, slots=1, node_id="one") as one,
        open_backplane(**SOON, node_id="two") as two,
    ):
        async with working(one, sleeper) as first:
            first._canceller.heard = lambda message: None  # type: ignore[method-assign]  # as a stopped process
            started = await start(one)
            await wait_until(seen(one, "text_delta"), "the first worker talks")
            await lapse(one, REF, started.request_id)
            async with working(two, healthy):
                last = await ended(two)
                resumed.set()
                await wait_until(lambda: first.turns == 0, "the first worker notices")
        names = [e.name for e in await events(two)]
        assert names.count("turn_restarted") == 1
        assert last.fields["full_response"] == "attempt 2"
        assert names[-1] == "chat_done"
        assert not any("late" in e.text for e in await events(two))


async def test_an_agent_hears_at_its_next_safe_point_what_the_person_adds(backplane: Backplane) -> None:
    """And once: the second asking gives nothing, and the next turn finds it in the history."""
    histories: list[list[tuple[str, bool]]] = []

    async def agent(turn: Turn) -> AsyncIterator[str]:
        histories.append([(m.content, m.steer) for m in turn.history])
        yield "a"
        await go_on.wait()
        yield ",".join(await turn.steers())
        yield ",".join(await turn.steers())

    go_on = asyncio.Event()
    async with working(backplane, agent):
        await start(backplane, "one")
        await wait_until(seen(backplane, "text_delta"), "it talks")
        for text in ("left", "right"):
            assert (await start(backplane, text, queue_mode="steer")).lane == "steer"
        go_on.set()
        assert (await ended(backplane)).fields["full_response"] == "aleft,right"
        await start(backplane, "two")
        await ended(backplane, 2)
    assert histories == [[], [("one", False), ("left", True), ("right", True), ("aleft,right", False)]]


async def test_two_parts_of_an_agent_that_ask_at_once_share_what_the_person_adds(backplane: Backplane) -> None:
    """Mutant: both are given the same message, and what comes next is passed over."""

    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        await first.wait()
        one, other = await asyncio.gather(turn.steers(), turn.steers())
        yield ",".join(one + other)
        await second.wait()
        yield ",".join(await turn.steers())

    first, second = asyncio.Event(), asyncio.Event()
    async with working(backplane, agent):
        await start(backplane, "one")
        await wait_until(seen(backplane, "text_delta"), "it talks")
        await start(backplane, "left", queue_mode="steer")
        first.set()
        await wait_until(seen(backplane, "text_delta", 2), "it was told")
        await start(backplane, "right", queue_mode="steer")
        second.set()
        assert (await ended(backplane)).fields["full_response"] == "aleftright"


async def test_a_parallel_turn_sees_the_fork_and_keeps_no_copy_of_the_session(backplane: Backplane) -> None:
    histories: dict[str, list[str]] = {}

    async def agent(turn: Turn) -> AsyncIterator[str]:
        histories[turn.message] = [m.content for m in turn.history]
        yield f"re {turn.message}"
        if turn.message == "two":
            await go_on.wait()

    go_on = asyncio.Event()
    async with working(backplane, agent):
        await start(backplane, "one")
        await ended(backplane)
        await start(backplane, "two")
        await wait_until(seen(backplane, "text_delta", 2), "the primary turn talks")
        await start(backplane, "aside", queue_mode="parallel")
        assert (await ended(backplane, 2)).fields["full_response"] == "re aside"
        go_on.set()
        await ended(backplane, 3)
        await start(backplane, "three")
        await ended(backplane, 4)
    assert histories["aside"] == ["one", "re one", "two"]
    assert histories["three"] == ["one", "re one", "two", "re two"]


async def test_context_reaches_the_agent_marked_as_such(backplane: Backplane) -> None:
    found: list[tuple[str, bool]] = []

    async def agent(turn: Turn) -> AsyncIterator[str]:
        found.extend((m.content, m.context) for m in turn.history)
        yield "ok"

    async with working(backplane, agent):
        await start(backplane, "the light is green", queue_mode="collect")
        await start(backplane, "may I go?")
        await ended(backplane)
    assert found == [("the light is green", True)]


async def test_a_worker_that_claims_its_own_lost_turn_again_stops_the_old_attempt(open_backplane: Any) -> None:
    """After an outage of Redis it may hear of the takeover only by its own new claim."""
    attempts: list[int] = []
    stopped: list[int] = []

    async def agent(turn: Turn) -> AsyncIterator[str]:
        attempts.append(turn.attempt)
        try:
            yield f"attempt {turn.attempt}"
            if turn.attempt == 1:
                await asyncio.Event().wait()
        finally:
            stopped.append(turn.attempt)

    settings = SOON | {"lease": 7200.0, "heartbeat": 3600.0}
    async with open_backplane(**settings) as backplane, working(backplane, agent) as worker:
        worker._canceller.heard = lambda message: None  # type: ignore[method-assign]
        started = await start(backplane)
        await wait_until(seen(backplane, "text_delta"), "the first attempt talks")
        await lapse(backplane, REF, started.request_id)
        assert (await ended(backplane)).fields["full_response"] == "attempt 2"
        await wait_until(lambda: sorted(stopped) == [1, 2], "the old attempt is stopped")
        await wait_until(lambda: worker.turns == 0, "its slot is free")


async def test_a_stopping_worker_finishes_what_it_can(open_backplane: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        talking.set()
        await go_on.wait()
        yield "b"

    talking, go_on = asyncio.Event(), asyncio.Event()
    async with open_backplane() as backplane:
        async with working(backplane, agent):
            await start(backplane)
            await talking.wait()
            asyncio.get_running_loop().call_soon(go_on.set)
        assert (await ended(backplane)).fields["full_response"] == "ab"


async def test_a_stopping_worker_hands_back_what_it_cannot_finish(open_backplane: Any) -> None:
    """And the turn is ready at once, not after its lease."""

    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        await asyncio.Event().wait()

    async with open_backplane(drain_grace=0.01) as backplane:
        async with working(backplane, agent):
            started = await start(backplane)
            await wait_until(seen(backplane, "text_delta"), "it talks")
        assert await backplane.turns.lanes(REF, "ann") == (started.request_id, "ready", [])


async def test_a_worker_takes_no_more_turns_than_it_has_slots(open_backplane: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        await go_on.wait()

    go_on = asyncio.Event()
    async with open_backplane(slots=2) as backplane, working(backplane, agent) as worker:
        for number in range(4):
            await backplane.turns.start(thread_ref(f"slot-{number}"), Start("go", "ann", "sid"))
        await wait_until(lambda: worker.turns == 2, "two run")
        assert await backplane.redis.llen(backplane.keys.doorbell) == 2
        go_on.set()

        async def all_rung() -> bool:
            return await backplane.redis.llen(backplane.keys.doorbell) == 0 and worker.turns == 0

        await wait_until(all_rung, "the others follow")


async def test_a_worker_that_has_taken_its_turns_lets_them_end_and_stops(open_backplane: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        await go_on.wait()

    go_on, never = asyncio.Event(), asyncio.Event()
    async with open_backplane(slots=4, max_turns=2, drain_grace=0.05) as backplane:
        worker = Worker(backplane, agent)
        running = asyncio.create_task(worker.run(never))
        for number in range(3):
            await backplane.turns.start(thread_ref(f"most-{number}"), Start("go", "ann", "sid"))
        await wait_until(lambda: worker.turns == 2, "two run")
        assert not running.done()
        go_on.set()
        await running
        states = [(await backplane.turns.lanes(thread_ref(f"most-{number}"), "ann"))[1] for number in range(3)]
        assert sorted(states) == ["idle", "idle", "ready"]
        assert (worker.claimer.tried, worker.claimer.won) == (2, 2)


async def test_a_worker_that_is_told_to_stop_during_its_last_turns_keeps_to_the_grace(open_backplane: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        await asyncio.Event().wait()

    stop = asyncio.Event()
    async with open_backplane(max_turns=1, drain_grace=0.05) as backplane:
        worker = Worker(backplane, agent)
        running = asyncio.create_task(worker.run(stop))
        started = await backplane.turns.start(REF, Start("go", "ann", "sid"))
        await wait_until(lambda: worker.turns == 1, "it runs")
        stop.set()
        await running
        assert await backplane.turns.lanes(REF, "ann") == (started.request_id, "ready", [])


async def nothing_is_due(recoverer: Recoverer) -> int:
    """Ring again for nobody: where two seconds are over before all have been claimed, that costs claims."""
    return 0


async def test_waiting_turns_are_claimed_without_one_claim_in_vain(
    open_backplane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "a"

    monkeypatch.setattr(Recoverer, "look", nothing_is_due)
    async with open_backplane(slots=2) as backplane, open_backplane(slots=2) as another:
        for number in range(30):
            await backplane.turns.start(thread_ref(f"claim-{number}"), Start("go", "ann", "sid"))
        async with working(backplane, agent) as one, working(another, agent) as two:
            claimers = one.claimer, two.claimer
            await wait_until(lambda: sum(claimer.won for claimer in claimers) == 30, "all are claimed")
        assert sum(claimer.tried for claimer in claimers) == 30


async def test_workers_are_shared_between_tenants_by_weight(
    open_backplane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind all that wait of two tenants, the one of another is begun among the first; weight 3 gets its share."""

    async def agent(turn: Turn) -> AsyncIterator[str]:
        begun.append(turn.tenant)
        yield "a"

    begun: list[str] = []
    monkeypatch.setattr(Recoverer, "look", nothing_is_due)
    async with open_backplane(slots=1, tenant_weights={"heavy": 3}) as backplane:
        for tenant, count in (("many", 30), ("heavy", 40), ("one", 1)):
            for number in range(count):
                await backplane.turns.start(ThreadRef(tenant, f"t{number}"), Start("go", "ann", "sid"))
        async with working(backplane, agent):
            await wait_until(lambda: len(begun) >= 41, "turns are begun")
    assert "one" in begun[:6]
    assert 27 <= begun[:41].count("heavy") <= 33


async def test_a_long_silent_turn_shows_that_its_worker_lives(open_backplane: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        await go_on.wait()
        yield "done"

    go_on = asyncio.Event()
    settings = {"inference_heartbeat": 0.02, "heartbeat": 0.02}
    async with open_backplane(**settings) as backplane, working(backplane, agent):
        await start(backplane)
        await wait_until(seen(backplane, "inference_heartbeat", 2), "it shows life")
        go_on.set()
        await ended(backplane)


async def test_a_turn_survives_connections_that_are_killed(backplane: Backplane) -> None:
    """CLIENT KILL of everybody, several times in one answer: nothing lost, nothing doubled."""

    async def agent(turn: Turn) -> AsyncIterator[str]:
        for number in range(60):
            yield f"{number} "
            if number % 20 == 10:
                await backplane.redis.client_kill_filter(_type="normal", skipme=True)
                backplane.live.reconnect()
            await asyncio.sleep(0)

    async with working(backplane, agent):
        await start(backplane)
        last = await ended(backplane)
    text = "".join(e.fields["delta"] for e in await events(backplane) if e.name == "text_delta")
    assert text == last.fields["full_response"] == "".join(f"{n} " for n in range(60))


def test_a_long_output_is_cut_at_a_character_with_a_marker() -> None:
    assert cut("short", 100) == "short"
    assert cut("ääää", 5) == "ää… [cut: 4 bytes of 8 left out]"
    assert cut("a\ud800", 100) == "a?"


def test_half_a_character_pair_becomes_something_that_can_be_stored() -> None:
    assert storable("a\ud83db") == "a?b"
