"""The store dies and comes back, and what was acknowledged is still there."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from tests.fleet.conditions import eventually
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet

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


async def test_clients_are_told_when_the_store_lost_the_thread(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("say 20000 words")
        await thread.words(turn, 20)
        before = thread.acknowledged[0].epoch
        await fleet.lose_store()
        thread.lost()
        again = await thread.say("how many messages?", node=1)
        assert "number 1" in (await thread.ended(again))["full_response"]
        for watcher in thread.watchers:
            assert [segment.epoch for segment in watcher.transcript.segments] == [before, thread.acknowledged[0].epoch]
