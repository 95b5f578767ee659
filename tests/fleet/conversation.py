"""A thread of a fleet while it is put to the test: what was acknowledged, who watches, and the check at the end.

async with Conversation(fleet, "t1") as talk:
    turn = await talk.say("say 50 words")
    await talk.ended(turn)

Leaving it in order waits until the thread is idle and every watcher is up to date, lets one client more resume in the
middle of the log at each node, and then holds the log, all transcripts, the acknowledgements and the session up to
every invariant.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tests.fleet.conditions import PATIENCE
from tests.fleet.fleet import Fleet
from tests.fleet.invariants import ACCEPTED, Acknowledged, Entry, Fields, check, violations
from tests.fleet.watcher import Watcher, caller
from threadline_client import Turn, connect

PACE = 8
"""Milliseconds between two words of the demo agent: a hundred words leave most of a second for a fault."""


class Conversation:
    """A thread, and one watcher at each node from its first message on.

    Args:
        fleet: where it is.
        thread_id: a thread that does not exist yet.
        checked: whether leaving it checks; without, `violations` says what is wrong.
        patience: seconds that a start may take, and the thread until it is idle.
        watching: what its watchers are.
        pinned: whether each watcher stays at its node, and comes back there, too.
        token: what its clients show; asked for anew at each handshake.
    """

    def __init__(
        self,
        fleet: Fleet,
        thread_id: str,
        *,
        checked: bool = True,
        patience: float = PATIENCE,
        watching: type[Watcher] = Watcher,
        pinned: bool = False,
        token: Callable[[], str] | None = None,
    ) -> None:
        self.thread_id = thread_id
        self.watchers: list[Watcher] = []
        """The n-th begins at the n-th node, and moves on to those behind it (unless it is pinned)."""
        self.acknowledged: list[Acknowledged] = []
        self._fleet = fleet
        self._checked = checked
        self._patience = patience
        self._watching = watching
        self._pinned = pinned
        self._token = token
        self._gate = fleet.folder / f"{thread_id}.go-on"
        self._losses_told = False
        self._trimmed: list[Entry] = []
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with self._stack:
            if error is None and self._checked:
                await self.settle()
                check(
                    await self.log(),
                    [watcher.transcript for watcher in self.watchers],
                    self.acknowledged,
                    await self._fleet.session(self.thread_id),
                    losses_told=self._losses_told,
                )

    async def watch(self, node: int, after: int = 0) -> Watcher:
        """Add a client at a node that begins behind an offset of the log, and stays to the end."""
        # behind a restart of the store the log goes on in another epoch: a cursor is of the epoch that its event was of
        began = [str(entry.fields["epoch"]) for entry in await self.log() if entry.offset == after]
        epoch = began[0] if began else self.acknowledged[-1].epoch
        urls = [self._fleet.urls[node]] if self._pinned else self._order(node)
        name = f"client {len(self.watchers)}"
        watcher = self._watching(urls, self.thread_id, epoch, name, after=after, token=self._token)
        self.watchers.append(watcher)
        return await self._stack.enter_async_context(watcher)

    async def say(
        self, text: str, *, node: int = 0, pace: float | None = PACE, held_at: int | None = None, **payload: Any
    ) -> str:
        """Start a turn by way of a node (or the next that lives), and return its request id.

        Behind `held_at` words its first attempt waits for `let_go`, if the agent is that of tests/processes/holding.py.
        """
        metadata: dict[str, Any] = {} if pace is None else {"delay_ms": pace}
        if held_at is not None:
            metadata |= {"held_at": held_at, "until": str(self._gate)}
        async with asyncio.timeout(self._patience), connect(self._order(node), self._token, within=None) as client:
            turn = await client.thread(self.thread_id).send(text, metadata=metadata or None, **payload)
        await self._note(text, turn)
        return turn.request_id

    def let_go(self) -> None:
        """Let the turns go on that are held in the middle of their answers."""
        self._gate.touch()

    async def cancel(self, request_id: str | None = None, *, node: int = 0) -> Fields:
        """Cancel by way of one node, and return its answer."""
        async with caller(self._fleet.urls[node], self._token) as by:
            return await by.cancel(self.thread_id, request_id)

    async def ended(self, request_id: str, within: float = PATIENCE) -> Fields:
        """Wait until every watcher was sent the end of a turn; return it."""
        ends = [await watcher.ended(request_id, within) for watcher in self.watchers]
        return ends[0]

    async def words(self, request_id: str, count: int) -> None:
        """Wait until every watcher was sent so many words of a turn."""
        for watcher in self.watchers:
            await watcher.words(request_id, count)

    async def log(self) -> list[Entry]:
        """Return the thread's log, with what was trimmed."""
        return [*self._trimmed, *await self._fleet.log(self.thread_id)]

    async def trim(self, keep: int) -> None:
        """Have the store forget all of the log but its newest entries, as its bound does with a long one."""
        whole = await self.log()
        self._trimmed, self._losses_told = whole[:-keep], True
        await self._fleet.redis.xtrim(self._fleet.keys(self.thread_id).log, maxlen=keep, approximate=False)

    def lost(self) -> None:
        """Note that the store lost the thread: what was acknowledged is gone, and watchers are to be told."""
        self.acknowledged.clear()
        self._losses_told = True

    async def settle(self) -> None:
        """Wait until nothing runs, and every watcher has all of the log, those too that come now."""
        await self._fleet.idle(self.thread_id, self._patience)
        top = (await self.log())[-1].offset
        for node in range(len(self._fleet.urls)):
            await self.watch(node, max(top // 2, len(self._trimmed)))
        for watcher in self.watchers:
            await watcher.reached(top)

    async def violations(self) -> list[str]:
        """Return what does not hold of a thread that has settled, at least in its log and what was promised."""
        await self._fleet.idle(self.thread_id)
        return violations(await self.log(), [], self.acknowledged, await self._fleet.session(self.thread_id))

    async def events(self, request_id: str) -> list[str]:
        """Return the names of a turn's events in the log."""
        return [entry.name for entry in await self.log() if entry.request_id == request_id]

    async def accepted(self) -> list[str]:
        """Return the messages that were accepted, in their order."""
        return [entry.fields["message"] for entry in await self.log() if entry.name == ACCEPTED]

    def _order(self, node: int) -> list[str]:
        urls = self._fleet.urls
        return [*urls[node:], *urls[:node]]

    async def _note(self, text: str, turn: Turn) -> None:
        known = Acknowledged(text, turn.request_id, turn.cursor.epoch, turn.cursor.offset, turn.state)
        self.acknowledged.append(known)
        if not self.watchers:
            for node in range(len(self._fleet.urls)):
                await self.watch(node)
