"""Rooms: each offset once, in order, or the member is told. Most of them without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from backplane.errors import NotFound, Unavailable
from backplane.ids import ThreadRef, thread_ref
from backplane.turns import Start
from tests.gateway.watched import REF, Thread, Watcher
from tests.support.waiting import wait_until


@pytest.fixture
def redis_url(valkey: str) -> str:
    """Return the real store's."""
    return valkey


async def behind(thread: Thread) -> Watcher:
    """Return a member that was sent offset 3 and reads no more."""
    member = Watcher()
    await thread.join(member, (thread.claim.epoch, 2))
    member.reads.clear()
    await thread.say("a")
    await wait_until(lambda: member.offsets == [3], "it is sent one event, and is behind")
    return member


async def quiet(thread: Thread) -> None:
    """Wait until nothing is read for anybody any more."""
    names = (f"catch-up-{REF}", f"read-{REF}", f"fill-{REF}")
    await wait_until(lambda: not any(task.get_name() in names for task in asyncio.all_tasks()), "all is read")


async def test_a_member_gets_a_snapshot_and_then_each_event_once(thread: Thread) -> None:
    await thread.say("early")
    member = Watcher()
    joined = await thread.join(member)
    assert (joined.recovered, joined.offset) == (None, 3)
    assert joined.snapshot is not None
    assert joined.snapshot.turn is not None
    assert joined.snapshot.turn.text == "early"
    await thread.say("a", "b")
    await thread.finish()
    await wait_until(lambda: len(member.events) == 3, "live events")
    assert member.offsets == [4, 5, 6]


async def test_a_member_with_a_cursor_gets_what_it_missed_in_few_frames(thread: Thread) -> None:
    for number in range(100):
        await thread.say(f"{number} ")
    member = Watcher()
    joined = await thread.join(member, (thread.claim.epoch, 2))
    assert (joined.recovered, joined.snapshot, joined.offset) == (True, None, 102)
    assert member.offsets == list(range(3, 103))
    [merged] = member.events
    assert thread.metrics.read(thread.metrics.replayed) == 100
    assert thread.metrics.read(thread.metrics.replayed_bytes) == len(merged.raw)


