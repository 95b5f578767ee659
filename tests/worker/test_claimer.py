"""The claimer on a real store: what becomes of a ring or a claim whose answer does not come, or comes too late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from backplane.connection import Backplane
from backplane.doorbell import Doorbell
from backplane.errors import Internal, Unavailable
from backplane.ids import thread_ref
from backplane.scripts import Call, script
from backplane.turns import Claim, Start
from tests.fleet.proxy import HOST, Proxy
from tests.support.waiting import wait_until
from tests.support.working import working
from worker.claimer import Claimer
from worker.runtime import Worker
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


@pytest.mark.parametrize(
    "error", [RedisConnectionError("cut"), OSError("cut"), Unavailable("away"), Internal("refused")]
)
async def test_an_error_while_it_waits_or_claims_costs_a_pause_and_not_the_claimer(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    claims: list[Claim] = []
    real, failed = backplane.doorbell.wait, 0

    async def wait() -> str | None:
        nonlocal failed
        failed += 1
        if failed == 1:
            raise error
        return await real()

    monkeypatch.setattr("worker.claimer._PAUSE", 0.001)
    monkeypatch.setattr(backplane.doorbell, "wait", wait)
    running = asyncio.create_task(Claimer(backplane, asyncio.Semaphore(1), claims.append).run())
    request_id = await start(backplane)
    await wait_until(lambda: bool(claims), "it claims")
    running.cancel()
    await asyncio.wait([running])
    assert [claim.request_id for claim in claims] == [request_id]


# --- stopping ------------------------------------------------------------------------------------------


@pytest.fixture
async def proxy(valkey: str) -> AsyncIterator[Proxy]:
    """Return what stands between the worker and the store."""
    port = urlsplit(valkey).port
    assert port is not None
    async with Proxy(port) as between:
        yield between


@pytest.fixture
async def beyond(open_backplane: Any, proxy: Proxy) -> AsyncIterator[Backplane]:
    """Return the worker's backplane, behind the proxy."""
    async with open_backplane(redis_url=f"redis://{HOST}:{proxy.port}/0") as opened:
        yield opened


async def blocked(backplane: Backplane, count: int) -> None:
    """Wait until so many clients of the store wait at the doorbell."""

    async def so_many() -> bool:
        return bool((await backplane.redis.info("clients"))["blocked_clients"] == count)

    await wait_until(so_many, f"{count} wait")


async def start(backplane: Backplane) -> str:
    return (await backplane.turns.start(REF, Start("go", "ann", "sid", policy="fail"))).request_id


async def test_a_ring_that_is_on_its_way_to_a_claimer_that_stops_is_rung_for_another(
    backplane: Backplane, beyond: Backplane, proxy: Proxy
) -> None:
    claimer = Claimer(beyond, asyncio.Semaphore(1), lambda claim: None)
    running = asyncio.create_task(claimer.run())
    await blocked(backplane, 1)
    proxy.hole("from")
    request_id = await start(backplane)
    await blocked(backplane, 0)
    running.cancel()
    proxy.close_hole()
    await asyncio.wait([running])
    assert running.cancelled()
    assert claimer.tried == 0
    member = await backplane.doorbell.wait()
    assert member == backplane.keys.thread(REF).member(request_id)
    assert await backplane.turns.claim(member, "another") is not None
    assert (await events(backplane)) == ["chat_accepted", "inference_start"]


async def test_a_claim_that_is_under_way_when_its_claimer_stops_is_given_back(
    backplane: Backplane, beyond: Backplane, proxy: Proxy
) -> None:
    """Its worker went in order, so it is not counted as lost: a turn with the policy `fail` goes on, too."""
    claimer = Claimer(beyond, asyncio.Semaphore(1), lambda claim: None)
    proxy.hold(script("claim").sha.encode())
    running = asyncio.create_task(claimer.run())
    turn = backplane.keys.thread(REF).turn(await start(backplane))
    await proxy.caught()
    proxy.hole("from")
    proxy.let_go()

    async def state() -> list[bytes | None]:
        found: Any = await backplane.redis.hmget(turn, "state", "lost")
        return list(found)

    async def taken() -> bool:
        return await state() == [b"running", b"0"]

    await wait_until(taken, "the claim is done")
    running.cancel()
    proxy.close_hole()
    await asyncio.wait([running])
    assert await state() == [b"ready", b"0"]
    assert claimer.won == 0
    member = await backplane.doorbell.wait()
    assert member is not None
    assert await backplane.turns.claim(member, "another") is not None


@pytest.mark.parametrize("error", [RedisConnectionError("cut"), TimeoutError("hangs"), Unavailable("away")])
async def test_one_that_stops_while_redis_is_away_ends_in_order(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It waits no more then, and its error is not the worker's: the turns that run still have their grace."""

    async def leave() -> None:
        raise error

    monkeypatch.setattr(Doorbell, "BLOCK", 3600.0)
    monkeypatch.setattr(backplane.doorbell, "leave", leave)
    running = asyncio.create_task(Claimer(backplane, asyncio.Semaphore(1), lambda claim: None).run())
    await blocked(backplane, 1)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    await wait_until(lambda: "take" not in {task.get_name() for task in asyncio.all_tasks()}, "nothing waits any more")


async def test_a_claim_that_is_never_answered_keeps_nobody_from_stopping(
    open_backplane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*args: str) -> None:
        raise Unavailable("away")

    async with open_backplane() as backplane:
        claimer = Claimer(backplane, asyncio.Semaphore(1), lambda claim: None)
        with monkeypatch.context() as patched:
            patched.setattr(backplane.turns, "claim", away)
            running = asyncio.create_task(claimer.run())
            await start(backplane)
            await wait_until(lambda: claimer.tried == 1, "it claims")
            # only now: whatever came before would have had to be as quick
            backplane.settings = backplane.settings.model_copy(update={"redis_timeout": 0.1})
            running.cancel()
            await wait_until(running.done, "it has stopped")
        assert running.cancelled()


async def test_a_stopping_worker_gives_what_is_on_its_way_to_another(
    backplane: Backplane, beyond: Backplane, proxy: Proxy
) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(Worker(beyond, agent).run(stop))
    await blocked(backplane, 1)
    proxy.hole("from")
    request_id = await start(backplane)
    await blocked(backplane, 0)
    stop.set()
    proxy.close_hole()
    await running
    assert await backplane.doorbell.wait() == backplane.keys.thread(REF).member(request_id)


async def test_a_worker_that_waits_in_vain_ends_its_wait_at_the_store(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Doorbell, "BLOCK", 3600.0)
    with capture_logs() as lines:
        async with working(backplane, agent):
            await blocked(backplane, 1)
        await blocked(backplane, 0)
    assert [line for line in lines if "claim" in line["event"]] == []
    request_id = await start(backplane)
    assert await backplane.doorbell.wait() == backplane.keys.thread(REF).member(request_id), "the wish is forgotten"
