"""Pages that are read once for many: nobody is sent less or more for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from backplane.errors import NotFound
from gateway import replay
from gateway.recent import MOST_EVENTS
from tests.gateway.watched import REF, Thread, Watcher
from tests.support.waiting import wait_until


@pytest.fixture
def redis_url(valkey: str) -> str:
    """Return the real store's."""
    return valkey


async def test_those_who_come_soon_after_each_other_share_one_reading(
    thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_KEPT", 3600.0)
    for word in "abc":
        await thread.say(word)
    read, asked = thread.backplane.log.read, 0

    async def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        return await read(*arguments, **options)

    monkeypatch.setattr(thread.backplane.log, "read", counted)
    members = [Watcher() for _ in range(5)]
    for member in members:
        assert (await thread.join(member, (thread.claim.epoch, 0))).offset == 5
        await thread.backplane.ping()  # they come one after the other
    assert asked == 1
    assert all(member.offsets == [1, 2, 3, 4, 5] for member in members)
    assert members[0].events[-1] is members[1].events[-1], "and each event is encoded once for all of them"
    with pytest.raises(NotFound):
        await thread.join(Watcher(), (thread.claim.epoch, 0), "bob")


async def test_who_gets_a_kept_reading_gets_what_came_behind_it_too(
    thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_KEPT", 3600.0)
    first = Watcher()
    await thread.join(first, (thread.claim.epoch, 2))
    for count in (3, 2 * MOST_EVENTS):  # what the room remembers, and more than that
        last = await thread.say(*["word "] * count)
        await wait_until(lambda offset=last: thread.room.position == (thread.claim.epoch, offset), "the room has them")
        member = Watcher()
        joined = await thread.join(member, (thread.claim.epoch, 2))
        assert (joined.recovered, joined.offset) == (True, last)
        assert member.offsets == list(range(3, last + 1))


async def test_of_a_long_log_only_so_much_is_kept_for_those_who_come_next(
    thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_KEPT", 3600.0)
    monkeypatch.setattr(replay, "_MOST_KEPT", 3_000)
    monkeypatch.setattr(thread.backplane.log, "read", partial(thread.backplane.log.read, most=2))
    last = 0
    for _ in range(20):
        last = await thread.say("w" * 500)
    async with thread.rooms.room(REF):
        for _ in range(2):
            member = Watcher()
            assert (await thread.join(member, (thread.claim.epoch, 2))).offset == last
            assert member.offsets == list(range(3, last + 1))
        readings = thread.room._past._readings.values()
        assert readings, "something is"
        assert sum(len(event.raw) for task in readings for event in task.result()[0].events) <= 3_000


async def test_what_was_kept_is_read_anew_when_the_log_may_have_changed(
    thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node was deaf, the log was lost: what it held then proves nothing."""
    monkeypatch.setattr(replay, "_KEPT", 3600.0)
    read, asked = thread.backplane.log.read, 0

    async def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal asked
        asked += options["after"] == 0
        return await read(*arguments, **options)

    monkeypatch.setattr(thread.backplane.log, "read", counted)
    await thread.join(Watcher(), (thread.claim.epoch, 0))
    changes: list[Callable[[], None]] = [thread.room.missed, partial(thread.room.lose_all, "the log was lost")]
    for times, change in enumerate(changes, 2):
        async with thread.rooms.room(REF):
            change()
            await thread.join(Watcher(), (thread.claim.epoch, 0))
            await thread.join(Watcher(), (thread.claim.epoch, 0))
            assert asked == times
