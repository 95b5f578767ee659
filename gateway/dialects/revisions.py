"""Turns in the place of earlier ones, as clients of the AI SDK ask for them: by ids of their own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from backplane.errors import EditConflict, NotFound
from backplane.settings import Settings
from gateway import payloads
from gateway.auth import Identity
from gateway.dialects.feed import Place
from gateway.dialects.inputs import Asked, Revision
from gateway.verbs import Verbs

_LISTED = "message-"
"""How clients call a message of the history that they did not send, before its number."""
_MOST_REVISIONS = 100
"""So many changes of one message are followed: a look each."""


@dataclass(frozen=True, slots=True)
class _Said:
    """A message of the history, without its text."""

    id: int
    role: str
    request_id: str
    same: bool
    """Whether its text is the one that was sent."""

    @property
    def name(self) -> str:
        """What clients may call it that did not send it."""
        return f"{_LISTED}{self.id}"


class Revisions:
    """Begins turns in the place of earlier ones.

    A client names a message by the id that it sent it with, the idempotency key of its turn, and an answer by its turn.
    The key of a turn in the place of another names that other one: so the client's id leads to what stands by now.
    """

    def __init__(self, settings: Settings, verbs: Verbs) -> None:
        self._settings = settings
        self._verbs = verbs

    async def place(self, identity: Identity, asked: Asked, revision: Revision) -> Place:
        """Begin the turn; return where it is found. A message that never came begins one at the thread's end.

        Raises:
            InvalidPayload: naming what was expected.
            NotFound: when there is no such message or answer among the newest ones, or the thread is another's.
            EditConflict: when it was changed or cut off by others.
            Unavailable: when Redis did not answer.
        """
        start = payloads.read(payloads.ChatStart, asked.start, self._settings)
        async with aclosing(self._said(identity, start.thread_id, start.message)) as said:
            if revision.answer:
                meant: _Said | None = await self._answered(said, revision.answer)
            else:
                meant = await self._meant(identity, start.thread_id, said, revision)
        if meant is None:
            return Place.of(await self._verbs.start(identity, start, client_id="http", member=None))
        if meant.same and not revision.anew:  # changed to this before: the same call again
            found = await self._verbs.beginning(identity, start.thread_id, meant.request_id)
            if found is not None:
                return Place(start.thread_id, *found)
        given = {name: value for name, value in asked.start.items() if name != "queue_mode"}
        given |= {"message_id": meant.id, "client_message_id": _key(meant.request_id)}
        edit = payloads.read(payloads.ThreadEdit, given, self._settings)
        return Place.of(await self._verbs.edit(identity, edit, client_id="http", member=None))

    @staticmethod
    async def _answered(said: AsyncIterator[_Said], answer: str) -> _Said:
        """Return the message that has this answer."""
        turn = None
        async for one in said:
            if answer in {one.request_id, one.name}:
                turn = one.request_id
            # a steer or context that the turn took has an id of its own
            if one.role == "user" and one.request_id == turn:
                return one
        raise NotFound("no such answer among the newest messages; read the thread's history")

    async def _meant(
        self, identity: Identity, thread_id: str, said: AsyncIterator[_Said], revision: Revision
    ) -> _Said | None:
        """Return the message that the client means, as it stands; None when it never came."""
        turn = await self._turn_of(identity, thread_id, revision.message)
        named = turn is not None or revision.message.startswith(_LISTED)
        newest = asked = None
        async for one in said:
            newest = newest or one
            if one.role != "user":
                continue
            if one.request_id == turn or one.name == revision.message:
                return one
            asked = asked or one
            if not named:
                break
        if turn is not None:
            raise EditConflict(
                "expected a message that stands in the conversation; it was changed or cut off elsewhere, or still "
                "waits for its turn: read the thread's history"
            )
        if revision.message:
            before = await self._turn_of(identity, thread_id, revision.before) or revision.before
            if (newest is None and not before) or (newest is not None and before in {newest.request_id, newest.name}):
                return None
        if revision.anew and asked is not None and (asked.same or not revision.message):
            return asked
        raise NotFound("no message of that id is remembered; read the thread's history, and edit it there")

    async def _turn_of(self, identity: Identity, thread_id: str, message: str) -> str | None:
        """Return the turn that stands for a message of the client; None when its id is not remembered."""
        turn = await self._verbs.turn_of(identity, thread_id, message) if message else None
        following = turn
        for _ in range(_MOST_REVISIONS):
            if following is None:
                break
            turn, following = following, await self._verbs.turn_of(identity, thread_id, _key(following))
        return turn

    async def _said(self, identity: Identity, thread_id: str, text: str) -> AsyncGenerator[_Said, None]:
        """Read the newest messages, the newest first, as far as is asked for; none when there is no such thread."""
        left, before = payloads.MAX_MESSAGES, 0
        while left > 0:  # long messages come in several pages
            place = {"thread_id": thread_id, "limit": left, "before": before}
            try:
                page = await self._verbs.history(identity, payloads.read(payloads.ThreadHistory, place, self._settings))
            except NotFound:
                return
            for one in reversed(page["messages"]):
                yield _Said(int(one["id"]), one["role"], one["request_id"], one["content"] == text)
            if not page["messages"]:
                return
            left, before = left - len(page["messages"]), page["messages"][0]["id"]


def _key(request_id: str) -> str:
    return f"in place of {request_id}"
