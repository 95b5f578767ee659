"""Decides, without I/O, which events to pass on, which to drop, and when to ask for the log again.

    ABSENT  ── first event, or a start of ours ──> STALE or LIVE
    STALE   ── subscribe sent ──> ASKED ── answer ──> LIVE, STALE (a hole), or ABSENT (not found)
    LIVE    ── a hole, another epoch that does not follow on, a lost connection ──> STALE

While an answer is awaited, missed events come in order and are taken. An event further on (the socket may
be in the thread's room already) is left alone: if it is not in the answer, the log is asked again. So each
offset passes once, in order, or a snapshot says that it cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from threadline_client.errors import Refused, refusal
from threadline_client.events import Cursor, Event, Snapshot, parse_snapshot

Item = Event | Snapshot


class Standing(Enum):
    """How a stream stands towards the gateway."""

    STALE = "stale"
    """It must (re-)subscribe."""
    ASKED = "asked"
    """It has asked, and waits for the answer."""
    LIVE = "live"
    """It receives what happens as it happens."""
    ABSENT = "absent"
    """The thread does not exist yet."""


class Tracker:
    """The cursor of one stream, and what each frame means for it.

    Args:
        thread_id: the thread.
        after: where to go on.
        history: messages that a snapshot brings; the gateway's default if None.
        first: the event behind `after`, where it is known that there was one.
    """

    def __init__(
        self, thread_id: str, after: Cursor | None = None, history: int | None = None, first: Cursor | None = None
    ) -> None:
        self.thread_id = thread_id
        self.cursor = after
        self.standing = Standing.STALE
        self._history = history
        self._first = first
        """What is still to be met. A failover may have lost it, and the log still reaches to the place before it."""
        self._told_absent = False
        self._asked_from: Cursor | None = None
        self._beyond: Cursor | None = None
        """The furthest event that was left alone since the log was last asked."""
        self._unsure = False
        """True when another epoch was entered before the answer that confirms it."""

    def ask(self) -> dict[str, Any]:
        """Return the payload of `thread:subscribe`, and wait for its answer from now on."""
        self.standing = Standing.ASKED
        self._asked_from, self._beyond = self.cursor, None
        payload: dict[str, Any] = {"thread_id": self.thread_id}
        if self.cursor is not None:
            payload |= {"epoch": self.cursor.epoch, "after": self.cursor.offset}
        if self._history is not None:
            payload["history"] = self._history
        return payload

    def _may_follow(self, event: Event, cursor: Cursor) -> bool:
        """Whether an event is of the log that we know, be it in the epoch which follows ours.

        A failover that has lost nothing of what we have begins another epoch in mid-stream. While we stand in the
        log a node has made sure of that; while an answer is awaited, it has if the answer says `recovered`.
        """
        if event.epoch == cursor.epoch:
            return True
        if self.standing is Standing.STALE or event.first_offset != cursor.offset + 1:
            return False
        self._unsure = self._unsure or self.standing is Standing.ASKED
        return True

    def lost(self) -> None:
        """Note that the connection is gone."""
        if self._unsure:
            self.cursor, self._unsure = None, False
        self.standing = Standing.STALE

    def exists_now(self, epoch: str) -> None:
        """Note that the thread came into being: a start of ours was acknowledged."""
        if self.standing is Standing.ABSENT:
            self.cursor = Cursor(epoch, 0)
            self.standing = Standing.STALE

    def deleted(self, epoch: str) -> list[Item]:
        """Return what to pass on when the thread was erased; of another log than ours, ask what stands now."""
        if self.standing is Standing.ABSENT:
            return []
        if self.cursor is not None and self.cursor.epoch != epoch:
            self.lost()
            return []
        self.cursor, self._unsure = None, False
        self.standing, self._told_absent = Standing.ABSENT, True
        return [Snapshot(self.thread_id, "", 0, exists=False)]

    def event(self, event: Event) -> list[Item]:
        """Return what to pass on for an event that came."""
        if self.standing is Standing.ABSENT:
            self.cursor, self._told_absent = Cursor(event.epoch, 0), False
            self.standing = Standing.LIVE
        cursor = self.cursor
        if cursor is None or not self._may_follow(event, cursor):
            return self._leave(event)
        if event.offset <= cursor.offset:
            return []
        if event.first_offset != cursor.offset + 1:
            return self._leave(event)
        self.cursor = event.cursor
        if event.cursor == self._first:
            self._first = None
        return [event]

    def answer(self, answer: Mapping[str, Any]) -> list[Item]:
        """Return what to pass on for the acknowledgement of `thread:subscribe`.

        Raises:
            Refused: when the gateway refused for another reason than that the thread does not exist.
        """
        if not answer.get("ok"):
            self.cursor = None if self._unsure else self.cursor
            self._unsure = False
            return self._refused(refusal(answer.get("error")))
        self._unsure = False
        self._told_absent = False
        told = parse_snapshot(self.thread_id, answer)
        self.standing = Standing.LIVE
        items: list[Item] = []
        if told.recovered is not True:
            self.cursor, self._first = told.cursor, None
            items.append(told)
        self._check(told)
        return items

    def _check(self, told: Snapshot) -> None:
        cursor, beyond, top = self.cursor, self._beyond, told.cursor
        if cursor is None or cursor.epoch != top.epoch:
            # "recovered" without what it recovers, or from another log: start anew, with a snapshot.
            self.cursor, self.standing = None, Standing.STALE
        elif cursor.offset < top.offset:
            self.standing = Standing.STALE
        elif self._asked_from is not None and told.recovered and self._asked_from.offset > top.offset:
            # Not to be confused with live events that overtook the answer: those came after the question.
            self.cursor, self.standing = None, Standing.STALE
        elif self._first is not None:
            self.cursor, self.standing = None, Standing.STALE
        elif beyond is not None and (beyond.epoch != cursor.epoch or beyond.offset > cursor.offset):
            self.standing = Standing.STALE

    def _refused(self, error: Refused) -> list[Item]:
        if error.code == "not_found":
            self.cursor = None
            self.standing = Standing.ABSENT
            if self._told_absent:
                return []
            self._told_absent = True
            return [Snapshot(self.thread_id, "", 0, exists=False)]
        self.standing = Standing.STALE
        raise error

    def _leave(self, event: Event) -> list[Item]:
        if self.standing is Standing.LIVE:
            self.standing = Standing.STALE
        if self._beyond is None or event.epoch != self._beyond.epoch or event.offset > self._beyond.offset:
            self._beyond = event.cursor
        return []
