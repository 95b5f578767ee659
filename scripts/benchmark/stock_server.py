"""A node as python-socketio's documentation has it: AsyncServer, AsyncRedisManager, uvicorn's default settings.

Started as `python -m scripts.benchmark.stock_server PORT REDIS_URL`.
"""

from __future__ import annotations

import sys
from typing import Any

import socketio  # type: ignore[import-untyped]  # the library has no types
import uvicorn


def main(port: int, redis_url: str) -> None:
    """Serve until ended."""
    server = socketio.AsyncServer(async_mode="asgi", client_manager=socketio.AsyncRedisManager(redis_url))

    @server.event  # type: ignore[untyped-decorator]  # likewise
    async def join(sid: str, asked: dict[str, Any]) -> dict[str, Any]:
        await server.enter_room(sid, asked["thread_id"])
        return {"ok": True}

    uvicorn.run(socketio.ASGIApp(server), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
