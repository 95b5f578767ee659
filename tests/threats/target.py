"""A server under attack: a process on loopback, seen from outside only."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from backplane.embedded import free_port, start_child

_PAGE = 4096
_LOOKS = 200
"""Round trips in which a server must have closed a connection that it will not keep."""


@dataclass(frozen=True)
class Target:
    """Two nodes of one system, and the store between them.

    Args:
        urls: where the nodes are, `http://127.0.0.1:PORT`.
        pid: of the first node.
        said: returns what the first node has printed so far.
        redis_url: their store.
        folder: of this test run.
        hurried: a node of the same make that gives a client a second to connect, and pings three times a second.
        start: starts one more node on a Redis URL; returns its URL and its process.
    """

    urls: tuple[str, str]
    pid: int
    said: Callable[[], str]
    redis_url: str
    folder: Path
    hurried: str
    start: Callable[[str], Any]

    @property
    def memory(self) -> int:
        """Resident bytes of the first node."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE

    @property
    def lives(self) -> bool:
        """Whether the first node's process runs."""
        stat = Path(f"/proc/{self.pid}/stat")
        return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def address(url: str, query: str = "") -> str:
    """Return where a node takes WebSockets."""
    return f"{url.replace('http', 'ws', 1)}/socket.io/?EIO=4&transport=websocket{query}"


class Raw:
    """A Socket.IO client without any manners: it sends the frames that it is told to."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.events: list[tuple[str, Any]] = []
        self.answers: dict[int, Any] = {}
        self.sid = ""

    async def send(self, frame: str | bytes) -> None:
        """Send one frame."""
        await self.connection.send(frame)

    async def call(self, number: int, verb: str, payload: Any) -> Any:
        """Send a verb; return its acknowledgement."""
        await self.send(f"42{number}{json.dumps([verb, payload])}")
        return await self.answer(number)

    async def answer(self, number: int) -> Any:
        """Read until the call of this number was acknowledged; return the answer."""
        await self.read(lambda: number in self.answers)
        return self.answers[number]

    async def event(self, name: str) -> Any:
        """Read until an event of this name has come; return what it carries."""
        await self.read(lambda: any(known == name for known, _ in self.events))
        return next(data for known, data in self.events if known == name)

    async def read(self, enough: Callable[[], bool]) -> None:
        """Read frames, and answer pings, until it is enough.

        Raises:
            AssertionError: for a text that no strict reader of JSON takes, and when nothing more comes.
            websockets.ConnectionClosed: when the server closed.
        """
        while not enough():
            try:
                async with asyncio.timeout(20):
                    frame = str(await self.connection.recv())
            except TimeoutError:
                raise AssertionError(f"expected more frames, got none; events so far: {self.events[-3:]}") from None
            if frame == "2":
                await self.send("3")
            elif frame.startswith("42"):
                name, *data = json.loads(frame[2:], parse_constant=_not_json)
                self.events.append((name, data[0] if data else None))
            elif frame.startswith("43"):
                body = frame.index("[")
                (self.answers[int(frame[2:body])],) = json.loads(frame[body:], parse_constant=_not_json)

    async def is_closed(self) -> bool:
        """Whether the server closes the connection; not if it goes on answering WebSocket pings."""
        try:
            for _ in range(_LOOKS):
                await (await self.connection.ping())
        except ConnectionClosed:
            return True
        return False


def _not_json(constant: str) -> Any:
    raise AssertionError(f"a member was sent {constant}, which ends every JavaScript client")


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Raw]:
    """Open a WebSocket that has seen Engine.IO's greeting, and nothing else."""
    uri = options.pop("uri", None) or address(url)
    async with connect(uri, **({"proxy": None, "max_size": None, "ping_interval": None} | options)) as connection:
        assert str(await connection.recv()).startswith("0{")
        yield Raw(connection)


@asynccontextmanager
async def joined(url: str, token: str = "alice", **options: Any) -> AsyncIterator[Raw]:
    """Open a WebSocket that is in the namespace `/`."""
    async with opened(url, **options) as raw:
        await raw.send("40" + json.dumps({"token": token}))
        greeting = str(await raw.connection.recv())
        assert greeting.startswith("40{"), greeting
        raw.sid = json.loads(greeting[2:])["sid"]
        yield raw


@dataclass
class Process:
    """A server that a test started, and what it prints."""

    url: str
    process: asyncio.subprocess.Process
    output: Path

    def said(self) -> str:
        """Return what it has printed so far."""
        return self.output.read_text(errors="replace")

    async def serves(self) -> bool:
        """Wait until it takes requests, or ends; return whether it takes them."""
        async with asyncio.timeout(30), httpx.AsyncClient(trust_env=False) as http:
            while self.process.returncode is None:
                with suppress(httpx.HTTPError):
                    answer = await http.get(f"{self.url}/socket.io/?EIO=4&transport=polling")
                    if answer.status_code == httpx.codes.OK:
                        return True
                await asyncio.sleep(0.02)
        return False

    async def end(self) -> None:
        """Kill it, by its id."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


async def started(folder: Path, environment: dict[str, str], *command: str) -> Process:
    """Start `python -m COMMAND` on a free port; `{port}` in the command is that port."""
    port = free_port()
    output = folder / f"{command[0]}-{port}.log"
    with output.open("wb") as stream:
        process = await start_child(
            (sys.executable, "-m", *(word.format(port=port) for word in command)),
            env={name: value.format(port=port) for name, value in environment.items()},
            cwd=Path.cwd(),
            output=stream,
        )
    return Process(f"http://127.0.0.1:{port}", process, output)
