"""The link between an agent and its turn in Redis: what `Turn` offers, asked of the backplane."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from opentelemetry import trace

from backplane.approvals import Question
from backplane.connection import Backplane
from backplane.errors import Unavailable
from backplane.events import dumps
from backplane.traces import of_turn
from backplane.turns import Claim, Verdict
from worker.outbox import Outbox
from worker.spans import STEP
from worker.turn import AgentError, AgentEvent, Ask, Decision, Step

_PAUSE = 0.2
"""Seconds between tries while Redis does not answer."""
_Answer = TypeVar("_Answer")


class SlotLink:
    """The link of a turn that a slot runs.

    Args:
        say: takes an event of the agent.
        told: takes each verdict, and stops the agent when it is not `ok`.
        park: stops the agent because the turn waits for a person.
        outbox: where the agent's events wait; empty before anything is recorded that they come before.
    """

    def __init__(
        self,
        backplane: Backplane,
        claim: Claim,
        say: Callable[[str | AgentEvent], Awaitable[None]],
        told: Callable[[Verdict], None],
        park: Callable[[], None],
        outbox: Outbox,
    ) -> None:
        self._backplane = backplane
        self._claim = claim
        self._say = say
        self._told = told
        self._park = park
        self._outbox = outbox
        self._steers_taken = 0
        self._taking = asyncio.Lock()
        """Held while steers are taken: two parts of an agent that ask at once must not be given the same ones."""
        self._named: Counter[str] = Counter()
        self._nudged = asyncio.Event()
        self._ahead = claim.kept_by if claim.policy == "resume" else ""

    @property
    def replaying(self) -> bool:
        """Whether the agent is on its way to where an earlier attempt was: what it says stands in the log already."""
        return bool(self._ahead)

    async def say(self, event: str | AgentEvent) -> None:
        """Say something as if the agent had yielded it."""
        await self._say(event)

    async def step(self, name: str, run: Callable[[Step], Awaitable[Any]]) -> Any:
        """Return the recorded result of a step, or run it and record what it returns."""
        step = self._nth(name)
        if (recorded := self._claim.steps.get(step)) is not None:
            self._passed(f"step {step}")
            trace.get_current_span().add_event("step_recorded_before", {STEP: step})
            return json.loads(recorded)
        # the agent has come to something new: from here on it says what nobody has heard
        self._ahead = ""
        about = of_turn(self._claim.ref, self._claim.request_id) | {STEP: step}
        with self._backplane.traces.span(f"step {name}", about):
            return await self._new_step(step, run)

    async def _new_step(self, step: str, run: Callable[[Step], Awaitable[Any]]) -> Any:
        verdict, began_before = await self._asked(lambda: self._backplane.steps.begin(self._claim, step))
        await self._obeyed(verdict)
        result = _as_json(await run(Step(f"{self._claim.request_id}:{step}", began_before)))
        await self._outbox.flush()
        ended = await self._asked(lambda: self._backplane.steps.end(self._claim, step, result))
        if ended == "too_large":
            raise AgentError("The results of the agent's steps grew too large.", error_type="step_too_large")
        await self._obeyed(ended)
        return json.loads(result)

    async def ask(self, ask: Ask) -> Decision:
        """Ask a person, and wait for the decision, in the slot or outside of it."""
        question = self._question(ask)
        await self._outbox.flush()
        while True:
            nudged = self._nudged
            verdict, answer = await self._asked(lambda: self._backplane.approvals.ask(self._claim, question))
            await self._obeyed(verdict)
            if answer.state == "too_many":
                raise AgentError("The agent asked too many questions.", error_type="too_many_questions")
            if answer.state != "pending":
                self._passed(f"asked {question.id}")
                return Decision(answer.decision, answer.by)
            if self._claim.policy == "resume":
                self._park()
                await asyncio.Event().wait()
            await nudged.wait()

    def _question(self, ask: Ask) -> Question:
        """Return the question under an id that another attempt finds again, and that no other question has.

        A decision must never count for something else than what was shown, so the id is made of it.
        """
        try:
            shown = dumps(ask.fields)
        except (TypeError, ValueError, RecursionError) as error:
            raise AgentError("The agent asked what is not JSON.", error_type="invalid_question") from error
        if len(shown.encode()) > self._backplane.settings.max_tool_output_bytes:
            raise AgentError("The agent asked too long a question.", error_type="invalid_question")
        digest = hashlib.sha256(shown.encode()).hexdigest()[:32]
        return Question(self._nth(digest).replace("#", "-"), ask.fields, ask.options, ask.expires)

    def nudge(self) -> None:
        """Ask again what became of the questions."""
        self._nudged.set()
        self._nudged = asyncio.Event()

    def _passed(self, place: str) -> None:
        if place == self._ahead:
            self._ahead = ""

    def _nth(self, name: str) -> str:
        """Return the name of the next step of this name: `a`, `a#2`, `a#3`, in every attempt alike."""
        self._named[name] += 1
        return name if self._named[name] == 1 else f"{name}#{self._named[name]}"

    async def steers(self) -> list[str]:
        """Take what steers the turn."""
        async with self._taking:
            taken = self._steers_taken
            verdict, found = await self._asked(lambda: self._backplane.turns.steers(self._claim, taken))
            await self._obeyed(verdict)
            self._steers_taken += len(found)
        return [steer.message for steer in found]

    async def _asked(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Return the answer of a call that may be sent twice, however long Redis takes to come back."""
        while True:
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(_PAUSE)

    async def _obeyed(self, verdict: Verdict) -> None:
        """Return when the turn goes on; otherwise wait for the cancellation that is on its way."""
        if verdict != "ok":
            self._told(verdict)
            await asyncio.Event().wait()


def _as_json(result: Any) -> str:
    try:
        return dumps(result)
    except (TypeError, ValueError, RecursionError) as error:
        raise AgentError("A step of the agent returned what is not JSON.", error_type="invalid_step") from error
