"""Live channels on a real connection: confirmed, supervised, and never silently deaf."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backplane.addresses import Server
from backplane.connection import Backplane
from backplane.errors import Unavailable
from backplane.settings import Settings
from tests.support.ear import Ear
from tests.support.waiting import wait_until


async def publish(backplane: Backplane, channel: str, message: bytes) -> None:
    await backplane.redis.spublish(channel, message)


async def test_what_is_published_after_subscribe_returned_is_heard(backplane: Backplane) -> None:
    ear = Ear()
    await backplane.live.subscribe("c", ear)
    await publish(backplane, "c", b"one")
    await wait_until(lambda: ear.messages == [b"one"], "the message is heard")


async def test_after_unsubscribe_nothing_is_heard_and_the_channel_may_be_taken_again(backplane: Backplane) -> None:
    first, second = Ear(), Ear()
    await backplane.live.subscribe("c", first)
    backplane.live.unsubscribe("c")
    await backplane.live.subscribe("c", second)
    await publish(backplane, "c", b"x")
    await wait_until(lambda: second.messages == [b"x"], "the second listener hears")
    assert first.messages == []
    assert backplane.live.channels == 1


@pytest.mark.parametrize("garbage", [b"", b"\xff\x00", b"{}", b"-1", "²".encode(), b"9" * 5_000])
async def test_garbage_for_the_canary_does_not_end_the_connection_of_all(backplane: Backplane, garbage: bytes) -> None:
    """Python refuses to read a number of 5,000 digits, and an error would reach the transport."""
    ear = Ear()
    await backplane.live.subscribe("c", ear)
    async with backplane.answering():
        for path in backplane.live._paths.values():
            await publish(backplane, path.canary.decode(), garbage)
    await publish(backplane, "c", b"still here")
    await wait_until(lambda: ear.messages == [b"still here"], "the others are heard")
    assert (backplane.live.reconnects, ear.misses) == (0, 0)


async def test_a_lost_connection_is_made_again_and_every_listener_is_told(backplane: Backplane) -> None:
    ear = Ear()
    await backplane.live.subscribe("c", ear)
    backplane.live.reconnect()
    await wait_until(lambda: ear.misses == 1, "the listener is told")
    await publish(backplane, "c", b"again")
    await wait_until(lambda: ear.messages == [b"again"], "it hears again")
    assert backplane.live.reconnects == 1


async def test_connections_that_are_closed_at_once_leave_nothing_behind(
    backplane: Backplane,
) -> None:
    """A balancer without a store behind it does so, many times a second, and a worker listens to every partition."""
    closed_at_once = 0

    async def closing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal closed_at_once
        closed_at_once += 1
        writer.close()

    ear = Ear()
    await backplane.live.subscribe("some-channel", ear)
    (path,) = backplane.live._paths.values()
    real = path._server
    async with await asyncio.start_server(closing, "127.0.0.1", 0) as closer:
        host, port = closer.sockets[0].getsockname()
        path._server = Server(host, port)
        backplane.live.reconnect()
        await wait_until(lambda: closed_at_once >= 4, "it tries again and again")
        assert len(path._waiters[b"some-channel"]) <= 1
        assert ear.misses == 0
        path._server = real
    await wait_until(lambda: ear.misses == 1, "it is told once, when it can hear again")
    assert not path._waiters


async def test_five_lost_connections_in_a_row_are_survived(open_backplane: Any) -> None:
    """Also when one of them takes the song of the canary along, which makes it connect once more."""
    ear = Ear()
    async with open_backplane() as backplane:
        await backplane.live.subscribe("c", ear)
        for _ in range(5):
            told = ear.misses
            backplane.live.reconnect()
            await wait_until(lambda told=told: ear.misses > told, "told")
        await wait_until(lambda: not backplane.live.deaf, "the canary is heard again")


async def test_a_listener_that_fails_does_not_deafen_the_others(backplane: Backplane) -> None:
    class Broken(Ear):
        def heard(self, message: bytes) -> None:
            raise RuntimeError("broken")

    ear = Ear()
    await backplane.live.subscribe("broken", Broken())
    await backplane.live.subscribe("c", ear)
    await publish(backplane, "broken", b"x")
    await publish(backplane, "c", b"y")
    await wait_until(lambda: ear.messages == [b"y"], "the other one hears")
    assert backplane.live.listener_errors == 1
    assert backplane.live.reconnects == 0


async def test_a_process_that_does_not_hear_its_canary_is_deaf_and_connects_again(open_backplane: Any) -> None:
    """The path is cut where no error shows: the subscription of the canary is taken away."""
    async with open_backplane(canary_interval=0.05) as backplane:
        await wait_until(lambda: not backplane.live.deaf, "hears at first")
        (path,) = backplane.live._paths.values()
        connection = path._connection
        connection.send("SUNSUBSCRIBE", backplane.keys.canary(backplane.settings.node_id))
        await wait_until(lambda: backplane.live.reconnects > 0, "drops the connection")
        await wait_until(lambda: not backplane.live.deaf, "hears again")


async def test_without_a_live_path_a_backplane_does_not_open() -> None:
    settings = Settings(redis_url="redis://127.0.0.1:1/0", redis_timeout=0.2)
    with pytest.raises(Unavailable):
        async with Backplane.open(settings):
            pass


async def test_the_canary_keeps_still_where_there_is_traffic_and_sings_where_there_is_none(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others publish shows that the path works; with it a busy node is spared the canary."""
    (path,) = backplane.live._paths.values()
    rests, rested = 0, asyncio.Semaphore(0)

    async def rest() -> None:
        nonlocal rests
        rests += 1
        await rested.acquire()

    async def has_looked() -> None:
        before = rests
        rested.release()
        await wait_until(lambda: rests > before, "the look at what was heard")

    monkeypatch.setattr(path, "_rest", rest)
    path._fell_silent.set()  # it wakes from its long rest
    await wait_until(lambda: rests == 1, "it rests when the test says so")
    await backplane.live.subscribe("c", Ear())
    sung = path._sung
    for _ in range(3):
        await publish(backplane, "c", b"x")
        await wait_until(lambda: path._heard, "heard")
        await has_looked()
    assert path._sung == sung
    await has_looked()
    assert path._sung == sung + 1, "it is quiet: the canary sings"
    assert not backplane.live.deaf


