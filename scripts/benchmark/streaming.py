"""Rows about answers that stream: what an event costs, how many one node delivers, how fast, and what is lost."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass

from scripts.benchmark.bench import Bench, settled
from scripts.benchmark.clients import Clients
from scripts.benchmark.pace import Plan, due
from scripts.benchmark.peers import Peer
from scripts.benchmark.processes import Role
from scripts.benchmark.systems import HOST, SOON, System, python
from scripts.benchmark.tally import Tally
from scripts.benchmark.threadline import Threadline
from scripts.benchmark.watcher import Target

Values = dict[str, float]
_PER = 100_000
_START, _IDLE = 0.5, 2.0
"""Seconds in which a process finishes its start, and for which it is then left alone."""
_RATE = 100
"""Deltas a second of one thread: a fast language model."""
_TALK = 10
"""Seconds that they talk: the beginning and the end of the turns, which the others have not, weigh little then."""


def names(count: int) -> list[str]:
    """Return the names of so many threads."""
    return [f"bench-{index}" for index in range(count)]


@dataclass(slots=True)
class Flow:
    """What went through a system, and what it cost."""

    deltas: float
    """Deltas said that arrived at sockets, however they were merged."""
    frames: int
    cpu: dict[Role, float]
    """Processor seconds of all processes of a role."""


async def stream(bench: Bench, system: System, clients: Clients, threads: int) -> Flow:
    """Let threads talk at 100 deltas a second for 10 seconds, each watched by one socket; wait until all is there."""
    talking = names(threads)
    plan = Plan(((_RATE, bench.seconds(_TALK)),))
    await system.prepare(talking)
    await clients.open(system.targets(talking, threads))
    await clients.reset()
    roles: tuple[Role, ...] = ("gateway", "store", "worker")
    before = {role: system.processes.cpu(role) for role in roles}
    await system.flood(talking, plan)
    await asyncio.sleep(SOON + plan.seconds)
    tally, _ = await settled(clients, plan.deltas * plan.letters * threads)
    cpu = {role: system.processes.cpu(role) - before[role] for role in roles}
    return Flow(tally.letters / plan.letters, tally.frames, cpu)


async def whole_system(bench: Bench, name: str) -> Values:
    """Measure what all processes of a system together use for an event: 16 threads, 1 and 4 nodes."""
    values: Values = {}
    threads = 16
    for nodes in (1, 4):
        async with bench.system(name, nodes) as (system, clients):
            flow = await stream(bench, system, clients, threads)
            spent = sum(flow.cpu.values())
            values[f"delta_{nodes}"] = spent / flow.deltas * _PER
            values[f"frame_{nodes}"] = spent / flow.frames * _PER
            for role, cpu in flow.cpu.items():
                values[f"{role}_{nodes}"] = cpu / flow.deltas * _PER
    if name in (Threadline.name, "stock"):
        values["agents"] = await agents_alone(bench, threads)
    return values


async def agents_alone(bench: Bench, threads: int) -> float:
    """Return the processor seconds that those who talk use for 100,000 deltas when nobody takes these from them.

    They wait for the next word and say it: the load, in the process of the worker or of stock's publisher.
    """
    plan = Plan(((_RATE, bench.seconds(_TALK / 2)),), start_at=time.time() + SOON)

    async def speak() -> int:
        return sum([count async for count in due(plan)])

    begin = time.process_time()
    said = sum(await asyncio.gather(*(speak() for _ in range(threads))))
    return (time.process_time() - begin) / said * _PER


async def growth(bench: Bench, name: str) -> Values:
    """Measure what the gateways alone use, when the same 8 threads are spread over 1, 2, 4 and 8 nodes."""
    values: Values = {}
    for nodes in (1, 2, 4, 8):
        async with bench.system(name, nodes) as (system, clients):
            values["idle"] = await _idle(system) / nodes
            flow = await stream(bench, system, clients, 8)
            values[f"nodes_{nodes}"] = flow.cpu["gateway"] / flow.deltas * _PER
    values["growth"] = values["nodes_8"] / values["nodes_1"]
    return values


async def _idle(system: System) -> float:
    """Return the ms of processor time that all gateways together use in a second in which nothing happens."""
    await asyncio.sleep(_START)
    before = system.processes.cpu("gateway")
    await asyncio.sleep(_IDLE)
    return (system.processes.cpu("gateway") - before) / _IDLE * 1000


# --- how much one node delivers ------------------------------------------------------------------------------

_THREADS = 4
_FIRST, _FASTER, _STEPS, _STEP = 4_000, 1.4, 13, 1.5
"""The ramp: delivered deltas a second at first, its growth, how many steps, and seconds of each."""
_SAMPLE = 0.5
_WINDOW = 3
"""Samples over which a rate is averaged."""
_FALLEN_BEHIND = 0.85


@dataclass(slots=True)
class _Sample:
    at: float
    letters: int
    frames: int
    cpu: float


async def saturated(bench: Bench, name: str) -> Values:
    """Raise the load of one node until it falls behind: 400 sockets on 4 threads, each delta a frame of its own."""
    values = await _saturate(bench, name, bench.count(400, _THREADS), _THREADS, _FIRST, COALESCE=0)
    bench.capacity[name] = values["deltas"]
    return values


async def _saturate(bench: Bench, name: str, sockets: int, threads: int, first: float, **settings: object) -> Values:
    """Raise the load, from `first` delivered deltas a second on, and return the rates at the best moment."""
    talking = names(threads)
    rates = [first * _FASTER**step for step in range(_STEPS)]
    plan = Plan(tuple((rate / sockets, _STEP) for rate in rates), apart=True, pipelined=True)
    async with bench.system(name, **settings) as (system, clients):  # type: ignore[arg-type]
        await system.prepare(talking)
        await clients.open(system.targets(talking, sockets))
        await clients.reset()
        await system.flood(talking, plan)
        await asyncio.sleep(SOON)
        values = await _ramp(system, clients, plan, rates)
        await system.silence(talking)
    return values


async def _ramp(system: System, clients: Clients, plan: Plan, rates: list[float]) -> Values:
    begin, behind = time.monotonic(), 0
    best: Values = {"deltas": 0.0}
    samples: deque[_Sample] = deque(maxlen=_WINDOW + 1)
    while behind < 2 * _WINDOW and (step := int((time.monotonic() - begin) / _STEP)) < len(rates):
        await asyncio.sleep(_SAMPLE)
        tally = await clients.tally()
        samples.append(_Sample(time.monotonic(), tally.letters, tally.frames, system.processes.cpu("gateway")))
        if len(samples) <= _WINDOW:
            continue
        values = _rates(samples[0], samples[-1], plan)
        if values["deltas"] > best["deltas"]:
            best = values
        behind = behind + 1 if values["deltas"] < _FALLEN_BEHIND * rates[step] / _FASTER else 0
    return best


def _rates(first: _Sample, last: _Sample, plan: Plan) -> Values:
    took = last.at - first.at
    deltas, cpu = (last.letters - first.letters) / plan.letters, last.cpu - first.cpu
    return {
        "deltas": deltas / took,
        "frames": (last.frames - first.frames) / took,
        "core": cpu / took,
        "per_core": deltas / cpu if cpu else 0.0,
    }


# --- how fast ------------------------------------------------------------------------------------------------

_CROWD, _SLOW, _LISTEN = 1000, 10.0, 8.0
"""Sockets on one thread, its events a second, and seconds."""


async def fan_out(bench: Bench, name: str) -> Values:
    """Measure from the agent's mouth to each of 1,000 sockets that watch one thread, at 10 events a second."""
    values = await _fan_out(bench, name, COALESCE=0)
    if name == Threadline.name:
        gathered = await _fan_out(bench, name)
        values |= {"p50_gathered": gathered["p50"], "p99_gathered": gathered["p99"]}
        values |= await _floor(bench)
    return values


