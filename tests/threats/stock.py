"""The server that the threats were first seen on: python-socketio as its documentation has it, with a small chat.

Started as `python -m tests.threats.stock PORT REDIS_URL`. It shows that a probe can tell a server that withstands from
one that does not.
"""

from __future__ import annotations

import sys
from typing import Any

import socketio  # type: ignore[import-untyped]  # the library has no types
import uvicorn

from tests.threats.torrent import FLOOD, PIECE, PIECES

Payload = dict[str, Any]


def application(redis_url: str) -> socketio.ASGIApp:
    """Return a chat whose rooms are threads; a socket's own room is named by its sid, as the library does it."""
    server = socketio.AsyncServer(
        async_mode="asgi", client_manager=socketio.AsyncRedisManager(redis_url), ping_interval=0.3, ping_timeout=60
    )

    async def connect(sid: str, environ: Payload, auth: Payload | None = None) -> None:
        await server.save_session(sid, {"user": (auth or {}).get("token")})

    async def subscribe(sid: str, asked: Payload) -> Payload:
        await server.enter_room(sid, asked["thread_id"])
        return {"ok": True}

    async def start(sid: str, asked: Payload) -> Payload:
        thread_id, message = asked["thread_id"], asked["message"]
        await server.enter_room(sid, thread_id)
        await server.emit("chat_accepted", {"thread_id": thread_id, "message": message}, room=sid)
        if message == FLOOD:
            for number in range(PIECES):
                await server.sleep(0.002)  # so that who reads keeps up, and nothing waits but for who does not
                await server.emit("tool_result", {"output": "x" * PIECE, "offset": number}, room=thread_id)
        await server.emit("chat_done", {"thread_id": thread_id, "full_response": message}, room=thread_id)
        return {"ok": True, "request_id": "1"}

    server.on("connect", connect)
    server.on("thread:subscribe", subscribe)
    server.on("chat:start", start)
    return socketio.ASGIApp(server)


if __name__ == "__main__":
    uvicorn.run(application(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]))
