"""What the agents noted: when a turn was started, and when it felt its cancellation."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 30.0
"""Seconds; by then even a turn whose worker is dead has ended."""


@dataclass(frozen=True, slots=True)
class Note:
    """One line: of which turn, what, in which attempt, by which process, and when (Unix time)."""

    request_id: str
    what: str
    attempt: int
    pid: int
    at: float


class NeverNoted(Exception):
    """What was waited for did not happen."""


class Notes:
    """The file that all agents of a system write to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._read = 0
        self._known: dict[tuple[str, str], Note] = {}

    def find(self, request_id: str, what: str) -> Note | None:
        """Return the last such note, if there is one."""
        with self.path.open() as file:
            file.seek(self._read)
            for line in iter(file.readline, ""):
                if not line.endswith("\n"):
                    break
                self._read += len(line)
                turn, happened, attempt, pid, at = line.split()
                self._known[turn, happened] = Note(turn, happened, int(attempt), int(pid), float(at))
        return self._known.get((request_id, what))

    async def wait(self, request_id: str, what: str, attempt: int = 1) -> Note:
        """Return the note of this or a later attempt, when it is there. Its own time counts, not ours.

        Raises:
            NeverNoted: it did not come.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                while (note := self.find(request_id, what)) is None or note.attempt < attempt:  # noqa: ASYNC110  another process writes it
                    await asyncio.sleep(0.002)
                return note
        except TimeoutError:
            raise NeverNoted(f"turn {request_id}: not {what} within {PATIENCE:g} s") from None
