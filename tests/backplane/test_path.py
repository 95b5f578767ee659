"""One live path by itself, against a primary whose every word the test decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hiredis
import pytest

from backplane.addresses import Server, parse
from backplane.errors import Unavailable
from backplane.path import LivePath
from backplane.settings import Settings
from tests.support.waiting import wait_until

CANARY = b"canary"


class Owner:
    """Notes what a path tells."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bytes]] = []
        self.misses: list[list[bytes]] = []
        self.losses = 0

    def heard(self, name: bytes, message: bytes) -> None:
        self.messages.append((name, message))

    def missed(self, names: list[bytes]) -> None:
        if names:
            self.misses.append(names)

    def hears(self) -> None:
        pass

    def lost(self) -> None:
        self.losses += 1


class Primary:
    """Takes connections as a primary does; confirms while it `confirms`, and carries the canary while it `sings`."""

    def __init__(self) -> None:
        self.commands: list[list[bytes]] = []
        self.connections = 0
        self.confirms = True
        self.sings = True
        self.songs = 0
        self.at = Server("127.0.0.1", 0)
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._take, self.at.host, self.at.port)
        self.at = Server(*self._server.sockets[0].getsockname())

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        words = hiredis.Reader()
        while data := await reader.read(65536):
            words.feed(data)
            while (command := words.gets()) is not False:
                self.commands.append(command)
                if command[0] == b"AUTH":
                    self.say(b"+OK\r\n")
                elif self.confirms:
                    self.push(command[0].lower(), command[1], 1)
        writer.close()

    def say(self, raw: bytes) -> None:
        self._writers[-1].write(raw)

    def push(self, kind: bytes, name: bytes, data: bytes | int) -> None:
        last = b":%d\r\n" % data if isinstance(data, int) else b"$%d\r\n%s\r\n" % (len(data), data)
        self.say(b"*3\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n%s" % (len(kind), kind, len(name), name, last))

    async def publish(self, channel: str, message: bytes) -> None:
        self.songs += 1
        if self.sings:
            self.push(b"smessage", channel.encode(), message)

    def said(self, verb: bytes, name: bytes) -> int:
        return self.commands.count([verb, name])


@pytest.fixture
async def primary() -> AsyncIterator[Primary]:
    """Return a primary that takes connections."""
    made = Primary()
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def owner() -> Owner:
    return Owner()


@asynccontextmanager
async def listening(
    primary: Primary, owner: Owner, *, pause: float = 3600.0, interval: float = 3600.0, login: str = ""
) -> AsyncIterator[LivePath]:
    """Open a path that hears its canary; unless it is told to, none sings again, and none is too late to be heard."""
    settings = Settings(canary_interval=interval)
    path = LivePath(owner, primary.at, CANARY, settings, primary.publish, pause)
    path.open(parse(f"redis://{login}{primary.at.host}:{primary.at.port}/0"))
    try:
        await wait_until(lambda: not path.deaf, "it hears")
        yield path
    finally:
        await path.close()


async def test_a_path_closes_while_its_channels_wait_to_be_confirmed(primary: Primary, owner: Owner) -> None:
    """Mutant: whoever waits for the confirmations takes its own end for that of the connection, and waits for ever."""
    primary.confirms = False
    path = LivePath(owner, primary.at, CANARY, Settings(), primary.publish, 1.0)
    path.move_here(b"c")
    path.open(parse(f"redis://{primary.at.host}:{primary.at.port}/0"))
    await wait_until(lambda: b"c" in path._waiters, "it has subscribed, and waits")
    connection = path._connection
    closing = asyncio.create_task(path.close())
    await wait_until(closing.done, "it is closed")
    await closing
    assert connection is not None
    assert connection.closed.done(), "nobody is left to see it end"
    assert all(task.cancelled() for task in path._tasks)
    assert (path._waiters, owner.misses) == ({}, [])


async def test_a_path_that_closes_while_it_hears_lets_go_whoever_waits(primary: Primary, owner: Owner) -> None:
    """The old primary lives on behind a failover: they look where their channel is now, and do not wait in vain."""
    async with listening(primary, owner) as path:
        connection = path._connection
        primary.confirms = False
        waiting = asyncio.ensure_future(path.add(b"c"))
        await wait_until(lambda: primary.said(b"SSUBSCRIBE", b"c") == 1, "it asks")
        await path.close()
        await wait_until(waiting.done, "it is let go")
        assert connection is not None
        assert connection.closed.result() is None


# --- channels ------------------------------------------------------------------------------------------


