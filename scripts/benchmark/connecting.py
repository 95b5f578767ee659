"""Rows about coming and coming back: joins, storms, memory, and a thousand clients that resume one answer."""

from __future__ import annotations

import asyncio
from statistics import median
from typing import Any

from scripts.benchmark.bench import Bench
from scripts.benchmark.clients import Clients
from scripts.benchmark.pace import Plan
from scripts.benchmark.streaming import Values, names
from scripts.benchmark.systems import HOST
from scripts.benchmark.threadline import Threadline
from scripts.benchmark.watcher import Target

_SOCKETS_OF_A_THREAD = 10
_IN_FLIGHT = 64
_SETTLE = 1.0
"""Seconds in which a node frees what a handshake needed."""


async def storm(bench: Bench, name: str) -> Values:
    """Drop 4,000 sockets of one node at once; measure until the last one is subscribed again."""
    sockets = bench.count(4000, 10)
    talking = names(max(1, sockets // _SOCKETS_OF_A_THREAD))
    async with bench.system(name) as (system, clients):
        await system.prepare(talking)
        await clients.open(system.targets(talking, sockets))
        await asyncio.sleep(_SETTLE)
        return {"seconds": await clients.storm()}


async def joins(bench: Bench, name: str) -> Values:
    """Measure how many new connections a second one node takes in, each joining a thread, and what each costs it."""
    sockets = bench.count(2000, 10)
    talking = names(max(1, sockets // _SOCKETS_OF_A_THREAD))
    async with bench.system(name) as (system, clients):
        await system.prepare(talking)
        node = system.gateways[0]
        await clients.open(system.targets(talking, bench.count(100)), in_flight=_IN_FLIGHT)
        before = node.cpu
        took, _ = await clients.open(system.targets(talking, sockets), in_flight=_IN_FLIGHT)
        joined = node.cpu
        await clients.close()
        await asyncio.sleep(_SETTLE)
        closed = node.cpu
        await clients.open([Target(HOST, system.ports[0], "")] * sockets, in_flight=_IN_FLIGHT)
        return {
            "joins": sockets / took,
            "join_cpu": (joined - before) / sockets * 1000,
            "connect_cpu": (node.cpu - closed) / sockets * 1000,
        }


async def memory(bench: Bench, name: str) -> Values:
    """Measure what a node's memory grows by for each of 2,000 sockets that joined a thread and are idle."""
    sockets = bench.count(2000, 10)
    talking = names(max(1, sockets // _SOCKETS_OF_A_THREAD))
    async with bench.system(name) as (system, clients):
        await system.prepare(talking)
        # the first ones make a process load and allocate what all later ones share
        await clients.open(system.targets(talking, bench.count(200)))
        await asyncio.sleep(_SETTLE)
        before = system.gateways[0].memory
        await clients.open(system.targets(talking, sockets))
        await asyncio.sleep(_SETTLE)
        return {"kilobytes": (system.gateways[0].memory - before) / sockets / 1024}


async def mass_resume(bench: Bench, name: str) -> Values:
    """Let 1,000 sockets come back at once to a running answer whose 1,000 deltas they all missed."""
    sockets, thread = bench.count(1000, 10), "bench"
    plan = Plan(((500.0, 2.0),), hold=120.0)
    async with bench.threadline(COALESCE=0) as (system, clients):
        await system.prepare([thread])
        begin = (await system.thread(thread))["offset"]
        await system.start_turn(thread, plan)
        await asyncio.sleep(plan.seconds)
        now = await _quiet(system, thread)
        port, epoch, top = system.ports[0], now["epoch"], now["offset"]
        connecting = [Target(HOST, port, "")] * sockets
        joining = [Target(HOST, port, thread, epoch, top)] * sockets
        resuming = [Target(HOST, port, thread, epoch, begin)] * sockets
        took: dict[str, list[float]] = {"connect": [], "join": [], "resume": []}
        used: dict[str, list[float]] = {"connect": [], "join": [], "resume": []}
        most = 0
        for _ in range(3):
            for kind, targets in (("connect", connecting), ("join", joining), ("resume", resuming)):
                before = system.gateways[0].cpu
                seconds, frames = await _open(clients, targets)
                used[kind].append(system.gateways[0].cpu - before)
                took[kind].append(seconds)
                most = max(most, frames)
        tally = await clients.tally()
    return {
        "over": median(took["resume"]) - median(took["connect"]),
        "over_joining": median(took["resume"]) - median(took["join"]),
        "cpu_over": median(used["resume"]) - median(used["connect"]),
        "connecting": median(took["connect"]),
        "frames": most,
        "entries": top - begin,
        "lost": tally.lost,
        "told": tally.told,
    }


async def _open(clients: Clients, targets: list[Target]) -> tuple[float, int]:
    """Connect and drop; return the seconds that the connecting took, and the most frames that one missed."""
    seconds, frames = await clients.open(targets)
    await clients.close()
    await asyncio.sleep(_SETTLE)
    return seconds, max(frames)


async def _quiet(system: Threadline, thread: str) -> dict[str, Any]:
    """Wait until a thread's log grows no more."""
    before = None
    while (now := await system.thread(thread))["offset"] != before:
        before = now["offset"]
        await asyncio.sleep(0.3)
    return now
