"""The store dies and comes back, and what was acknowledged is still there."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest

from tests.fleet.conditions import eventually
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet, Member
from tests.fleet.watcher import Watcher
from threadline_client import NodeChange, connect

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]
Begin = Callable[[], Conversation]


async def test_a_stream_goes_on_when_the_store_was_killed_and_is_back(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("say 150 words")
        await thread.words(turn, 20)
        await fleet.kill_store()
        asking = asyncio.create_task(thread.say("how many messages?", node=1, queue_mode="followup"))
        for gateway in fleet.gateways:
            await eventually(gateway.says_unready, f"{gateway.name} to say that it is unready")
        await fleet.store.restart()
        assert (await thread.ended(turn))["event"] == "chat_done"
        assert "number 2" in (await thread.ended(await asking))["full_response"]
        for gateway in fleet.gateways:
            await gateway.ready()
        assert [len(watcher.arrivals) for watcher in thread.watchers] == [1, 1]


async def test_a_restart_of_everything_keeps_the_history_and_the_running_turn(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        named = await thread.say("my name is Ada")
        await thread.ended(named)
        turn = await thread.say("say 80 words", node=1)
        await thread.words(turn, 20)
        for member in fleet.members:
            await member.kill()
        await fleet.kill_store()
        await fleet.heal()
        assert (await thread.ended(turn))["event"] == "chat_done"
        after = await thread.say("what is my name?")
        assert (await thread.ended(after))["full_response"] == "Your name is Ada."
        assert all(len(watcher.arrivals) >= 2 for watcher in thread.watchers)


async def test_a_stream_goes_on_when_the_store_hung_for_longer_than_a_lease(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("say 150 words")
        await thread.words(turn, 20)
        os.kill(fleet.store.pid, signal.SIGSTOP)
        try:
            for gateway in fleet.gateways:
                await eventually(gateway.says_unready, f"{gateway.name} to say that it is unready")
        finally:
            os.kill(fleet.store.pid, signal.SIGCONT)
        assert (await thread.ended(turn))["event"] == "chat_done"
        for gateway in fleet.gateways:
            await gateway.ready()


@asynccontextmanager
async def listening(fleet: Fleet) -> AsyncIterator[list[list[str]]]:
    """Connect a client to each gateway; return what each was told of Redis, as it comes."""
    told: list[list[str]] = [[] for _ in fleet.gateways]

    def noted(number: int) -> Callable[[NodeChange], None]:
        return lambda change: told[number].append(change.state)

    async with AsyncExitStack() as stack:
        for number, gateway in enumerate(fleet.gateways):
            await stack.enter_async_context(connect([str(gateway.url)], on_change=noted(number)))
        yield told


async def were_told(told: list[list[str]]) -> None:
    """Wait until all were told of the loss and of the return, each once, or once more each on a busy machine."""

    async def restored() -> bool:
        return all(changes[-1] == "restored" for changes in told)

    await eventually(restored, "every client to be told that the store is back")
    for changes in told:
        assert changes == ["connected", *["degraded", "restored"] * (len(changes) // 2)]


async def said_often(worker: Member, words: str, times: int) -> None:
    """Wait until a worker has printed some words so many times more."""
    before = worker.said.count(words)

    async def often() -> bool:
        return worker.said.count(words) >= before + times

    await eventually(often, f"{worker.name} to say {words!r} {times} times")


async def test_a_turn_goes_on_in_its_own_worker_through_ten_seconds_without_the_store(
    fleet: Fleet, talk: Begin
) -> None:
    """Its lease has lapsed long ago, for want of a renewal: the owner comes first, and sends what it held back."""
    assert fleet.settings.redis_timeout == 5, "two appends that time out are ten seconds"
    async with talk() as thread, listening(fleet) as told:
        turn = await thread.say("say 1600 words")
        await thread.words(turn, 20)
        owner = await fleet.owner(thread.thread_id, turn)
        os.kill(fleet.store.pid, signal.SIGSTOP)
        try:
            await said_often(owner, "appends are held back", 2)
        finally:
            os.kill(fleet.store.pid, signal.SIGCONT)
        assert (await thread.ended(turn))["event"] == "chat_done"
        assert "turn_restarted" not in await thread.events(turn)
        assert (await fleet.turn(thread.thread_id, turn))["worker"] == owner.node_id
        await were_told(told)


async def test_a_turn_goes_on_in_its_own_worker_when_the_store_was_killed_for_longer_than_a_lease(
    fleet: Fleet, talk: Begin
) -> None:
    async with talk() as thread, listening(fleet) as told:
        turn = await thread.say("say 900 words")
        await thread.words(turn, 20)
        owner = await fleet.owner(thread.thread_id, turn)
        await fleet.kill_store()
        # a beat that fails is tried again after 0.2 s and more
        await said_often(owner, "a heartbeat failed", math.ceil(2 * fleet.settings.lease / 0.2))
        await fleet.store.restart()
        assert (await thread.ended(turn))["event"] == "chat_done"
        assert "turn_restarted" not in await thread.events(turn)
        await were_told(told)


async def test_clients_are_told_when_the_store_lost_the_thread(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("say 20000 words")
        await thread.words(turn, 20)
        before = thread.acknowledged[0].epoch
        await fleet.lose_store()
        thread.lost()
        await thread.say("how many messages?", node=1)
        await fleet.idle(thread.thread_id)
        assert "number 1" in (await fleet.session(thread.thread_id))[-1]["content"]
        for watcher in thread.watchers:
            # whoever is told behind the end of the turn finds it in its snapshot
            await eventually(partial(_segments, watcher, 2), "it to be told")
            assert [segment.epoch for segment in watcher.transcript.segments] == [before, thread.acknowledged[0].epoch]


async def _segments(watcher: Watcher, count: int) -> bool:
    return len(watcher.transcript.segments) == count
