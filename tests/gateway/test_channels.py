"""Channels of a node, on a live connection that the test plays."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backplane.errors import Unavailable
from gateway.channels import Channels
from tests.support.waiting import wait_until


class Live:
    """A live connection that confirms when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.left: list[str] = []
        self.faults: list[Exception] = []
        self.confirms = asyncio.Event()
        self.confirms.set()
        self.listeners: dict[str, Any] = {}

    async def subscribe(self, name: str, listener: Any) -> None:
        self.asked.append(name)
        if self.faults:
            raise self.faults.pop(0)
        await self.confirms.wait()
        self.listeners[name] = listener

    def unsubscribe(self, name: str) -> None:
        self.left.append(name)


@pytest.fixture
def live() -> Live:
    return Live()


@pytest.fixture
def heard() -> list[bytes]:
    return []


@pytest.fixture
def channels(live: Live, heard: list[bytes]) -> Channels:
    given: Any = live
    return Channels(given, heard.append)


async def test_a_channel_is_left_with_its_last_holder(channels: Channels, live: Live, heard: list[bytes]) -> None:
    with channels.holding("a") as channel:
        await channel.confirmed()
        with channels.holding("a") as same:
            assert same is channel
        live.listeners["a"].heard(b"x")
        assert (len(channels), live.asked, live.left, heard) == (1, ["a"], [], [b"x"])
        channel.holders += 1
    assert live.left == []
    channels.release("a")
    assert (len(channels), live.left) == (0, ["a"])
    channels.release("a")
    assert live.left == ["a"]


async def test_only_a_standing_channel_is_asked_for_until_it_is_there(channels: Channels, live: Live) -> None:
    live.faults = [Unavailable("away"), Unavailable("away")]
    with channels.holding("a", standing=True) as channel:
        await channel.confirmed()
    assert live.asked == ["a", "a", "a"]
    live.faults = [Unavailable("away")]
    with channels.holding("b") as channel, pytest.raises(Unavailable, match="away"):
        await channel.confirmed()


async def test_a_channel_that_is_kept_for_good_connects_first(channels: Channels, live: Live) -> None:
    faults: list[Exception] = [Unavailable("away")]
    connected = 0

    async def connect() -> None:
        nonlocal connected
        if faults:
            raise faults.pop()
        assert live.asked == []
        connected += 1

    channels.connect = connect
    channel = channels.for_good("node")
    await channel.confirmed()
    assert channels.for_good("node") is channel
    assert (connected, live.asked) == (1, ["node"])


async def test_whoever_waits_for_a_channel_when_all_are_closed_is_told(channels: Channels, live: Live) -> None:
    live.confirms.clear()
    channels.for_good("node")

    async def waits() -> None:
        with channels.holding("a") as channel:
            await channel.confirmed()

    waiting = asyncio.create_task(waits())
    await wait_until(lambda: live.asked == ["node", "a"], "both are asked for")
    await channels.close()
    with pytest.raises(Unavailable, match="stopping"):
        await waiting
    assert (len(channels), sorted(live.left)) == (0, ["a", "node"])
    with channels.holding("b") as late, pytest.raises(Unavailable, match="stopping"):
        await late.confirmed()


async def test_a_process_that_only_emits_listens_to_nothing() -> None:
    with Channels(None, print).holding("a") as channel, pytest.raises(ValueError, match="without write_only"):
        await channel.confirmed()
