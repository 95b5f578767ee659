"""Gateways come and go, and the stream goes on at another one."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cli.exits import Exit
from tests.fleet.conditions import eventually
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]
Begin = Callable[[], Conversation]


async def cut(connections: Callable[[], Awaitable[int]], count: int) -> None:
    """Cut so many: one that is still being made anew behind the last cut, as soon as it is there."""
    done = 0

    async def enough() -> bool:
        nonlocal done
        done += await connections()
        return done >= count

    await eventually(enough, f"{count} connections to cut")


async def test_a_client_that_changes_nodes_in_mid_stream_misses_and_doubles_nothing(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("say 120 words")
        watcher = thread.watchers[0]
        for move, words in enumerate((10, 40, 70), start=2):
            await watcher.words(turn, words)
            watcher.move()
            await watcher.arrived(move)
        assert watcher.arrivals == [fleet.urls[n] for n in (0, 1, 0, 1)]
        assert (await thread.ended(turn))["event"] == "chat_done"


async def test_a_client_that_comes_back_after_the_end_is_sent_what_it_missed(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("say 60 words")
        away, other = thread.watchers
        await away.words(turn, 10)
        fleet.gateways[0].signal(signal.SIGSTOP)
        await other.ended(turn)
        fleet.gateways[0].signal(signal.SIGCONT)
        away.move()
        assert (await thread.ended(turn))["event"] == "chat_done"


async def test_clients_of_a_killed_gateway_go_on_at_another(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("say 60 words", held_at=30)
        await thread.words(turn, 20)
        await fleet.gateways[0].kill()
        await thread.watchers[0].arrived(2)
        assert thread.watchers[0].terminal(turn) is None, "the client was to come back while the turn runs"
        thread.let_go()
        assert (await thread.ended(turn))["event"] == "chat_done"
        assert thread.watchers[0].arrivals == fleet.urls


async def test_a_gateway_that_is_told_to_stop_sends_its_clients_away_and_loses_nothing(
    fleet: Fleet, talk: Begin
) -> None:
    async with talk() as thread:
        turn = await thread.say("say 150 words")
        await thread.words(turn, 20)
        fleet.gateways[0].signal(signal.SIGTERM)
        await thread.watchers[0].arrived(2)
        assert await fleet.gateways[0].ended() == 0
        assert (await thread.ended(turn))["event"] == "chat_done"
        assert thread.watchers[0].arrivals == fleet.urls
        assert len(thread.watchers[1].arrivals) == 1


async def test_a_stream_survives_the_loss_of_every_live_connection(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("say 150 words")
        for words in (10, 30, 50, 70, 90):
            await thread.words(turn, words)
            await cut(fleet.cut_live, len(fleet.gateways))
        assert (await thread.ended(turn))["event"] == "chat_done"
        assert [len(watcher.arrivals) for watcher in thread.watchers] == [1, 1]


async def test_a_stream_survives_the_loss_of_every_connection_to_the_store(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("say 150 words")
        for words in (10, 40, 70):
            await thread.words(turn, words)
            await cut(fleet.cut_everything, 2 * len(fleet.members))
        assert (await thread.ended(turn))["event"] == "chat_done"
        assert [len(watcher.arrivals) for watcher in thread.watchers] == [1, 1]


async def test_a_second_signal_ends_a_gateway_though_a_stream_is_open(tmp_path: Path) -> None:
    # the grace is far longer than anybody waits for its end
    async with Fleet(tmp_path, gateways=1, workers=1, settings={"drain_grace": 600}) as fleet:
        (gateway,) = fleet.gateways
        async with Conversation(fleet, "t-1", checked=False) as thread:
            turn = await thread.say("say 20000 words")
            async with fleet.http.stream("GET", f"{gateway.url}/v1/threads/t-1/events") as stream:
                lines = stream.aiter_lines()  # kept: the response would be closed with it
                await anext(lines)
                gateway.signal(signal.SIGTERM)
                await gateway.says("draining")
                gateway.signal(signal.SIGTERM)
                assert await gateway.ended() == Exit.INTERRUPTED
            assert thread.watchers[0].terminal(turn) is None
