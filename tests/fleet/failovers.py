"""Rows 16 and 17 of the faults: a fleet whose store is behind Sentinels, or a Cluster, loses a primary.

Each returns what does not hold, in words; empty when all is well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from redis.asyncio import Redis

from backplane.connection import open_servers
from backplane.embedded import EmbeddedStore
from backplane.ids import new_id
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet
from tests.fleet.invariants import Acknowledged, Entry, Transcript, violations
from tests.servers.deployments import Cluster, Node, Watched

_BEFORE, _LENGTH = 30, 400
"""Words said before the primary is lost, and words: three seconds of them."""


class ReplicatedFleet(Fleet):
    """Gateways and workers on a deployment that fails over by itself."""

    def __init__(self, folder: Path, deployment: Watched | Cluster, **given: Any) -> None:
        super().__init__(folder, **given)
        self.deployment = deployment
        self.store = cast(EmbeddedStore, deployment)  # for its address and its context; nobody restarts it

    def looker(self) -> Redis:
        """Return a client for looking, which follows a failover."""
        return open_servers(self.store.url).client(100)

    async def store_lives(self) -> bool:
        """Whether it can be looked at; a deployment heals itself."""
        return True

    async def primary_of(self, thread_id: str) -> Node:
        """Return the primary that holds a thread, as it was at the start."""
        if isinstance(self.deployment, Watched):
            return self.deployment.primary
        return await self.deployment.owner(self.keys(thread_id).thread)

    async def failed_over(self, primary: Node) -> None:
        """Wait until another one has taken its place."""
        if isinstance(self.deployment, Watched):
            await self.deployment.failed_over()
        else:
            await self.deployment.failed_over(primary)


async def lost_primary(fleet: ReplicatedFleet) -> list[str]:
    """Kill the primary of a thread in mid-answer, with words and a message that its replica has not heard of.

    What was lost is told to those who had it, the answer comes to its end, and everything else holds as ever.
    """
    thread = Conversation(fleet, f"t-{new_id()}", checked=False)
    async with thread:
        turn = await thread.say(f"say {_LENGTH} words")
        await thread.words(turn, _BEFORE)
        primary = await fleet.primary_of(thread.thread_id)
        await primary.shut_out("replication")
        kept = list(thread.acknowledged)
        await thread.say("never to be seen again", queue_mode="followup")
        await thread.words(turn, 2 * _BEFORE)
        await primary.kill()
        await fleet.failed_over(primary)
        await fleet.idle(thread.thread_id)
        after = await thread.say("what did I say?")
        await thread.ended(after)
        await thread.settle()
        log, session = await thread.log(), await fleet.session(thread.thread_id)
        watched = [watcher.transcript for watcher in thread.watchers]
        kept += [ack for ack in thread.acknowledged if ack.request_id == after]
    return judged(log, watched, kept, session)


def judged(
    log: list[Entry], watched: list[Transcript], acknowledged: list[Acknowledged], session: list[dict[str, Any]]
) -> list[str]:
    """Return what does not hold of a thread whose newest words were lost once.

    What a client was sent and then told of as lost is taken out: it may differ from the log, nothing else may.
    """
    found = []
    for transcript in watched:
        # a client that comes back before its node has looked is sent the lost words once more, and told once more
        if transcript.segments[0].after == 0 and len(transcript.segments) < 2:
            found.append(f"{transcript.name} was not told of the loss")
        for segment in transcript.segments[:-1]:
            kept = {entry.offset: entry.fields for entry in log}
            while segment.frames and dict(segment.frames[-1]) != kept.get(int(segment.frames[-1]["offset"])):
                segment.frames.pop()
    return found + violations(log, watched, acknowledged, session, losses_told=True)