async def _floor(bench: Bench) -> Values:
    """Measure the same of a server that does nothing but write a frame to each socket, from its own mouth."""
    sockets = bench.count(_CROWD, 10)
    plan = Plan(((_SLOW, bench.seconds(_LISTEN)),), timed=True)
    server = await Peer.start(python("scripts.benchmark.trivial_server"))
    try:
        port = (await server.ask("listen"))["port"]
        async with Clients(bench.load_processes, "plain") as clients:
            await clients.open([Target(HOST, port, "bench-0")] * sockets)
            wrote = await server.ask("talk", plan=plan.as_dict())
            tally, _ = await settled(clients, plan.deltas * plan.letters * sockets)
    finally:
        await server.close()
    return {
        "floor_p50": tally.percentile(0.5),
        "floor_p99": tally.percentile(0.99),
        "floor_write_p50": wrote["p50"],
        "floor_write_p99": wrote["p99"],
    }


async def _fan_out(bench: Bench, name: str, **settings: object) -> Values:
    sockets, thread = bench.count(_CROWD, 10), names(1)
    plan = Plan(((_SLOW, bench.seconds(_LISTEN)),), timed=True)
    async with bench.system(name, **settings) as (system, clients):  # type: ignore[arg-type]
        await system.prepare(thread)
        await clients.open(system.targets(thread, sockets))
        await clients.reset()
        await system.flood(thread, plan)
        await asyncio.sleep(SOON + plan.seconds)
        tally, _ = await settled(clients, plan.deltas * plan.letters * sockets)
    return {"p50": tally.percentile(0.5), "p99": tally.percentile(0.99)}


