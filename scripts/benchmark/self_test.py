"""Proves that the client is not the bottleneck: how many events a second it takes from a server that does nothing."""

from __future__ import annotations

import asyncio
import sys
import time

from scripts.benchmark.clients import Clients
from scripts.benchmark.peers import Peer
from scripts.benchmark.systems import HOST, python
from scripts.benchmark.watcher import Target

ENOUGH = 200_000
"""Events a second: more than any node delivers."""
SOCKETS = 4
JOINS = 1000
TRIES = 3


async def client_rate(load_processes: int = 1) -> float:
    """Return how many events a second the load processes take; the best of some tries.

    Raises:
        RuntimeError: the client counted other events than were sent.
    """
    return max([await _events(load_processes) for _ in range(TRIES)])


async def client_joins(load_processes: int = 1) -> float:
    """Return how many connections a second the load processes open, when nobody keeps them waiting."""
    server = await Peer.start(python("scripts.benchmark.trivial_server"))
    try:
        port = (await server.ask("listen"))["port"]
        async with Clients(load_processes, "plain") as clients:
            took, _ = await clients.open([Target(HOST, port, "bench-0")] * JOINS, in_flight=64)
    finally:
        await server.close()
    return JOINS / took


async def _events(load_processes: int) -> float:
    server = await Peer.start(python("scripts.benchmark.trivial_server"))
    try:
        port = (await server.ask("listen"))["port"]
        async with Clients(load_processes, "plain") as clients:
            await clients.open([Target(HOST, port, f"bench-{index}") for index in range(SOCKETS)])
            begin = time.monotonic()
            sent = (await server.ask("flood"))["events"]
            while (tally := await clients.tally()).frames < sent:
                await asyncio.sleep(0.01)
                if time.monotonic() - begin > 30:
                    break
            took = time.monotonic() - begin
    finally:
        await server.close()
    if (tally.frames, tally.lost, tally.doubled) != (sent, 0, 0):
        print(f"sent {sent}, counted {tally}", file=sys.stderr)
        raise RuntimeError("the client miscounts: expected every event of the self-test once")
    return float(tally.frames / took)
