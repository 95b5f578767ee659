"""Identities: which names a thread may have, and which partition it lives in."""

from __future__ import annotations

import re
import secrets
import zlib
from dataclasses import dataclass

from backplane.errors import InvalidThreadId

MAX_THREAD_ID = 128
_ALLOWED = re.compile(rf"[A-Za-z0-9._:-]{{1,{MAX_THREAD_ID}}}", re.ASCII)
DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class ThreadRef:
    """One thread of one tenant. `str(ref)` is `tenant/thread_id`; neither part may hold a `/`."""

    tenant: str
    thread_id: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.thread_id}"


def thread_ref(thread_id: object, tenant: str = DEFAULT_TENANT) -> ThreadRef:
    """Return the thread that a caller named, its id trimmed.

    This is the only way from a caller's text to a key, so that reads, writes and invalidations agree.

    Raises:
        InvalidThreadId: when the id is not a string of 1 to 128 letters, digits, or `. _ : -`.
    """
    if not isinstance(thread_id, str):
        raise InvalidThreadId(
            f"thread_id: expected a string of 1 to {MAX_THREAD_ID} characters, got "
            f"{type(thread_id).__name__}; send the id as text"
        )
    trimmed = thread_id.strip()
    if not _ALLOWED.fullmatch(trimmed):
        raise InvalidThreadId(
            f"thread_id: expected 1 to {MAX_THREAD_ID} letters, digits, or . _ : - , got "
            f"{len(trimmed)} characters of which some are not allowed or too many; choose another id"
        )
    return ThreadRef(tenant, trimmed)


def partition_of(ref: ThreadRef, partitions: int) -> int:
    """Return the partition of a thread, 0 to `partitions` - 1, the same in every process (CRC-32)."""
    return zlib.crc32(str(ref).encode()) % partitions


def new_id() -> str:
    """Return a fresh random id of 20 characters (119 bits)."""
    return secrets.token_urlsafe(15)
