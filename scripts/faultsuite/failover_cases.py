"""Rows 16 and 17: a primary is lost, or cut off together with those who write to it; what its replica lacks is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from backplane.ids import new_id
from scripts.faultsuite.case import PATIENCE, Case, Run, Settled, now
from scripts.faultsuite.vitals import back_to, baseline
from tests.fleet.conditions import eventually
from tests.fleet.conversation import Conversation
from tests.fleet.failovers import ReplicatedFleet, judged
from tests.fleet.fleet import Fleet
from tests.fleet.watcher import caller
from tests.servers.deployments import Cluster, Watched

BACK = 3.0
"""Seconds from the moment in which a replica has become the primary to the next event at a client."""
_TOLD = 5.0
"""Seconds until those are told who had what is lost: the turn of a worker that lost its words is taken over, too."""
_AT_LAST = 4 * _TOLD
"""Seconds after which it counts as never told."""
_LONG = "say 2500 words"
_LOST = "never to be seen again"


@asynccontextmanager
async def _replicated(fleet: Fleet, deployment: Callable[[Path], Watched | Cluster]) -> AsyncIterator[ReplicatedFleet]:
    """Start a fleet of the same code and settings on a deployment, and hold its processes to their base line."""
    with TemporaryDirectory(prefix="faults-failover-") as folder:
        servers = deployment(Path(folder) / "servers")
        made = ReplicatedFleet(Path(folder) / "fleet", servers, settings=fleet.given, code=fleet.code, base={})
        async with made:
            for _ in range(2):
                async with Conversation(made, f"t-{new_id()}", patience=PATIENCE) as warm:
                    await warm.ended(await warm.say("say 60 words"))
            before = await baseline(made)
            yield made
            grown = await back_to(made, before)
            assert not grown, "not back to the base line: " + "; ".join(grown)


def _torn_thread(fleet: Fleet, *, pinned: bool = False) -> Conversation:
    """Return a thread of its own, which `_hold` is to look at: the end of its log may be lost."""
    return Conversation(fleet, f"t-{new_id()}", checked=False, patience=PATIENCE, pinned=pinned)


async def _hold(talk: Conversation, fleet: Fleet, *, torn: bool | None) -> None:
    """Hold a thread up to what is promised of a failover, and to every other invariant."""
    await talk.settle()
    transcripts = [watcher.transcript for watcher in talk.watchers]
    found = judged(await talk.log(), transcripts, talk.acknowledged, await fleet.session(talk.thread_id), torn=torn)
    assert not found, "the promises of a failover do not hold:\n  " + "\n  ".join(found)


async def _back(talk: Conversation, since: float) -> float:
    """Return how long after a moment the slowest of the first clients was sent an event."""
    slowest = 0.0
    for watcher in talk.watchers:
        await watcher.event_after(since, PATIENCE)
        slowest = max(slowest, next(at for at in watcher.times if at > since) - since)
    return slowest


def _killed(deployment: Callable[[Path], Watched | Cluster]) -> Run:
    """Return the row that kills the primary of a thread in mid-answer."""

    async def killed(fleet: Fleet) -> list[Settled]:
        async with _replicated(fleet, deployment) as replicated, _torn_thread(replicated) as talk:
            turn = await talk.say(_LONG)
            await talk.words(turn, 30)
            primary = await replicated.primary_of(talk.thread_id)
            await primary.kill()
            await replicated.promoted(primary)
            back = await _back(talk, now())
            await replicated.follows(primary)
            await talk.cancel(turn, node=1)
            await talk.ended(await talk.say("how many messages?"), PATIENCE)
            await _hold(talk, replicated, torn=None)
        return [Settled("the next event at a client, from the promotion", back, BACK)]

    return killed


def _torn(deployment: Callable[[Path], Watched | Cluster]) -> Run:
    """Return the row that kills it with words and a message that its replica has not heard of."""

    async def torn(fleet: Fleet) -> list[Settled]:
        async with _replicated(fleet, deployment) as replicated, _torn_thread(replicated) as talk:
            turn = await talk.say(_LONG)
            await talk.words(turn, 30)
            primary = await replicated.primary_of(talk.thread_id)
            await primary.shut_out("replication")
            shared, had = (await talk.log())[-1].offset, len(talk.acknowledged)
            await talk.say(_LOST, queue_mode="followup")
            await talk.words(turn, 60)
            for watcher in talk.watchers:
                await watcher.reached(shared + 1)  # each has something that the replica has not
            await primary.kill()
            await replicated.promoted(primary)
            promoted = now()
            for watcher in talk.watchers:
                await watcher.told_of_a_loss(_AT_LAST)
            told = now() - promoted
            back = await _back(talk, promoted)
            await replicated.follows(primary)
            assert _LOST not in await talk.accepted(), "nobody but the old primary had it"
            del talk.acknowledged[had:]
            await talk.cancel(turn, node=1)
            await talk.ended(await talk.say("how many messages?"), PATIENCE)
            await _hold(talk, replicated, torn=True)
        return [
            Settled("the next event at a client, from the promotion", back, _TOLD),
            Settled("everybody told who had what is lost", told, _TOLD),
        ]

    return torn


async def split(fleet: Fleet) -> list[Settled]:
    """Cut the primary off with a gateway and the worker of the turn, which go on there; then join them again.

    Of two threads one talks on both sides. The other gets a message here and several there, so that its log has grown
    beyond all that the old side's client has: only the epoch tells that client what it has lost.
    """
    async with (
        _replicated(fleet, Watched) as replicated,
        _torn_thread(replicated, pinned=True) as talk,
        _torn_thread(replicated, pinned=True) as quiet,
    ):
        await quiet.ended(await quiet.say("hello"), PATIENCE)
        turn = await talk.say("say 6000 words")
        await talk.words(turn, 30)
        primary, owner = await replicated.primary_of(talk.thread_id), await replicated.owner(talk.thread_id, turn)
        left = (replicated.gateways[0], owner)
        await eventually(primary.caught_up, "the replica to have the quiet thread")
        await replicated.cut_off(primary, *left)
        await replicated.promoted(primary)
        promoted = now()
        async with caller(replicated.urls[0]) as by:
            phantom = str((await by.start(quiet.thread_id, _LOST))["request_id"])
        await quiet.watchers[0].ended(phantom, PATIENCE)
        await replicated.follows(primary)
        await replicated.attempt(talk.thread_id, turn, 2)
        await talk.watchers[1].told_of_a_loss(_AT_LAST)
        await talk.watchers[1].event_after(now(), PATIENCE)
        elsewhere = now() - promoted
        await quiet.watchers[1].ended(await quiet.say("say 200 words", node=1), PATIENCE)
        had = quiet.watchers[0].transcript.segments[-1].last
        assert (await quiet.log())[-1].offset > had, "only the epoch was to tell, not an offset that fell"
        assert (await talk.cancel(turn, node=1))["cancelled"]
        told = await _told_at_last(replicated, replicated.join_again(primary, *left), talk, quiet)
        await owner.says("turn lost to another owner", turn)
        await _hold(talk, replicated, torn=True)
        await _hold(quiet, replicated, torn=None)
        assert _LOST not in await quiet.accepted(), "what the old side took is lost, and told"
    return [
        Settled("running elsewhere, told to the clients there", elsewhere, BACK + _TOLD),
        Settled("the clients of the old side told, from its return", told, _TOLD),
    ]


async def _told_at_last(fleet: Fleet, join: Awaitable[None], *threads: Conversation) -> float:
    """Make the network whole, and return how long until the old side's clients were told."""
    begun = now()
    told, _ = await asyncio.gather(_all_told(*threads), join)
    await asyncio.gather(*(gateway.ready() for gateway in fleet.gateways))
    for thread in threads:
        await thread.ended(await thread.say("how many messages?", node=0), PATIENCE)
    return told - begun


async def _all_told(*threads: Conversation) -> float:
    await asyncio.gather(*(thread.watchers[0].told_of_a_loss(_AT_LAST) for thread in threads))
    return now()


CASES = (
    Case("16a", "Sentinel: kill -9 the primary in mid-stream", _killed(Watched)),
    Case("16b", "the same, with words and a message that its replica never got", _torn(Watched)),
    Case("16c", "split brain: a gateway and the turn's worker cut off with the old primary, then joined again", split),
    Case("17a", "Cluster: kill -9 the primary of a thread's slot in mid-stream", _killed(Cluster)),
    Case("17b", "the same, with words and a message that its replica never got", _torn(Cluster)),
)