async def test_only_the_last_confirmation_of_a_channel_counts(primary: Primary, owner: Owner) -> None:
    """Between the first and the second it is left again: what is published there would be missed in silence."""
    async with listening(primary, owner) as path:
        primary.confirms = False
        leaving = asyncio.ensure_future(path.add(b"c"))
        await asyncio.sleep(0)
        path.drop(b"c")
        await asyncio.wait([leaving])
        coming = asyncio.ensure_future(path.add(b"c"))
        await wait_until(lambda: primary.said(b"SSUBSCRIBE", b"c") == 2, "it has asked twice")
        primary.push(b"ssubscribe", b"c", 2)
        primary.push(b"sunsubscribe", b"c", 1)
        primary.push(b"smessage", b"d", b"behind them")
        await wait_until(lambda: bool(owner.messages), "both were read")
        assert not coming.done()
        primary.push(b"ssubscribe", b"c", 2)
        await wait_until(coming.done, "it is confirmed")
        again = asyncio.ensure_future(path.add(b"c"))
        await asyncio.sleep(0)
        primary.push(b"ssubscribe", b"c", 2)
        await wait_until(again.done, "a later one is confirmed as well")
    assert (primary.connections, owner.losses) == (1, 0), "that it left was its own wish"


async def test_a_channel_that_was_left_is_listened_to_no_more_also_on_the_next_connection(
    primary: Primary, owner: Owner
) -> None:
    async with listening(primary, owner) as path:
        await path.add(b"left")
        await path.add(b"kept")
        path.drop(b"left")
        await wait_until(lambda: primary.said(b"SUNSUBSCRIBE", b"left") == 1, "the primary is told")
        path.reconnect()
        await wait_until(lambda: owner.misses == [[b"kept"]], "who stayed is told that it may have missed something")
    assert primary.said(b"SSUBSCRIBE", b"left") == 1
    assert primary.said(b"SSUBSCRIBE", b"kept") == 2


async def test_a_channel_that_moves_here_is_told_that_it_missed_what_came_in_between(
    primary: Primary, owner: Owner
) -> None:
    async with listening(primary, owner) as path:
        primary.confirms = False
        path.move_here(b"c")
        await wait_until(lambda: primary.said(b"SSUBSCRIBE", b"c") == 1, "it asks")
        assert owner.misses == [], "not before it is heard here"
        primary.push(b"ssubscribe", b"c", 2)
        await wait_until(lambda: owner.misses == [[b"c"]], "it is told")


@pytest.mark.parametrize("name", [b"c", CANARY])
async def test_a_channel_that_the_primary_takes_away_is_looked_for_anew(
    primary: Primary, owner: Owner, name: bytes
) -> None:
    """Its slot is elsewhere now; the wish to leave it that a lost connection took along hides nothing."""
    async with listening(primary, owner) as path:
        await path.add(b"c")
        primary.confirms = False
        path.drop(b"c")
        primary.confirms = True
        path.reconnect()
        await wait_until(lambda: primary.said(b"SSUBSCRIBE", CANARY) == 2, "it connects again")
        await path.add(b"c")
        losses = owner.losses
        primary.push(b"sunsubscribe", name, 1)
        await wait_until(lambda: primary.connections == 3, "it connects again")
        await wait_until(lambda: owner.misses[-1:] == [[b"c"]], "its listener is told")
        assert owner.losses > losses


async def test_a_command_that_belongs_elsewhere_makes_it_look_for_the_primaries(primary: Primary, owner: Owner) -> None:
    async with listening(primary, owner):
        primary.say(b"-MOVED 1 127.0.0.1:1\r\n")
        await wait_until(lambda: primary.connections == 2, "it connects again")
        assert owner.losses > 0


async def test_a_command_that_is_refused_is_the_trouble_and_ends_no_connection(primary: Primary, owner: Owner) -> None:
    async with listening(primary, owner) as path:
        primary.say(b"-NOPERM no permissions to access a channel\r\n")
        await wait_until(lambda: path.trouble.startswith("NOPERM"), "it is noted")
        assert (primary.connections, owner.losses) == (1, 0)


# --- connections ---------------------------------------------------------------------------------------


async def test_who_connects_says_who_it_is_first(primary: Primary, owner: Owner) -> None:
    async with listening(primary, owner, login="ann:secret@"):
        assert primary.commands[:2] == [[b"AUTH", b"ann", b"secret"], [b"SSUBSCRIBE", CANARY]]
        assert primary.connections == 1


async def test_words_that_nobody_can_read_end_the_connection_and_not_the_path(primary: Primary, owner: Owner) -> None:
    async with listening(primary, owner) as path:
        await path.add(b"c")
        primary.say(b"HTTP/1.1 400 Bad Request\r\n")
        await wait_until(lambda: owner.misses == [[b"c"]], "it connects again, and says so")


