"""A server that does nothing but write: handshakes by rote, then frames that were made before."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

from scripts.benchmark.pace import Plan, due, word
from scripts.benchmark.peers import run, serve
from scripts.benchmark.tally import percentile

EVENTS = 100_000
"""To each socket."""
_ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
_HEAD = '42["text_delta",{"event":"text_delta","client_id":"http","thread_id":"bench-0","request_id":"'
_IDS = '0123456789abcdef01234567","epoch":"0123456789abcdef","offset":'


def frame(payload: str) -> bytes:
    """Return a server's frame."""
    size = len(payload)
    head = bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")
    return head + payload.encode()


class Rote(asyncio.Protocol):
    """One connection, whose client is believed to say what it always says."""

    def __init__(self, connected: list[Rote]) -> None:
        self.transport: asyncio.Transport
        connected.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer the upgrade, the connect and the join."""
        if data.startswith(b"GET"):
            self.transport.write(_ANSWER + frame('0{"sid":"rote","upgrades":[]}'))
        elif data.endswith(b"40{}"):
            self.transport.write(frame('40{"sid":"rote"}'))
        elif b'"join"' in data:
            self.transport.write(frame('431[{"ok":true}]'))


async def main() -> None:
    """Serve the conductor until it goes."""
    connected: list[Rote] = []
    made = b"".join(
        frame(f'{_HEAD}{_IDS}{offset},"seq":{offset},"ts":1700000000000,"delta":"token ","round":1}}]')
        for offset in range(1, EVENTS + 1)
    )

    async def listen(asked: dict[str, Any]) -> dict[str, Any]:
        server = await asyncio.get_running_loop().create_server(lambda: Rote(connected), "127.0.0.1", 0)
        return {"port": server.sockets[0].getsockname()[1]}

    async def flood(asked: dict[str, Any]) -> dict[str, Any]:
        for connection in connected:
            connection.transport.write(made)
        return {"events": EVENTS * len(connected)}

    async def talk(asked: dict[str, Any]) -> dict[str, Any]:
        """Say a plan's deltas to everybody; answer how long (ms) it took to write one to all."""
        plan, took, offset = Plan.of(asked["plan"]), [], 0
        async for count in due(plan):
            for _ in range(count):
                offset += 1
                begin = time.perf_counter()
                said = frame(f'{_HEAD}{_IDS}{offset},"seq":1,"ts":1,"delta":"{word(plan, offset)}","round":1}}]')
                for connection in connected:
                    connection.transport.write(said)
                took.append((time.perf_counter() - begin) * 1000)
        return {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99)}

    await serve({"listen": listen, "flood": flood, "talk": talk})


if __name__ == "__main__":
    run(main)
