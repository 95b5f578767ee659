"""Pipelines: many commands in one round trip, over a connection of redis-py's pool.

For what a process does many times a second. It is what redis-py's own pipeline does with `transaction=False`, without
an object, a lookup and several coroutines for each command: a quarter of the processor time for 16 scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

Command = tuple[str | int | float | bytes, ...]


class SplittingClient(Redis):
    """A client of many servers, which knows where each command goes."""

    async def pipelined(self, commands: Sequence[Command]) -> list[Any]:
        """Return the raw answers in the order of the commands; an error stands in its place.

        Raises:
            redis.RedisError, OSError: when no command was answered at all.
        """
        raise NotImplementedError


async def pipelined(redis: Redis, commands: Sequence[Command], *, raises: bool = True) -> list[Any]:
    """Return the raw answers in the order of the commands.

    All of them may be sent twice, as the retries of the client say.

    Args:
        redis: the client whose connections are used.
        commands: name and arguments of each.
        raises: whether a command that the server refused is raised; else its error stands among the answers.

    Raises:
        redis.RedisError, OSError: when the connection failed, or a command was refused.
    """
    if isinstance(redis, SplittingClient):
        answers = await redis.pipelined(commands)
    else:
        answers = await _exchanged(redis, commands)
    for answer in answers if raises else ():
        if isinstance(answer, Exception):
            raise answer
    return answers


async def _exchanged(redis: Redis, commands: Sequence[Command]) -> list[Any]:
    packed = b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]  # stubs
    pool = redis.connection_pool
    connection = await pool.get_connection()  # type: ignore[no-untyped-call]  # the library has none here
    try:
        answers: list[Any] = await connection.retry.call_with_retry(
            lambda: _exchange(connection, packed, len(commands)),
            lambda _: connection.disconnect(),
        )
    finally:
        await pool.release(connection)
    return answers


async def _exchange(connection: AbstractConnection, packed: bytes, count: int) -> list[Any]:
    await connection.send_packed_command(packed, check_health=False)
    return [await _answer(connection) for _ in range(count)]


async def _answer(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
