"""A person who never stops: one thread after the other, with every way to send a second message, while all breaks.

Each thread is held up to every invariant when it has come to rest; then the next one begins.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from backplane.ids import new_id
from scripts.faultsuite.case import PATIENCE, now
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet
from tests.fleet.invariants import ACCEPTED, ASKED, DECIDED
from tests.fleet.watcher import caller
from threadline_client.errors import Refused
from threadline_client.link import LinkLost

_MODES = ("interrupt", "interrupt", "followup", "followup", "steer", "collect", "parallel", "reject")
_ACTS = (4, 12)
"""Things done in one thread: at least, at most."""
_PACE = 5.0
"""Milliseconds between two words."""
_AGAIN = 0.1
"""Seconds between two tries at a node, or two looks at a thread."""


@dataclass(slots=True)
class Tally:
    """What all talkers saw together."""

    threads: int = 0
    turns: int = 0
    events: int = 0
    restarts: int = 0
    reconnects: int = 0
    wrong: list[str] = field(default_factory=list)
    """What does not hold, with the thread."""


class Talker:
    """One after the other, threads with a client at each node."""

    def __init__(self, fleet: Fleet, chance: random.Random, tally: Tally) -> None:
        self.talk: Conversation | None = None
        """The thread of now."""
        self._fleet = fleet
        self._chance = chance
        self._tally = tally

    async def run(self, until: float) -> None:
        """Talk until a moment, and then until the thread has come to rest."""
        while now() < until:
            thread_id = f"t-{new_id()}"
            try:
                async with Conversation(self._fleet, thread_id, patience=PATIENCE) as self.talk:
                    await self._say("hello", "followup")
                    for _ in range(self._chance.randint(*_ACTS)):
                        if now() < until:
                            await self._act(self.talk)
                    await self._come_to_rest(self.talk)
            except (AssertionError, TimeoutError, Refused) as error:
                self._tally.wrong.append(f"{thread_id}: {error or type(error).__name__}")
            else:
                await self._count(self.talk)
        self.talk = None

    async def _count(self, talk: Conversation) -> None:
        log = await talk.log()
        self._tally.threads += 1
        self._tally.events += len(log)
        self._tally.turns += sum(entry.name == ACCEPTED for entry in log)
        self._tally.restarts += sum(entry.name == "turn_restarted" for entry in log)
        self._tally.reconnects += sum(len(watcher.arrivals) - 1 for watcher in talk.watchers)

    # --- what it does ----------------------------------------------------------------------------------

    async def _act(self, talk: Conversation) -> None:
        act = self._chance.choices(
            (self._speak, self._twice, self._cancel, self._decide, self._queue, self._move, self._wait),
            (8, 1, 2, 3, 1, 2, 6),
        )[0]
        await act(talk)

    def _text(self) -> str:
        words, pause = self._chance.randint(1, 800), self._chance.uniform(0.1, 1)
        return self._chance.choice(
            (
                f"say {words} words",
                f"say {words} words",
                f"say {words} words",
                f"sleep {pause:.2f}",
                "how many messages?",
                "order three cups of tea",
                "order three cups of tea",
                "think about rivers",
                "fail after 5 words",
            )
        )

    async def _speak(self, talk: Conversation) -> None:
        await self._say(self._text(), self._chance.choice(_MODES))

    async def _say(self, text: str, mode: str, **payload: Any) -> None:
        assert self.talk is not None
        node = self._chance.randrange(len(self._fleet.urls))
        try:
            await self.talk.say(text, node=node, pace=_PACE, queue_mode=mode, **payload)
        except Refused as refused:
            if refused.code not in {"turn_running", "queue_full"}:
                raise

    async def _twice(self, talk: Conversation) -> None:
        """Send one message at two nodes at once, as a client does that heard nothing."""
        text, key = self._text(), new_id()
        await asyncio.gather(*(self._say(text, "followup", client_message_id=key) for _ in range(2)))

    async def _cancel(self, talk: Conversation) -> None:
        known = [ack.request_id for ack in talk.acknowledged]
        request_id = self._chance.choice([None, *known[-3:]])
        await self._ask("chat:cancel", thread_id=talk.thread_id, request_id=request_id)

    async def _decide(self, talk: Conversation) -> None:
        """Have two people decide the same at two nodes, one for it and one against; at most one of them may."""
        for approval_id in _pending(talk)[:1]:
            answers = await asyncio.gather(
                *(
                    self._ask("approval:decide", thread_id=talk.thread_id, approval_id=approval_id, decision=decision)
                    for decision in ("approved", "denied")
                )
            )
            said = [(answer.get("state"), answer.get("decision")) for answer in answers if answer.get("ok")]
            if len(set(said)) > 1:
                self._tally.wrong.append(f"{talk.thread_id}: {approval_id} was decided twice: {answers}")

    async def _queue(self, talk: Conversation) -> None:
        verb = self._chance.choice(("queue:status", "queue:clear", "queue:remove"))
        item = {"item_id": talk.acknowledged[-1].request_id} if verb == "queue:remove" else {}
        await self._ask(verb, thread_id=talk.thread_id, **item)

    async def _move(self, talk: Conversation) -> None:
        self._chance.choice(talk.watchers).move()

    async def _wait(self, talk: Conversation) -> None:
        await asyncio.sleep(self._chance.uniform(0.0, 0.6))

    async def _ask(self, verb: str, **payload: Any) -> Mapping[str, Any]:
        """Return the answer of the first node that gives one which another would not give otherwise."""
        given = {name: value for name, value in payload.items() if value is not None}
        async with asyncio.timeout(PATIENCE):
            while True:
                url = self._chance.choice(self._fleet.urls)
                with suppress(LinkLost, Refused):
                    async with caller(url) as by:
                        answer = await by.call(verb, **given)
                    if answer.get("ok") or not (answer.get("error") or {}).get("retryable", True):
                        return answer
                await asyncio.sleep(_AGAIN)

    # --- to its end ------------------------------------------------------------------------------------

    async def _come_to_rest(self, talk: Conversation) -> None:
        """Answer what is asked until nothing runs; a last turn takes the context that waits."""
        await self._say("how many messages?", "followup")
        resting = asyncio.create_task(self._fleet.idle(talk.thread_id, PATIENCE))
        try:
            while not resting.done():
                await self._decide(talk)
                await asyncio.wait([resting], timeout=_AGAIN)
            await resting
        finally:
            resting.cancel()
        await self._say("how many messages?", "followup")


def _pending(talk: Conversation) -> list[str]:
    """Return what is asked and not decided, as far as any client knows."""
    frames = [frame for watcher in talk.watchers for frame in watcher.frames]
    decided = {frame["approval_id"] for frame in frames if frame["event"] == DECIDED}
    asked = [frame["approval_id"] for frame in frames if frame["event"] == ASKED]
    return [approval_id for approval_id in dict.fromkeys(asked) if approval_id not in decided]
