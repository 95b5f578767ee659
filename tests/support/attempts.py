"""Attempts of one turn without a worker: what an agent recorded in the first stands for the next."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from worker.turn import Agent, AgentEvent, Step, Text, Turn, Unlinked


class _Link(Unlinked):
    def __init__(
        self, records: dict[str, str], decisions: tuple[str, ...], wishes: list[str], said: list[str | AgentEvent]
    ) -> None:
        super().__init__(*decisions)
        self.said = said  # what is said and what is yielded, in one order
        self._records = records
        self._wishes = list(wishes)
        self._named: Counter[str] = Counter()

    async def step(self, name: str, run: Callable[[Step], Awaitable[Any]]) -> Any:
        self._named[name] += 1
        key = f"{name}#{self._named[name]}"
        if key not in self._records:
            self._records[key] = json.dumps(await run(Step(key)))
        return json.loads(self._records[key])

    async def steers(self) -> list[str]:
        taken, self._wishes = self._wishes, []
        return taken


class Attempts:
    """Runs an agent again and again on one turn.

    Args:
        agent: what answers.
        turn: fields of the turn.
    """

    def __init__(self, agent: Agent, **turn: Any) -> None:
        given = {"thread_id": "t1", "request_id": "r1", "tenant": "default", "subject": "ada", "history": []} | turn
        self._agent = agent
        self._turn = Turn(message=given.pop("message", "go"), **given)
        self.records: dict[str, str] = {}
        self.wishes: list[str] = []
        """What steers each attempt, from its beginning."""
        self.asked: list[dict[str, Any]] = []
        """What the last attempt asked the person."""

    async def run(self, *decisions: str) -> list[str | AgentEvent]:
        """Run the agent; return what it yields and says."""
        said: list[str | AgentEvent] = []
        link = _Link(self.records, decisions, self.wishes, said)
        turn = replace(self._turn, link=link, attempt=self._turn.attempt + 1)
        async for event in self._agent(turn):
            said.append(event)  # noqa: PERF401  # one by one, between what it says beside
        self.asked = [ask.fields for ask in link.asked]
        return said


def words(said: Sequence[str | AgentEvent]) -> str:
    """Return the text of what was said."""
    return "".join(event if isinstance(event, str) else event.delta for event in said if isinstance(event, str | Text))


def all_of(said: Sequence[Any], kind: type) -> list[Any]:
    """Return what was said of one kind."""
    return [event for event in said if isinstance(event, kind)]
