"""Streams: a reader of server-sent events is a member of its thread's room, until its response is over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from backplane.settings import Settings
from tests.gateway.agents import count, endless
from tests.gateway.conftest import RunningGateway, serving, working
from tests.support.waiting import wait_until

Make = Callable[..., Settings]
EVENTS = "/v1/threads/t/events"
RUN = {"threadId": "t", "runId": "run-1", "messages": [{"id": "u1", "role": "user", "content": "3"}]}


class Leaver:
    """A client whose connection takes nothing of one kind of message, and that leaves then."""

    def __init__(self, node: RunningGateway, until: str) -> None:
        self._app = node.gateway.app
        self._until = until
        self._stuck = asyncio.Event()

    async def ask(self, method: str, path: str, body: bytes) -> None:
        """Send one request, and return when the gateway is done with it."""
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http",
            "http_version": "1.1", "asgi": {"version": "3.0"}, "root_path": "",
        }  # fmt: skip
        coming = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if coming:
                return coming.pop()
            await self._stuck.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == self._until:
                self._stuck.set()
                await asyncio.Event().wait()

        await self._app(scope, receive, send)


@pytest.mark.parametrize("until", ["http.response.start", "http.response.body"])
@pytest.mark.parametrize(("method", "path"), [("GET", EVENTS), ("POST", "/v1/agui"), ("GET", "/v1/ai/chat/t/stream")])
async def test_who_leaves_before_the_past_is_written_leaves_the_room_too(
    gateway_settings: Make, method: str, path: str, until: str
) -> None:
    """While the head of the response is written, or the snapshot or a dialect's past behind it."""
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, endless), httpx.AsyncClient(base_url=node.url) as http:
        await http.post("/v1/threads/t/turns", json={"message": "3", "client_message_id": "run-1"})
        await Leaver(node, until).ask(method, path, json.dumps(RUN).encode() if method == "POST" else b"")
        assert len(node.gateway.rooms) == 0


@pytest.mark.parametrize("path", [EVENTS, "/v1/agui/t/stream", "/v1/ai/chat/t/stream"])
async def test_a_head_is_answered_as_a_get_begins_and_joins_no_thread(gateway_settings: Make, path: str) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, endless), httpx.AsyncClient(base_url=node.url) as http:
        gone = await http.head(path)
        async with http.stream("GET", path) as got:
            assert gone.status_code == got.status_code
        await http.post("/v1/threads/t/turns", json={"message": "3"})
        joined: list[int] = []
        node.gateway.rooms.changed = lambda room: joined.append(len(room))
        head = await http.head(path)
        assert joined == []
        async with http.stream("GET", path) as got:
            assert (head.status_code, got.status_code) == (200, 200)
            answers = head.headers.items(), got.headers.items()
            told, begun = ({name: value for name, value in headers if name != "date"} for headers in answers)
            assert told.items() <= begun.items()
            assert told["content-type"].startswith("text/event-stream")
        await wait_until(lambda: len(node.gateway.rooms) == 0, "the reader has left")
        assert joined != []


async def test_who_is_told_a_turn_that_has_ended_stays_no_member(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, count), httpx.AsyncClient(base_url=node.url) as http:
        for _ in range(2):
            assert "RUN_FINISHED" in (await http.post("/v1/agui", json=RUN)).text
            await wait_until(lambda: len(node.gateway.rooms) == 0, "the stream has left")
