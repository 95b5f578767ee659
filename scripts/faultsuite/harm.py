"""Does what a schedule says, and undoes it: what is killed comes back, what is cut heals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from scripts.faultsuite.case import AN_APPEND, PATIENCE, now
from scripts.faultsuite.schedule import EVERYBODY, STORE, Planned
from tests.fleet.fleet import Fleet, Member
from tests.fleet.proxy import Proxy

_DELAY = 0.05
"""Seconds that each piece is late on a delayed way."""


class Harm:
    """Hurts a fleet, one fault on one target at a time.

    Args:
        cut_clients: cuts the sockets of every client.
    """

    def __init__(self, fleet: Fleet, cut_clients: Callable[[], None]) -> None:
        self.done = 0
        """Faults that were done."""
        self.wrong: list[str] = []
        """What no fault explains: members that ended by themselves."""
        self._fleet = fleet
        self._cut_clients = cut_clients
        self._busy: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(self, plan: Sequence[Planned]) -> None:
        """Do all of a schedule; a target that still suffers from the fault before is spared."""
        begun = now()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            doing = []
            for planned in plan:
                await asyncio.sleep(max(0.0, begun + planned.at - now()))
                if not self._busy[planned.target].locked():
                    doing.append(group.create_task(self._do(planned), name=str(planned)))
            await asyncio.gather(*doing)
            watching.cancel()

    async def _do(self, planned: Planned) -> None:
        async with self._busy[planned.target]:
            self.done += 1
            if planned.target == STORE:
                await self._hurt_store(planned)
            elif planned.target == EVERYBODY:
                await self._hurt_everybody(planned)
            else:
                member = next(one for one in self._fleet.members if one.name == planned.target)
                await self._hurt(member, planned)

    async def _hurt_store(self, planned: Planned) -> None:
        store = self._fleet.store
        if planned.fault == "kill -9":
            await self._fleet.kill_store()
            await asyncio.sleep(planned.seconds)
            await store.restart()
            return
        os.kill(store.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(planned.seconds)
        finally:
            os.kill(store.pid, signal.SIGCONT)

    async def _hurt_everybody(self, planned: Planned) -> None:
        if planned.fault == "clients' sockets cut":
            self._cut_clients()
            return
        # through a connection that is not among those to be killed; a store that is down has none to kill
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await (
                    self._fleet.cut_live() if planned.fault == "CLIENT KILL pubsub" else self._fleet.cut_everything()
                )

    async def _hurt(self, member: Member, planned: Planned) -> None:
        if planned.fault == "kill -9":
            await member.kill()
            await asyncio.sleep(planned.seconds)
            await member.start()
        elif planned.fault == "SIGTERM":
            came_up = member.node_id in "".join(line for line in member.said.splitlines() if " ready " in line)
            member.signal(signal.SIGTERM)
            code = await member.ended(PATIENCE)
            if code and came_up:
                self.wrong.append(f"{member.name} ended with code {code} when it was told to stop")
            await asyncio.sleep(planned.seconds)
            await member.start()
        elif planned.fault == "SIGSTOP":
            member.signal(signal.SIGSTOP)
            await asyncio.sleep(planned.seconds)
            member.signal(signal.SIGCONT)
        else:
            assert member.proxy is not None
            await _ON_THE_WAY[planned.fault](member.proxy)
            await asyncio.sleep(planned.seconds)
            await member.proxy.heal()

    async def _watch(self) -> None:
        """Start members again that ended although nobody hurt them, and remember that they did."""
        while True:
            for member in self._fleet.members:
                if not member.living and not self._busy[member.name].locked():
                    code = member.process.returncode
                    self.wrong.append(f"{member.name} ended by itself with code {code}: {member.said[-1500:]}")
                    await member.start()
            await asyncio.sleep(0.2)


async def _hole(way: Proxy) -> None:
    way.hole()


async def _answers_lost(way: Proxy) -> None:
    way.swallowed = frozenset({"from"})


async def _commands_lost(way: Proxy) -> None:
    way.swallowed = frozenset({"to"})


async def _delayed(way: Proxy) -> None:
    way.delay = _DELAY


async def _deaf(way: Proxy) -> None:
    way.lose = lambda channel, message: b":canary:" not in channel


async def _hold(way: Proxy) -> None:
    way.hold(AN_APPEND)


_ON_THE_WAY: dict[str, Callable[[Proxy], Awaitable[None]]] = {
    "reset and refused": lambda way: way.refuse(),
    "black hole": _hole,
    "answers lost": _answers_lost,
    "commands lost": _commands_lost,
    "delayed": _delayed,
    "pub/sub lost": _deaf,
    "an append held": _hold,
}
