"""Rows about one turn: its first word, the way back into it, its cancel, and the death of its worker."""

from __future__ import annotations

import asyncio
import random
import time

from scripts.benchmark.bench import Bench
from scripts.benchmark.pace import Plan
from scripts.benchmark.proxy import Proxy
from scripts.benchmark.streaming import Values
from scripts.benchmark.systems import HOST
from scripts.benchmark.tally import Tally, percentile
from scripts.benchmark.threadline import Threadline
from scripts.benchmark.watcher import Target, Watcher

_TALKING = Plan(((50.0, 60.0),))
_SILENT = Plan((), hold=60.0)


def _spread(name: str, seconds: list[float]) -> Values:
    """Return median and 99th percentile in ms; of few samples, the latter is the worst."""
    return {f"{name}_p50": percentile(seconds, 0.5) * 1000, f"{name}_p99": percentile(seconds, 0.99) * 1000}


def _watcher(system: Threadline, node: int, thread: str = "") -> Watcher:
    return Watcher(Target(HOST, system.ports[node], thread), system.style, Tally())


async def first_token(bench: Bench, name: str) -> Values:
    """Measure from a client's `chat:start` to its first delta, 200 times, one after the other."""
    took: list[float] = []
    metadata = {"plan": Plan(((1.0, 1.0),)).as_dict()}
    async with bench.threadline() as (system, _):
        for index in range(bench.count(200, 3)):
            thread = f"first-{index}"
            await system.prepare([thread])
            watcher = _watcher(system, 0, thread)
            await watcher.connect()
            came, begin = watcher.next_delta(), time.time()
            await watcher.call("chat:start", {"thread_id": thread, "message": "go", "metadata": metadata})
            took.append(await came - begin)
            watcher.drop()
            await system.silence([thread])
    return _spread("first", took)


async def reconnect(bench: Bench, name: str) -> Values:
    """Measure from a client's new connection to the first token that it missed, 200 times, at another node."""
    took: list[float] = []
    async with bench.threadline(nodes=2) as (system, _):
        await system.prepare(["again"])
        await system.start_turn("again", Plan(((100.0, 120.0),)))
        watcher = _watcher(system, 1, "again")
        await watcher.connect()
        await watcher.next_delta()
        for _ in range(bench.count(200, 3)):
            watcher.drop()
            await asyncio.sleep(random.uniform(0.05, 0.1))
            came, begin = watcher.next_delta(), time.time()
            await watcher.connect()
            took.append(await came - begin)
        watcher.drop()
    return _spread("missed", took)


async def cancel(bench: Bench, name: str) -> Values:
    """Cancel at another node than the turn was started at; measure until the agent feels it. Talking, and silent."""
    count = bench.count(200, 3)
    async with bench.threadline(nodes=2) as (system, _):
        talking = await _cancels(system, "talking", _TALKING, count)
        silent = await _cancels(system, "silent", _SILENT, count)
    return {**_spread("talking", talking), **_spread("silent", silent)}


async def cancel_cut(bench: Bench, name: str) -> Values:
    """Do the same while nothing that is published reaches the worker: its connections stay open, and say nothing."""
    count = bench.count(20, 3)
    async with Proxy() as proxy, bench.threadline(nodes=2, proxy=proxy) as (system, _):
        await system.prepare(["warm"])
        proxy.cut = True
        talking = await _cancels(system, "talking", _TALKING, count, within=0.8)
        silent = await _cancels(system, "silent", _SILENT, count, within=0.8)
    return {**_spread("talking", talking), **_spread("silent", silent), "swallowed": proxy.swallowed}


async def _cancels(system: Threadline, kind: str, plan: Plan, count: int, within: float = 0.06) -> list[float]:
    """Start and cancel turns one after the other, each at any moment of its first `within` seconds."""
    took: list[float] = []
    caller = _watcher(system, 1)
    await caller.connect()
    for index in range(count):
        thread = f"cancel-{kind}-{index}"
        turn = await system.start_turn(thread, plan)
        await system.notes.wait(turn, "started")
        await asyncio.sleep(random.uniform(0.02, within))  # past its first append
        begin = time.time()
        await caller.call("chat:cancel", {"thread_id": thread, "request_id": turn})
        took.append((await system.notes.wait(turn, "cancelled")).at - begin)
        await system.idle(thread)
    caller.drop()
    return took


async def takeover(bench: Bench, name: str) -> Values:
    """Kill -9 the worker of a running turn; measure until its agent runs again on the other one, 10 times."""
    took: list[float] = []
    async with bench.threadline(workers=2) as (system, _):
        for index in range(bench.count(10, 2)):
            thread = f"takeover-{index}"
            turn = await system.start_turn(thread, _TALKING)
            started = await system.notes.wait(turn, "started")
            await asyncio.sleep(random.uniform(0.1, 0.9))  # at any phase of its heartbeat
            victim = next(process for process in system.processes.of("worker") if process.pid == started.pid)
            begin = time.time()
            await victim.kill()
            took.append((await system.notes.wait(turn, "started", started.attempt + 1)).at - begin)
            await system.silence([thread])
            await system.processes.says(await system.start_worker(), "worker ready")
    return {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99)}
