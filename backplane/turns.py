"""Turns: started once, owned by one worker at a time, ended once. Each method is one script."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

import structlog
from opentelemetry.trace import SpanKind
from redis.exceptions import RedisError

from backplane.doorbell import Ring
from backplane.errors import EditConflict, IdempotencyConflict, QueueFull, TurnRunning
from backplane.events import body, dumps
from backplane.ids import ThreadRef, new_id
from backplane.keys import REMEMBERED, ThreadKeys, split_member
from backplane.log import no_such_thread
from backplane.scripts import Call
from backplane.settings import Policy
from backplane.traces import MESSAGE, REQUEST, STATE, carried, of_queue

if TYPE_CHECKING:
    from backplane.connection import Backplane

QueueMode = Literal["interrupt", "reject", "followup", "steer", "collect", "parallel"]
Verdict = Literal["ok", "cancelled", "fenced"]

_PREVIEW = 120
_log = structlog.get_logger("backplane.turns")


@dataclass(frozen=True, slots=True)
class Edit:
    """Which message a turn takes the place of, with everything behind it."""

    message_id: int | None = None
    """None for the newest message of a person that began a turn."""
    newest: int | None = None
    """The newest message that the editor knows of: when there are newer ones, nothing is changed. None for any."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a person asks for."""

    message: str
    """Empty for the edited message once more."""
    subject: str
    client_id: str
    """The socket that asked; events carry it."""
    queue_mode: QueueMode = "interrupt"
    client_message_id: str | None = None
    """The idempotency key: within a thread and a subject, one key is one turn."""
    model: str | None = None
    temperature: float | None = None
    locale: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    policy: Policy | None = None
    """What becomes of it when its worker is lost; None for the setting `turn_policy`."""
    edit: Edit | None = None
    """None for a message at the end of the conversation; with it, `queue_mode` does not count."""
    request_id: str = field(default_factory=new_id)

    def input(self) -> dict[str, Any]:
        """Return what the agent is told beside the message."""
        return {
            "model": self.model,
            "temperature": self.temperature,
            "locale": self.locale,
            "metadata": self.metadata,
        }

    def digest(self) -> str:
        """Return what names the idempotency key in Redis."""
        return _digest(self.subject, self.client_message_id or "")

    def fingerprint(self) -> str:
        """Return what must be equal for two calls with one key to be the same call."""
        edited = [] if self.edit is None else [self.edit.message_id or 0]
        text = dumps([self.message, self.input(), self.policy, *edited])
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Started:
    """The answer to a start; a repeated start gets an equal one."""

    state: Literal["accepted", "queued"]
    request_id: str
    epoch: str
    offset: int
    """Of its chat_accepted, or of its queue_item_queued."""
    client_id: str
    position: int
    """1 for the next in the lane; 0 when accepted."""
    lane: str
    """followup, steer, collect or parallel; empty for a turn that took its thread at once."""
    place: int = field(default=0, compare=False)
    """When accepted: its place now among all that wait for a worker, about; 1 is next, 0 when that is not known."""
    edited: int = 0
    """The id of the message that an edit cut off first; 0 for none."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The truth about a cancel."""

    cancelled: bool
    request_id: str | None
    state: str
    """What the turn was when the cancel came: queued, ready, running; done, failed, cancelled; idle, unknown."""
    dropped: tuple[str, ...] = ()
    """Waiting messages that were taken out of the lanes."""
    requested: int | None = None
    """When it was first asked to stop (Unix milliseconds, Redis' clock); None when it never was."""
    seen: int | None = None
    """When its worker was told; None while it has not been."""
    stopped: int | None = None
    """When it stopped; None while it has not."""
    how: str | None = None
    """How it stopped: cooperative, hard, fenced, unowned (docs/protocol.md)."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message in a lane; in the lane `parallel`, a turn that runs beside the primary one."""

    lane: str
    item_id: str
    state: str
    preview: str
    created: int


