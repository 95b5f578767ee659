"""Approvals: what an agent asks a person, durable, and decided once.

A turn that waits for a person may be parked: it is nobody's until somebody has decided, and then anybody's. While
something is pending the clock of the turn's deadline stands still. What nobody decides in time is refused.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backplane.errors import InvalidPayload, NotFound
from backplane.events import body, dumps
from backplane.ids import ThreadRef, new_id
from backplane.log import no_such_thread
from backplane.turns import Claim, Verdict

if TYPE_CHECKING:
    from backplane.connection import Backplane

MOST_OF_A_TURN = 100
"""Questions that one turn may ask; every look at a turn reads them."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a person is asked."""

    id: str
    """The same in every attempt, and another for another question."""
    fields: dict[str, Any]
    """What clients are shown: kind, and what is asked."""
    options: tuple[str, ...] = ()
    """What may be decided; empty for any text."""
    expires: float | None = None
    """Seconds until it is refused; None for the setting `approval_timeout`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a question."""

    state: str
    """pending, decided, expired, withdrawn; too_many when it was not asked."""
    decision: str | None
    by: str | None
    """Who decided; None unless decided."""


@dataclass(frozen=True, slots=True)
class Decided:
    """The answer to a decision."""

    decided: bool
    """True when this call decided; False when it came too late."""
    answer: Answer
    """What stands."""


class Approvals:
    """Asks and decides, from any process."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane
        self._settings = backplane.settings

    async def ask(self, claim: Claim, question: Question) -> tuple[Verdict, Answer]:
        """Ask a person, or ask what became of it: one id is asked once in a turn.

        Raises:
            Unavailable: when Redis did not answer; the same call may be sent again.
        """
        expires = self._settings.approval_timeout if question.expires is None else question.expires
        # the thread must outlive its questions
        expires = min(max(expires, 0.0), self._settings.thread_ttl / 2)
        verdict, state, decision, by = await self._backplane.run(
            self._backplane.call(
                "approval_open",
                claim.ref,
                claim.request_id,
                claim.proof,
                question.id,
                body(question.fields),
                math.ceil(expires * 1000),
                dumps(list(question.options)) if question.options else "",
                MOST_OF_A_TURN,
            )
        )
        return verdict.decode(), _answer(state, decision, by)

    async def park(self, claim: Claim) -> str:
        """Let go of a turn that waits: `waiting`, `ready` when it waits no more, `cancelled`, or `fenced`.

        Raises:
            Unavailable: when Redis did not answer; the same call may be sent again.
        """
        state, following = await self._backplane.run(
            self._backplane.call("park", claim.ref, claim.request_id, claim.proof)
        )
        if following:
            await self._backplane.turns.ring(claim.ref, following.decode(), claim.subject, again=True)
        return str(state.decode())

    async def decide(self, ref: ThreadRef, subject: str, approval_id: str, decision: str) -> Decided:
        """Decide what a turn asks. The first decision stands.

        Raises:
            NotFound: when there is no such thread, it is another's, or nothing of this id was asked in it.
            InvalidPayload: when it is not one of the options.
            Unavailable: when Redis did not answer.
        """
        request_id, _, own = approval_id.rpartition(".")
        code, state, what, by, options, woken = await self._backplane.run(
            self._backplane.call("decide", ref, subject, request_id, own, dumps(decision), dumps(subject), new_id())
        )
        if woken:
            await self._backplane.turns.ring(ref, woken.decode(), subject, again=True)
        if code == b"not_found":
            raise no_such_thread()
        if code == b"unknown":
            raise NotFound("nothing of this approval_id was asked in this thread; see the snapshot for what is pending")
        if code == b"invalid":
            known = ", ".join(json.loads(options))
            raise InvalidPayload(
                f"decision: expected one of {known}, got another; choose one of them", field="decision"
            )
        return Decided(code == b"decided", _answer(state, what, by))


def _answer(state: bytes, decision: bytes, by: bytes) -> Answer:
    return Answer(state.decode(), json.loads(decision), json.loads(by))
