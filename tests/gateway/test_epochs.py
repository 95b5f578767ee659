"""Rooms through a failover: who has lost nothing notices nothing, who was sent what is lost is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backplane.log import Page
from tests.gateway.watched import REF, Thread, Watcher
from tests.support.rewinding import elsewhere, remembered
from tests.support.waiting import wait_until


@pytest.fixture
def redis_url(valkey: str) -> str:
    """Return the real store's: a substitute has no lineage, and no failovers."""
    return valkey


async def test_members_go_on_in_the_next_epoch_when_nothing_was_lost(thread: Thread) -> None:
    await thread.say("a")
    fresh, resumed = Watcher(), Watcher()
    await thread.join(fresh)
    await thread.join(resumed, (thread.claim.epoch, 1))
    await elsewhere(thread.backplane, thread.backplane.keys.thread(REF))
    await thread.say("b")
    await thread.say("c")
    await wait_until(lambda: len(fresh.events) == 2, "what follows")
    assert (fresh.offsets, fresh.lost, resumed.lost) == ([4, 5], [], [])
    await wait_until(lambda: resumed.offsets == [2, 3, 4, 5], "the other one too")
    position = thread.room.position
    assert position is not None
    assert position[0] == fresh.events[-1].fields["epoch"] != thread.claim.epoch


async def test_what_is_said_while_the_room_reads_its_way_into_the_next_epoch_is_sent_too(
    thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    await thread.say("a")
    member = Watcher()
    await thread.join(member, (thread.claim.epoch, 3))
    await elsewhere(thread.backplane, thread.backplane.keys.thread(REF))
    read, hear = thread.backplane.log.read, thread.room.heard
    has_read, go_on, heard = asyncio.Event(), asyncio.Event(), list[bytes]()

    async def slow(*given: Any, **named: Any) -> Page:
        page = await read(*given, **named)
        has_read.set()
        await go_on.wait()
        return page

    def noted(message: bytes) -> None:
        heard.append(message)
        hear(message)

    monkeypatch.setattr(thread.backplane.log, "read", slow)
    monkeypatch.setattr(thread.room, "heard", noted)
    await thread.say("b")
    await has_read.wait()
    await thread.say("c")
    await wait_until(lambda: len(heard) == 2, "it is heard")
    go_on.set()
    await wait_until(lambda: member.offsets == [4, 5], "and sent")
    assert member.lost == []


async def test_members_who_were_sent_what_is_lost_are_told(thread: Thread) -> None:
    await thread.say("a")
    member = Watcher()
    await thread.join(member)
    back = await remembered(thread.backplane, thread.backplane.keys.thread(REF))
    await thread.say("b")
    await thread.say("c")
    await wait_until(lambda: member.offsets == [4, 5], "what will be lost")
    await back()
    thread.batch = 1
    await thread.say("B")
    await wait_until(lambda: len(member.lost) == 1, "the member is told")
    assert member.offsets == [4, 5], "and is sent nothing that looks as if it followed"
    again = Watcher()
    joined = await thread.join(again, (member.events[-1].fields["epoch"], 5))
    assert joined.recovered is False
    assert joined.snapshot is not None


async def test_who_joins_behind_a_loss_is_not_sent_what_is_lost(thread: Thread) -> None:
    """The room has not heard of the failover yet: nobody has appended since."""
    await thread.say("a")
    member = Watcher()
    await thread.join(member, (thread.claim.epoch, 3))
    back = await remembered(thread.backplane, thread.backplane.keys.thread(REF))
    await thread.say("b")
    await wait_until(lambda: member.offsets == [4], "what will be lost")
    await back()
    late = Watcher()
    joined = await thread.join(late)
    assert (joined.offset, len(member.lost)) == (3, 1)
    await wait_until(lambda: late in thread.room, "the late one to be admitted")
    assert (late.events, late.lost) == ([], [])


async def test_a_cursor_of_an_older_epoch_is_answered_in_the_newer_one(thread: Thread) -> None:
    await thread.say("a")
    await elsewhere(thread.backplane, thread.backplane.keys.thread(REF))
    await thread.say("b")
    member = Watcher()
    joined = await thread.join(member, (thread.claim.epoch, 2))
    assert (joined.recovered, joined.offset) == (True, 4)
    assert joined.epoch == member.events[-1].fields["epoch"] != thread.claim.epoch
    assert member.offsets == [3, 4]


async def test_only_the_member_that_had_read_ahead_is_told(thread: Thread) -> None:
    """It has an event of the log's lost end that the room has not sent yet."""
    await thread.say("a")
    ahead, other = Watcher(), Watcher()
    await thread.join(other)
    thread.backplane.live.unsubscribe(thread.backplane.keys.thread(REF).live)  # the room hears nothing for a while
    await thread.say("b")
    room = thread.room
    room._members[other].after = 3
    assert room._admit(ahead, "ann", 4)
    older = thread.claim.epoch
    assert room.take(Page("newer", 3, [], frozenset(), True, {older: 3})) is False
    assert (len(ahead.lost), other.lost) == (1, [])
    assert room.position == ("newer", 3)


async def test_who_read_just_before_the_failover_joins_the_room_that_has_heard_of_it(thread: Thread) -> None:
    await thread.say("a")
    member = Watcher()
    await thread.join(member, (thread.claim.epoch, 2))
    room: Any = thread.room
    older = thread.claim.epoch
    room.take(Page("newer", 3, [], frozenset(), True, {older: 3}))
    room._meet(older, 3, [], Page(older, 3, [], frozenset(), True))
    assert (room.position, member.lost) == (("newer", 3), [])
    room._meet("third", 1, [], Page("third", 1, [], frozenset(), True))
    assert (room.position, len(member.lost)) == (("third", 1), 1)