async def test_a_relaxed_canary_pauses_for_longer_while_it_is_heard_alone(settings: Any) -> None:
    """Whoever is told by other means too must not make each shard's work grow with the number of such processes."""
    async with Backplane.open(settings(canary_interval=60.0), relaxed=True) as backplane:
        (path,) = backplane.live._paths.values()
        assert path._pause == pytest.approx(600.0)
        await wait_until(lambda: not path.deaf, "the first canary is heard")
        sung = path._sung
        backplane.live.reconnect()
        await wait_until(lambda: path.deaf, "the connection is lost")
        await wait_until(lambda: not path.deaf, "it sings anew, and is heard")
        assert path._sung > sung


async def test_a_relaxed_canary_wakes_when_the_connection_is_lost(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backplane.live.RELAXED", 1_000_000)
    async with Backplane.open(settings(canary_interval=60.0), relaxed=True) as backplane:
        (path,) = backplane.live._paths.values()
        await wait_until(lambda: not path.deaf, "the first canary is heard")
        backplane.live.reconnect()
        await wait_until(lambda: path.deaf, "the connection is lost")
        await wait_until(lambda: not path.deaf, "it sings at once")


async def test_a_relaxed_canary_that_is_not_heard_does_not_wait_for_its_long_pause(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backplane.live.RELAXED", 1_000_000)
    songs: list[str] = []
    publish = Backplane._publish

    async def failing_at_first(self: Backplane, channel: str, message: bytes) -> None:
        songs.append(channel)
        if len(songs) == 1:
            raise Unavailable("not now")
        await publish(self, channel, message)

    monkeypatch.setattr(Backplane, "_publish", failing_at_first)
    async with Backplane.open(settings(canary_interval=0.05), relaxed=True) as backplane:
        assert not backplane.live.deaf
    assert len(songs) >= 2, "on a slow machine it may be heard too late"
