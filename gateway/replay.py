"""Replay: what follows an offset in one thread's log; members who ask for the same share one reading."""

from __future__ import annotations

import asyncio
from functools import partial

from backplane.connection import Backplane
from backplane.events import Event, merge
from backplane.ids import ThreadRef
from backplane.log import Page

_KEPT = 0.25
"""Seconds for which a reading is kept for the next who ask for the same. A thousand who come back with one cursor take
about half a second; what is kept of many logs stays as little as what is read of them at once."""
_MOST_KEPT = 2 * 1024 * 1024
"""Bytes of readings that are kept so. Without it, whoever resumes through 20 MB has all of it kept."""
_Asked = tuple[str, str, int]
_Reading = asyncio.Task[tuple[Page, list[Event]]]


class Replay:
    """What follows an offset in one thread's log, raw and merged.

    When a node dies, hundreds come back with the same cursor, and each event is encoded once for all of them. They
    come one after the other: what was read is kept for a moment. Later events come from the room, which is told of
    them.
    """

    __slots__ = ("_backplane", "_kept", "_readings", "_ref")  # a node may have a hundred thousand rooms

    def __init__(self, backplane: Backplane, ref: ThreadRef) -> None:
        self._backplane = backplane
        self._ref = ref
        self._readings: dict[_Asked, _Reading] = {}
        self._kept = 0

    async def behind(self, subject: str, epoch: str, after: int) -> tuple[Page, list[Event]]:
        """Return the page behind an offset, raw and merged; those who ask for the same one together share one reading.

        Raises:
            NotFound: when there is no such thread, or it is another's.
            Unavailable: when Redis did not answer.
        """
        key = (subject, epoch, after)
        reading = self._readings.get(key)
        if reading is None:
            reading = self._readings[key] = asyncio.create_task(self._read(*key), name=f"read-{self._ref}")
            reading.add_done_callback(partial(self._keep_for_a_moment, key))
        return await asyncio.shield(reading)

    def forget(self, subject: str, epoch: str, after: int) -> None:
        """Read this page anew when it is asked for again."""
        self._readings.pop((subject, epoch, after), None)

    def clear(self) -> None:
        """Read everything anew: what was read may not be in the log any more."""
        self._readings.clear()

    def _keep_for_a_moment(self, key: _Asked, reading: _Reading) -> None:
        if reading.cancelled() or reading.exception() is not None or not reading.result()[0].reached:
            self._drop(key, reading)
            return
        size = sum(len(event.raw) for event in reading.result()[0].events)
        if self._kept + size > _MOST_KEPT:
            self._drop(key, reading)
            return
        self._kept += size
        asyncio.get_running_loop().call_later(_KEPT, self._drop, key, reading, size)

    def _drop(self, key: _Asked, reading: _Reading, kept: int = 0) -> None:
        self._kept -= kept
        if self._readings.get(key) is reading:
            del self._readings[key]

    async def _read(self, subject: str, epoch: str, after: int) -> tuple[Page, list[Event]]:
        page = await self._backplane.log.read(self._ref, subject=subject, epoch=epoch, after=after)
        return page, list(merge(page.events))
