"""Rows of faults that are run twice: on the product, and on one that was broken on purpose.

Each returns what does not hold, in words; empty when all is well.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal

from backplane.ids import new_id
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet
from tests.fleet.watcher import acknowledged, caller

_TURNS = 8
"""At once, so that a worker which is stopped anywhere has a batch of some turn ready to go: for most of the time
the outbox of a turn at this pace gathers words, and sends them the moment that its worker goes on."""
_PACE, _LENGTH = 2, 1500
"""Milliseconds between words, and words: three seconds, so that the turn still runs elsewhere when they come."""
_BEFORE = 150
"""Words said before the stop: many batches, so that the late one is not taken for a batch that was sent twice."""


async def stopped_worker(fleet: Fleet) -> list[str]:
    """Stop a worker beyond its lease, and let it go on while its turns run elsewhere."""
    async with contextlib.AsyncExitStack() as stack:
        threads = [
            await stack.enter_async_context(Conversation(fleet, f"t-{new_id()}", checked=False)) for _ in range(_TURNS)
        ]
        said = await asyncio.gather(*(thread.say(f"say {_LENGTH} words", pace=_PACE) for thread in threads))
        turns = list(zip(threads, said, strict=True))
        worker = await fleet.owner(threads[0].thread_id, said[0])
        await threads[0].watchers[0].words(said[0], _BEFORE)
        worker.signal(signal.SIGSTOP)
        states = [await fleet.turn(thread.thread_id, turn) for thread, turn in turns]
        mine = [state["state"] == "running" and state["worker"] == worker.node_id for state in states]
        assert any(mine), f"{worker.name} was to be stopped in the middle of its turns, and they have ended: {states}"
        restarts = {
            asyncio.create_task(fleet.attempt(thread.thread_id, turn, 2)): turn
            for thread, turn in itertools.compress(turns, mine)
        }
        # the first is enough: another's lease may be younger, or its ring have gone to the stopped worker
        lost, lasting = await asyncio.wait(restarts, return_when=asyncio.FIRST_COMPLETED)
        worker.signal(signal.SIGCONT)
        for task in lasting:
            task.cancel()
        for task in lost:
            task.result()
            await worker.says("turn lost to another owner", restarts[task])
        found = []
        for thread, turn in turns:
            await thread.ended(turn)
            found += await thread.violations()
    return found


async def duplicate_starts(fleet: Fleet) -> list[str]:
    """Send one message ten times at once, by way of every node."""
    thread = Conversation(fleet, f"t-{new_id()}", checked=False)
    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(caller(fleet.urls[n % len(fleet.urls)])) for n in range(10)]
        starts = (by.start(thread.thread_id, "say 30 words", delay_ms=5, client_message_id="once") for by in callers)
        answers = await asyncio.gather(*starts)
        thread.acknowledged = [acknowledged("say 30 words", answer) for answer in answers]
        found = await thread.violations()
    if any(answer != answers[0] for answer in answers):
        found.append(f"ten equal answers were expected, got {answers}")
    if len(await thread.accepted()) != 1:
        found.append(f"one turn was expected, got {await thread.accepted()}")
    return found
