"""What a program does with one thread: send, cancel, read back, follow."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from threadline_client.calls import call
from threadline_client.connection import Connection
from threadline_client.errors import NotFound, Refused
from threadline_client.events import Cursor, Event, Snapshot, whole
from threadline_client.outcome import Outcome, outcome_in, outcome_of
from threadline_client.stream import EventStream
from threadline_client.threads import Watched, parse_watched
from threadline_client.traces import trace_fields

NEWEST: Final = 0
"""In place of the `id` of a message: the newest that began a turn. No message has this number."""
_LOOK: Final = 200
"""Messages of one look for a number: as many as a gateway gives."""


@dataclass(frozen=True, slots=True)
class CancelResult:
    """What became of a cancel: which turn, the state it was found in, and the proof as far as it is known."""

    cancelled: bool
    request_id: str | None
    state: str
    dropped: tuple[str, ...] = ()
    """What a cancel of everything took out of the lanes."""
    cancel_requested_ms: int | None = None
    cancel_seen_ms: int | None = None
    cancel_stopped_ms: int | None = None
    """Unix milliseconds of the server's clock."""
    stopped: str | None = None
    """`cooperative`, `hard`, `fenced` or `unowned`; see docs/protocol.md."""


@dataclass(frozen=True, slots=True)
class DecideResult:
    """What became of a decision: `decided` is true for the call that decided, else the rest says what stands."""

    approval_id: str
    decided: bool
    state: str
    """`decided`, `expired` or `withdrawn`."""
    decision: str | None
    by: str | None


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """What runs, and what waits in which lane."""

    running: str | None
    """The `request_id` of the primary turn; None when nothing runs."""
    state: str
    """`ready`, `running`, `waiting`, or `idle`."""
    lanes: Mapping[str, list[dict[str, Any]]]
    """`{followup: [{item_id, preview, created, position}, …], steer: …, collect: …, parallel: …}`."""


