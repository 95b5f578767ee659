"""A lease that has lapsed, at the moment that a test chooses: a short one would lapse by itself on a slow machine."""

from __future__ import annotations

from backplane.connection import Backplane
from backplane.ids import ThreadRef

SOON = {"recover_interval": 0.02, "retry_backoff": 0.02}
"""Settings with which a recoverer that runs finds it at once: no partition is left alone for longer."""


async def lapse(backplane: Backplane, ref: ThreadRef, request_id: str) -> None:
    """Make the lease of a turn look as old as it would be if its worker had been silent for long."""
    keys = backplane.keys.thread(ref)
    await backplane.redis.hset(keys.turn(request_id), mapping={"lease_until": 1})
    await backplane.redis.zadd(keys.partition.due, {keys.member(request_id): 1})
