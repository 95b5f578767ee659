"""A feed: one turn, followed from its beginning or from a cursor to its end, as a dialect's server-sent events.

What has happened is read from the log, what happens is heard in the thread's room, and the view turns both into frames.
The id of the last frame of an event is the log's cursor, so a stream that broke goes on behind the last whole event.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from sse_starlette import ServerSentEvent

from backplane.errors import NotFound
from backplane.events import APPROVAL_DECIDED, Event, dumps, merge, standing
from backplane.log import Page
from gateway.auth import Identity
from gateway.dialects.view import Frame, View
from gateway.payloads import QueueStatus, ThreadSubscribe
from gateway.streams import Stream
from gateway.verbs import Ack, Verbs


@dataclass(frozen=True, slots=True)
class Place:
    """Where a turn is found: its thread, its log, its id, and the offset of its first event."""

    thread_id: str
    epoch: str
    request_id: str
    offset: int

    @classmethod
    def of(cls, ack: Ack) -> Place:
        """Return where the turn is found whose start or edit was acknowledged."""
        return cls(ack["thread_id"], ack["epoch"], ack["request_id"], ack["offset"])


class Feed:
    """One turn for one reader.

    Args:
        open_stream: makes a reader of server-sent events.
        place: the turn.
        view: the dialect.
        cursor: `(epoch, offset)` of the last event that the reader has; None for all of them.
        behind: the questions that the reader has answered; it has everything up to the last of them.
    """

    def __init__(
        self,
        verbs: Verbs,
        open_stream: Callable[[Identity, ThreadSubscribe], Stream],
        identity: Identity,
        place: Place,
        view: View,
        cursor: tuple[str, int] | None = None,
        behind: frozenset[str] = frozenset(),
    ) -> None:
        self._verbs = verbs
        self._open_stream = open_stream
        self._identity = identity
        self._place = place
        self._view = view
        self._cursor = cursor
        self._behind = behind
        self._history: list[Event] = []
        self._page: Page | None = None
        """The last page of the log that was read."""
        self._waits = False
        """Whether the turn waits in a lane, and the log does not hold that any more."""
        self._at = (place.epoch, place.offset - 1)

    async def join(self) -> tuple[Stream, Ack]:
        """Read what has happened, and join the thread for what happens.

        Raises:
            NotFound: when there is no such thread, or it is another's.
            RateLimited: when its user has as many connections open as it may.
            Unavailable: when Redis did not answer.
        """
        while True:
            found = await self._verbs.told(self._identity, self._place.thread_id, *self._at, self._place.request_id)
            asked = ThreadSubscribe(thread_id=self._place.thread_id)
            if found is not None:
                self._page, after, self._history = found
                self._at = (self._page.epoch, after)
                asked = ThreadSubscribe(thread_id=self._place.thread_id, epoch=self._at[0], after=self._at[1])
            waited = found is None and await self._is_in_a_lane()
            stream = self._open_stream(self._identity, asked)
            joined = await stream.join()
            if found is None and not joined.get("snapshot"):
                stream.leave()
                raise NotFound("the log does not hold this turn any more; read the thread's history")
            if not waited:
                return stream, joined
            try:
                self._waits = await self._is_in_a_lane()
            except BaseException:
                stream.leave()
                raise
            if self._waits:
                return stream, joined
            stream.leave()  # it began or was removed meanwhile, before the snapshot or behind it

    async def _is_in_a_lane(self) -> bool:
        status = await self._verbs.queue_status(self._identity, QueueStatus(thread_id=self._place.thread_id))
        return any(item["item_id"] == self._place.request_id for lane in status["lanes"].values() for item in lane)

    async def frames(self, stream: Stream, joined: Ack) -> AsyncGenerator[ServerSentEvent]:
        """Yield the view's frames, to the end of the turn or to a question that waits for a person."""
        async with aclosing(stream.received()) as events:
            if "snapshot" in joined:
                place = f"{joined['epoch']}:{joined['offset']}"
                past = _sent([*self._view.begin(), *self._view.adopt(joined["snapshot"], waits=self._waits)], place)
            else:
                past = self._past()
            for sent in past:
                yield sent
            while not self._view.ended:
                event = await anext(events, None)
                if event is None:
                    return  # the reader comes back with its cursor
                place = f"{event.fields['epoch']}:{event.offset}" if event.offset else ""
                for sent in _sent(self._view.feed(event.name, event.fields), place):
                    yield sent

    def _past(self) -> list[ServerSentEvent]:
        """Return what has happened: known to the reader up to its cursor, and told from there on."""
        until = self._known()
        known = [event for event in self._history if event.offset <= until]
        news = [event for event in self._history if event.offset > until]
        decided = (event for event in self._history if event.name == APPROVAL_DECIDED)
        self._view.settle(frozenset(event.fields["approval_id"] for event in decided))
        for event in merge(standing(known, self._place.request_id)):
            self._view.feed(event.name, event.fields)
        sent = _sent(self._view.begin(), "")
        for event in merge(standing(news, self._place.request_id)):
            if not self._view.ended:
                place = f"{event.fields['epoch']}:{event.offset}"
                sent += _sent(self._view.feed(event.name, event.fields), place)
        return sent

    def _known(self) -> int:
        """Return the offset up to which the reader has everything, as its answers and its cursor say."""
        known, behind = 0, set(self._behind)
        for event in self._history:
            if (approval_id := event.fields.get("approval_id")) in behind:
                behind.remove(approval_id)  # it was asked here; what became of it is news
                known = event.offset
        if self._cursor is not None and self._page is not None:
            epoch, offset = self._cursor
            # an older epoch may have gone over into this one; what this log never had, the reader does not have
            held = self._page.top if epoch == self._page.epoch else self._page.ancestry.get(epoch, -1)
            if offset <= held:
                known = max(known, offset)
        return known


def _sent(frames: list[Frame], place: str) -> list[ServerSentEvent]:
    """Return frames as server-sent events; the last one carries the cursor, for then all of its event was sent."""
    sent = [ServerSentEvent(data=dumps(frame), sep="\n") for frame in frames]
    if sent and place:
        sent[-1].id = place
    return sent