async def test_a_primary_that_refuses_connections_for_a_while_is_heard_again(primary: Primary, owner: Owner) -> None:
    async with listening(primary, owner) as path:
        await path.add(b"c")
        await primary.close()
        await wait_until(lambda: path.deaf and bool(path.trouble), "it is refused")
        assert owner.misses == []
        await primary.open()
        await wait_until(lambda: owner.misses == [[b"c"]], "its listener is told")
        await wait_until(lambda: not path.deaf and not path.trouble, "it hears")


async def test_a_connection_on_which_nothing_is_confirmed_is_given_up(
    primary: Primary, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backplane.path._CONFIRM_TIMEOUT", 0.05)
    primary.confirms = False
    path = LivePath(owner, primary.at, CANARY, Settings(), primary.publish, 1.0)
    path.move_here(b"c")
    path.open(parse(f"redis://{primary.at.host}:{primary.at.port}/0"))
    await wait_until(lambda: primary.connections > 1, "it tries another connection")
    assert (owner.misses, path.deaf) == ([], True)
    await path.close()


# --- the canary ----------------------------------------------------------------------------------------


async def test_a_path_that_falls_silent_without_an_error_is_deaf_and_connects_again(
    primary: Primary, owner: Owner
) -> None:
    """A half-open connection, a balancer that lost its server: only what is not heard shows it."""
    async with listening(primary, owner, interval=0.05, pause=0.01) as path:
        primary.sings = False
        await wait_until(lambda: path.deaf, "it is deaf")
        await wait_until(lambda: primary.connections > 1, "it connects again")
        primary.sings = True
        await wait_until(lambda: not path.deaf, "it hears")


async def test_a_song_that_cannot_be_sent_makes_it_deaf_and_says_why(
    primary: Primary, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(channel: str, message: bytes) -> None:
        raise Unavailable("Redis is away")

    async with listening(primary, owner, pause=0.01) as path:
        with monkeypatch.context() as patched:
            patched.setattr(path, "_publish", away)
            patched.setattr(path, "_settings", Settings(canary_interval=0.01))  # how soon it tries again
            await wait_until(lambda: path.deaf, "it is deaf")
            assert path.trouble == "Redis is away"
        await wait_until(lambda: not path.deaf, "it hears")
        assert path.trouble == ""
    assert primary.connections == 1, "the live connection is not what failed"


async def test_a_process_that_was_held_up_itself_is_not_deaf(
    primary: Primary, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The song was there before its time was over; a new connection would cost all that is said meanwhile."""

    async def held_up(channel: str, message: bytes) -> None:
        await primary.publish(channel, message)
        _stand_still(0.1)

    async with listening(primary, owner, pause=0.01) as path:
        monkeypatch.setattr(path, "_settings", Settings(canary_interval=0.05))
        monkeypatch.setattr(path, "_publish", held_up)
        songs = primary.songs
        await wait_until(lambda: path.deaf or primary.songs > songs + 1, "it has sung")
        assert (path.deaf, primary.connections) == (False, 1)


def _stand_still(seconds: float) -> None:
    time.sleep(seconds)


async def test_a_song_that_hangs_makes_it_deaf(primary: Primary, owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hanging(channel: str, message: bytes) -> None:
        await asyncio.Event().wait()

    async with listening(primary, owner, interval=0.05, pause=0.01) as path:
        monkeypatch.setattr(path, "_publish", hanging)
        await wait_until(lambda: path.deaf, "it is deaf")


async def test_a_canary_that_was_woken_by_a_lost_connection_rests_again(primary: Primary, owner: Owner) -> None:
    """Mutant: from then on it sings without a pause, and takes what its shard has."""
    async with listening(primary, owner) as path:
        path.reconnect()
        await wait_until(lambda: path.deaf, "the connection is lost")
        await wait_until(lambda: not path.deaf, "it hears again")
        songs = primary.songs
        await path.add(b"c")
        await path.add(b"d")
        assert primary.songs == songs


async def test_a_song_that_a_lost_connection_took_along_is_sung_anew_on_the_next(
    primary: Primary, owner: Owner
) -> None:
    """Mutant: it is waited for in vain, and then the next connection, which is well, is given up as well."""
    async with listening(primary, owner, pause=0.01) as path:
        primary.sings = False
        songs = primary.songs
        await wait_until(lambda: primary.songs > songs, "it sings, and is not heard")
        primary.sings = True
        path.reconnect()
        await wait_until(lambda: primary.connections == 2 and not path.deaf, "it hears on the next connection")


async def test_what_was_said_by_others_before_it_was_deaf_does_not_show_that_it_hears(
    primary: Primary, owner: Owner
) -> None:
    async with listening(primary, owner, interval=0.05, pause=0.01) as path:
        primary.sings = False
        await wait_until(lambda: path.deaf, "it is deaf")
        path._heard = True
        songs = primary.songs
        await wait_until(lambda: primary.songs > songs, "it sings all the same")
        assert path.deaf
