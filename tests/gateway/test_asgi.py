"""WebSockets over ASGI's messages: the same sessions on every web server."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway import frames
from gateway.frames import Breach
from tests.gateway.echo import echoing, opened
from tests.support.waiting import wait_until


@pytest.mark.parametrize("options", [{}, {"http": "auto", "ws": "websockets-sansio"}], ids=["ours", "another server's"])
async def test_every_web_server_will_do(options: dict[str, str]) -> None:
    async with echoing(**options) as echo, connect(echo.url, proxy=None) as client:
        sid = await opened(client)
        for content in ("4hello", b"bytes", "4" + "x" * 10_000):
            await client.send(content)
            assert await client.recv() == content
        with capture_logs():
            await echo.engine.cut(sid, Breach("no_reason", frames.POLICY_VIOLATION))
            with pytest.raises(ConnectionClosed) as end:
                await client.recv()
        assert end.value.rcvd is not None
        assert end.value.rcvd.code == frames.POLICY_VIOLATION
        await wait_until(lambda: not echo.engine.sockets, "the session to end")
