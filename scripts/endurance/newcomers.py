"""People who come with their first message, one after the other, in a process that does nothing else.

How long a start takes is for such a process to say: the one that talks in hundreds of threads, and keeps every word of
them, is late itself when much happens at once, and would count that as the fleet's.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from backplane.ids import new_id
from scripts.benchmark.peers import Peer, run, serve
from threadline_client import connect
from threadline_client.errors import ClientError

_EVERY = 0.25
"""Seconds between two of them."""
_PATIENCE = 60.0
"""Seconds in which one must have an answer. No more than these seconds hold are there at once."""


class Newcomers:
    """The process, as long as the context is entered.

    Args:
        urls: where they connect.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = list(urls)
        self._peer: Peer

    async def __aenter__(self) -> Self:
        self._peer = await Peer.start((sys.executable, "-m", "scripts.endurance.newcomers"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._peer.close()

    async def come(self) -> None:
        """Have them come from now on."""
        await self._peer.ask("come", urls=self._urls)

    async def slowest(self, begin: float, end: float) -> float:
        """Return the longest time that a start took which was acknowledged within a span, from before the connection.

        Seconds, of this machine's monotonic clock, which is that of every process.
        """
        return float((await self._peer.ask("slowest", begin=begin, end=end))["seconds"])

    async def leave(self) -> tuple[int, list[str]]:
        """Let nobody come any more; return how many were answered, and what was wrong with the others."""
        answer = await self._peer.ask("leave")
        return answer["answered"], answer["wrong"]


class _Visits:
    """The people of one process."""

    def __init__(self) -> None:
        self._starts: list[tuple[float, float]] = []
        self._wrong: list[str] = []
        self._answered = 0
        self._coming: asyncio.Task[None] | None = None
        self._here: set[asyncio.Task[None]] = set()

    async def come(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._coming = asyncio.create_task(self._keep_coming(asked["urls"]))
        return {}

    async def slowest(self, asked: dict[str, Any]) -> dict[str, Any]:
        took = [took for at, took in self._starts if asked["begin"] <= at <= asked["end"]]
        return {"seconds": max(took, default=0.0)}

    async def leave(self, asked: dict[str, Any]) -> dict[str, Any]:
        if self._coming is not None:
            self._coming.cancel()
        await asyncio.gather(*self._here)
        return {"answered": self._answered, "wrong": self._wrong}

    async def _keep_coming(self, urls: list[str]) -> None:
        while True:
            visit = asyncio.create_task(self._visit(urls))
            self._here.add(visit)
            visit.add_done_callback(self._here.discard)
            await asyncio.sleep(_EVERY)

    async def _visit(self, urls: list[str]) -> None:
        thread_id = f"n-{new_id()}"
        clock = asyncio.get_running_loop().time
        begun = clock()
        try:
            async with asyncio.timeout(_PATIENCE), connect(urls, within=None) as client:
                turn = await client.thread(thread_id).send("say 1 words")
                self._starts.append((clock(), clock() - begun))
                outcome = await turn.wait()
        except (ClientError, TimeoutError) as error:
            self._wrong.append(f"{thread_id}: {error or 'no answer within a minute'}")
            return
        if outcome.ok:
            self._answered += 1
        else:
            self._wrong.append(f"{thread_id}: {outcome.error_type}: {outcome.message}")


async def main() -> None:
    """Serve the conductor until it goes."""
    visits = _Visits()
    gc.freeze()
    await serve({"come": visits.come, "slowest": visits.slowest, "leave": visits.leave})


if __name__ == "__main__":
    run(main)