@pytest.mark.parametrize("missed", [0, 1, 30, 2_500])
async def test_joining_while_the_turn_talks_loses_and_doubles_nothing(thread: Thread, missed: int) -> None:
    """Many members join at every moment of a stream, with a cursor that is 0 to 2,500 events old."""
    import asyncio

    for _ in range(missed // 100):
        await thread.say(*(["x"] * 100))
    await thread.say(*(["x"] * (missed % 100 or 1)))
    members = [Watcher() for _ in range(30)]
    start_after = 2

    async def talk() -> None:
        for _ in range(120):
            await thread.say("y")
        await thread.finish()

    async def come(number: int, member: Watcher) -> None:
        await wait_until(lambda: thread.batch - missed // 100 >= number * 3, "its moment of the stream")
        await thread.join(member, (thread.claim.epoch, start_after))

    await asyncio.gather(talk(), *(come(n, m) for n, m in enumerate(members)))
    top = (await thread.backplane.log.read(REF)).top
    for member in members:
        await wait_until(lambda m=member: bool(m.offsets) and m.offsets[-1] == top, "the end arrives")
        assert member.offsets == list(range(start_after + 1, top + 1))


async def test_a_hole_is_filled_from_the_log_before_anything_later_is_sent(
    thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pub/sub is at-most-once: every second live message is thrown away."""
    member = Watcher()
    await thread.join(member)
    room, heard = thread.room, 0
    real = room.heard

    def lossy(message: bytes) -> None:
        nonlocal heard
        heard += 1
        if heard % 2:
            real(message)

    monkeypatch.setattr(room, "heard", lossy)
    for number in range(41):
        await thread.say(str(number))
    await wait_until(lambda: bool(member.offsets) and member.offsets[-1] >= 42, "it catches up")
    assert member.offsets == list(range(3, member.offsets[-1] + 1))


async def test_the_end_of_a_turn_arrives_although_every_message_about_it_is_lost(
    thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poll. (faults.md row 10: with it taken out, this test hangs and goes red.)"""
    member = Watcher()
    await thread.join(member)
    await thread.say("a")
    await wait_until(lambda: len(member.events) == 1, "live at first")
    monkeypatch.setattr(thread.room, "heard", lambda message: None)
    await thread.finish()
    assert len(member.events) == 1
    await thread.rooms.poll_once()
    assert [event.name for event in member.events] == ["text_delta", "chat_done"]
    assert not thread.room.active


async def test_a_turn_arrives_although_even_the_message_of_its_beginning_is_lost(
    thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node where nobody asked for the turn cannot know that it runs."""
    member = Watcher()
    await thread.join(member)
    await thread.finish()
    await wait_until(lambda: not thread.room.active, "the first turn ends")
    before = len(member.events)
    monkeypatch.setattr(thread.room, "heard", lambda message: None)
    await thread.backplane.turns.start(REF, Start("more", "ann", "sid"))
    await thread.rooms.poll_once()
    assert [event.name for event in member.events[before:]] == ["chat_accepted"]


async def test_each_poll_reads_some_idle_threads_and_all_of_them_in_turn(
    thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.rooms._IDLE_AT_ONCE", 2)
    asked: list[str] = []

    async def read_many(places: list[tuple[ThreadRef, str, int]]) -> list[None]:
        asked.extend(ref.thread_id for ref, _, _ in places)
        return [None] * len(places)

    async with AsyncExitStack() as stack:
        for number in range(5):
            ref = thread_ref(f"idle-{number}")
            started = await thread.backplane.turns.start(ref, Start("hello", "ann", "sid"))
            await thread.backplane.turns.cancel(ref, "ann")
            room = await stack.enter_async_context(thread.rooms.room(ref))
            await room.join(Watcher(), "ann", (started.epoch, 0), 50)
        monkeypatch.setattr(thread.backplane.log, "read_many", read_many)
        for _ in range(3):
            await thread.rooms.poll_once()
    assert {f"idle-{number}" for number in range(5)} <= set(asked)
    assert len(asked) <= 3 * 2 + 3, "two idle ones each time, and perhaps the one whose turn runs"


async def test_a_deaf_while_is_made_good_after_the_reconnect(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    member = Watcher()
    await thread.join(member)
    with monkeypatch.context() as deaf:
        deaf.setattr(thread.room, "heard", lambda message: None)
        await thread.say("a", "b", "c")
    thread.room.missed()
    await wait_until(lambda: member.offsets == [3, 4, 5], "what was missed is read")


async def test_a_member_that_is_ahead_of_its_room_is_not_sent_what_the_snapshot_told(
    thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, ahead = Watcher(), Watcher()
    await thread.join(first, (thread.claim.epoch, 2))
    with monkeypatch.context() as lossy:
        lossy.setattr(thread.room, "heard", lambda message: None)
        await thread.say("a")
        joined = await thread.join(ahead)
    assert (joined.offset, thread.room.position) == (3, (thread.claim.epoch, 2))
    await thread.say("b")
    await wait_until(lambda: first.offsets == [3, 4] and 4 in ahead.offsets, "the hole is filled")
    assert ahead.offsets == [4]


async def test_a_late_live_message_is_not_sent_again(thread: Thread) -> None:
    member = Watcher()
    await thread.join(member)
    await thread.say("a")
    await wait_until(lambda: member.offsets == [3], "live")
    event = (await thread.backplane.log.read(REF, after=2)).events[0]
    thread.room.heard(f"{thread.claim.epoch} 3\n{event.name} {event.text}".encode())
    assert member.offsets == [3]


@pytest.mark.parametrize("garbage", [b"\x80\x04\x95pickle.", b"", b"epoch 99", b"x y\nz"])
async def test_garbage_on_the_channel_is_ignored_and_counted(thread: Thread, garbage: bytes) -> None:
    member = Watcher()
    await thread.join(member)
    await thread.backplane.redis.spublish(thread.backplane.keys.thread(REF).live, garbage)
    await thread.say("a")
    await wait_until(lambda: member.offsets == [3], "the room lives")
    assert b"threadline_live_garbage_total 1.0" in thread.rooms._metrics.text()


async def test_a_log_that_was_trimmed_meanwhile_gives_a_snapshot(open_backplane: Any) -> None:
    async with open_backplane(log_max_entries=10) as backplane:
        thread = Thread(backplane)
        await thread.start()
        await thread.say(*(["x"] * 500))
        member = Watcher()
        joined = await thread.join(member, (thread.claim.epoch, 3))
        assert joined.recovered is False
        assert joined.snapshot is not None
        assert joined.snapshot.turn is not None
        assert joined.snapshot.turn.text == "x" * 500
        assert member.events == []


@pytest.mark.parametrize(("epoch", "after"), [("another", 2), ("", 99)])
async def test_a_cursor_of_another_log_gives_a_snapshot(thread: Thread, epoch: str, after: int) -> None:
    joined = await thread.join(Watcher(), (epoch or thread.claim.epoch, after))
    assert joined.recovered is False
    assert joined.snapshot is not None


async def test_when_the_store_is_lost_members_are_told_to_come_back(thread: Thread) -> None:
    """Nobody waits for ever: the new epoch is noticed by the first event, or by the next reading."""
    member = Watcher()
    await thread.join(member)
    keys = thread.backplane.keys.thread(REF)
    await thread.backplane.redis.delete(keys.thread, keys.log, keys.session, keys.turn(thread.claim.request_id))
    await thread.start()
    await wait_until(lambda: len(member.lost) == 1, "told")
    assert thread.rooms.get(REF) is None


async def test_when_the_store_is_lost_an_idle_thread_is_told_at_the_reconnect(thread: Thread) -> None:
    member = Watcher()
    await thread.join(member)
    keys = thread.backplane.keys.thread(REF)
    await thread.backplane.redis.delete(keys.thread)
    thread.backplane.live.reconnect()
    await wait_until(lambda: len(member.lost) == 1, "told")


async def test_another_persons_thread_cannot_be_joined_and_leaves_nothing_open(thread: Thread) -> None:
    with pytest.raises(NotFound):
        await thread.join(Watcher(), subject="bob")
    with pytest.raises(NotFound):
        await thread.join(Watcher(), (thread.claim.epoch, 0), subject="bob")
    assert len(thread.rooms) == 0


async def test_the_channel_is_left_with_the_last_member(thread: Thread) -> None:
    """A node listens only to threads that somebody on it watches."""
    before = thread.backplane.live.channels
    one, two = Watcher(), Watcher()
    await thread.join(one)
    await thread.join(two)
    await wait_until(lambda: len(thread.room) == 2, "both are in")
    assert thread.backplane.live.channels == before + 1
    room = thread.room
    room.leave(one)
    assert thread.backplane.live.channels == before + 1
    room.leave(two)
    assert thread.backplane.live.channels == before
    assert thread.rooms.get(REF) is None


async def test_who_comes_as_a_room_could_not_be_opened_finds_none_without_its_channel(
    thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Watcher()
    late: list[asyncio.Task[Any]] = []
    real = thread.backplane.live.subscribe

    def come() -> None:
        late.append(asyncio.create_task(thread.join(second, (thread.claim.epoch, 2))))

    async def fail(channel: str, listener: Any) -> None:
        monkeypatch.setattr(thread.backplane.live, "subscribe", real)
        asyncio.get_running_loop().call_soon(come)
        raise Unavailable("not now")

    monkeypatch.setattr(thread.backplane.live, "subscribe", fail)
    with pytest.raises(Unavailable):
        await thread.join(Watcher(), (thread.claim.epoch, 2))
    await late[0]
    await thread.say("a")
    await wait_until(lambda: second.offsets == [3], "it hears what is said")


async def test_who_leaves_still_hears_the_end_of_what_it_started_and_nothing_else(thread: Thread) -> None:
    member, other = Watcher(), Watcher()
    await thread.join(member, (thread.claim.epoch, 0))
    await thread.join(other, (thread.claim.epoch, 0))
    thread.room.own(member, thread.claim.request_id, 1)
    thread.room.leave(member)
    thread.room.leave(other)
    other_seen = len(other.events)
    await thread.say("still mine")
    await thread.finish()
    await wait_until(lambda: member.named[-1:] == ["chat_done"], "the end of its own turn")
    assert len(other.events) == other_seen
    await wait_until(lambda: len(thread.rooms) == 0, "then it is out, and the room closed")


async def test_who_leaves_hears_of_its_message_in_the_lane_until_its_turn_has_ended(thread: Thread) -> None:
    member = Watcher()
    await thread.join(member, (thread.claim.epoch, 2))
    mine = await thread.backplane.turns.start(REF, Start("mine", "ann", "sid", queue_mode="followup"))
    thread.room.own(member, mine.request_id, mine.offset)
    thread.room.leave(member)
    await thread.say("of the first turn")
    await thread.finish()
    await wait_until(lambda: member.named[-1:] == ["chat_accepted"], "its turn has come")
    await thread.backplane.turns.cancel(REF, "ann", mine.request_id)
    await wait_until(lambda: member.named[-1:] == ["chat_error"], "the end of its turn")
    assert {event.request_id for event in member.events} == {mine.request_id}
    await wait_until(lambda: len(thread.rooms) == 0, "then it is out, and the room closed")


async def test_who_leaves_hears_that_its_message_was_taken_out_of_the_lane(thread: Thread) -> None:
    member = Watcher()
    await thread.join(member, (thread.claim.epoch, 2))
    mine = await thread.backplane.turns.start(REF, Start("mine", "ann", "sid", queue_mode="followup"))
    thread.room.own(member, mine.request_id, mine.offset)
    await wait_until(lambda: bool(member.events), "it waits")
    thread.room.leave(member)
    await thread.backplane.turns.cancel(REF, "ann", mine.request_id)
    await wait_until(lambda: [e.name for e in member.events] == ["queue_item_queued", "queue_item_removed"], "the end")
    await wait_until(lambda: len(thread.rooms) == 0, "then it is out, and the room closed")


async def test_who_leaves_behind_the_end_of_its_turn_waits_for_nothing(thread: Thread) -> None:
    """An old start that is repeated is acknowledged like the first time, and its turn has long ended."""
    member = Watcher()
    await thread.join(member, (thread.claim.epoch, 2))
    await thread.finish()
    await wait_until(lambda: bool(member.events), "the end")
    thread.room.own(member, thread.claim.request_id, 2)
    thread.room.leave(member)
    assert len(thread.rooms) == 0


async def test_who_asks_again_with_an_older_cursor_is_sent_what_follows_it(thread: Thread) -> None:
    """A client that says on the same connection that it lacks something is believed."""
    member = Watcher()
    await thread.join(member, (thread.claim.epoch, 0))
    await thread.say("a")
    await wait_until(lambda: member.offsets == [1, 2, 3], "it has everything")
    member.events.clear()
    joined = await thread.join(member, (thread.claim.epoch, 1))
    assert joined.recovered is True
    assert member.offsets == [2, 3]
    await thread.say("b")
    await wait_until(lambda: member.offsets == [2, 3, 4], "and it goes on")


async def test_who_is_served_and_asks_for_a_snapshot_goes_on_being_served(thread: Thread) -> None:
    """The original client subscribes without a cursor to a thread in which it has just started a turn."""
    member = Watcher()
    await thread.join(member, (thread.claim.epoch, 2))
    joining = asyncio.create_task(thread.join(member))
    for number in range(20):
        await thread.say(str(number))
    joined = await joining
    assert (joined.recovered, joined.snapshot is None) == (None, False)
    await wait_until(lambda: member.offsets == list(range(3, 23)), "nothing is left out, nothing sent twice")


async def test_who_left_and_comes_back_gets_what_others_did_meanwhile(thread: Thread) -> None:
    """While it waited for its own turn it was not sent other requests; its cursor brings them."""
    member = Watcher()
    await thread.join(member, (thread.claim.epoch, 2))
    thread.room.own(member, thread.claim.request_id, 1)
    thread.room.leave(member)
    queued = await thread.backplane.turns.start(REF, Start("next", "ann", "other", queue_mode="followup"))
    await thread.say("a")
    await wait_until(lambda: [e.name for e in member.events] == ["text_delta"], "only its own")
    joined = await thread.join(member, (thread.claim.epoch, 2))
    assert joined.recovered is True
    assert queued.offset in member.offsets


async def test_who_left_and_asks_for_a_snapshot_is_sent_everything_again(thread: Thread) -> None:
    """While it waits for its own turn alone it is not served, whatever it was before."""
    member = Watcher()
    await thread.join(member, (thread.claim.epoch, 2))
    thread.room.own(member, thread.claim.request_id, 1)
    thread.room.leave(member)
    joined = await thread.join(member)
    assert joined.snapshot is not None
    queued = await thread.backplane.turns.start(REF, Start("next", "ann", "other", queue_mode="followup"))
    await wait_until(lambda: queued.offset in member.offsets, "it hears of what others send")


async def test_who_is_behind_and_asks_for_a_snapshot_is_not_sent_what_stands_in_it(thread: Thread) -> None:
    member = await behind(thread)
    for word in "bcd":
        await thread.say(word)
    joined = await thread.join(member)
    assert (joined.offset, joined.recovered) == (6, None)
    member.reads.set()
    await thread.say("live again")
    await wait_until(lambda: 7 in member.offsets, "it is served live again")
    await quiet(thread)
    assert member.offsets == [3, 7]


@pytest.mark.parametrize("cursor", [True, False])
async def test_who_could_not_be_brought_up_to_the_present_is_told_to_come_back(
    thread: Thread, monkeypatch: pytest.MonkeyPatch, cursor: bool
) -> None:
    """It had a place, and was sent nothing while it was read for: left there, it would wait for ever."""
    member = await behind(thread)

    async def away(*_: Any, **__: Any) -> Any:
        raise Unavailable("Redis did not answer; send the same call again in a moment")

    monkeypatch.setattr(thread.backplane.log, "read", away)
    monkeypatch.setattr(thread.backplane.sessions, "snapshot", away)
    with pytest.raises(Unavailable):
        await thread.join(member, (thread.claim.epoch, 3) if cursor else None)
    assert member.lost == ["could not be brought up to the present"]
    assert len(thread.rooms) == 0


async def test_a_notice_is_for_those_who_watch_and_keep_up(thread: Thread) -> None:
    """Who is behind would have it pile up; who left hears of its own messages alone."""
    slow, left, watching = await behind(thread), Watcher(), Watcher()
    for member in (left, watching):
        await thread.join(member, (thread.claim.epoch, 3))
    thread.room.own(left, thread.claim.request_id, 1)
    thread.room.leave(left)
    await thread.backplane.threads.rename(REF, "ann", "title")
    await wait_until(lambda: [event.name for event in watching.events] == ["thread_renamed"], "it is told")
    assert [event.name for event in slow.events] == ["text_delta"]
    assert left.events == []


async def test_a_member_that_is_gone_before_it_has_joined_is_not_kept(thread: Thread) -> None:
    member = Watcher()
    member.gone = True
    await thread.join(member, (thread.claim.epoch, 0))
    await wait_until(lambda: len(thread.rooms) == 0, "nothing stays open")


async def test_a_member_that_does_not_read_is_sent_merged_deltas_later_and_holds_up_nobody(thread: Thread) -> None:
    """Nothing is buffered for it: 200 events wait in the log, and reach it as a few frames."""
    slow, quick = Watcher(), Watcher()
    await thread.join(slow, (thread.claim.epoch, 2))
    await thread.join(quick, (thread.claim.epoch, 2))
    slow.reads.clear()
    for number in range(200):
        await thread.say(f"{number} ")
    await wait_until(lambda: quick.offsets == list(range(3, 203)), "the quick one has everything")
    assert len(slow.events) == 1
    slow.reads.set()
    await wait_until(lambda: slow.offsets == list(range(3, 203)), "the slow one catches up")
    assert len(slow.events) <= 4
    await thread.say("live again")
    await wait_until(lambda: slow.offsets[-1] == 203, "and is served live again")
    assert slow.offsets == quick.offsets


async def test_who_leaves_while_it_is_behind_is_sent_no_more_and_is_out(thread: Thread) -> None:
    member = await behind(thread)
    thread.room.leave(member)
    member.reads.set()
    await thread.say("b")
    await wait_until(lambda: len(thread.rooms) == 0, "nobody watches any more")
    await quiet(thread)
    assert (member.offsets, member.lost) == ([3], [])


async def test_who_leaves_while_it_is_behind_hears_its_own_turn_to_the_end_and_nothing_else(thread: Thread) -> None:
    member, other = await behind(thread), Watcher()
    await thread.join(other, (thread.claim.epoch, 3))
    thread.room.own(member, thread.claim.request_id, 2)
    waiting = await thread.backplane.turns.start(REF, Start("next", "ann", "other", queue_mode="followup"))
    await thread.say("b")
    await thread.finish()
    await wait_until(lambda: other.named[-1:] == ["chat_accepted"], "the next turn begins")
    thread.room.leave(member)
    member.reads.set()
    await wait_until(lambda: len(thread.room) == 1, "it is out")
    assert [event.name for event in member.events] == ["text_delta", "text_delta", "chat_done"]
    assert waiting.request_id not in {event.request_id for event in member.events}
    assert member.lost == []


async def test_who_asks_again_while_it_is_behind_is_sent_nothing_twice(thread: Thread) -> None:
    """The reading that had begun for it stops: the new one begins where the member says that it stands."""
    member = await behind(thread)
    for word in "bcdef":
        await thread.say(word)
    joining = asyncio.create_task(thread.join(member, (thread.claim.epoch, 3)))
    member.reads.set()
    joined = await joining
    assert (joined.recovered, joined.offset) == (True, 8)
    await thread.say("live again")
    await wait_until(lambda: 9 in member.offsets, "it is served live again")
    await quiet(thread)
    assert member.offsets == list(range(3, 10))


async def test_a_member_that_never_reads_is_cut(thread: Thread) -> None:
    member = Watcher()
    await thread.join(member, (thread.claim.epoch, 2))
    member.reads.clear()
    await thread.say("a")
    await wait_until(lambda: len(member.events) == 1, "sent")
    member.dead = True
    member.reads.set()
    await wait_until(lambda: member.lost == ["reads too slowly"], "cut")
    await wait_until(lambda: len(thread.rooms) == 0, "and out")


async def test_one_member_that_is_slow_to_join_does_not_hold_up_another(
    thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    blocked = asyncio.Event()
    real: Callable[..., Any] = thread.backplane.log.read

    async def slow(ref: ThreadRef, **given: Any) -> Any:
        page = await real(ref, **given)
        if given.get("after") == 0:
            await blocked.wait()
        return page

    monkeypatch.setattr(thread.backplane.log, "read", slow)
    late, quick = Watcher(), Watcher()
    joining = asyncio.create_task(thread.join(late, (thread.claim.epoch, 0)))
    await thread.join(quick, (thread.claim.epoch, 2))
    for number in range(100):
        await thread.say(str(number))
    await wait_until(lambda: quick.offsets == list(range(3, 103)), "the quick one is served")
    blocked.set()
    await joining
    await wait_until(lambda: late.offsets == list(range(1, 103)), "and so is the late one, of everything")
