"""A room: who on this node watches a thread, and where each of them stands in its log.

A node listens to a thread's channel only while it has a member there. The log is the truth and the channel is for
speed: a room knows the offset that it stands at, so it sees a hole and fills it from the log before anything later
is sent. Whoever joins does so in this order: the channel is confirmed, the log is read, and in one step without an
`await` the member meets the room. The other order (read, then listen) loses what is appended in between.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from backplane.connection import Backplane
from backplane.errors import NotFound, ThreadlineError
from backplane.events import CHAT_ACCEPTED, INFERENCE_START, QUEUE_ITEM_QUEUED, TERMINAL, Event, decode_live
from backplane.ids import ThreadRef
from backplane.log import Ancestry, Page
from backplane.notices import THREAD_DELETED
from backplane.sessions import Snapshot
from gateway.deliveries import Deliveries
from gateway.metrics import Metrics
from gateway.place import Place, ends
from gateway.recent import Recent
from gateway.replay import Replay

_log = structlog.get_logger("gateway.room")
_BEGINS = frozenset({CHAT_ACCEPTED, INFERENCE_START})


class Member(Protocol):
    """Somebody who watches: a socket, or a stream of server-sent events."""

    rooms: set[Room]
    """Where it has a place; kept by the rooms."""
    gone: bool
    """True when its connection has ended: it is not added any more."""

    def send(self, event: Event) -> bool:
        """Take one event; return False when it should be sent no more until it has read what waits for it.

        Must not block, and must not raise.
        """

    async def drained(self) -> bool:
        """Wait until it has read what waits; return False when it never will."""

    def lose(self, reason: str) -> None:
        """Nothing more will come: the member has to come back with its cursor."""


class _Overtaken(Exception):
    """The member that was caught up has left meanwhile, or has said anew where it stands."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What a member is told when it has joined."""

    epoch: str
    offset: int
    recovered: bool | None
    """True: everything after the cursor was sent. False: the cursor was of no use. None: there was none."""
    snapshot: Snapshot | None
    """As of `offset`, unless recovered."""