class Thread:
    """One conversation, reached through whichever gateway lives."""

    def __init__(self, connection: Connection, thread_id: str) -> None:
        self.id = thread_id.strip()
        self._connection = connection

    async def send(
        self,
        text: str,
        *,
        client_message_id: str | None = None,
        queue_mode: str | None = None,
        policy: str | None = None,
        model: str | None = None,
        model_override: str | None = None,
        temperature: float | None = None,
        locale: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
    ) -> Turn:
        """Send a message and return its turn, once a gateway has acknowledged it.

        It is sent again, under the same `client_message_id` (made here unless given), until it is
        acknowledged: over lost connections, and when the gateway says `unavailable` or `rate_limited`.
        One key is one turn, however often it is sent. Put `asyncio.timeout` around it to give up earlier.

        Args:
            text: what the person says.
            client_message_id: the idempotency key.
            queue_mode: what to do when a turn runs: `interrupt` (the default), `reject`, `followup`, …
            policy: what becomes of the turn when its worker is lost: `retry`, `resume` or `fail`.
            model: the model to ask for.
            model_override: wins over `model`.
            temperature: from 0 to 2, handed to the agent.
            locale: the language of the answer, such as `de`, handed to the agent.
            metadata: kept with the message, and handed to the agent.
            traceparent: the trace that the turn belongs to, by W3C Trace Context; without it, that of the current span.
            tracestate: belongs to `traceparent`.

        Raises:
            NotFound: when the thread is another's.
            Refused: with the gateway's code, such as `turn_running`, `queue_full` or `too_large`.
        """
        key = client_message_id or secrets.token_urlsafe(15)
        payload = {
            "thread_id": self.id,
            "message": text,
            "client_message_id": key,
            "queue_mode": queue_mode,
            "policy": policy,
            "model": model,
            "model_override": model_override,
            "temperature": temperature,
            "locale": locale,
            "metadata": None if metadata is None else dict(metadata),
            **trace_fields(traceparent, tracestate),
        }
        answer = await self._call("chat:start", payload)
        turn = Turn(self, key, answer)
        self._connection.thread_exists(self.id, turn.cursor.epoch)
        return turn

    async def edit(
        self,
        text: str | None = None,
        *,
        message_id: int = NEWEST,
        request_id: str | None = None,
        newest_id: int | None = None,
        client_message_id: str | None = None,
        policy: str | None = None,
        model: str | None = None,
        model_override: str | None = None,
        temperature: float | None = None,
        locale: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
    ) -> Turn:
        """Put a message in the place of an earlier one, and return its turn; without a text, ask the same once more.

        The turn that runs ends, and everything behind that message leaves the conversation; `history` shows it with
        `branch`, the `request_id` of this turn. It is sent again, under one key, until it is acknowledged.

        Args:
            text: what the person says instead; None regenerates the answer.
            message_id: the `id` of a message of `history`; the newest one unless given.
            request_id: the turn that it began, in its place: for a message that came as an event, whose `id` is None.
            newest_id: the `id` of the newest message that was shown: refuse if there are newer ones.
            client_message_id: as of `send`, and so are all that follow.
            policy: what becomes of the turn when its worker is lost.
            model: the model to ask for.
            model_override: wins over `model`.
            temperature: from 0 to 2, handed to the agent.
            locale: the language of the answer.
            metadata: kept with the message, and handed to the agent.
            traceparent: the trace that the turn belongs to.
            tracestate: belongs to `traceparent`.

        Raises:
            NotFound: when the thread does not exist.
            Refused: `edit_conflict`, when that message is no more part of the conversation.
            TypeError: for a `message_id` of None: without a number the newest message would be meant.
        """
        if message_id is None:
            raise TypeError(
                "message_id: expected a number, got None, as of a message that came as an event; give its request_id"
            )
        if message_id == NEWEST and request_id is not None:
            message_id = await self._number_of(request_id)
        key = client_message_id or secrets.token_urlsafe(15)
        payload = {
            "thread_id": self.id,
            "message": text,
            "message_id": None if message_id == NEWEST else message_id,
            "newest_id": newest_id,
            "client_message_id": key,
            "policy": policy,
            "model": model,
            "model_override": model_override,
            "temperature": temperature,
            "locale": locale,
            "metadata": None if metadata is None else dict(metadata),
            **trace_fields(traceparent, tracestate),
        }
        return Turn(self, key, await self._call("thread:edit", payload))

    async def _number_of(self, request_id: str) -> int:
        """Return the number of the message that began a turn; the history knows it, however far back."""
        before: int | None = None
        while before is None or before > 1:
            page = await self.history(limit=_LOOK, before=before)
            for message in page:
                if message.get("request_id") == request_id and message.get("role") == "user":
                    return whole(message.get("id"))
            before = whole(page[0].get("id")) if page else 0
        raise Refused("edit_conflict", "expected the message in the thread's history, found none; look again")

    async def rename(self, title: str) -> None:
        """Give the thread another title, of at most 120 characters.

        Raises:
            NotFound: when the thread does not exist.
        """
        await self._call("thread:rename", {"thread_id": self.id, "title": title})

    async def delete(self) -> bool:
        """End what runs in the thread and erase it everywhere. False when there was none (any more)."""
        return bool((await self._call("thread:delete", {"thread_id": self.id})).get("deleted"))

    async def presence(self) -> Watched:
        """Return who watches the thread, and which worker answers.

        Raises:
            NotFound: when the thread does not exist.
        """
        return parse_watched(await self._call("thread:presence", {"thread_id": self.id}))

    async def cancel(self, request_id: str | None = None) -> CancelResult:
        """Cancel a turn, or without `request_id` the one that runs, with all that waits. Any gateway will do.

        Raises:
            NotFound: when the thread does not exist.
        """
        asked = {"thread_id": self.id, "request_id": request_id, **trace_fields()}
        answer = await self._call("chat:cancel", asked)
        told = answer.get("request_id")
        return CancelResult(
            cancelled=bool(answer.get("cancelled")),
            request_id=told if isinstance(told, str) else None,
            state=str(answer.get("state", "")),
            dropped=tuple(answer.get("dropped") or ()),
            cancel_requested_ms=answer.get("cancel_requested_ms"),
            cancel_seen_ms=answer.get("cancel_seen_ms"),
            cancel_stopped_ms=answer.get("cancel_stopped_ms"),
            stopped=answer.get("stopped"),
        )

    async def decide(self, approval_id: str, decision: str) -> DecideResult:
        """Answer an approval or a question.

        Raises:
            NotFound: when it was never asked in this thread.
            Refused: `invalid_payload`, for what is not one of the options.
        """
        asked = {"thread_id": self.id, "approval_id": approval_id, "decision": decision}
        answer = await self._call("approval:decide", asked | trace_fields())
        return DecideResult(
            approval_id=str(answer.get("approval_id", approval_id)),
            decided=bool(answer.get("decided")),
            state=str(answer.get("state", "")),
            decision=answer.get("decision"),
            by=answer.get("by"),
        )

    async def queue_status(self) -> QueueStatus:
        """Return what runs, and what waits in which lane.

        Raises:
            NotFound: when the thread does not exist.
        """
        answer = await self._call("queue:status", {"thread_id": self.id})
        return QueueStatus(answer.get("running"), str(answer.get("state", "")), dict(answer.get("lanes") or {}))

    async def queue_clear(self) -> list[str]:
        """Take everything that waits out of the lanes; return the ids.

        Raises:
            NotFound: when the thread does not exist.
        """
        return list((await self._call("queue:clear", {"thread_id": self.id})).get("removed") or [])

    async def queue_remove(self, item_id: str) -> None:
        """Take one message out of its lane.

        Raises:
            NotFound: when it does not wait any more.
        """
        await self._call("queue:remove", {"thread_id": self.id, "item_id": item_id})

    async def history(
        self, *, limit: int | None = None, before: int | None = None, branch: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the last messages, oldest first.

        Each is `{id, role, content, ts, request_id, interrupted?, steer?, context?}`.
        A page of long messages may have fewer than `limit`: ask again with `before` for what stands before the first.

        Args:
            limit: how many at most; the gateway has a limit of its own.
            before: the id of a message; only older ones are returned.
            branch: the `request_id` of an edit: the messages as they were before it.

        Raises:
            NotFound: when the thread does not exist.
        """
        asked = {"thread_id": self.id, "limit": limit, "before": before, "branch": branch}
        messages = (await self._call("thread:history", asked)).get("messages")
        return [dict(message) for message in messages] if isinstance(messages, list) else []

    def events(self, after: Cursor | None = None, *, history: int | None = None) -> EventStream:
        """Return the stream of what happens in this thread.

        With `after`, it begins with the first event behind that place; without, with a `Snapshot` of how
        things stand. A thread that does not exist yields a `Snapshot` that says so, and is then waited for.

        Args:
            after: where to go on.
            history: how many messages a snapshot brings; the gateway's default is 50.
        """
        return EventStream(self._connection, self.id, after, history)

    def _events_from(self, first: Cursor) -> EventStream:
        """Return the stream that begins with an event, or with a `Snapshot` where the log does not have it any more."""
        before = Cursor(first.epoch, max(0, first.offset - 1))
        return EventStream(self._connection, self.id, before, None, first)

    async def _call(self, event: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        return await call(self._connection, event, payload)


class Turn:
    """One acknowledged message, and the answer to come.

    `async for item in turn` yields its events from `chat_accepted` (or `queue_item_queued`) up to the terminal one;
    `await turn.wait()` its outcome.
    Nothing is kept while nobody looks: both read from the log, and both may be used more than once.
    """

    def __init__(self, thread: Thread, client_message_id: str, answer: Mapping[str, Any]) -> None:
        self.thread = thread
        self.client_message_id = client_message_id
        self.request_id = str(answer.get("request_id", ""))
        self.state = str(answer.get("state", "accepted"))
        """`accepted`, or `queued` behind the running turn."""
        self.lane: str | None = answer.get("lane")
        self.position: int | None = answer.get("position")
        self.cursor = Cursor(str(answer.get("epoch", "")), int(answer.get("offset") or 0))
        """The place in the log at which it was accepted or queued."""

    async def cancel(self) -> CancelResult:
        """Cancel this turn; another one that runs by now is left alone."""
        return await self.thread.cancel(self.request_id)

    async def __aiter__(self) -> AsyncGenerator[Event | Snapshot, None]:
        """Yield this turn's events, from the one that took it up to its end, or a snapshot where they are gone."""
        async with aclosing(self._followed()) as followed:
            async for item, _ in followed:
                yield item

    async def wait(self) -> Outcome:
        """Return how the turn ended, however long that takes."""
        async with aclosing(self._followed()) as followed:
            async for _, outcome in followed:
                if outcome is not None:
                    return outcome
        raise AssertionError("what follows a turn ends with its outcome, or raises")

    async def _followed(self) -> AsyncGenerator[tuple[Event | Snapshot, Outcome | None], None]:
        """Yield what happens to this turn; with the last item, how it ended."""
        text, begun, outcome = "", self.state != "queued", None
        async with self.thread._events_from(self.cursor) as events:
            async for item in events:
                if isinstance(item, Snapshot):
                    told = self._told_in(item)
                    text, begun = str((told or {}).get("text") or ""), begun or told is not None
                    outcome = outcome_in(item, self.request_id, queued=not begun)
                    if outcome is None and not begun and await self._has_vanished(events):
                        outcome = outcome_in(item, self.request_id, queued=False)
                elif item.request_id == self.request_id:
                    begun = begun or item.name != "queue_item_queued"
                    text = _text_after(item, text)
                    outcome = _end_in(item, text)
                else:
                    continue
                yield item, outcome
                if outcome is not None:
                    return

    def _told_in(self, snapshot: Snapshot) -> Mapping[str, Any] | None:
        """Return this turn as a snapshot has it, or None if it does not run."""
        turns = (snapshot.turn or {}, *snapshot.parallel)
        return next((turn for turn in turns if turn.get("request_id") == self.request_id), None)

    async def _has_vanished(self, events: EventStream) -> bool:
        """Whether a turn that waited, and that a snapshot does not know, neither waits nor runs.

        A snapshot says nothing of the lanes. Who left its lane behind the snapshot is told of by events.
        """
        try:
            status = await self.thread.queue_status()
        except NotFound:
            return False  # the stream says so too
        known = {status.running, *(item.get("item_id") for lane in status.lanes.values() for item in lane)}
        return self.request_id not in known and not events.holds(self.request_id)


def _text_after(event: Event, text: str) -> str:
    """Return what was seen of the answer after one more of its events."""
    if event.name == "turn_restarted":
        kept = event.get("kept_text")
        return text[:kept] if isinstance(kept, int) else ""
    return text + event.delta if event.name == "text_delta" else text


def _end_in(event: Event, text: str) -> Outcome | None:
    """Return how a turn ended, or None when this event of it is not its end."""
    if event.terminal:
        return outcome_of(event, text)
    if event.name == "queue_item_removed":
        return Outcome(event.request_id, False, text, "removed", "the message was removed from the queue")
    if _went_elsewhere(event):
        return Outcome(event.request_id, False, text, "delivered", "the message went into another turn")
    return None


def _went_elsewhere(event: Event) -> bool:
    """Whether the message was taken as a steer or as context: it never has a turn of its own."""
    return event.name == "queue_item_delivered" and event.get("into_request_id") is not None
