"""Rows 6 to 10, 18 and 22: the store dies, forgets, hangs, is out of reach, full, and loses what it publishes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

from scripts.faultsuite.cancel_cases import deaf
from scripts.faultsuite.case import AN_APPEND, PATIENCE, Case, Run, Settled, now, thread
from scripts.faultsuite.worker_cases import ELSEWHERE
from tests.fleet.conditions import eventually
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet, Member
from tests.fleet.proxy import Direction, Proxy
from tests.fleet.watcher import caller

AGAIN = 1.0
"""Seconds from the return of the store to the next event at a client."""
_TALKING = "say 20000 words"
"""It goes on until it is cancelled, however slow the machine is."""


def _proxy(member: Member) -> Proxy:
    assert member.proxy is not None
    return member.proxy


async def _next_event(talk: Conversation, since: float) -> float:
    """Return how long after a moment the slowest client was sent an event."""
    slowest = 0.0
    for watcher in talk.watchers:
        await watcher.event_after(since, PATIENCE)
        slowest = max(slowest, next(at for at in watcher.times if at > since) - since)
    return slowest


def killed_for(seconds: float) -> Run:
    """Return the row that kills the store and brings it back with its append-only file after some time."""

    async def killed(fleet: Fleet) -> list[Settled]:
        async with thread(fleet) as talk:
            turn = await talk.say(_TALKING)
            await talk.words(turn, 20)
            waiting = await talk.say("how many messages?", node=1, queue_mode="followup")
            await fleet.kill_store()
            asking = asyncio.create_task(talk.say("how many messages?", node=0, queue_mode="followup"))
            await asyncio.sleep(seconds)
            await fleet.store.restart()
            delivered = await _next_event(talk, now())
            await asking
            await talk.cancel(turn, node=1)
            await talk.ended(waiting, PATIENCE)
        return [Settled("the next event at a client, from its return", delivered, AGAIN)]

    return killed


async def forgotten(fleet: Fleet) -> list[Settled]:
    """Kill the store in mid-turn, and bring it back with nothing in it."""
    async with thread(fleet) as talk:
        turn = await talk.say("say 20000 words")
        await talk.words(turn, 20)
        before = talk.acknowledged[0].epoch
        await fleet.lose_store()
        begun = now()
        talk.lost()
        again = await talk.say("how many messages?", node=1)
        for watcher in talk.watchers:
            await watcher.told_of_a_loss(PATIENCE)
        told = now() - begun
        assert "number 1" in (await talk.ended(again, PATIENCE))["full_response"]
        for watcher in talk.watchers:
            epochs = [segment.epoch for segment in watcher.transcript.segments]
            assert epochs == [before, talk.acknowledged[0].epoch], f"expected the old epoch and the new, got {epochs}"
    return [Settled("every client told of the new epoch", told, ELSEWHERE)]


def _cutting(cut: Callable[[Fleet], Awaitable[int]], times: int) -> Run:
    async def cutting(fleet: Fleet) -> list[Settled]:
        async with thread(fleet) as talk:
            turn = await talk.say("say 600 words")
            begun = now()
            for number in range(1, times + 1):
                await talk.words(turn, 80 * number)
                await fleet.listens()
                assert await cut(fleet), "there were no connections to cut"
            await talk.ended(turn, PATIENCE)
            silence = max(watcher.silence(begun) for watcher in talk.watchers)
            assert [len(watcher.arrivals) for watcher in talk.watchers] == [1] * len(talk.watchers)
        return [Settled("longest silence at a client", silence, fleet.settings.poll_interval)]

    return cutting


# --- row 9 ---------------------------------------------------------------------------------------------------


async def _unready(gateway: Member, since: float) -> float:
    await eventually(gateway.says_unready, f"{gateway.name} to say that it is unready", PATIENCE)
    return now() - since


def _probes(fleet: Fleet) -> float:
    return 2 * fleet.settings.canary_interval + 0.3


async def refused(fleet: Fleet) -> list[Settled]:
    """Reset all connections of one node to the store, and refuse new ones for 2 s."""
    return await _node_alone(fleet, 2.0, lambda proxy: proxy.refuse())


async def black_hole(fleet: Fleet) -> list[Settled]:
    """Let nothing pass between one node and the store for 3 s, and break no connection."""

    async def hole(proxy: Proxy) -> None:
        proxy.hole()

    return await _node_alone(fleet, 3.0, hole)


_DEAF = 2.0
"""Seconds until a node that hears nothing is unready, at the defaults: several of its canaries must have been lost."""


async def hears_nothing(fleet: Fleet) -> list[Settled]:
    """Lose everything that is published on its way to one node for 3 s, and nothing else."""

    async def lose(proxy: Proxy) -> None:
        proxy.lose = lambda channel, message: True

    return await _node_alone(fleet, 3.0, lose, _DEAF)


async def _node_alone(
    fleet: Fleet, seconds: float, harm: Callable[[Proxy], Awaitable[None]], bound: float = 0.0
) -> list[Settled]:
    node, proxy = fleet.gateways[0], _proxy(fleet.gateways[0])
    async with thread(fleet) as talk:
        turn = await talk.say(_TALKING)
        await talk.words(turn, 20)
        begun = now()
        await harm(proxy)
        unready = await _unready(node, begun)
        await asyncio.sleep(max(0.0, begun + seconds - now()))
        await proxy.heal()
        delivered = await _next_event(talk, now())
        await node.ready()
        await talk.cancel(turn, node=1)
    return [
        Settled("its node unready", unready, bound or _probes(fleet)),
        Settled("the next event at its client, from the way's return", delivered, AGAIN),
    ]


async def frozen(fleet: Fleet) -> list[Settled]:
    """Stop the store for 8 s."""
    async with thread(fleet) as talk:
        turn = await talk.say(_TALKING)
        await talk.words(turn, 20)
        begun = now()
        os.kill(fleet.store.pid, signal.SIGSTOP)
        try:
            unready = max(await asyncio.gather(*(_unready(gateway, begun) for gateway in fleet.gateways)))
            await asyncio.sleep(max(0.0, begun + 8 - now()))
        finally:
            os.kill(fleet.store.pid, signal.SIGCONT)
        delivered = await _next_event(talk, now())
        for gateway in fleet.gateways:
            await gateway.ready()
        await talk.cancel(turn, node=1)
    return [
        Settled("both nodes unready", unready, _probes(fleet)),
        Settled("the next event at a client, from its return", delivered, AGAIN),
    ]


async def worker_alone(fleet: Fleet) -> list[Settled]:
    """Let nothing pass between a worker and the store until its turn runs elsewhere; then what it had sent arrives."""
    async with thread(fleet) as talk:
        turn = await talk.say("say 500 words")
        await talk.words(turn, 40)
        worker = await fleet.owner(talk.thread_id, turn)
        begun = now()
        _proxy(worker).hole()
        await fleet.attempt(talk.thread_id, turn, 2)
        settled = now() - begun
        _proxy(worker).close_hole()
        await worker.says("turn lost to another owner", turn)
        # to its end: only a whole answer shows a word too much
        assert (await talk.ended(turn, PATIENCE))["event"] == "chat_done"
    return [Settled("running elsewhere", settled, ELSEWHERE)]


def replies_lost(direction: Direction, name: str) -> Run:
    """Return the row in which one direction between a worker, or a node, and the store loses everything for 1 s."""

    async def lost(fleet: Fleet) -> list[Settled]:
        async with thread(fleet) as talk:
            turn = await talk.say(_TALKING)
            await talk.words(turn, 20)
            member = await fleet.owner(talk.thread_id, turn) if name == "worker" else fleet.gateways[0]
            _proxy(member).swallowed = frozenset({direction})
            sending = asyncio.create_task(talk.say("how many messages?", node=0, queue_mode="followup"))
            await asyncio.sleep(1.0)
            await _proxy(member).heal()
            delivered = await _next_event(talk, now())
            await talk.cancel(turn, node=1)
            await talk.ended(await sending, PATIENCE)
            taken = (await talk.accepted()).count("how many messages?")
            assert taken == 1, f"one message was sent, and {taken} were taken"
        return [Settled("the next event at a client, from the way's return", delivered, ELSEWHERE)]

    return lost


# --- rows 10 and 22 ------------------------------------------------------------------------------------------


_POLLS = 20
"""Intervals of the poll after which an end counts as never told: one is enough, on a machine that has time."""


async def end_lost(fleet: Fleet) -> list[Settled]:
    """Lose the live message that holds the end of a turn, at every node."""
    async with thread(fleet) as talk:
        await talk.ended(await talk.say("hello"))  # from here on it is watched: a replay loses nothing
        had = [_proxy(gateway).lost for gateway in fleet.gateways]
        for gateway in fleet.gateways:
            _proxy(gateway).lose = lambda channel, message: b"\nchat_done " in message
        turn = await talk.say("say 60 words")
        await fleet.idle(talk.thread_id)
        begun = now()
        for watcher in talk.watchers:
            await watcher.ended(turn, _POLLS * fleet.settings.poll_interval)
        settled = now() - begun
        lost = [_proxy(gateway).lost for gateway in fleet.gateways]
        assert all(map(int.__lt__, had, lost)), "the end was to be lost on its way"
    return [Settled("the end at every client", settled, fleet.settings.poll_interval + 0.3)]


async def everything_lost(fleet: Fleet) -> list[Settled]:
    """Lose everything that is published but the canaries, from before a turn to behind its end."""
    async with thread(fleet) as talk:
        await talk.ended(await talk.say("hello"))
        with deaf(fleet):
            turn = await talk.say("say 200 words")
            await fleet.idle(talk.thread_id)
            begun = now()
            for watcher in talk.watchers:
                await watcher.ended(turn, _POLLS * fleet.settings.poll_interval)
            settled = now() - begun
    return [Settled("the end at every client", settled, fleet.settings.poll_interval + 0.3)]


async def trimmed(fleet: Fleet) -> list[Settled]:
    """Trim the log while a client is away."""
    async with thread(fleet) as talk:
        turn = await talk.say("say 100 words")
        away = talk.watchers[0]
        await away.words(turn, 10)
        async with caller(fleet.urls[1]) as by:
            fleet.gateways[0].signal(signal.SIGSTOP)
            await talk.watchers[1].ended(turn)
            for _ in range(3):
                ack = await by.start(talk.thread_id, "how many messages?", delay_ms=0)
                await talk.watchers[1].ended(ack["request_id"])
            await talk.trim(5)
        begun = now()
        fleet.gateways[0].signal(signal.SIGCONT)
        away.move()
        await away.told_of_a_loss()
        settled = now() - begun
    return [Settled("told `recovered: false`, with a snapshot", settled, AGAIN + 1.0)]


async def held_append(fleet: Fleet) -> list[Settled]:
    """Hold one append on its way for a second, while the heartbeats pass."""
    async with thread(fleet) as talk:
        turn = await talk.say("say 400 words")
        await talk.words(turn, 20)
        way = _proxy(await fleet.owner(talk.thread_id, turn))
        way.hold(AN_APPEND)
        async with asyncio.timeout(PATIENCE):
            await way.caught()
        await asyncio.sleep(1.0)
        way.let_go()
        delivered = await _next_event(talk, now())
        assert (await talk.ended(turn, PATIENCE))["event"] == "chat_done"
        assert "turn_restarted" not in await talk.events(turn), "its heartbeats passed: nobody was to take it over"
    return [Settled("the next event at a client", delivered, AGAIN)]


# --- row 18 --------------------------------------------------------------------------------------------------

_FULL = 2.0
"""Seconds for which the store has no room."""


async def full(fleet: Fleet) -> list[Settled]:
    """Let the store reach its bound of memory in mid-turn, and have room again 2 s later."""
    async with thread(fleet) as talk:
        turn = await talk.say(_TALKING)
        await talk.words(turn, 20)
        begun = now()
        await fleet.redis.config_set("maxmemory", int((await fleet.redis.info("memory"))["used_memory"]) // 2)
        try:
            for node, url in enumerate(fleet.urls):
                async with caller(url) as by:
                    answer = await by.call("chat:start", thread_id=talk.thread_id, message=f"lost {node}")
                code = (answer.get("error") or {}).get("code")
                assert (answer["ok"], code) == (False, "unavailable"), f"the start was to be refused: {answer}"
            refused = now() - begun
            sending = asyncio.create_task(talk.say("how many messages?", node=0, queue_mode="followup"))
            await asyncio.sleep(max(0.0, begun + _FULL - now()))
        finally:
            await fleet.redis.config_set("maxmemory", 0)
        delivered = await _next_event(talk, now())
        await talk.cancel(turn, node=1)
        await talk.ended(await sending, PATIENCE)
        assert await talk.accepted() == [_TALKING, "how many messages?"], "what was refused was to leave nothing"
    return [
        Settled("a start at each node answered `unavailable`", refused, 2 * fleet.settings.redis_timeout),
        Settled("the next event at a client, from there being room", delivered, AGAIN),
    ]


CASES = (
    Case("6a", "kill -9 the store with its append-only file, back after 1 s", killed_for(1)),
    Case("6b", "the same, back after 20 s", killed_for(20)),
    Case("7", "kill -9 the store without persistence", forgotten),
    Case("8a", "CLIENT KILL TYPE pubsub, five times", _cutting(lambda fleet: fleet.cut_live(), 5)),
    Case("8b", "CLIENT KILL every connection, twice", _cutting(lambda fleet: fleet.cut_everything(), 2)),
    Case("9a", "a node's connections to the store reset, and refused for 2 s", refused),
    Case("9b", "a node's way to the store a black hole for 3 s", black_hole),
    Case("9c", "SIGSTOP the store for 8 s", frozen),
    Case("9d", "a worker's way to the store a black hole beyond its lease", worker_alone),
    Case("9e", "the store's answers to a worker lost for 1 s, the commands done", replies_lost("from", "worker")),
    Case("9f", "the store's answers to a node lost for 1 s, the commands done", replies_lost("from", "node")),
    Case("9g", "an append is held on its way for 1 s", held_append),
    Case("9h", "everything that is published to a node lost for 3 s, its canaries too", hears_nothing),
    Case("10a", "the message with the end of a turn lost at every node", end_lost),
    Case("10b", "everything that is published lost, for a whole turn", everything_lost),
    Case("18", "the store at its bound of memory for 2 s in mid-turn", full),
    Case("22", "the log trimmed while a client was away", trimmed),
)
