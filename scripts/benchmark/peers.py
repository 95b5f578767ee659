"""Helper processes that the conductor talks with: a JSON object a line, over their standard input and output.

A helper ends when its input does, so none outlives the conductor, however that ended.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_LINE = 256 * 1024 * 1024
"""Bytes that one line may have: the targets of thousands of clients are one."""
Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class PeerFailed(Exception):
    """A helper process could not do what it was asked, or ended."""


class Peer:
    """A helper process, from the conductor's side."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0
        self._reading = asyncio.create_task(self._read(), name=f"peer-{process.pid}")

    @classmethod
    async def start(cls, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Peer:
        """Start a helper. A Ctrl-C in the terminal does not reach it."""
        return cls(
            await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=env,
                cwd=ROOT,
                limit=_LINE,
                start_new_session=True,
            )
        )

    async def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Have it do something, and return what it answers.

        Raises:
            PeerFailed: with its words, when it could not, or has ended.
        """
        if self.process.stdin is None or self._reading.done():
            raise PeerFailed(f"{do}: the helper has ended")
        self._number += 1
        answered = self._asked[self._number] = asyncio.get_running_loop().create_future()
        self.process.stdin.write(json.dumps({"id": self._number, "do": do, **fields}).encode() + b"\n")
        answer: dict[str, Any] = await answered
        if "error" in answer:
            raise PeerFailed(f"{do}: {answer['error']}")
        return answer

    async def close(self) -> None:
        """End it."""
        self._reading.cancel()
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            while line := await self.process.stdout.readline():
                answer = json.loads(line)
                self._asked.pop(answer["id"]).set_result(answer)
        finally:
            for waiting in self._asked.values():
                if not waiting.done():
                    waiting.set_result({"error": "the helper has ended"})


async def serve(handlers: Mapping[str, Handler]) -> None:
    """Be a helper: do what the lines of the standard input ask for, side by side, until it ends."""
    reader = asyncio.StreamReader(limit=_LINE)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        task = asyncio.create_task(_answer(handlers, json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _answer(handlers: Mapping[str, Handler], asked: dict[str, Any]) -> None:
    try:
        answer = await handlers[asked["do"]](asked)
    except Exception as error:  # whatever it is, the conductor must hear of it
        answer = {"error": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps({"id": asked["id"], **answer}) + "\n")
    sys.stdout.flush()


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a helper's main function on uvloop, where there is one."""

    async def whole() -> None:
        await main()

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(whole())


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's event loop; None where it is not installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
