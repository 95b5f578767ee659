"""A way to the store that can go deaf: what is published no longer comes through, although no connection breaks."""

from __future__ import annotations

import asyncio
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
            self._forth(reader, store_writer, subscribed),
            self._back(store_reader, writer, subscribed),
        ):
            task = asyncio.create_task(work)
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)

    async def _forth(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, subscribed: asyncio.Event
    ) -> None:
        try:
            while data := await reader.read(_CHUNK):
                if b"SUBSCRIBE" in data.upper():
                    subscribed.set()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def _back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, subscribed: asyncio.Event
    ) -> None:
        try:
            while data := await reader.read(_CHUNK):
                if self.cut and subscribed.is_set():
                    self.swallowed += len(data)
                    continue
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
