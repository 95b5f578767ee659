"""All clients of a run, spread over the load processes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from scripts.benchmark.peers import Peer
from scripts.benchmark.tally import Tally
from scripts.benchmark.watcher import Style, Target

IN_FLIGHT = 256
"""Handshakes under way at once. Node's listen queue holds 511; a client that overruns it waits a whole second."""


class Clients:
    """The load processes, as long as the context is entered.

    Args:
        count: how many there are.
        style: how their watchers join.
    """

    def __init__(self, count: int, style: Style) -> None:
        self._count = count
        self._style = style
        self._peers: list[Peer] = []

    async def __aenter__(self) -> Self:
        for _ in range(self._count):
            self._peers.append(await Peer.start((sys.executable, "-m", "scripts.benchmark.load")))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(peer.close() for peer in self._peers))

    async def open(
        self, targets: Sequence[Target], *, in_flight: int = IN_FLIGHT, returns: bool = False
    ) -> tuple[float, list[int]]:
        """Connect and join; return the seconds that it took, and how many missed frames each one was sent."""
        answers = await self._ask_each(
            "open",
            [{"targets": targets[index :: self._count]} for index in range(self._count)],
            style=self._style,
            returns=returns,
            in_flight=max(1, in_flight // self._count),
        )
        return max(answer["seconds"] for answer in answers), [
            frames for answer in answers for frames in answer["frames"]
        ]

    async def storm(self, in_flight: int = IN_FLIGHT) -> float:
        """Drop all at once, bring them back; return the seconds until the last one is subscribed again."""
        answers = await self._ask("storm", in_flight=max(1, in_flight // self._count))
        return max(float(answer["seconds"]) for answer in answers)

    async def tally(self, tops: dict[str, int] | None = None, *, final: bool = False) -> Tally:
        """Return the counts of all together since the last `reset`."""
        whole = Tally()
        for answer in await self._ask("tally", tops=tops or {}, final=final):
            whole.add(Tally.of(answer["tally"]))
        return whole

    async def reset(self) -> None:
        """Begin to count anew."""
        await self._ask("reset")

    async def close(self) -> None:
        """Drop all watchers."""
        await self._ask("close")

    async def _ask(self, do: str, **fields: Any) -> list[dict[str, Any]]:
        return await self._ask_each(do, [{} for _ in self._peers], **fields)

    async def _ask_each(self, do: str, own: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
        return await asyncio.gather(
            *(peer.ask(do, **fields, **mine) for peer, mine in zip(self._peers, own, strict=True))
        )
