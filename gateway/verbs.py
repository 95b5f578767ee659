"""The verbs: what a client may ask for, whichever wire it came by. Each returns an acknowledgement."""

from __future__ import annotations

import asyncio
from typing import Any

from backplane.connection import Backplane
from backplane.errors import NotFound, RateLimited, TooManyThreads
from backplane.events import TERMINAL, Event
from backplane.ids import ThreadRef
from backplane.log import Page
from backplane.turns import Edit, QueueMode, Start, Started
from gateway.audit import audited
from gateway.auth import ANONYMOUS, Identity
from gateway.payloads import (
    DEFAULT_MESSAGES,
    ApprovalDecide,
    Ask,
    ChatCancel,
    ChatStart,
    QueueClear,
    QueueRemove,
    QueueStatus,
    ThreadDelete,
    ThreadEdit,
    ThreadHistory,
    ThreadList,
    ThreadPayload,
    ThreadPresence,
    ThreadRename,
    ThreadSubscribe,
    ThreadUnsubscribe,
)
from gateway.room import Joined, Member
from gateway.rooms import Rooms
from gateway.spans import traced

Ack = dict[str, Any]
_LANES = ("followup", "steer", "collect", "parallel")


class Verbs:
    """What clients may ask this node for. Errors are those of backplane/errors.py."""

    def __init__(self, backplane: Backplane, rooms: Rooms) -> None:
        self._backplane = backplane
        self._rooms = rooms
        self.traces = backplane.traces
        self._touches: set[asyncio.Task[None]] = set()

    @staticmethod
    def _ref(identity: Identity, asked: ThreadPayload) -> ThreadRef:
        return ThreadRef(identity.tenant, asked.thread_id)

    @traced("chat:start")
    @audited("start")
    async def start(self, identity: Identity, asked: ChatStart, client_id: str, member: Member | None) -> Ack:
        """Start a turn, or queue its message. The member is in the room before the first frame is sent."""
        return await self._begin(identity, asked, client_id, member, asked.message, asked.queue_mode or "interrupt")

    @traced("thread:edit")
    @audited("edit")
    async def edit(self, identity: Identity, asked: ThreadEdit, client_id: str, member: Member | None) -> Ack:
        """Begin a turn in the place of an earlier message, in one step with the end of the one that runs."""
        edit = Edit(asked.message_id, asked.newest_id)
        return await self._begin(identity, asked, client_id, member, asked.message or "", edit=edit)

    async def _begin(
        self,
        identity: Identity,
        asked: Ask,
        client_id: str,
        member: Member | None,
        message: str,
        queue_mode: QueueMode = "interrupt",
        edit: Edit | None = None,
    ) -> Ack:
        ref = self._ref(identity, asked)
        start = Start(
            message=message,
            subject=identity.subject,
            client_id=client_id,
            queue_mode=queue_mode,
            edit=edit,
            client_message_id=asked.client_message_id,
            model=asked.model,
            temperature=asked.temperature,
            locale=asked.locale,
            metadata=asked.metadata or {},
            policy=asked.policy,
        )
        if identity != ANONYMOUS:
            await self._admit(ref, start)
        joined: Joined | None = None
        if member is None:
            started = await self._start_listed(ref, start)
        else:
            self._check_room_for(member, ref)
            async with self._rooms.room(ref) as room:
                started = await self._start_listed(ref, start)
                if member not in room:
                    # from just before its own first event: nothing was sent before the channel was confirmed
                    place = (started.epoch, started.offset - (2 if edit else 1))
                    joined = await room.join(member, identity.subject, place, DEFAULT_MESSAGES)
                room.own(member, started.request_id, started.offset)
        return self._started(ref, started, joined, edit)

    @staticmethod
    def _started(ref: ThreadRef, started: Started, joined: Joined | None, edit: Edit | None) -> Ack:
        ack: Ack = {
            "ok": True,
            "state": started.state,
            "thread_id": ref.thread_id,
            "request_id": started.request_id,
            "client_id": started.client_id,
            "epoch": started.epoch,
            "offset": started.offset,
        }
        if started.lane:
            ack["lane"] = started.lane
        if started.state == "queued":
            ack["position"] = started.position
        elif started.place > 1:
            ack["position"] = started.place
        if edit:
            ack |= {"branch": started.request_id, "message_id": started.edited}
        if joined is not None and joined.snapshot is not None:
            # an old key came again, and the log no longer reaches back to its turn
            ack |= {"offset": joined.offset, "recovered": False, "snapshot": joined.snapshot.as_dict()}
        return ack

    async def _start_listed(self, ref: ThreadRef, start: Start) -> Started:
        """Start a turn, and list its thread meanwhile: what is acknowledged is listed, at the price of one round trip.

        A thread that was listed and then did not start is left out of the list by whoever reads it.
        """
        listing = asyncio.create_task(self._backplane.threads.note(ref, start.subject), name=f"list-{ref}")
        try:
            return await self._backplane.turns.start(ref, start)
        finally:
            await listing

    async def _admit(self, ref: ThreadRef, start: Start) -> None:
        try:
            await self._backplane.admission.admit(ref, start.subject, start.request_id)
        except RateLimited:
            # the same message again is no new turn: it gets the answer that it got before
            key = start.client_message_id
            if key is None or await self._backplane.turns.known_as(ref, start.subject, key) is None:
                raise

    @traced("chat:cancel")
    @audited("cancel")
    async def cancel(self, identity: Identity, asked: ChatCancel) -> Ack:
        """Stop a turn, and say truthfully what was stopped."""
        ref = self._ref(identity, asked)
        cancelled = await self._backplane.turns.cancel(ref, identity.subject, asked.request_id)
        return {
            "ok": True,
            "cancelled": cancelled.cancelled,
            "request_id": cancelled.request_id,
            "state": cancelled.state,
            "dropped": list(cancelled.dropped),
            "cancel_requested_ms": cancelled.requested,
            "cancel_seen_ms": cancelled.seen,
            "cancel_stopped_ms": cancelled.stopped,
            "stopped": cancelled.how,
        }

    async def subscribe(self, identity: Identity, asked: ThreadSubscribe, member: Member) -> Ack:
        """Bring a member up to the present of a thread, and keep it there."""
        ref = self._ref(identity, asked)
        self._check_room_for(member, ref)
        async with self._rooms.room(ref) as room:
            joined = await room.join(member, identity.subject, asked.cursor, asked.history)
        self._touch(ref, identity)
        ack: Ack = {
            "ok": True,
            "joined": True,
            "thread_id": ref.thread_id,
            "epoch": joined.epoch,
            "offset": joined.offset,
            "recovered": joined.recovered,
        }
        if joined.snapshot is not None:
            ack["snapshot"] = joined.snapshot.as_dict()
        return ack

    def _check_room_for(self, member: Member, ref: ThreadRef) -> None:
        most = self._backplane.settings.max_threads_per_socket
        if len(member.rooms) >= most and self._rooms.get(ref) not in member.rooms:
            raise TooManyThreads(
                f"expected at most {most} threads on one connection, got one more; unsubscribe from some, or open "
                "another connection",
                limit=most,
            )

    def unsubscribe(self, identity: Identity, asked: ThreadUnsubscribe, member: Member) -> Ack:
        """Send no more of a thread to a member, but for the turns that it started."""
        room = self._rooms.get(self._ref(identity, asked))
        if room is not None:
            room.leave(member)
        return {"ok": True, "joined": False, "thread_id": asked.thread_id}

    async def history(self, identity: Identity, asked: ThreadHistory) -> Ack:
        """Return messages before one, oldest first: as they stand, or as they were before an edit."""
        ref = self._ref(identity, asked)
        _, messages, branches = await self._backplane.sessions.conversation(
            ref, subject=identity.subject, before=asked.before or 0, most=asked.limit, branch=asked.branch or ""
        )
        return {
            "ok": True,
            "thread_id": ref.thread_id,
            "messages": messages,
            "branches": [branch.as_dict() for branch in branches],
        }

    async def snapshot(self, identity: Identity, asked: ThreadHistory) -> Ack:
        """Return the thread as of now."""
        ref = self._ref(identity, asked)
        snapshot = await self._backplane.sessions.snapshot(ref, subject=identity.subject, most=asked.limit)
        return {
            "ok": True,
            "thread_id": ref.thread_id,
            "epoch": snapshot.epoch,
            "offset": snapshot.offset,
            **snapshot.as_dict(),
        }

    # --- threads as their owner manages them -----------------------------------------------------------

    async def threads(self, identity: Identity, asked: ThreadList) -> Ack:
        """Return a page of the threads of whoever asks, the one started last first."""
        before = None if asked.before is None else int(asked.before)
        found, following = await self._backplane.threads.page(
            identity.tenant, identity.subject, before=before, most=asked.limit
        )
        return {
            "ok": True,
            "threads": [summary.as_dict() for summary in found],
            "next": None if following is None else str(following),
        }

    async def rename(self, identity: Identity, asked: ThreadRename) -> Ack:
        """Give a thread another title, and tell everybody who watches it."""
        ref = self._ref(identity, asked)
        await self._backplane.threads.rename(ref, identity.subject, asked.title)
        return {"ok": True, "thread_id": ref.thread_id, "title": asked.title}

    @audited("delete")
    async def delete(self, identity: Identity, asked: ThreadDelete) -> Ack:
        """End what runs in a thread, tell everybody who watches it, and erase it everywhere."""
        ref = self._ref(identity, asked)
        deleted = await self._backplane.threads.delete(ref, identity.subject)
        return {"ok": True, "thread_id": ref.thread_id, "deleted": deleted}

    async def presence(self, identity: Identity, asked: ThreadPresence) -> Ack:
        """Return who watches a thread, on all nodes, and which worker answers."""
        ref = self._ref(identity, asked)
        watched = await self._backplane.presence.look(ref, identity.subject)
        return {
            "ok": True,
            "thread_id": ref.thread_id,
            "watchers": watched.watchers,
            "running": watched.running,
            "state": watched.state,
            "worker": watched.worker,
        }

    def _touch(self, ref: ThreadRef, identity: Identity) -> None:
        """List a thread that its owner looks at, if it is missing; nobody waits for that."""
        task = asyncio.create_task(self._backplane.threads.touch(ref, identity.subject), name=f"touch-{ref}")
        self._touches.add(task)
        task.add_done_callback(self._touches.discard)

    # --- what waits and what asks ----------------------------------------------------------------------

    async def beginning(self, identity: Identity, thread_id: str, request_id: str = "") -> tuple[str, str, int] | None:
        """Return `(epoch, request id, offset)` of where a turn begins in the log; None when there is no such turn.

        Args:
            identity: who asks.
            thread_id: a valid one.
            request_id: the turn; empty for the primary one that runs.

        Raises:
            NotFound: when there is no such thread, or it is another's.
            Unavailable: when Redis did not answer.
        """
        ref = ThreadRef(identity.tenant, thread_id)
        return await self._backplane.turns.beginning(ref, identity.subject, request_id)

    async def turn_of(self, identity: Identity, thread_id: str, client_message_id: str) -> str | None:
        """Return the turn that a message began, by the id that it was sent with; None when that is not remembered.

        Raises:
            Unavailable: when Redis did not answer.
        """
        ref = ThreadRef(identity.tenant, thread_id)
        return await self._backplane.turns.known_as(ref, identity.subject, client_message_id)

    async def told(
        self, identity: Identity, thread_id: str, epoch: str, after: int, request_id: str
    ) -> tuple[Page, int, list[Event]] | None:
        """Return the last page that was read, the offset that it ends at, and a turn's events up to there.

        That is to the end of the log, or of the turn; None when the log does not reach back to `after`. A turn of
        long ago has all of the thread behind it: nothing else of it is kept.

        Raises:
            NotFound: when there is no such thread, or it is another's.
            Unavailable: when Redis did not answer.
        """
        ref, told = ThreadRef(identity.tenant, thread_id), list[Event]()
        while True:
            page = await self._backplane.log.read(ref, subject=identity.subject, epoch=epoch, after=after)
            if not page.reached:
                return None
            told += [event for event in page.events if event.fields.get("request_id") == request_id]
            epoch, after = page.epoch, after + len(page.events)
            if after >= page.top or (told and told[-1].name in TERMINAL):
                return page, after, told

    async def queue_status(self, identity: Identity, asked: QueueStatus) -> Ack:
        """Return what runs, and what waits in which lane."""
        ref = self._ref(identity, asked)
        running, state, waiting = await self._backplane.turns.lanes(ref, identity.subject)
        position = 0
        if running is not None and state == "ready":
            position = await self._backplane.turns.place(ref, running, identity.subject)
        lanes: dict[str, list[dict[str, Any]]] = {lane: [] for lane in _LANES}
        for item in waiting:
            shown = {"item_id": item.item_id, "preview": item.preview, "created": item.created}
            if item.lane == "parallel":
                shown["state"] = item.state
            else:
                shown["position"] = len(lanes[item.lane]) + 1
            lanes[item.lane].append(shown)
        ack: Ack = {
            "ok": True,
            "thread_id": ref.thread_id,
            "running": running,
            "state": state,
            "lanes": lanes,
        }
        if position:
            ack["position"] = position
        return ack

    @audited("queue_clear")
    async def queue_clear(self, identity: Identity, asked: QueueClear) -> Ack:
        """Take everything that waits out of the lanes."""
        ref = self._ref(identity, asked)
        removed = await self._backplane.turns.unqueue(ref, identity.subject)
        return {"ok": True, "thread_id": ref.thread_id, "removed": removed}

    @audited("queue_remove")
    async def queue_remove(self, identity: Identity, asked: QueueRemove) -> Ack:
        """Take one item out of its lane."""
        ref = self._ref(identity, asked)
        removed = await self._backplane.turns.unqueue(ref, identity.subject, asked.item_id)
        if not removed:
            raise NotFound("no such item waits in this thread; ask queue:status for those that do")
        return {"ok": True, "thread_id": ref.thread_id, "removed": removed}

    @traced("approval:decide")
    @audited("decide")
    async def decide(self, identity: Identity, asked: ApprovalDecide) -> Ack:
        """Decide what an agent asks, or say who has."""
        ref = self._ref(identity, asked)
        decided = await self._backplane.approvals.decide(ref, identity.subject, asked.approval_id, asked.decision)
        return {
            "ok": True,
            "thread_id": ref.thread_id,
            "approval_id": asked.approval_id,
            "decided": decided.decided,
            "state": decided.answer.state,
            "decision": decided.answer.decision,
            "by": decided.answer.by,
        }
