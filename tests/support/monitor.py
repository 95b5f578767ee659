"""What a real server is asked: every command, those inside of scripts too, as MONITOR shows them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

import backplane
from backplane.ids import new_id
from backplane.scripts import script

_SETUP = ("CLIENT", "SELECT", "HELLO", "AUTH")
"""What a new connection begins with: whether one is needed depends on what else goes on."""


class Monitor:
    """Watches one server, with a connection that looks and one that marks where a look ends."""

    def __init__(self, watching: Any, marking: Redis) -> None:
        self._watching = watching
        self._marking = marking

    async def during(self, act: Callable[[], Awaitable[object]]) -> list[str]:
        """Return the kinds of the commands that came while something was done, in order: `HGET`, `EVALSHA read` …"""
        await self._marked()
        await act()
        kinds = [_kind(*said) for said in await self._marked()]
        return [kind for kind in kinds if kind not in _SETUP]

    async def _marked(self) -> list[tuple[str, str]]:
        """Return `(who sent it, command)` of everything up to now."""
        mark = new_id()
        # what was on its way on other connections when the first one was sent is done before the second one
        for number in range(2):
            await self._marking.echo(f"{mark} {number}")
        said: list[tuple[str, str]] = []
        while True:
            one = await self._watching.next_command()
            if f"{mark} 1" in one["command"]:
                return said
            if mark not in one["command"]:
                said.append((one["client_type"], one["command"]))


def _kind(sender: str, command: str) -> str:
    words = command.split(" ", 2)
    name = words[0].upper()
    if name == "EVALSHA":
        name += f" {_scripts().get(words[1], words[1])}"
    return f"  {name}" if sender == "lua" else name


@cache
def _scripts() -> dict[str, str]:
    folder = Path(backplane.__file__).parent / "lua"
    return {script(path.stem).sha: path.stem for path in folder.glob("*.lua")}


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[Monitor]:
    """Watch a server for the length of this block."""
    client: Redis = Redis.from_url(url, protocol=2)
    marking: Redis = Redis.from_url(url, protocol=2)
    async with client, marking, client.monitor() as monitor:
        await marking.ping()
        yield Monitor(monitor, marking)
