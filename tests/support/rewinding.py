"""A failover in a test's own keys: back to what a replica knew, on what looks like another primary."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from backplane.connection import Backplane
from backplane.keys import ThreadKeys

_PERMANENT = (b":meta", b":due", b":ready")


async def elsewhere(backplane: Backplane, keys: ThreadKeys) -> None:
    """Make it a thread that another primary wrote until now."""
    await backplane.redis.hset(keys.thread, "lineage", "0" * 40)


async def remembered(backplane: Backplane, keys: ThreadKeys) -> Callable[[], Awaitable[None]]:
    """Return a way back to this moment, for a replica that has heard no more when it becomes the primary."""
    redis, pattern = backplane.redis, f"{backplane.keys.prefix}:*"
    dumps = [(name, await redis.dump(name)) async for name in redis.scan_iter(match=pattern)]

    async def back() -> None:
        await redis.delete(*[name async for name in redis.scan_iter(match=pattern)])
        for name, dump in dumps:
            assert dump is not None
            await redis.restore(name, 0 if name.endswith(_PERMANENT) else 60_000, dump)
        await elsewhere(backplane, keys)

    return back
