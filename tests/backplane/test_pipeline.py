"""Many commands in one round trip."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from backplane.connection import Backplane
from backplane.pipeline import pipelined
from tests.support.waiting import wait_until


@pytest.fixture
def redis_url(valkey: str) -> str:
    """Return Valkey's: fakeredis' TCP server closes the connection at the first error of a pipeline."""
    return valkey


async def test_answers_come_in_the_order_of_the_commands(backplane: Backplane) -> None:
    key = backplane.keys.doorbell
    commands = [("RPUSH", key, "ä", b"\xff", 3), ("LRANGE", key, 0, -1), ("EXPIRE", key, 60), ("GET", key + "x")]
    assert await pipelined(backplane.redis, commands) == [3, ["ä".encode(), b"\xff", b"3"], 1, None]


async def test_a_refused_command_is_raised_or_stands_in_its_place(backplane: Backplane) -> None:
    """Its neighbours are done all the same, and the connection serves on."""
    key = backplane.keys.doorbell
    commands = [("SET", key, "text", "EX", 60), ("LLEN", key), ("STRLEN", key)]
    _, refused, length = await pipelined(backplane.redis, commands, raises=False)
    assert isinstance(refused, ResponseError)
    assert length == 4
    with pytest.raises(ResponseError):
        await pipelined(backplane.redis, commands)
    assert await pipelined(backplane.redis, [("STRLEN", key)]) == [4]


async def test_a_lost_connection_is_made_again(backplane: Backplane) -> None:
    async def client_id() -> int:
        (number,) = await pipelined(backplane.redis, [("CLIENT", "ID")])
        return int(number)

    before = await client_id()
    await pipelined(backplane.redis, [("CLIENT", "KILL", "ID", before, "SKIPME", "no")])
    assert await client_id() != before


async def test_who_is_cancelled_leaves_no_answer_behind_for_the_next(backplane: Backplane) -> None:
    """The next one would take it for its own."""
    key = backplane.keys.doorbell
    waiting = asyncio.create_task(pipelined(backplane.redis, [("BLPOP", key, 5), ("ECHO", "stale")]))
    await wait_until(lambda: bool(backplane.redis.connection_pool._in_use_connections), "it is on its way")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await pipelined(backplane.redis, [("ECHO", "mine")]) == [b"mine"]


async def test_a_server_that_is_gone_is_an_error(backplane: Backplane) -> None:
    backplane.redis.connection_pool.connection_kwargs["port"] = 1
    await backplane.redis.connection_pool.disconnect()
    backplane.redis.connection_pool.reset()  # type: ignore[no-untyped-call]  # the library has none here
    with pytest.raises(RedisConnectionError):
        await pipelined(backplane.redis, [("PING",)])
    backplane.redis.connection_pool.connection_kwargs["port"] = int(
        backplane.settings.redis_url.rpartition(":")[2].partition("/")[0]
    )
