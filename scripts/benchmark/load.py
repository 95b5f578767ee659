"""The process of the clients: thousands of watchers, told what to do by the conductor."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from scripts.benchmark.peers import run, serve
from scripts.benchmark.tally import Tally
from scripts.benchmark.watcher import Refused, Target, Watcher

_TRIES = 50


class Load:
    """All watchers of one process, and what they counted together."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._watchers: list[Watcher] = []
        self._retries = 0

    async def open(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Connect and join watchers, `in_flight` at once; answer how long it took (seconds)."""
        fresh = [
            Watcher(Target(*target), asked["style"], self._tally, returns=asked["returns"])
            for target in asked["targets"]
        ]
        self._watchers += fresh
        took = await self._connect(fresh, asked["in_flight"])
        return {"seconds": took, "retries": self._retries, "frames": [watcher.frames_to_join for watcher in fresh]}

    async def storm(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Drop all watchers at once, and bring them back; answer how long that took."""
        for watcher in self._watchers:
            watcher.drop()
        took = await self._connect(self._watchers, asked["in_flight"])
        return {"seconds": took, "retries": self._retries}

    async def tally(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Answer the counts since the last `reset`; with `tops`, who is not at the end of its thread yet."""
        tops: dict[str, int] = asked.get("tops", {})
        missing = [tops.get(watcher.target.thread, 0) - watcher.last for watcher in self._watchers]
        self._tally.behind = sum(count > 0 for count in missing)
        if asked.get("final"):
            # nothing more will come: what a watcher has not got by now was lost without a word
            self._tally.lost += sum(count for count in missing if count > 0)
        return {"tally": self._tally.as_dict(), "at": time.monotonic()}

    async def reset(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Begin to count anew."""
        for name, value in Tally().as_dict().items():
            setattr(self._tally, name, value)
        return {}

    async def close(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Drop all watchers for good."""
        for watcher in self._watchers:
            watcher.drop()
        self._watchers.clear()
        return {}

    async def _connect(self, watchers: list[Watcher], in_flight: int) -> float:
        self._retries = 0
        waiting = iter(watchers)
        begin = time.monotonic()

        async def one_after_the_other() -> None:
            for watcher in waiting:
                await self._persist(watcher.connect)

        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(one_after_the_other())
        return time.monotonic() - begin

    async def _persist(self, connect: Callable[[], Awaitable[None]]) -> None:
        for left in reversed(range(_TRIES)):
            try:
                await connect()
                return
            except (OSError, Refused):
                if not left:
                    raise
                self._retries += 1
                await asyncio.sleep(random.uniform(0.05, 0.2))


async def main() -> None:
    """Serve the conductor until it goes."""
    load = Load()
    gc.freeze()
    gc.disable()  # nothing here makes cycles, and a pause would look like the server's latency
    await serve({"open": load.open, "storm": load.storm, "tally": load.tally, "reset": load.reset, "close": load.close})


if __name__ == "__main__":
    run(main)
