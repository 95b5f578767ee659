"""Many clients that only count: they check that each event of their thread follows the one before, and keep none.

They live in processes of their own. A thread's watchers come when it begins, go on at another gateway when theirs is
gone, and are asked when it has come to rest.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from scripts.benchmark.peers import Peer, run, serve
from scripts.benchmark.tally import Tally
from scripts.benchmark.watcher import Refused, Target, Watcher
from tests.fleet.conditions import eventually

_PATIENCE = 60.0
"""Seconds in which all must have what the log has."""
_LOOK_AGAIN = 0.05


def judged(thread_id: str, watchers: int, answer: dict[str, int]) -> list[str]:
    """Return what the watchers of a thread that has come to rest were to see and did not, in words."""
    wrong = {
        "lost": "events of it were not sent to its watchers",
        "doubled": "events of it were sent to its watchers again",
        "told": "times a watcher of it was told of a loss",
        "behind": "of its watchers have not seen its end",
    }
    named = f"{thread_id} ({watchers} that count)"
    return [f"{named}: {answer[what]} {words}" for what, words in wrong.items() if answer[what]]


class Crowd:
    """The processes of those who count, as long as the context is entered.

    Args:
        urls: where they connect.
        processes: how many.
    """

    def __init__(self, urls: Sequence[str], processes: int = 1) -> None:
        self._urls = list(urls)
        self._count = processes
        self._peers: list[Peer] = []
        self._homes: dict[str, Peer] = {}

    async def __aenter__(self) -> Self:
        for _ in range(self._count):
            self._peers.append(await Peer.start((sys.executable, "-m", "scripts.endurance.crowd")))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(peer.close() for peer in self._peers))

    async def follow(self, thread_id: str, epoch: str, watchers: int) -> None:
        """Have so many clients follow a thread from its first event."""
        at = [urlsplit(self._urls[number % len(self._urls)]) for number in range(watchers)]
        targets = [(place.hostname, place.port, thread_id, epoch, 0) for place in at]
        home = self._homes[thread_id] = self._peers[len(self._homes) % len(self._peers)]
        await home.ask("follow", thread=thread_id, targets=targets)

    async def leave(self, thread_id: str, top: int) -> dict[str, int]:
        """Wait until they have everything up to an offset, send them away, and return what they counted."""
        return await self._homes.pop(thread_id).ask("leave", thread=thread_id, top=top)


class _Followers:
    """The watchers of one process, by thread."""

    def __init__(self) -> None:
        self._threads: dict[str, tuple[Tally, list[Watcher]]] = {}

    async def follow(self, asked: dict[str, Any]) -> dict[str, Any]:
        tally = Tally()
        watchers = [Watcher(Target(*target), "threadline", tally, returns=True) for target in asked["targets"]]
        self._threads[asked["thread"]] = tally, watchers
        await asyncio.gather(*(_come(watcher) for watcher in watchers))
        return {}

    async def leave(self, asked: dict[str, Any]) -> dict[str, Any]:
        tally, watchers = self._threads.pop(asked["thread"])

        async def everybody() -> bool:
            return all(watcher.last >= asked["top"] for watcher in watchers)

        with suppress(AssertionError):  # then they are behind
            await eventually(everybody, "everybody at the end", _PATIENCE)
        behind = sum(watcher.last < asked["top"] for watcher in watchers)
        counts = {"lost": tally.lost, "doubled": tally.doubled, "told": tally.told, "closed": tally.closed}
        for watcher in watchers:
            watcher.drop()
        return {**counts, "behind": behind, "frames": tally.frames}


async def _come(watcher: Watcher) -> None:
    while True:
        try:
            await watcher.connect()
            return
        except (OSError, Refused):
            await asyncio.sleep(_LOOK_AGAIN)


async def main() -> None:
    """Serve the conductor until it goes."""
    followers = _Followers()
    gc.freeze()
    await serve({"follow": followers.follow, "leave": followers.leave})


if __name__ == "__main__":
    run(main)
