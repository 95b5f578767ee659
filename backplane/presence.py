"""Presence: who watches a thread, on all nodes, and which worker answers.

Each node says how many connections of whom watch a thread there, and is believed for three times as long as the pause
until it says so again. A node that dies says nothing more, and what it said ends by itself.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backplane.events import dumps
from backplane.ids import ThreadRef
from backplane.log import no_such_thread
from backplane.scripts import Call

if TYPE_CHECKING:
    from backplane.connection import Backplane

BELIEVED = 3
"""A node is believed for so many pauses: one that misses two renewals lives."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A thread as it is watched now."""

    epoch: str
    watchers: list[dict[str, Any]]
    """`{subject, connections}` of each, by subject."""
    running: str | None
    """The primary turn in flight."""
    state: str
    """ready, running or waiting; `idle` when nothing runs."""
    worker: str | None
    """The worker that answers."""


class Presence:
    """Says and asks who watches."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane
        self._node = backplane.settings.node_id
        self._believed = round(BELIEVED * backplane.settings.presence_interval * 1000)

    def _call(self, ref: ThreadRef, subject: str, node: str = "", counts: str = "", again: str = "") -> Call:
        given = subject, node, counts, self._believed, again
        return self._backplane.call("presence", ref, *given, extra_keys=[self._backplane.keys.thread(ref).watchers])

    async def look(self, ref: ThreadRef, subject: str) -> Watched:
        """Return who watches a thread.

        Raises:
            NotFound: when there is no such thread, or it is another's.
            Unavailable: when Redis did not answer.
        """
        watched = _watched(await self._backplane.run(self._call(ref, subject)))
        if watched is None:
            raise no_such_thread()
        return watched

    async def say(
        self, here: Sequence[tuple[ThreadRef, Mapping[str, int]]], again: Collection[ThreadRef] = ()
    ) -> list[Watched | Exception | None]:
        """Say who watches threads at this node (subject -> connections), all in one round trip.

        `again` are those of which it has said so before, and nobody else may remember: whoever watches them is told
        then.

        Returns how each is watched now, None for one that does not exist, an error where that one failed.

        Raises:
            Unavailable: when Redis did not answer.
        """
        calls = [
            self._call(ref, "", self._node, dumps(counts) if counts else "", "1" if ref in again else "")
            for ref, counts in here
        ]
        answers = await self._backplane.run_many(calls) if calls else []
        return [answer if isinstance(answer, Exception) else _watched(answer) for answer in answers]


def _watched(answer: Sequence[Any]) -> Watched | None:
    if answer[0] == b"not_found":
        return None
    _, epoch, watchers, running, state, worker = (part.decode() for part in answer)
    shown = sorted(json.loads(f"[{watchers}]"), key=lambda watcher: str(watcher["subject"]))
    return Watched(epoch, shown, running or None, state, worker or None)