@dataclass(frozen=True, slots=True)
class Steer:
    """A message that goes into the running turn."""

    item_id: str
    message: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's right to one turn, until its lease lapses. The fence makes an old claim harmless."""

    ref: ThreadRef
    request_id: str
    fence: int
    """The attempt: it rises with each claim."""
    session_version: int
    epoch: str
    message: str
    input: dict[str, Any]
    subject: str
    deadline: int
    message_id: int
    """Of the turn's own message in the session: smaller ids are its history."""
    began: int
    """When its message entered the session, Unix milliseconds."""
    lane: str
    """`parallel` for a turn beside the session: it reads the session as it was, and leaves nothing in it."""
    policy: Policy = "retry"
    text: str = ""
    """What of the answer stands already: an earlier attempt said it, up to its last finished step."""
    steps: Mapping[str, str] = field(default_factory=dict)
    """The JSON of the results of finished steps, by the name of the step."""
    kept_by: str = ""
    """Up to where `text` was said: `step NAME` or `asked ID`, whichever came last."""
    proof: str = ""
    """The attempt and the id of this claim, which every write carries: a failover may give an attempt out again."""
    trace: str = ""
    """The trace context that its start gave it, as a line (backplane/traces.py)."""
    ready_at: int = 0
    """Since when it could be claimed, Unix milliseconds."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of a turn that its owner ended."""

    state: str
    """done or failed as asked, `cancelled` when somebody asked to stop it first, `fenced` when it was lost."""
    session_version: int
    message_id: int
    """Of the newest message in the session."""
    ended: int
    """Unix milliseconds."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events that are appended together."""

    number: int
    """1, 2, 3, … within the attempt: a batch that is sent twice is written once."""
    events: Sequence[tuple[str, str]]
    """(name, inside of a JSON object) of each."""
    text: str = ""
    """What these events add to the answer."""

    def pairs(self) -> list[str]:
        """Return the events as the scripts take them."""
        return [part for event in self.events for part in event]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a turn ends, said by its owner."""

    state: Literal["done", "failed"]
    name: str
    fields: str
    answer: str | None = None
    """The whole answer for the session; None keeps the text so far, marked as interrupted."""
    stopped: Literal["cooperative", "hard"] = "cooperative"
    """If it was asked to stop: whether its agent ended, or ignored that and was left behind."""


class Turns:
    """The life of turns, from any process."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane
        self._settings = backplane.settings
        self._call = backplane.call
        self._slim = lru_cache(maxsize=REMEMBERED)(self._slim_slots)

    def _keys(self, ref: ThreadRef) -> ThreadKeys:
        return self._backplane.keys.thread(ref)

    async def ring(self, ref: ThreadRef, request_id: str, subject: str, *, again: bool = False) -> int:
        """Ring the doorbell for a turn that became ready; if that fails, the recoverer rings.

        Returns its place in the line of those that wait for a worker, about (1 is next); 0 when that is not known.
        """
        try:
            return await self._backplane.doorbell.ring(Ring(self._keys(ref).member(request_id), subject, again))
        except (RedisError, OSError):
            named = {"thread_id": ref.thread_id, "request_id": request_id}
            _log.warning("the doorbell could not be rung; the recoverer will ring", **named)
            return 0

    async def place(self, ref: ThreadRef, request_id: str, subject: str) -> int:
        """Return where a ready turn stands in the line of those that wait for a worker, about: 1 is next.

        0 when it does not stand there, or Redis did not say.
        """
        try:
            return await self._backplane.doorbell.place(self._keys(ref).member(request_id), subject)
        except (RedisError, OSError):
            return 0

    # --- from gateways ---------------------------------------------------------------------------------

    async def start(self, ref: ThreadRef, start: Start) -> Started:
        """Start a turn, or put its message in a lane, as `queue_mode` says.

        Raises:
            NotFound: when the thread is another's.
            IdempotencyConflict: when the key came before with another message.
            EditConflict: when the message to edit is not there any more, or newer ones came.
            TurnRunning: with `queue_mode` reject.
            QueueFull: when `max_followups` messages wait in the lane already, or `max_parallel` turns run in theirs.
            Unavailable: when Redis did not answer; the same Start may be sent again.
        """
        about = of_queue("send", ref, start.request_id)
        with self._backplane.traces.span("send turns", about, SpanKind.PRODUCER) as span:
            started = await self._start(ref, start)
            # an answer that is given again names the turn of the first call
            span.set_attributes({STATE: started.state, REQUEST: started.request_id, MESSAGE: started.request_id})
            return started

    async def _start(self, ref: ThreadRef, start: Start) -> Started:
        digest, fingerprint = "", ""
        if start.client_message_id is not None:
            digest, fingerprint = start.digest(), start.fingerprint()
        answer = await self._backplane.run(self._start_call(ref, start, digest, fingerprint))
        code = answer[0].decode()
        if code == "not_found":
            raise no_such_thread()
        if code == "idempotency_conflict":
            raise IdempotencyConflict(
                "client_message_id was used for another message in this thread; send a new message under a new id"
            )
        if code == "edit_conflict":
            raise EditConflict(
                "expected a message of a person that stands in the conversation, with none behind it that is not known "
                "here; it was edited or cut off, or more was said: read the history, and edit what stands"
            )
        if code == "turn_running":
            raise TurnRunning(
                "a turn runs in this thread, and queue_mode is reject; wait for its end, or choose another mode",
                request_id=answer[1].decode(),
            )
        if code == "queue_full":
            raise self._lane_full(answer[1].decode())
        # an answer that an older release gave, and that is given again, ends with the lane
        state, request_id, epoch, offset, client_id, position, lane, *edited = (part.decode() for part in answer)
        place = 0
        if state == "accepted":
            if request_id == start.request_id:
                place = await self.ring(ref, request_id, start.subject)
            else:  # an old answer again: its turn was rung for, and may have ended since
                place = await self.place(ref, request_id, start.subject)
        lane = "" if lane == "-" else lane
        return Started(state, request_id, epoch, int(offset), client_id, int(position), lane, place, *map(int, edited))

    def _lane_full(self, lane: str) -> QueueFull:
        if lane == "parallel":
            text = f"{self._settings.max_parallel} parallel turns run in this thread already; wait for the end of one"
        else:
            text = f"{self._settings.max_followups} messages wait in this lane already; wait, or remove one"
        return QueueFull(text, lane=lane, retry_after_ms=1000)

    def _start_call(self, ref: ThreadRef, start: Start, digest: str, fingerprint: str) -> Call:
        extra: dict[str, Any] = {}
        if start.client_message_id is not None:
            extra["client_message_id"] = start.client_message_id
        if start.metadata:
            extra["metadata"] = start.metadata
        envelope = body({"client_id": start.client_id, "thread_id": ref.thread_id, "request_id": start.request_id})
        settings, keys, edit = self._settings, self._keys(ref), start.edit
        return self._call(
            "start",
            ref,
            start.request_id,
            start.subject,
            new_id(),
            fingerprint,
            start.queue_mode if edit is None else "edit",
            dumps(start.message) if start.message else "",
            f",{body(extra)}" if extra else "",
            envelope,
            dumps(start.input()),
            math.ceil(settings.turn_timeout * 1000),
            settings.max_attempts,
            settings.max_followups,
            start.client_id,
            dumps(start.message[:_PREVIEW]),
            settings.max_parallel,
            start.policy or settings.turn_policy,
            "" if edit is None or edit.message_id is None else edit.message_id,
            "" if edit is None or edit.newest is None else edit.newest,
            settings.max_branches,
            carried(),
            extra_keys=[keys.idempotency + digest, keys.requests, keys.branches, keys.branch],
        )

    async def known_as(self, ref: ThreadRef, subject: str, client_message_id: str) -> str | None:
        """Return the turn that was begun with this idempotency key; None when there was none, or it is forgotten.

        Raises:
            Unavailable: when Redis did not answer.
        """
        key = self._keys(ref).idempotency + _digest(subject, client_message_id)
        async with self._backplane.answering():
            known = cast("bytes | None", await self._backplane.redis.get(key))
        # its fingerprint, then the answer that start.lua gave: a state, the turn, and where it begins
        return None if known is None else known.decode().split(" ")[2]

    async def cancel(self, ref: ThreadRef, subject: str, request_id: str | None = None) -> Cancelled:
        """Stop a turn: this one, or (None) the primary one together with everything that waits.

        Raises:
            NotFound: when there is no such thread, or it is another's.
            Unavailable: when Redis did not answer.
        """
        code, request, state, following, requested, seen, stopped, how, *dropped = await self._backplane.run(
            self._call(
                "cancel", ref, subject, request_id or "", math.ceil(self._settings.cancel_grace * 1000), new_id()
            )
        )
        if code == b"not_found":
            raise no_such_thread()
        if following:
            await self.ring(ref, following.decode(), subject)
        return Cancelled(
            code == b"cancelled",
            request.decode() or None,
            state.decode(),
            tuple(item.decode() for item in dropped),
            _ms(requested),
            _ms(seen),
            _ms(stopped),
            how.decode() or None,
        )

    async def lanes(self, ref: ThreadRef, subject: str) -> tuple[str | None, str, list[Waiting]]:
        """Return `(primary turn or None, its state or "idle", what is in the lanes, each in order)`.

        Raises:
            NotFound: when there is no such thread, or it is another's.
            Unavailable: when Redis did not answer.
        """
        code, running, state, *items = await self._backplane.run(self._call("lanes", ref, subject))
        if code == b"not_found":
            raise no_such_thread()
        waiting = [
            Waiting(
                items[n].decode(),
                items[n + 1].decode(),
                items[n + 2].decode(),
                json.loads(items[n + 3]),
                int(items[n + 4]),
            )
            for n in range(0, len(items), 5)
        ]
        return running.decode() or None, state.decode(), waiting

    async def beginning(self, ref: ThreadRef, subject: str, request_id: str = "") -> tuple[str, str, int] | None:
        """Return `(epoch, request id, offset)` of the first event of a turn, or (empty) of the primary one that runs.

        None when nothing runs, or the turn is not known, or waits in a lane.

        Raises:
            NotFound: when there is no such thread, or it is another's.
            Unavailable: when Redis did not answer.
        """
        call = self._call("beginning", ref, subject, request_id)
        code, epoch, request, offset = await self._backplane.run(call)
        if code == b"not_found":
            raise no_such_thread()
        return (epoch.decode(), request.decode(), offset) if offset else None

    async def unqueue(self, ref: ThreadRef, subject: str, request_id: str | None = None) -> list[str]:
        """Take a waiting message out of its lane, or (None) all of them. Returns the ids that were removed.

        Raises:
            NotFound: when there is no such thread, or it is another's.
            Unavailable: when Redis did not answer.
        """
        code, *removed = await self._backplane.run(self._call("unqueue", ref, subject, request_id or "", new_id()))
        if code == b"not_found":
            raise no_such_thread()
        return [item.decode() for item in removed]

    async def trace(self, ref: ThreadRef, request_id: str) -> str:
        """Return the trace context that a turn carries, as a line; empty when it carries none, or is forgotten.

        Raises:
            Unavailable: when Redis did not answer.
        """
        async with self._backplane.answering():
            found: Any = await self._backplane.redis.hget(self._keys(ref).turn(request_id), "trace")
        return (found or b"").decode()

    # --- from workers ----------------------------------------------------------------------------------

    async def claim(self, member: str, worker: str, claim_id: str | None = None) -> Claim | None:
        """Take a ready turn, or None when it is not ready any more.

        Args:
            member: `tenant/thread/request`.
            worker: who takes it; clients are told.
            claim_id: names this claim; a fresh one when None. It may be used until there was an answer, and no longer.

        Raises:
            Unavailable: when Redis did not answer; ask again with the same `claim_id`, for it may have been taken.
        """
        ref, request_id = split_member(member)
        own = claim_id or new_id()
        answer = await self._backplane.run(
            self._call("claim", ref, request_id, worker, own, math.ceil(self._settings.lease * 1000))
        )
        if answer[0] != b"claimed":
            return None
        return _claim(ref, request_id, own, answer)

    def append_call(self, claim: Claim, batch: Batch) -> Call:
        """Return the call that appends a batch; `verdict` reads its answer."""
        keys, shared = self._slim(claim.ref)
        own = (claim.request_id, claim.proof, batch.number, batch.text)
        return Call("append", keys, [*shared, *own, *batch.pairs()])

    def _slim_slots(self, ref: ThreadRef) -> tuple[tuple[str, ...], tuple[str | int | bytes, ...]]:
        """Return the slots that lua/lib/slim.lua names, by their places in lua/lib/thread.lua."""
        whole = self._call("append", ref)
        return tuple(whole.keys[n - 1] for n in (1, 2, 5, 6, 9)), tuple(whole.args[n - 1] for n in (3, 4, 5, 7))

    async def append(self, claim: Claim, batch: Batch) -> tuple[Verdict, int]:
        """Append a batch. Returns the verdict, and the offset of its last event.

        Raises:
            Unavailable: when Redis did not answer; the same batch may be sent again.
        """
        return verdict(await self._backplane.run(self.append_call(claim, batch)))

    async def steers(self, claim: Claim, taken: int) -> tuple[Verdict, list[Steer]]:
        """Take what steers a turn, but for the first `taken` items, which this attempt has already.

        Raises:
            Unavailable: when Redis did not answer; the same call may be sent again.
        """
        answer, *items = await self._backplane.run(
            self._call("steers", claim.ref, claim.request_id, claim.proof, taken)
        )
        found = [Steer(items[n].decode(), json.loads(items[n + 1])) for n in range(0, len(items), 2)]
        return answer.decode(), found

    async def heartbeat(self, claims: Sequence[Claim]) -> list[Verdict | None]:
        """Renew leases, all in one round trip; None where the renewal failed.

        Raises:
            Unavailable: when Redis did not answer.
        """
        lease, grace = math.ceil(self._settings.lease * 1000), math.ceil(self._settings.cancel_grace * 1000)
        calls = [self._call("heartbeat", claim.ref, claim.request_id, claim.proof, lease, grace) for claim in claims]
        answers = await self._backplane.run_many(calls)
        return [None if isinstance(answer, Exception) else answer.decode() for answer in answers]

    async def finish(self, claim: Claim, batch: Batch, ending: Ending) -> Finished:
        """End a turn: the answer into the session, the terminal event, the hand-over to what waits.

        Raises:
            Unavailable: when Redis did not answer; the same call may be sent again.
        """
        answer = "" if ending.answer is None else dumps(ending.answer)
        state, following, version, message_id, ended = await self._backplane.run(
            self._call(
                "finish",
                claim.ref,
                claim.request_id,
                claim.proof,
                batch.number,
                batch.text,
                ending.state,
                ending.name,
                ending.fields,
                answer,
                ending.stopped,
                *batch.pairs(),
            )
        )
        if following:
            await self.ring(claim.ref, following.decode(), claim.subject)
        if state != b"fenced":
            await self._backplane.admission.leave(claim.ref, claim.subject, claim.request_id)
        return Finished(state.decode(), version, message_id, ended)

    async def release(self, claim: Claim) -> None:
        """Hand a turn back, so that another worker takes it at once.

        Raises:
            Unavailable: when Redis did not answer; the lease will lapse.
        """
        _, following = await self._backplane.run(self._call("release", claim.ref, claim.request_id, claim.proof))
        if following:
            await self.ring(claim.ref, following.decode(), claim.subject, again=True)

    async def pass_on(self, member: str) -> None:
        """Ring once more for a turn that the doorbell gave to a worker which does not claim it.

        Raises:
            Unavailable: when Redis did not answer; the recoverer will ring.
        """
        await self._ring_for_owner(*split_member(member), again=True)

    # --- from the recoverer ----------------------------------------------------------------------------

    async def recover(self, member: str, grace: float = 0.0) -> str:
        """Look at a turn that is due, and do what its state asks for. Returns what was done.

        Args:
            member: `tenant/thread/request`.
            grace: seconds for which an owner whose lease has lapsed may still come back, because Redis was away.

        Raises:
            Unavailable: when Redis did not answer.
        """
        ref, request_id = split_member(member)
        pauses = (self._settings.cancel_grace, self._settings.retry_backoff, grace)
        what, following = await self._backplane.run(
            self._call("recover", ref, request_id, *(math.ceil(seconds * 1000) for seconds in pauses))
        )
        if following:
            await self._ring_for_owner(ref, following.decode(), again=following.decode() == request_id)
        return str(what.decode())

    async def _ring_for_owner(self, ref: ThreadRef, request_id: str, *, again: bool) -> None:
        async with self._backplane.answering():
            owner: Any = await self._backplane.redis.hget(self._keys(ref).thread, "owner")
        await self.ring(ref, request_id, (owner or b"").decode(), again=again)


