"""Threads as their owner manages them: the list, a title, and the end of everything.

A user's list lies on a key of its own, because the threads lie in many partitions: no script can change both. So the
list is never believed. It is written beside each start, again by whoever touches a thread that it lacks, and when it is
read each thread is asked; one that is gone is left out, and taken out.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from backplane.errors import ThreadlineError
from backplane.events import dumps
from backplane.ids import ThreadRef, new_id
from backplane.log import no_such_thread
from backplane.scripts import Call

if TYPE_CHECKING:
    from backplane.connection import Backplane

MAX_TITLE = 120
"""Characters of a title; as many as of a preview."""
_PREVIEW = 120
_PREVIEW_BYTES = _PREVIEW * 6
"""So many bytes of JSON hold that many characters, however they are escaped."""
_STARTING_MS = 60_000
"""A thread may be listed before its first turn has started: one that is not there is left in the list for so long."""
_SEEN, _SEEN_FOR = 4096, 300.0
"""Threads that a process remembers as listed, and for how many seconds, so that not every touch asks."""
_DECODER = json.JSONDecoder()
_log = structlog.get_logger("backplane.threads")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a list shows of a thread."""

    thread_id: str
    title: str
    """Of its first message, or what its owner called it."""
    preview: str
    """The beginning of its newest message."""
    role: str
    """Whose message that is: `user` or `assistant`; empty when there is none."""
    running: str | None
    """The primary turn in flight."""
    state: str
    """ready, running or waiting; `idle` when nothing runs."""
    created: int
    """Unix milliseconds, Redis' clock."""
    active: int
    """When the last start came."""

    def as_dict(self) -> dict[str, Any]:
        """Return `{thread_id, title, preview, role, running, state, created, active}`."""
        return {name: getattr(self, name) for name in self.__slots__}


