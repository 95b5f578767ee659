"""Revocations: tokens that are taken back before their end, known to every node within a second.

They are a stream, so that a node reads only what is new: at once when it is pushed, and each second in case the push
was lost. A node that has read none yet trusts nobody; one that has lost Redis goes on with what it knows.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from backplane.errors import ThreadlineError, Unavailable
from backplane.events import dumps
from backplane.pipeline import pipelined

if TYPE_CHECKING:
    from backplane.connection import Backplane

KEPT = 31 * 24 * 3600
"""Seconds for which one is kept: longer than any token is accepted for."""
_INTERVAL = 1.0
"""Seconds between two readings without a push."""
_PAGE = 1000
_SUBJECT, _TOKEN = b"s", b"t"
_log = structlog.get_logger("backplane.revocations")


class Revocations:
    """What was taken back, of all tenants."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane
        self._key = backplane.keys.revocations
        self._known: dict[tuple[bytes, str, str], int] = {}
        """(kind, tenant, name) -> when (Unix seconds, Redis' clock)."""
        self._since = ""
        """The entry that the next page is read behind; empty: from the start."""
        self._from_the_start = False
        self._complete = False
        """Whether the end was ever reached: before that, a token may have been taken back that is not known."""
        self._found = False
        """Whether a page had something new that no reading has told of yet."""
        self._pushed = asyncio.Event()

    async def revoke(self, tenant: str, *, subject: str | None = None, token_id: str | None = None) -> None:
        """Take back all tokens that a subject was given until now, or the one token of an id.

        Raises:
            Unavailable: when Redis did not answer.
        """
        kind, name = (_SUBJECT, subject) if token_id is None else (_TOKEN, token_id)
        entry: dict[Any, Any] = {b"k": kind, b"t": tenant, b"n": name}
        async with self._backplane.answering():
            redis = self._backplane.redis
            seconds, _ = await redis.time()
            oldest = f"{(int(seconds) - KEPT) * 1000}-0"
            await redis.xadd(self._key, entry, minid=oldest, approximate=True)
            await redis.expire(self._key, KEPT)
            await pipelined(redis, [("SPUBLISH", self._backplane.keys.revoked, dumps({"tenant": tenant}))])

    def covers(self, tenant: str, subject: str, token_id: str | None, issued_at: int | None) -> bool:
        """Tell whether a token was taken back. One that does not say when it was issued counts as an old one.

        Raises:
            Unavailable: while this node has not yet read what was taken back.
        """
        if not self._complete:
            raise Unavailable("this node does not know yet which tokens were taken back; try again in a moment")
        if token_id is not None and (_TOKEN, tenant, token_id) in self._known:
            return True
        at = self._known.get((_SUBJECT, tenant, subject))
        return at is not None and (issued_at is None or issued_at <= at)

    def heard(self, message: bytes) -> None:
        """Hear that there is something new; it is read, not believed."""
        self._pushed.set()

    def missed(self) -> None:
        """Hear that something may have been missed; another server may answer now, which went back in time."""
        self._from_the_start = True
        self._pushed.set()

    async def __aenter__(self) -> Revocations:
        await self._backplane.live.subscribe(self._backplane.keys.revoked, self)
        self._pushed.set()
        with suppress(ThreadlineError):  # then it is tried again, and until then nobody is let in
            await self.read()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._backplane.live.unsubscribe(self._backplane.keys.revoked)

    async def changed(self) -> bool:
        """Wait for a push, or a second; read, and return whether there was something new."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_INTERVAL):
                await self._pushed.wait()
        self._pushed.clear()
        try:
            return await self.read()
        except ThreadlineError as error:
            _log.info("revocations were not read", error=error.message)
            return False

    async def read(self) -> bool:
        """Read what is new; return whether there was anything.

        A page that was read stays read when the next one fails: however many there are, the next try goes on there.

        Raises:
            Unavailable: when Redis did not answer.
        """
        full = True
        while full or self._from_the_start:
            if self._from_the_start:
                self._from_the_start, self._since = False, ""
            full = await self._read_page()
        self._complete = True
        found, self._found = self._found, False
        if found:
            self._forget_what_has_expired()
        return found

    async def _read_page(self) -> bool:
        """Read one page, and return whether there may be another."""
        async with self._backplane.answering():
            start = f"({self._since}" if self._since else "-"
            page: Any = await self._backplane.redis.xrange(self._key, start, count=_PAGE)
        for raw, fields in page:
            self._since = raw.decode()
            self._take(_seconds(self._since), fields)
            self._found = True
        return len(page) >= _PAGE

    def _take(self, at: int, fields: dict[bytes, bytes]) -> None:
        key = fields[b"k"], fields[b"t"].decode(), fields[b"n"].decode()
        # read from the start again, a subject's earlier entry must not open the door until its later one comes
        self._known[key] = max(at, self._known.get(key, at))

    def _forget_what_has_expired(self) -> None:
        oldest = _seconds(self._since) - KEPT
        for key in [key for key, at in self._known.items() if at < oldest]:
            del self._known[key]


def _seconds(entry: str) -> int:
    """Return when an entry was made (Unix seconds): its id begins with that (ms)."""
    return int(entry.partition("-")[0]) // 1000