def _claim(ref: ThreadRef, request_id: str, own: str, answer: Sequence[Any]) -> Claim:
    _, fence, version, epoch, message, given, subject, deadline, message_id, began, *more = answer
    lane, policy, text, steps, kept_by, trace, ready_at = more
    return Claim(
        ref=ref,
        request_id=request_id,
        fence=int(fence),
        proof=f"{fence}.{own}",
        session_version=int(version),
        epoch=epoch.decode(),
        message=json.loads(message),
        input=json.loads(given),
        subject=subject.decode(),
        deadline=int(deadline),
        message_id=int(message_id),
        began=int(began),
        lane=lane.decode(),
        policy=policy.decode(),
        text=text.decode(),
        steps=_finished_steps(steps),
        kept_by=kept_by.decode(),
        trace=trace.decode(),
        ready_at=int(ready_at),
    )


def _finished_steps(pairs: Sequence[bytes]) -> dict[str, str]:
    found = zip(pairs[::2], pairs[1::2], strict=True)
    return {name.decode(): state[1:].decode() for name, state in found if state.startswith(b"=")}


def _digest(subject: str, client_message_id: str) -> str:
    return hashlib.sha256(f"{subject}\0{client_message_id}".encode()).hexdigest()


def _ms(at: bytes) -> int | None:
    return int(at) if at else None


def verdict(answer: Sequence[Any]) -> tuple[Verdict, int]:
    """Return what an append was answered: the verdict, and the offset of its last event."""
    return answer[0].decode(), int(answer[1])