class Threads:
    """Lists, names and erases threads."""

    def __init__(self, backplane: Backplane, clock: Callable[[], float] = time.monotonic) -> None:
        self._backplane = backplane
        self._clock = clock
        self._listed: OrderedDict[tuple[ThreadRef, str], float] = OrderedDict()

    def _key(self, tenant: str, subject: str) -> str:
        return self._backplane.keys.threads(tenant, subject)

    # --- the list --------------------------------------------------------------------------------------

    async def note(self, ref: ThreadRef, subject: str, at: int | None = None) -> None:
        """Put a thread into its owner's list, as started now; with `at` (ms), only if it is not there.

        A failure is no harm: whoever touches the thread next puts it there.
        """
        call = Call(
            "list",
            [self._key(ref.tenant, subject)],
            [ref.thread_id, "" if at is None else at, self._backplane.settings.thread_ttl * 1000],
        )
        try:
            await self._backplane.run(call)
        except ThreadlineError as error:
            _log.warning("a thread could not be listed now", thread_id=ref.thread_id, error=error.message)
            return
        self._listed[ref, subject] = self._clock()
        self._listed.move_to_end((ref, subject))
        while len(self._listed) > _SEEN:
            self._listed.popitem(last=False)

    async def touch(self, ref: ThreadRef, subject: str) -> None:
        """See to it that a thread which its owner looks at is listed; each process asks now and then."""
        if self._clock() - self._listed.get((ref, subject), -_SEEN_FOR) < _SEEN_FOR:
            return
        try:
            (found,) = await self._summaries([ref], subject)
        except ThreadlineError as error:
            _log.warning("a thread could not be looked up now", thread_id=ref.thread_id, error=error.message)
            return
        if found is not None:
            await self.note(ref, subject, found.active)

    async def page(
        self, tenant: str, subject: str, *, before: int | None = None, most: int = 50
    ) -> tuple[list[Summary], int | None]:
        """Return a page of a user's threads, the one started last first, and where the next page begins (or None).

        Args:
            tenant: of the user.
            subject: whose threads.
            before: where an earlier page ended; a thread that is started meanwhile moves to the first page, and shifts
                nothing.
            most: threads of a page.

        Raises:
            Unavailable: when Redis did not answer.
        """
        found: list[Summary] = []
        while len(found) < most:
            wanted = most - len(found)
            batch = await self._batch(self._key(tenant, subject), before, wanted + 1)
            more = len(batch) > wanted
            batch = batch[:wanted]
            found += await self._standing(tenant, subject, batch)
            if not more:
                return found, None
            before = batch[-1][1]
        return found, before

    async def _batch(self, key: str, before: int | None, most: int) -> list[tuple[str, int]]:
        top = "+inf" if before is None else f"({before}"
        async with self._backplane.answering():
            raw: Any = await self._backplane.redis.zrevrangebyscore(
                key, top, "-inf", start=0, num=most, withscores=True, score_cast_func=lambda score: int(float(score))
            )
        return [(thread_id.decode(), at) for thread_id, at in raw]

    async def _standing(self, tenant: str, subject: str, batch: Sequence[tuple[str, int]]) -> list[Summary]:
        """Return those that exist; take the others out of the list."""
        refs = [ThreadRef(tenant, thread_id) for thread_id, _ in batch]
        found = await self._summaries(refs, subject)
        gone = [entry for entry, summary in zip(batch, found, strict=True) if summary is None]
        if gone:
            key = self._key(tenant, subject)
            calls = [Call("unlist", [key], [thread_id, at, _STARTING_MS]) for thread_id, at in gone]
            await self._backplane.run_many(calls)
        return [summary for summary in found if summary is not None]

    async def _summaries(self, refs: Sequence[ThreadRef], subject: str) -> list[Summary | None]:
        calls = [self._backplane.call("summary", ref, subject, _PREVIEW_BYTES) for ref in refs]
        answers = await self._backplane.run_many(calls) if calls else []
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return [_summary(ref, answer) for ref, answer in zip(refs, answers, strict=True)]

    # --- one thread ------------------------------------------------------------------------------------

    async def rename(self, ref: ThreadRef, subject: str, title: str) -> None:
        """Give a thread another title.

        Raises:
            NotFound: when there is no such thread, or it is another's.
            Unavailable: when Redis did not answer.
        """
        answer = await self._backplane.run(self._backplane.call("rename", ref, subject, dumps(title)))
        if answer == b"not_found":
            raise no_such_thread()

    async def delete(self, ref: ThreadRef, subject: str) -> bool:
        """End what runs in a thread, tell those who watch, and erase it everywhere. False when there was none.

        Raises:
            Unavailable: when Redis did not answer; the same call may be sent again.
        """
        keys = self._backplane.keys.thread(ref)
        code, at = await self._backplane.run(
            self._backplane.call(
                "delete",
                ref,
                subject,
                extra_keys=[
                    keys.idempotency,
                    keys.requests,
                    keys.partition.calls + new_id(),
                    keys.branches,
                    keys.branch,
                    keys.watchers,
                ],
            )
        )
        self._listed.pop((ref, subject), None)
        # in other slots; of one's own turns also when there was no thread, for a process may have died between the two
        await self._backplane.admission.forget(ref, subject)
        if code != b"deleted":
            return False  # it may be another's, whose turns wait in the line
        await self._backplane.run(Call("unlist", [self._key(ref.tenant, subject)], [ref.thread_id, at - 1, 0]))
        async with self._backplane.answering():
            await self._backplane.doorbell.forget(ref, subject)
        return True


def _summary(ref: ThreadRef, answer: Sequence[Any]) -> Summary | None:
    if answer[0] == b"not_found":
        return None
    _, title, role, text, running, state, created, active = answer
    return Summary(
        thread_id=ref.thread_id,
        title=one_line(json.loads(title)),
        preview=one_line(beginning(text)),
        role=role.decode(),
        running=running.decode() or None,
        state=state.decode(),
        created=int(created),
        active=int(active),
    )


def one_line(text: str) -> str:
    """Return text on one line, without spaces around it, of at most as many characters as a title."""
    return " ".join(text[: 4 * MAX_TITLE].split())[:MAX_TITLE]


def beginning(raw: bytes) -> str:
    """Return what the first bytes of a JSON string say, which were cut anywhere; its first quote is left out."""
    text = raw.decode(errors="ignore")
    # the longest thing that a cut can split is a pair of \\uXXXX
    for short in range(13):
        try:
            found = _DECODER.raw_decode(f'"{text[: len(text) - short]}"')[0]
        except ValueError:
            continue
        return str(found.encode(errors="ignore").decode())  # half of a pair is no text
    return ""
