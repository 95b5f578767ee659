"""Lines that a person (or a pipe) types, read without stopping the event loop."""

from __future__ import annotations

import asyncio
import codecs
import io
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO


class Keyboard:
    """The lines of a stream, one at a time; None once it has ended.

    A daemon thread reads: a terminal cannot be polled on every system, and a file on none. It reads the
    descriptor itself, because a thread that sleeps in Python's own stdin would hold its lock at exit.
    """

    def __init__(self, stream: TextIO) -> None:
        self.interactive = stream.isatty()
        self._stream = stream
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="threadline keyboard", daemon=True).start()

    async def line(self) -> str | None:
        """Return the next line without its end, or None when there are no more."""
        return await self._lines.get()

    def _read(self) -> None:
        try:
            with suppress(OSError):  # the terminal is gone, and with it whoever typed
                for line in self._split():
                    self._put(line)
            self._put(None)
        except RuntimeError:  # the loop has ended before the input has
            return

    def _put(self, line: str | None) -> None:
        self._loop.call_soon_threadsafe(self._lines.put_nowait, line)

    def _split(self) -> Iterator[str]:
        try:
            descriptor = self._stream.fileno()
        except (OSError, ValueError, io.UnsupportedOperation):  # not a real file: a test's, a notebook's
            yield from (line.rstrip("\r\n") for line in self._stream)
            return
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        rest = ""
        while chunk := os.read(descriptor, 65_536):
            *lines, rest = (rest + decode(chunk)).split("\n")
            yield from (line.rstrip("\r") for line in lines)
        if rest:
            yield rest
