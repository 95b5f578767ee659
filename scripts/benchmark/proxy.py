"""A way to the store that can go deaf: what is published no longer comes through, although no connection breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from scripts.benchmark.systems import HOST

_CHUNK = 65_536


class Proxy:
    """Passes bytes on between processes and the store, as long as its context is entered."""

    def __init__(self) -> None:
        self.port = 0
        self.to = 0
        """The store's port; set it before anybody connects."""
        self.cut = False
        """Whether connections that have subscribed to something are told nothing more."""
        self.swallowed = 0
        """Bytes that did not come through."""
        self._passing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        store_reader, store_writer = await asyncio.open_connection(HOST, self.to)
        subscribed = asyncio.Event()
        for work in (
            self._pass(reader, store_writer, partial(self._asks, subscribed=subscribed)),
            self._pass(store_reader, writer, partial(self._answers, subscribed=subscribed)),
        ):
            task = asyncio.create_task(work)
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)

    def _asks(self, data: bytes, subscribed: asyncio.Event) -> bool:
        if b"SUBSCRIBE" in data.upper():
            subscribed.set()
        return True

    def _answers(self, data: bytes, subscribed: asyncio.Event) -> bool:
        deaf = self.cut and subscribed.is_set()
        if deaf:
            self.swallowed += len(data)
        return not deaf

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, may: Callable[[bytes], bool]
    ) -> None:
        try:
            while data := await reader.read(_CHUNK):
                if may(data):
                    writer.write(data)
                    await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