# --- what is lost --------------------------------------------------------------------------------------------

_OVERLOAD = 2.4
_ONE_EACH = "stock, one socket a thread"
"""The name of the capacity that `overload-same` is measured by."""


async def overload(bench: Bench, name: str) -> Values:
    """Offer one node 2.4 times what it can deliver for 15 s; then count what never came, and nobody was told of."""
    if name not in bench.capacity:
        await saturated(bench, name)
    sockets = bench.count(400, _THREADS)
    return await _overload(bench, name, sockets, _THREADS, bench.capacity[name], apart=True, COALESCE=0)


async def overload_same(bench: Bench, name: str) -> Values:
    """Offer every system 2.4 times what a stock node can deliver for 15 s: 100 threads, one socket each."""
    sockets = bench.count(100, _THREADS)
    if _ONE_EACH not in bench.capacity:
        bench.capacity[_ONE_EACH] = (await _saturate(bench, "stock", sockets, sockets, _FIRST / 8))["deltas"]
    return await _overload(bench, name, sockets, sockets, bench.capacity[_ONE_EACH])


async def _overload(
    bench: Bench,
    name: str,
    sockets: int,
    threads: int,
    capacity: float,
    *,
    apart: bool = False,
    **settings: object,
) -> Values:
    talking = names(threads)
    plan = Plan(((_OVERLOAD * capacity / sockets, bench.seconds(15)),), apart=apart, pipelined=True)
    letters = plan.deltas * plan.letters * sockets
    async with bench.system(name, **settings) as (system, clients):  # type: ignore[arg-type]
        await system.prepare(talking)
        await clients.open(system.targets(talking, sockets), returns=True)
        await clients.reset()
        await system.flood(talking, plan)
        began = time.monotonic() + SOON
        await asyncio.sleep(SOON + plan.seconds)
        in_time = await clients.tally()
        _, ended = await settled(clients, letters)
        tally = await _caught_up(system, clients, talking)
    return {
        "lost": tally.lost,
        "doubled": tally.doubled,
        "told": tally.told,
        "closed": tally.closed,
        "capacity": capacity,
        "in_time": in_time.letters / letters,
        "arrived": tally.letters / letters,
        "catch_up": max(0.0, ended - began - plan.seconds),
    }


async def _caught_up(system: System, clients: Clients, talking: list[str]) -> Tally:
    tops = await system.tops(talking)
    tally = await clients.tally(tops)
    for _ in range(50):
        if not tally.behind:
            break
        await asyncio.sleep(0.1)
        tops = await system.tops(talking)
        tally = await clients.tally(tops)
    return await clients.tally(tops, final=True)
