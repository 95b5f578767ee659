"""The stream of a thread's events: never a double, never a silent loss, over any number of connections."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from threadline_client.backoff import Backoff
from threadline_client.connection import Connection
from threadline_client.errors import ClientError, Refused
from threadline_client.events import Cursor, Event, Snapshot
from threadline_client.link import LinkLost
from threadline_client.tracker import Item, Standing, Tracker

BACKLOG = 10_000
"""Items kept for a reader that lags. Beyond that they are left, and read from the log when it has caught up."""
ABSENT_POLL = 2.0
"""Seconds between looks for a thread that does not exist yet; no channel announces a birth."""


class EventStream:
    """An async iterator of `Event` and `Snapshot`, and an async context manager that ends it.

    `async with thread.events() as events: async for item in events: …`
    """

    def __init__(
        self,
        connection: Connection,
        thread_id: str,
        after: Cursor | None,
        history: int | None,
        first: Cursor | None = None,
    ) -> None:
        self.thread_id = thread_id
        self.cursor = after
        """The place in the log behind the last item that was read from this stream."""
        self._connection = connection
        self._tracker = Tracker(thread_id, after, history, first)
        self._items: deque[Item] = deque()
        self._behind = False
        self._arrival = asyncio.Event()
        self._stale = asyncio.Event()
        self._failure: ClientError | None = None
        self._refusal: Refused | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        self._open()
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            if self._failure is not None:
                raise self._failure
            if self._behind:
                self._behind = False
                self._tracker.lost()
            self._check()
            self._arrival.clear()
            await self._arrival.wait()
        item = self._items.popleft()
        self.cursor = item.cursor if item.epoch else None
        return item

    async def aclose(self) -> None:
        """End the stream; the turn goes on."""
        self._closed = True
        self._arrival.set()
        if self._keeper is not None:
            self._keeper.cancel()
            try:
                await asyncio.gather(self._keeper, return_exceptions=True)
            finally:  # also when this is cancelled: a listener that is left behind gathers events for nobody
                await self._connection.unlisten(self.thread_id, self)

    def holds(self, request_id: str) -> bool:
        """Whether something has come, and was not read yet, that tells of a turn: an event of it, or a snapshot."""
        return self._behind or any(isinstance(item, Snapshot) or item.request_id == request_id for item in self._items)

    def event(self, event: Event) -> None:
        """Take an event from the connection."""
        if len(self._items) >= BACKLOG:
            self._behind = True
        elif not self._behind:
            self._put(self._tracker.event(event))

    def lost(self) -> None:
        """Note that the connection is gone."""
        self._tracker.lost()
        self._check()

    def failed(self, error: ClientError) -> None:
        """Note that nothing comes any more; what has come can still be read."""
        if self._failure is None:
            self._failure = error
        self._arrival.set()

    def deleted(self, epoch: str) -> None:
        """Note that the thread was erased: from now on it is waited for, as one that does not exist."""
        self._put(self._tracker.deleted(epoch))
        self._stale.set()

    def exists_now(self, epoch: str) -> None:
        """Note that a start in this thread was acknowledged."""
        self._tracker.exists_now(epoch)
        self._check()

    def _open(self) -> None:
        if self._keeper is None and not self._closed:
            self._connection.listen(self.thread_id, self)
            self._keeper = asyncio.create_task(self._keep(), name=f"threadline stream {self.thread_id}")

    def _put(self, items: list[Item]) -> None:
        if items:
            self._items.extend(items)
            self._arrival.set()
        self._check()

    def _check(self) -> None:
        if self._tracker.standing is Standing.STALE and not self._behind:
            self._stale.set()

    def _read_recent(self) -> None:
        if self._tracker.cursor is not None:
            for event in self._connection.recent(self.thread_id):
                self._put(self._tracker.event(event))

    @staticmethod
    def _cursor_of(asked: Mapping[str, Any]) -> Cursor | None:
        return Cursor(asked["epoch"], asked["after"]) if "epoch" in asked else None

    def _answered(self, answer: Mapping[str, Any]) -> None:
        try:
            self._put(self._tracker.answer(answer))
        except Refused as refusal:
            self._refusal = refusal

    async def _keep(self) -> None:
        backoff = Backoff()
        self._check()
        try:
            while True:
                await self._until_stale()
                await asyncio.sleep(backoff.delay())
                await self._subscribe(backoff)
        except ClientError as error:
            self.failed(error)

    async def _until_stale(self) -> None:
        absent = self._tracker.standing is Standing.ABSENT
        try:
            async with asyncio.timeout(ABSENT_POLL if absent else None):
                await self._stale.wait()
        except TimeoutError:
            self.lost()

    async def _subscribe(self, backoff: Backoff) -> None:
        link = await self._connection.link()
        self._stale.clear()
        if self._tracker.standing is not Standing.STALE:
            backoff.reset()
            return
        self._read_recent()
        asked = self._tracker.ask()
        try:
            answer = await link.call("thread:subscribe", asked, on_answer=self._answered)
        except LinkLost:
            self.lost()
            return
        refusal, self._refusal = self._refusal, None
        if refusal is None:
            if self._tracker.standing is not Standing.STALE:
                backoff.reset()
            elif answer.get("recovered") and self._tracker.cursor == self._cursor_of(asked):
                # It believes to have sent these events to this connection, and so to have no need to send them
                # again; to a new connection it will.
                link.cut("the gateway did not send again what is missing here")
        elif refusal.retryable:
            await asyncio.sleep((refusal.retry_after_ms or 0) / 1000)
            self._check()
        else:
            raise refusal
