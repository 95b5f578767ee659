"""Epochs: what a failover may have lost is told, and what it has not lost is not sent again.

Here a primary is made to look like another one than that which has written the thread before; real failovers are in
tests/servers/.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from backplane.connection import Backplane
from backplane.events import body
from backplane.ids import thread_ref
from backplane.recoverer import Recoverer
from backplane.turns import Batch, Claim, Ending, Start
from tests.support.rewinding import elsewhere, remembered

REF = thread_ref("epochs")


@pytest.fixture
def redis_url(valkey: str) -> str:
    """Return the real store's: a substitute has no lineage, and no failovers."""
    return valkey


class Story:
    """A thread whose primary may be lost, together with what it wrote last."""

    def __init__(self, backplane: Backplane) -> None:
        self.backplane = backplane
        self.keys = backplane.keys.thread(REF)
        self.batch = 0

    async def begin(self, message: str = "q") -> Claim:
        started = await self.backplane.turns.start(REF, Start(message, "ann", "sid"))
        return await self.claim(started.request_id)

    async def claim(self, request_id: str) -> Claim:
        claim = await self.backplane.turns.claim(self.keys.member(request_id), "worker")
        assert claim is not None
        self.batch = 0
        return claim

    async def say(self, claim: Claim, word: str) -> tuple[str, int]:
        self.batch += 1
        events = [("text_delta", body({"delta": word, "round": 1}))]
        return await self.backplane.turns.append(claim, Batch(self.batch, events, word))

    async def elsewhere(self) -> None:
        await elsewhere(self.backplane, self.keys)

    async def remembered(self) -> Callable[[], Awaitable[None]]:
        return await remembered(self.backplane, self.keys)


@pytest.fixture
def story(backplane: Backplane) -> Story:
    return Story(backplane)


async def test_the_log_goes_on_in_another_epoch_and_who_has_lost_nothing_is_told_nothing(story: Story) -> None:
    claim = await story.begin()
    await story.say(claim, "a")
    await story.elsewhere()
    before = await story.backplane.log.read(REF, epoch=claim.epoch, after=3)
    assert (before.reached, before.epoch) == (True, claim.epoch), "nothing was appended yet"
    assert await story.say(claim, "b") == ("ok", 4)
    page = await story.backplane.log.read(REF, epoch=claim.epoch, after=3)
    assert page.reached
    assert page.epoch not in {"", claim.epoch}
    assert [(event.offset, event.fields["epoch"]) for event in page.events] == [(4, page.epoch)]
    assert page.ancestry == {claim.epoch: 3}
    await story.say(claim, "c")
    again = await story.backplane.log.read(REF, epoch=claim.epoch, after=1)
    assert [event.offset for event in again.events] == [2, 3, 4, 5]
    assert again.epoch == page.epoch, "one failover, one epoch"


async def test_a_cursor_of_what_was_lost_is_told_even_when_its_offset_was_given_again(story: Story) -> None:
    claim = await story.begin()
    await story.say(claim, "kept")
    back = await story.remembered()
    for word in "xyz":
        await story.say(claim, word)
    await back()
    assert not (await story.backplane.log.read(REF, epoch=claim.epoch, after=6)).reached
    for n in range(9):
        await story.backplane.turns.start(REF, Start(f"m{n}", "ann", "sid", queue_mode="followup"))
    page = await story.backplane.log.read(REF, epoch=claim.epoch, after=4)
    assert page.top == 12
    assert not page.reached
    assert (await story.backplane.log.read(REF, epoch=claim.epoch, after=3)).reached


async def test_a_repeated_start_answers_in_the_epoch_that_it_was_given(story: Story) -> None:
    start = Start("q", "ann", "sid", client_message_id="once")
    first = await story.backplane.turns.start(REF, start)
    await story.elsewhere()
    await story.backplane.turns.cancel(REF, "ann")
    assert await story.backplane.turns.start(REF, start) == first
    assert (await story.backplane.log.read(REF, epoch=first.epoch, after=first.offset)).reached


async def test_the_last_eight_epochs_are_remembered(story: Story) -> None:
    claim = await story.begin()
    for n in range(10):
        await story.backplane.redis.hset(story.keys.thread, "lineage", str(n) * 40)
        await story.say(claim, "w")
    page = await story.backplane.log.read(REF)
    assert len(page.ancestry) <= 8
    assert page.top == 12
    assert not (await story.backplane.log.read(REF, epoch=claim.epoch, after=2)).reached


async def test_who_lost_its_claim_cannot_write_although_its_number_came_again(story: Story) -> None:
    started = await story.backplane.turns.start(REF, Start("q", "ann", "sid"))
    back = await story.remembered()
    old = await story.claim(started.request_id)
    assert (await story.say(old, "old"))[0] == "ok"
    await back()
    new = await story.claim(started.request_id)
    assert new.fence == old.fence
    assert await story.backplane.turns.append(old, Batch(1, [("text_delta", body({"delta": "x"}))], "x")) == (
        "fenced",
        0,
    )
    assert await story.backplane.turns.heartbeat([old, new]) == ["fenced", "ok"]
    finished = await story.backplane.turns.finish(old, Batch(2, []), Ending("done", "chat_done", "", "x"))
    assert finished.state == "fenced"


@pytest.mark.parametrize("by", ["append", "finish"])
async def test_a_turn_whose_words_were_lost_is_begun_again_by_somebody(story: Story, by: str) -> None:
    """Going on would leave a hole in the answer that no client could see."""
    claim = await story.begin()
    await story.say(claim, "kept ")
    back = await story.remembered()
    await story.say(claim, "lost ")
    await back()
    if by == "append":
        assert (await story.say(claim, "behind "))[0] == "fenced"
    else:
        ending = Ending("done", "chat_done", body({"full_response": "kept lost "}), "kept lost ")
        assert (await story.backplane.turns.finish(claim, Batch(3, []), ending)).state == "fenced"
    await story.backplane.redis.hset(story.keys.turn(claim.request_id), "lease_until", 1)
    await story.backplane.redis.zadd(story.keys.partition.due, {story.keys.member(claim.request_id): 1})
    assert await Recoverer(story.backplane).look() == 1
    again = await story.claim(claim.request_id)
    assert again.fence == 2
    assert await story.backplane.turns.heartbeat([claim]) == ["fenced"]
    text = [event.name for event in (await story.backplane.log.read(REF)).events][-2:]
    assert text == ["turn_restarted", "inference_start"]


async def test_a_thread_that_an_older_release_has_written_keeps_its_epoch(story: Story) -> None:
    claim = await story.begin()
    await story.backplane.redis.hdel(story.keys.thread, "lineage")
    await story.say(claim, "a")
    page = await story.backplane.log.read(REF)
    assert (page.epoch, page.ancestry) == (claim.epoch, {})


async def test_a_snapshot_knows_what_its_log_shares_with_older_epochs(story: Story) -> None:
    claim = await story.begin()
    await story.elsewhere()
    await story.say(claim, "a")
    snapshot = await story.backplane.sessions.snapshot(REF, subject="ann")
    assert snapshot.ancestry == {claim.epoch: 2}
    assert snapshot.epoch != claim.epoch
