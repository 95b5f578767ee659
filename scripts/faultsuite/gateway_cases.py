"""Rows 1 and 2: gateways die and leave, and their clients go on elsewhere."""

from __future__ import annotations

import asyncio
import signal

from scripts.faultsuite.case import PATIENCE, Case, Settled, now, thread
from tests.fleet.conditions import eventually
from tests.fleet.fleet import Fleet

_CLIENTS = 10


async def killed(fleet: Fleet) -> list[Settled]:
    """Kill a gateway with clients in mid-stream."""
    async with thread(fleet) as talk:
        turn = await talk.say("say 600 words")
        mine = [talk.watchers[0], *[await talk.watch(0) for _ in range(_CLIENTS - 1)]]
        await talk.words(turn, 20)
        begun = now()
        await fleet.gateways[0].kill()
        for watcher in mine:
            await watcher.arrived(2)
            await watcher.event_after(begun, PATIENCE)
            assert watcher.terminal(turn) is None, "the client was to come back while the turn runs"
        settled = now() - begun
        await talk.ended(turn, PATIENCE)
    return [Settled(f"{_CLIENTS} clients resumed elsewhere", settled, 2.0)]


async def told_to_stop(fleet: Fleet) -> list[Settled]:
    """SIGTERM a gateway with clients in mid-stream."""
    node = fleet.gateways[0]
    async with thread(fleet) as talk:
        turn = await talk.say("say 1000 words")
        mine = [talk.watchers[0], *[await talk.watch(0) for _ in range(_CLIENTS - 1)]]
        await talk.words(turn, 20)
        begun = now()
        node.signal(signal.SIGTERM)
        await eventually(node.says_unready, f"{node.name} to say that it is unready")
        unready = now() - begun
        assert any(len(watcher.arrivals) == 1 for watcher in mine), "it was to be unready before its clients had left"
        await asyncio.gather(*(watcher.arrived(2) for watcher in mine))
        left = now() - begun
        assert await node.ended() == 0
        await talk.ended(turn, PATIENCE)
    return [
        Settled("unready", unready, 1.0),
        Settled(f"{_CLIENTS} clients resumed elsewhere", left, fleet.settings.drain_grace),
    ]


CASES = (
    Case("1", "kill -9 a gateway in mid-stream, its clients move to another", killed),
    Case("2", "SIGTERM a gateway in mid-stream", told_to_stop),
)