class Room:
    """One thread on this node. A listener of its live channel."""

    def __init__(
        self,
        backplane: Backplane,
        metrics: Metrics,
        ref: ThreadRef,
        closed: Callable[[Room], None],
        changed: Callable[[Room], None],
    ) -> None:
        self.ref = ref
        self.active: set[str] = set()
        """Turns that have begun and not ended, as far as this node has heard."""
        self._queued: frozenset[str] = frozenset()
        """Messages that wait in a lane, as far as this node has heard: they may have a turn, or go into another."""
        self._backplane = backplane
        self._metrics = metrics
        self._closed = closed
        self._changed = changed
        self._users = 0
        self._members: dict[Member, Place] = {}
        self._epoch: str | None = None
        self._ancestry: Ancestry = {}
        self._offset = 0
        self._heard_up_to = 0
        self._heard_elsewhere = ("", 0)
        """The epoch and the offset of what was heard last of another epoch: the room may be about to go on there."""
        self._recent = Recent()
        self._filling: asyncio.Task[None] | None = None
        self._past = Replay(backplane, ref)
        self._catching_up: set[asyncio.Task[None]] = set()
        self._deliveries = Deliveries(backplane, ref) if backplane.traces.on else None

    @property
    def position(self) -> tuple[str, int] | None:
        """The epoch and the offset that the room stands at; None before its first member has joined."""
        return None if self._epoch is None else (self._epoch, self._offset)

    def __contains__(self, member: Member) -> bool:
        return member in self._members

    def __len__(self) -> int:
        return len(self._members)

    def watchers(self) -> dict[str, int]:
        """Return how many members watch for whom: subject -> members, without those that only wait for their turn."""
        return Counter(place.subject for place in self._members.values() if not place.only_own)

    @property
    def _alive(self) -> Set[str]:
        return self.active | self._queued

    # --- live ------------------------------------------------------------------------------------------

    def heard(self, message: bytes) -> None:
        """Take a live message; one that is not of our form is ignored and counted."""
        try:
            epoch, events = decode_live(message)
        except ValueError:
            self._metrics.live_garbage.inc()
            return
        if not events[0].offset:
            self._notify(epoch, events[0])
            return
        self._advance(epoch, events)

    def missed(self) -> None:
        """The node was deaf for a while: read the log."""
        self._past.clear()
        self.fill()

    def _notify(self, epoch: str, notice: Event) -> None:
        """Pass on what is no event of the log: to those who are up to the present, and the last one to everybody."""
        if epoch != self._epoch:
            self.fill()  # of a log that began behind a failover, or anew
            return
        if notice.name == THREAD_DELETED:
            self.end(notice)
            return
        for member, place in list(self._members.items()):
            if not (place.reader or place.only_own) and not member.send(notice):
                self._pause(member, place, max(place.after, self._offset))

    def end(self, notice: Event) -> None:
        """Tell everybody that the thread is deleted, and let them go: there is nothing to come back to."""
        members = list(self._members)
        self._stand_nowhere()
        for member in members:
            self.remove(member)
            member.send(notice)

    def _advance(self, epoch: str, events: list[Event]) -> None:
        """Send what follows on; at a hole, or in another epoch, read the log first."""
        self._heard_up_to = max(self._heard_up_to, events[-1].offset)
        if self._epoch is None:
            return
        if epoch != self._epoch:
            self._heard_elsewhere = epoch, events[-1].offset
            self.fill()
            return
        for event in events:
            if event.offset > self._offset + 1:
                self.fill()
                return
            if event.offset == self._offset + 1:
                self._send(event)

    def _send(self, event: Event) -> None:
        self._offset = offset = event.offset
        self._recent.append(event)
        self._note(event)
        sent = 0
        for member, place in list(self._members.items()):
            if offset <= place.after or place.reader or not place.wants(event):
                continue
            sent += 1
            place.told(event)
            if not member.send(event):
                self._pause(member, place, offset)
        if sent:
            self._metrics.sent.inc(sent)
            self._metrics.latency.sent(event)
        if self._deliveries is not None:
            self._deliveries.sent(event, sent)
        if ends(event):
            self._let_go()

    def _note(self, event: Event) -> None:
        if event.name in TERMINAL:
            self.active.discard(event.request_id)
        elif event.name in _BEGINS:
            self.active.add(event.request_id)
        self._note_lane(event)

    def _note_lane(self, event: Event) -> None:
        if event.name == QUEUE_ITEM_QUEUED:
            self._queued |= {event.request_id}
        elif self._queued and (event.name in _BEGINS or ends(event)):
            self._queued -= {event.request_id}

    def _let_go(self) -> None:
        """Release those who only waited for what has ended; one that is behind has to be told of the end first."""
        for member, place in list(self._members.items()):
            if place.only_own and not place.own and not place.reader:
                self.remove(member)

    def _pause(self, member: Member, place: Place, offset: int) -> None:
        """Buffer nothing for a member that does not read: it is sent merged deltas from the log when it does."""
        place.reader, place.after = object(), offset
        self._metrics.slow_clients.inc()
        task = asyncio.create_task(self._catch_up(member, place), name=f"catch-up-{self.ref}")
        self._catching_up.add(task)
        task.add_done_callback(self._catching_up.discard)

    async def _catch_up(self, member: Member, place: Place) -> None:
        reader, reached = place.reader, None
        alive = await member.drained()
        try:
            if alive and self._epoch is not None and place.reader is reader:
                with suppress(ThreadlineError):
                    reached = await self._replay(member, "", (self._epoch, place.after), place)
        except _Overtaken:
            return
        if reached is None and self._members.get(member) is place and place.reader is reader:
            self.remove(member)
            member.lose("reads too slowly")

    # --- holes -----------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Read what is missing from the log, in the background; one reading at a time."""
        if self._filling is None or self._filling.done():
            self._filling = asyncio.create_task(self._fill(), name=f"fill-{self.ref}")

    async def _fill(self) -> None:
        while self._epoch is not None and self._members:
            try:
                page = await self._backplane.log.read(self.ref, epoch=self._epoch, after=self._offset)
            except NotFound:
                self.lose_all("the thread is gone")
                return
            except ThreadlineError as error:
                # the next event, the poll or the reconnect tries again
                _log.warning("a hole could not be filled now", thread_id=self.ref.thread_id, error=error.message)
                return
            if not self.take(page):
                return

    def take(self, page: Page) -> bool:
        """Send what a page adds. Returns whether there may be more to read."""
        if not page.reached or not self._goes_on_in(page.epoch, page.ancestry):
            self.lose_all("the log no longer holds what follows")
            return False
        before = self._offset
        for event in page.events:
            if event.offset == self._offset + 1:
                self._send(event)
        if self._offset >= page.top:
            self.active = set(page.active)
        self._metrics.gaps_filled.inc(self._offset - before)
        # live messages may have carried the room past this page: what counts is whether the log has more
        known = max(page.top, self._heard_up_to) if self._offset > before else page.top
        return self._offset < known

    def _goes_on_in(self, epoch: str, ancestry: Ancestry) -> bool:
        """Take the epoch that the log is in now; False when what the room has sent is not in that log.

        After a failover the log may lack what came last, and give its offsets to other events.
        """
        if epoch == self._epoch:
            return True
        shared = ancestry.get(self._epoch or "", -1)
        if self._offset > shared:
            return False
        there, heard = self._heard_elsewhere
        self._epoch, self._ancestry = epoch, ancestry
        self._heard_up_to = max(self._offset, heard) if there == epoch else self._offset
        self._past.clear()
        for member, place in list(self._members.items()):
            if place.after > shared:  # it read ahead of the room, before the failover
                self.remove(member)
                member.lose("the log no longer holds what it was sent")
        return True

    def lose_all(self, reason: str) -> None:
        """Tell every member to come back with its cursor, and stand nowhere."""
        self._stand_nowhere()
        for member in list(self._members):
            self.remove(member)
            member.lose(reason)

    def _stand_nowhere(self) -> None:
        self._epoch, self._offset, self._heard_up_to, self._ancestry = None, 0, 0, {}
        self._recent.clear()
        self.active.clear()
        self._queued = frozenset()
        self._past.clear()

    # --- joining and leaving ---------------------------------------------------------------------------

    async def join(self, member: Member, subject: str, cursor: tuple[str, int] | None, messages: int) -> Joined:
        """Bring a member up to the present, and keep it there.

        Sends what follows `cursor` (epoch, offset). Without a cursor, or when the log does not reach back that
        far, returns a snapshot; then later events are sent only after the caller has had one turn of the loop
        to hand the snapshot over.

        Raises:
            NotFound: when there is no such thread, or it is another's.
            Unavailable: when Redis did not answer.
        """
        place = self._members.get(member)
        served = place is not None and cursor is None and not (place.only_own or place.reader)
        if place is not None and not served:
            # a client that asks again on the same connection is believed: its cursor says what it has
            place.reader = object()
        try:
            if cursor is not None:
                offset = await self._replay(member, subject, cursor)
                if offset is not None:
                    return Joined(self._epoch or cursor[0], offset, True, None)
            stood = self.position
            snapshot = await self._backplane.sessions.snapshot(self.ref, subject=subject, most=messages)
        except ThreadlineError:
            if place is not None and not served:
                self.remove(member)
                member.lose("could not be brought up to the present")
            raise
        if (
            stood is not None
            and (snapshot.epoch, stood[0]) == (self._epoch, self._epoch)
            and snapshot.offset < stood[1]
        ):
            # what the room has sent stood in the log before: the log went back, and nobody has appended since
            self.lose_all("the log no longer holds what was sent")
        self._meet(snapshot.epoch, snapshot.offset, [], snapshot)
        if served:  # it goes on as it was: nothing is sent twice, and nothing left out
            return Joined(snapshot.epoch, snapshot.offset, None, snapshot)
        self.hold()
        asyncio.get_running_loop().call_soon(self._admit_after_snapshot, member, subject, snapshot.offset)
        return Joined(snapshot.epoch, snapshot.offset, None if cursor is None else False, snapshot)

    async def _replay(
        self, member: Member, subject: str, cursor: tuple[str, int], slow: Place | None = None
    ) -> int | None:
        """Send everything after the cursor and admit the member; None when the log does not hold it.

        Args:
            member: who is sent it.
            subject: who that is.
            cursor: epoch and offset.
            slow: its place, if it has read too slowly and is caught up: it is sent only what it is there for.

        Raises:
            _Overtaken: when a slow one has left that place, or said anew where it stands.
            NotFound: when there is no such thread, or it is another's.
            Unavailable: when Redis did not answer.
        """
        epoch, at = cursor
        reader = slow and slow.reader
        while True:
            page, merged = await self._past.behind(subject, epoch, at)
            self._check(member, slow, reader)
            if not page.reached:
                return None
            for event in merged:
                at = event.offset
                if slow is not None and not slow.wants(event):
                    continue
                self._metrics.replayed_bytes.inc(len(event.raw))
                has_room = member.send(event)
                if (place := self._members.get(member)) is not None:
                    place.told(event)
                if not has_room:
                    has_read = await member.drained()
                    self._check(member, slow, reader)
                    if not has_read:
                        return None
            self._metrics.replayed.inc(len(page.events))
            epoch = page.epoch
            if at < page.top:
                continue
            # from here on nothing is awaited: the room cannot move
            self._meet(epoch, at, page.events, page)
            if self._admit(member, subject, at, slow):
                return max(at, self._offset)
            self._past.forget(subject, epoch, at)  # the room is further than what may have been kept

    def _check(self, member: Member, slow: Place | None, reader: object | None) -> None:
        if slow is not None and (self._members.get(member) is not slow or slow.reader is not reader):
            raise _Overtaken

    def _meet(self, epoch: str, at: int, events: list[Event], found: Page | Snapshot) -> None:
        """Take what a reader found: a place to stand for a new room, or news that came before the live message."""
        if self._epoch is not None and not self._goes_on_in(epoch, found.ancestry):
            if at <= self._ancestry.get(epoch, -1):
                return  # it read just before the failover that the room has heard of
            self.lose_all("the log was lost, and another begun")
        if self._epoch is None:
            self._epoch, self._offset, self._ancestry = epoch, at, found.ancestry
            for event in events:
                self._note_lane(event)
        elif events and at > self._offset:
            self._advance(epoch, events)
        if at >= self._offset:  # else it is older than what the room knows
            # whoever comes with a cursor may not be sent the event that began them, and the poll must know
            self.active |= found.active

    def _admit(self, member: Member, subject: str, at: int, slow: Place | None = None) -> bool:
        """Add a member that has everything up to `at`; False when the room has moved on too far."""
        if at < self._offset:
            if (since := self._recent.after(at)) is None:
                return False
            for event in since:
                if slow is None or slow.wants(event):
                    member.send(event)  # few: if that is too much for it, the next live event says so
                    if (place := self._members.get(member)) is not None:
                        place.told(event)
        if member.gone:
            return True
        if slow is None:
            self._seat(member, subject, at)
        elif self._members.get(member) is slow:  # a hole in `_meet` may have cost it its place
            slow.after, slow.reader = max(at, self._offset), None
            slow.keep_own(self._alive, self._offset)
            self._let_go()
        if self._heard_up_to > self._offset:
            self.fill()
        return True

    def _seat(self, member: Member, subject: str, at: int) -> None:
        place = self._members.get(member)
        if place is None:
            self.hold()
            place = self._members[member] = Place(at, subject=subject)
            member.rooms.add(self)
            self._changed(self)
        elif place.only_own:
            self._changed(self)
        place.after, place.only_own, place.reader = max(at, self._offset), False, None

    def _admit_after_snapshot(self, member: Member, subject: str, at: int) -> None:
        if self._epoch is None or not self._admit(member, subject, at):
            member.lose("the thread moved on too fast")
        self.release()

    def own(self, member: Member, request_id: str, offset: int) -> None:
        """Note that a member sent a message, whose first event has this offset: it hears of it to the end, even if it
        leaves the thread."""
        if (place := self._members.get(member)) is not None:
            place.own[request_id] = offset

    def leave(self, member: Member) -> None:
        """Unsubscribe a member; it still hears of the messages that it sent and that run or wait."""
        if (place := self._members.get(member)) is None:
            return
        if not place.reader:  # else it may not have been told of the end
            place.keep_own(self._alive, self._offset)
        if place.own:
            place.only_own = True
            self._changed(self)
        else:
            self.remove(member)

    def remove(self, member: Member) -> None:
        """Take a member out for good."""
        if self._members.pop(member, None) is not None:
            member.rooms.discard(self)
            self._changed(self)
            self.release()

    def hold(self) -> None:
        """Keep the room open: for a member, or for somebody who is about to be one."""
        self._users += 1

    def release(self) -> None:
        """Let go of it; the last one closes it."""
        self._users -= 1
        if not self._users:
            self._closed(self)
