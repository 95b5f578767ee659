"""A call that concerns many primaries: one that hangs holds up nobody else. Real ones are in tests/servers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from backplane.addresses import Server, parse
from backplane.cluster import SLOTS, ClusterClient, ClusterServers
from tests.support.waiting import wait_until

ONE, TWO = Server("127.0.0.1", 1), Server("127.0.0.1", 2)


def key_at(server: Server) -> bytes:
    numbers = (b"%d" % number for number in range(1000))
    return next(number for number in numbers if (key_slot(number) < SLOTS // 2) == (server == ONE))


KEYS: list[bytes | None] = [key_at(ONE), key_at(TWO)]


class Primaries:
    """What the primaries of a test answer: each its name, when it is open."""

    def __init__(self) -> None:
        self.asked: Counter[Server] = Counter()
        self.open = {ONE: asyncio.Event(), TWO: asyncio.Event()}
        for way in self.open.values():
            way.set()

    async def send(self, server: Server, places: list[int]) -> list[Any]:
        self.asked[server] += 1
        await self.open[server].wait()
        return [server] * len(places)


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ClusterClient]:
    monkeypatch.setattr("backplane.cluster._BEHIND", 0.05)
    monkeypatch.setattr("backplane.cluster._BEHIND_SILENT", 0.02)
    servers = ClusterServers(parse("redis+cluster://127.0.0.1:1,127.0.0.1:2"))
    servers._slots = [ONE if slot < SLOTS // 2 else TWO for slot in range(SLOTS)]
    servers.take((ONE, TWO))
    made = ClusterClient(servers, 3)
    yield made
    await made.aclose()
    await servers.aclose()


async def answers(asking: Awaitable[list[Any]]) -> list[Any]:
    """Return them, or fail when they do not come."""
    task = asyncio.ensure_future(asking)
    try:
        await wait_until(task.done, "it is answered")
        return task.result()
    finally:
        task.cancel()


async def test_a_primary_that_hangs_has_an_error_in_its_place_and_the_answers_of_others_count(
    client: ClusterClient,
) -> None:
    """Mutant: the others' answers wait for it until the caller gives up, and are lost."""
    primaries = Primaries()
    primaries.open[TWO].clear()
    first, second = await answers(client.split(KEYS, primaries.send))
    assert first == ONE
    assert isinstance(second, RedisTimeoutError)
    assert primaries.asked == {ONE: 1, TWO: 1}, "it is not asked again while others wait"
    assert client._silent == {TWO}
    primaries.open[TWO].set()
    assert await answers(client.split(KEYS, primaries.send)) == [ONE, TWO]
    assert not client._silent


async def test_one_that_was_silent_is_not_waited_for_as_long_the_next_time(
    client: ClusterClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    primaries = Primaries()
    primaries.open[TWO].clear()
    await answers(client.split(KEYS, primaries.send))
    monkeypatch.setattr("backplane.cluster._BEHIND", 1000.0)
    first, second = await answers(client.split(KEYS, primaries.send))
    assert (first, type(second).__mro__[1]) == (ONE, RedisTimeoutError)


async def test_whoever_asks_one_primary_alone_waits_as_long_as_he_likes(client: ClusterClient) -> None:
    """Nobody is held up by it. So does one who asks many that are all slow: then none of them hangs."""
    primaries, slow = Primaries(), Primaries()
    for way in (primaries.open[TWO], *slow.open.values()):
        way.clear()
    alone = asyncio.create_task(client.split(KEYS[1:], primaries.send))
    all_slow = asyncio.create_task(client.split(KEYS, slow.send))
    for _ in range(2):  # this takes longer than anybody is waited for
        await answers(client.split(KEYS, primaries.send))
    assert not alone.done()
    assert not all_slow.done()
    for way in (primaries.open[TWO], *slow.open.values()):
        way.set()
    assert await answers(alone) == [TWO]
    assert await answers(all_slow) == [ONE, TWO]


async def test_one_that_refuses_first_and_then_hangs_holds_up_nobody_either(client: ClusterClient) -> None:
    """As the next primary of a slot may: by then the others have answered, and wait."""
    asked: Counter[Server] = Counter()

    async def send(server: Server, places: list[int]) -> list[Any]:
        asked[server] += 1
        if server == TWO:
            if asked[TWO] == 1:
                raise ConnectionError("refused")
            await asyncio.Event().wait()
        return [server] * len(places)

    first, second = await answers(client.split(KEYS, send))
    assert first == ONE
    assert isinstance(second, RedisTimeoutError)
    assert asked == {ONE: 1, TWO: 2}


async def test_where_nobody_answers_it_is_raised(client: ClusterClient) -> None:
    async def send(server: Server, _: list[int]) -> list[Any]:
        if server == TWO:
            await asyncio.Event().wait()
        raise ConnectionError("refused")

    with pytest.raises((RedisError, OSError)):
        await answers(client.split(KEYS, send))


async def test_what_any_primary_can_answer_is_asked_of_one_and_when_it_hangs_of_another(
    client: ClusterClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: asked of all of them, a single one that hangs keeps everybody from knowing the time."""
    primaries = Primaries()

    async def send(server: Server, *_: Any) -> Any:
        return (await primaries.send(server, [0]))[0]

    monkeypatch.setattr(client, "_send", send)
    assert await answers(client.time()) == ONE  # type: ignore[comparison-overlap, arg-type]
    assert primaries.asked == {ONE: 1}
    primaries.open[ONE].clear()
    for _ in range(2):
        assert await answers(client.time()) == TWO  # type: ignore[comparison-overlap, arg-type]
    assert primaries.asked == {ONE: 2, TWO: 2}, "then it is that one which is asked"
