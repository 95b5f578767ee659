"""What stands for the worker of a stock system: a process that emits to rooms by a write-only AsyncRedisManager.

Started as `python -m scripts.benchmark.stock_publisher REDIS_URL`, and told what to say over its standard input.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import defaultdict
from typing import Any

import socketio  # type: ignore[import-untyped]  # the library has no types

from scripts.benchmark.pace import Plan, due, word
from scripts.benchmark.peers import run, serve


class Pipelined(socketio.AsyncRedisManager):  # type: ignore[misc]  # likewise
    """The same messages, many in one round trip. Its own publisher could not keep one stock node busy."""

    def __init__(self, redis_url: str) -> None:
        super().__init__(redis_url, write_only=True)
        self._waiting: list[str] = []
        self._some = asyncio.Event()
        self._flushing: asyncio.Task[None] | None = None

    async def _publish(self, data: dict[str, Any]) -> None:
        self._waiting.append(self.json.dumps(data))
        self._some.set()
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        self._redis_connect()
        while True:
            await self._some.wait()
            self._some.clear()
            now, self._waiting = self._waiting, []
            async with self.redis.pipeline(transaction=False) as pipe:
                for message in now:
                    pipe.publish(self.channel, message)
                await pipe.execute()


class Publisher:
    """Talks in many threads at once."""

    def __init__(self, redis_url: str) -> None:
        self._manager = socketio.AsyncRedisManager(redis_url, write_only=True)
        self._pipelined = Pipelined(redis_url)
        self._tops: dict[str, int] = defaultdict(int)
        self._talking: set[asyncio.Task[None]] = set()

    async def flood(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Begin to talk in each of `threads` by the plan."""
        plan = Plan.of(asked["plan"])
        for thread in asked["threads"]:
            task = asyncio.create_task(self._talk(thread, plan))
            self._talking.add(task)
            task.add_done_callback(self._talking.discard)
        return {}

    async def silence(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Stop talking."""
        for task in self._talking:
            task.cancel()
        return {}

    async def tops(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Answer how many deltas each thread was sent."""
        return {"tops": self._tops}

    async def _talk(self, thread: str, plan: Plan) -> None:
        number = 0
        manager = self._pipelined if plan.pipelined else self._manager
        async for count in due(plan):
            for _ in range(count):
                self._tops[thread] += 1
                await manager.emit("text_delta", self._event(thread, word(plan, number)), room=thread)
                number += 1

    def _event(self, thread: str, text: str) -> dict[str, Any]:
        offset = self._tops[thread]
        return {
            "event": "text_delta",
            "client_id": "publisher",
            "thread_id": thread,
            "request_id": "0123456789abcdef01234567",
            "epoch": "0123456789abcdef",
            "offset": offset,
            "seq": offset,
            "ts": int(time.time() * 1000),
            "delta": text,
            "round": 1,
        }


async def main() -> None:
    """Serve the conductor until it goes."""
    publisher = Publisher(sys.argv[1])
    await serve({"flood": publisher.flood, "silence": publisher.silence, "tops": publisher.tops})


if __name__ == "__main__":
    run(main)
