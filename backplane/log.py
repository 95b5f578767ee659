"""The log: every event of a thread, in order, replayable. Written only by the scripts of turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backplane.errors import NotFound
from backplane.events import Event
from backplane.ids import ThreadRef

if TYPE_CHECKING:
    from backplane.connection import Backplane

Ancestry = Mapping[str, int]
"""Older epochs of a log, and up to which offset it holds what was appended in them. What came behind that was lost
with a failover or a crash (the truncation by leader epoch of Kafka's KIP-101 is the same thought)."""
PAGE = 1_000
"""Entries read by one call at the most; lua/read.lua bounds its bytes too."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the log, as of one moment."""

    epoch: str
    top: int
    """The newest offset of the log."""
    events: list[Event]
    """Contiguous, from the offset asked for; fewer than up to `top` when there is more to read."""
    active: frozenset[str]
    """The turns that have begun and not ended, as of `top`: the primary one, and parallel ones."""
    reached: bool
    """False when the log does not hold what was asked: another epoch, trimmed, or an offset it never had."""
    ancestry: Ancestry = field(default_factory=dict)
    """What the log shares with older epochs."""


def no_such_thread() -> NotFound:
    """Return the one answer for a thread that does not exist and for another's."""
    return NotFound("no such thread; check the id, or start a turn in it")


def decode_entries(entries: Sequence[Any]) -> list[Event]:
    """Return the events of raw stream entries."""
    return [Event(int(entry_id.split(b"-", 1)[0]), fields[1].decode(), fields[3]) for entry_id, fields in entries]


def decode_ancestry(text: bytes) -> Ancestry:
    """Return the ancestry of a log as lua/lib/emit.lua keeps it."""
    words = text.decode().split()
    return {epoch: int(offset) for epoch, offset in zip(words[::2], words[1::2], strict=True)}


class Log:
    """Reads logs."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane

    async def read(
        self, ref: ThreadRef, *, subject: str = "", epoch: str = "", after: int = 0, most: int = PAGE
    ) -> Page:
        """Return the events after an offset.

        Args:
            ref: the thread.
            subject: who asks; empty for a node that reads for members it has admitted already.
            epoch: the epoch that `after` belongs to; empty for the current one. An older one will do, as far as
                the log still holds what was appended in it.
            after: the offset that the reader has.
            most: the most entries to return.

        Raises:
            NotFound: when there is no such thread, or it is another's.
            Unavailable: when Redis did not answer.
        """
        answer = await self._backplane.readings.run(self._backplane.call("read", ref, subject, epoch, after, most))
        page = _page(answer)
        if page is None:
            raise no_such_thread()
        return page

    async def read_many(self, places: Sequence[tuple[ThreadRef, str, int]]) -> list[Page | None]:
        """Return a page of each `(thread, epoch, after)`, in one round trip; None where that one failed.

        A thread that is gone is answered like a log that does not reach back.

        Raises:
            Unavailable: when Redis did not answer.
        """
        if not places:
            return []
        calls = [self._backplane.call("read", ref, "", epoch, after, PAGE) for ref, epoch, after in places]
        answers = await self._backplane.run_many(calls)
        return [None if isinstance(answer, Exception) else _page(answer) or _GONE for answer in answers]


_GONE = Page("", 0, [], frozenset(), reached=False)


def _page(answer: Sequence[Any]) -> Page | None:
    code, epoch, top, entries, active, ancestry = answer
    if code == b"not_found":
        return None
    begun = frozenset(request.decode() for request in active)
    return Page(epoch.decode(), top, decode_entries(entries), begun, code == b"ok", decode_ancestry(ancestry))
