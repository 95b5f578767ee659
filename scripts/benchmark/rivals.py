"""What Threadline is compared with: python-socketio as it comes, and Node's socket.io with its Redis adapters.

Their worker is a publisher that keeps the same plans, and sends each delta with the fields that Threadline's have.
Nothing is kept by them: whoever is not connected at that moment never sees it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from scripts.benchmark.pace import Plan
from scripts.benchmark.peers import ROOT, Peer
from scripts.benchmark.systems import System, on_path, python

_NODE = ROOT / "scripts" / "benchmark" / "node"


class Rival(System):
    """A system that only passes on what is published."""

    _publisher: Peer

    async def _stop(self) -> None:
        publisher = getattr(self, "_publisher", None)
        if publisher is not None:
            await publisher.close()

    async def prepare(self, threads: Sequence[str]) -> None:
        """Do nothing: a room comes into being with its first member."""

    async def _talk(self, threads: Sequence[str], plan: Plan) -> None:
        await self._publisher.ask("flood", threads=list(threads), plan=plan.as_dict(), deltas=plan.deltas)

    async def silence(self, threads: Sequence[str]) -> None:
        """Stop publishing."""
        await self._publisher.ask("silence")

    async def tops(self, threads: Sequence[str]) -> dict[str, int]:
        """Return how many deltas of each thread were published."""
        answer = await self._publisher.ask("tops")
        return {thread: int(answer["tops"].get(thread, 0)) for thread in threads}


class Stock(Rival):
    """python-socketio with its AsyncRedisManager, under uvicorn with its default settings."""

    name = "stock"

    async def _start(self) -> None:
        await self._start_gateways(python("scripts.benchmark.stock_server", "{port}", self.redis_url))
        self._publisher = await self.processes.start_peer(
            "worker", python("scripts.benchmark.stock_publisher", self.redis_url)
        )
        await self.silence(())  # it answers when it has started, which is not what is measured


class Node(Rival):
    """Node's socket.io with the classic adapter: every node hears every room."""

    name = "node"
    adapter = "classic"

    @classmethod
    async def missing(cls) -> str | None:
        """Return what is missing; the packages of package.json are installed, once."""
        if not on_path("node") or not on_path("npm"):
            return "node or npm is not installed"
        if (_NODE / "node_modules" / "socket.io").exists():
            return None
        install = await asyncio.create_subprocess_exec(
            *("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent"),
            cwd=_NODE,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await install.communicate()
        return f"npm install failed: {said.decode()[-500:]}" if install.returncode else None

    async def _start(self) -> None:
        server = ("node", str(_NODE / "server.js"), "{port}", self.redis_url, self.adapter)
        await self._start_gateways(server)
        publisher = ("node", str(_NODE / "publisher.js"), self.redis_url, self.adapter)
        self._publisher = await self.processes.start_peer("worker", publisher)
        await self.silence(())


class ShardedNode(Node):
    """The same with the sharded adapter: a channel for each room."""

    name = "node-sharded"
    adapter = "sharded"
