"""One connection, and the task that keeps it: whoever ends that task is heeded, at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
import socketio  # type: ignore[import-untyped]

from tests.clients.python.scripted_gateway import gateways
from threadline_client import connect
from threadline_client.link import Link


@pytest.mark.parametrize("steps", range(4))
async def test_a_client_that_is_closed_in_the_moment_of_its_reconnect_ends(
    monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """`asyncio.wait_for` of Python 3.11, inside of python-socketio, forgets a cancellation that comes just then."""
    came: list[Callable[[], None]] = []
    handle = socketio.AsyncClient._handle_connect

    async def handled(self: Any, *given: Any) -> None:
        await handle(self, *given)
        if came:
            came.pop()()

    monkeypatch.setattr(socketio.AsyncClient, "_handle_connect", handled)
    async with gateways(1) as (_, (node,)):
        leave = asyncio.Event()

        def at_step(left: int) -> None:
            if left:
                asyncio.get_running_loop().call_soon(at_step, left - 1)
            else:
                leave.set()

        async with asyncio.timeout(10):
            async with connect(node.url):
                came.append(lambda: at_step(steps))
                node.cut()
                await leave.wait()


async def test_a_client_whose_closing_is_cancelled_leaves_no_session_open(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[aiohttp.ClientSession] = []
    closing = asyncio.Event()
    close, begin = Link.close, aiohttp.ClientSession.__init__

    def noted(self: aiohttp.ClientSession, *given: Any, **options: Any) -> None:
        made.append(self)
        begin(self, *given, **options)

    async def slow(self: Link) -> None:
        closing.set()
        try:
            await asyncio.Event().wait()
        finally:
            await close(self)

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", noted)
    async with gateways(1) as (_, (node,)):
        client = connect(node.url)
        await client.__aenter__()
        monkeypatch.setattr(Link, "close", slow)
        leaving = asyncio.create_task(client.__aexit__(None, None, None))
        await closing.wait()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert [session.closed for session in made] == [True]
