"""Streams: the log as server-sent events. The id of each event is the cursor, `epoch:offset`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

import structlog
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from backplane.errors import InvalidPayload, ThreadlineError
from backplane.events import Event, dumps
from backplane.notices import THREAD_DELETED
from gateway.auth import Identity
from gateway.callers import Callers
from gateway.degraded import Degraded
from gateway.metrics import Metrics
from gateway.payloads import ThreadSubscribe
from gateway.room import Room
from gateway.verbs import Ack, Verbs

_log = structlog.get_logger("gateway.streams")
_PING_SECONDS = 15
"""A comment is sent when a stream was silent for this long, so that no proxy closes it."""
_UNREAD = 64
"""Events that may wait for a reader; the rest stays in the log until it has read them."""
_PATIENCE = 30.0
"""Seconds that a reader may read nothing; then its stream ends, and it comes back with its cursor."""


def cursor(text: str) -> tuple[str, int]:
    """Return `(epoch, offset)` of a cursor as `Last-Event-ID` carries it.

    Raises:
        InvalidPayload: when it is not of the form `epoch:offset`.
    """
    epoch, _, offset = text.rpartition(":")
    if not epoch or not offset.isascii() or not offset.isdigit() or len(offset) > 15:
        raise InvalidPayload("cursor: expected epoch:offset as the id of an event gave it, got another form; send none")
    return epoch, int(offset)


class Stream:
    """One reader of server-sent events. A member of rooms."""

    def __init__(
        self,
        verbs: Verbs,
        metrics: Metrics,
        degraded: Degraded,
        callers: Callers,
        identity: Identity,
        asked: ThreadSubscribe,
    ) -> None:
        self.rooms: set[Room] = set()
        self.gone = False
        self._verbs = verbs
        self._metrics = metrics
        self._degraded = degraded
        self._callers = callers
        self._is_counted = False
        self.identity = identity
        self._asked = asked
        self._waiting: asyncio.Queue[Event | None] = asyncio.Queue()
        self._joining: asyncio.Task[None] | None = None
        self._joined: asyncio.Future[Ack] | None = None

    def send(self, event: Event) -> bool:
        """Queue an event."""
        if self.gone:
            return False
        self._waiting.put_nowait(event)
        if self._waiting.qsize() < _UNREAD:
            return True
        if self._joined is not None and not self._joined.done():
            self._joined.set_result({})  # the cursor was good; from here on it must be read
        return False

    async def drained(self) -> bool:
        """Wait until the reader has taken what waits; False when it has not for long, or is gone."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._waiting.join()
        except TimeoutError:
            return False
        return not self.gone

    def lose(self, reason: str) -> None:
        """End the stream: an EventSource comes back by itself, with its last id."""
        self._part()
        self._waiting.put_nowait(None)

    def leave(self) -> None:
        """Leave the thread, for good."""
        self._part()
        if self._joining is not None:
            self._joining.cancel()
        if self._is_counted:
            self._is_counted = False
            self._callers.leave(self.identity)

    def _part(self) -> None:
        self.gone = True
        for room in list(self.rooms):
            room.remove(self)

    async def join(self) -> Ack:
        """Join the thread. What was missed waits to be read when this returns; whoever joins has to `leave`.

        When more was missed than may wait, this returns an empty acknowledgement, and the rest comes while it is read.

        Raises:
            NotFound: when there is no such thread, or it is another's.
            RateLimited: when its user has as many connections open as it may.
            Unavailable: when Redis did not answer.
        """
        self._callers.enter(self.identity)
        self._is_counted = True
        self._joined = asyncio.get_running_loop().create_future()
        self._joining = asyncio.create_task(self._subscribe(self._joined), name=f"join-{self._asked.thread_id}")
        try:
            return await self._joined
        except BaseException:
            self.leave()
            raise

    async def _subscribe(self, joined: asyncio.Future[Ack]) -> None:
        try:
            ack = await self._verbs.subscribe(self.identity, self._asked, self)
        except Exception as error:
            if not joined.done():
                joined.set_exception(error)
                return
            if not isinstance(error, ThreadlineError):
                _log.exception("a stream failed to read what it missed", thread_id=self._asked.thread_id)
            self.lose("could not be brought up to the present")
            return
        if not joined.done():
            if "snapshot" in ack:
                self._waiting = asyncio.Queue()  # what was read of the log before it gave way is older
            joined.set_result(ack)
        elif "snapshot" in ack:
            self.lose("the log no longer holds what follows, or nobody reads")

    async def events(self, joined: Ack) -> AsyncIterator[ServerSentEvent]:
        """Yield what the reader gets: a `snapshot` unless it was recovered, then each event in order."""
        async with aclosing(self.received()) as received:
            if "snapshot" in joined:
                yield ServerSentEvent(
                    event="snapshot",
                    id=f"{joined['epoch']}:{joined['offset']}",
                    data=dumps(joined["snapshot"]),
                    sep="\n",
                )
            async for event in received:
                # a notice has no place in the log: the reader's cursor stays as it is. A failover begins another epoch.
                place = f"{event.fields['epoch']}:{event.offset}" if event.offset else None
                yield ServerSentEvent(event=event.name, id=place, data=event.text, sep="\n")

    async def received(self) -> AsyncGenerator[Event]:
        """Yield each event in order, until the stream is lost or the thread is deleted."""
        self._metrics.streams.inc()
        self._degraded.add(self)
        try:
            while (event := await self._waiting.get()) is not None:
                yield event
                self._waiting.task_done()
                if event.name == THREAD_DELETED:
                    return
        finally:
            self._metrics.streams.dec()
            self._degraded.remove(self)


class StreamResponse(EventSourceResponse):
    """The response by which a stream is read: with its end the stream leaves its thread.

    The generator of the events cannot see to that: it may be closed before it has begun.
    """

    def __init__(
        self, stream: Stream, events: AsyncIterator[ServerSentEvent], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(events, ping=_PING_SECONDS, sep="\n", headers=headers)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, until they end or the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.leave()


def unread(headers: Mapping[str, str] | None = None) -> EventSourceResponse:
    """Return the answer to a HEAD, which Starlette takes wherever it takes a GET: as a stream begins, and no stream."""
    return EventSourceResponse(iter(()), sep="\n", headers=headers)
