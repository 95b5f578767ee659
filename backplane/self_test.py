"""The self-test of a process that starts: what it is configured with, tried on the real path.

A wrong client or server is found here, before the process says that it is ready, and not by the first message that is
lost. What the doctor looks at beyond this costs no message (doctor/checks.py).
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import NoPermissionError, ResponseError

from backplane.errors import Misconfigured
from backplane.ids import new_id, thread_ref

if TYPE_CHECKING:
    from backplane.connection import Backplane

KEEPS_ALL = "noeviction"
_log = structlog.get_logger("backplane.self_test")


async def check_memory(backplane: Backplane) -> None:
    """Refuse a server that drops keys to make room: acknowledged turns would be lost without a word.

    One without a bound drops nothing yet; that is a warning.

    Raises:
        Misconfigured: naming the policy.
        Unavailable: when Redis did not answer.
    """
    async with backplane.answering():
        if not backplane.servers.primaries:
            await backplane.servers.locate()
        for redis in backplane.primaries():
            info: dict[str, Any]
            try:
                info = await redis.info("memory")
            except NoPermissionError:
                raise Misconfigured(
                    "expected a user that may INFO, got one that may not: without it nobody would notice what a "
                    "failover has lost; allow it in the ACL (deploy/valkey/users.acl is an example)"
                ) from None
            except ResponseError:  # a substitute for a server
                continue
            policy = str(info.get("maxmemory_policy", KEEPS_ALL))
            if policy == KEEPS_ALL:
                continue
            if int(info.get("maxmemory", 0)):
                raise Misconfigured(
                    f"expected maxmemory-policy {KEEPS_ALL} at the Redis server, got {policy}: it would drop turns and "
                    f"logs to make room; set `maxmemory-policy {KEEPS_ALL}` there"
                )
            _log.warning(
                "Redis would drop turns and logs to make room, once it has a maxmemory",
                policy=policy,
                set=f"maxmemory-policy {KEEPS_ALL}",
            )


async def refuse_other_database(backplane: Backplane) -> None:
    """Refuse to begin a deployment in one database when it is in another one of the same server.

    Channels are shared by all databases, so the two would hear each other, and a thread that is started here would run
    nowhere.

    Raises:
        Misconfigured: naming both databases; what was recorded is taken back.
    """
    own = backplane.servers.address
    if own.kind != "single":
        return  # a Cluster has one, and what Sentinels watch over is named by every process in the same way
    with suppress(ResponseError):
        info: dict[str, Any] = await backplane.redis.info("keyspace")
        for name in info:
            found = re.fullmatch(r"db(\d+)", name)
            if found is None or int(found[1]) == own.db:
                continue
            other = backplane.servers.client_of(int(found[1]))
            try:
                there = await other.exists(backplane.keys.meta)
            finally:
                await other.aclose()
            if there:
                await backplane.redis.delete(backplane.keys.meta)
                raise Misconfigured(
                    f"expected the database of the deployment {backplane.keys.prefix!r}, which is {found[1]}, got "
                    f"{own.db}; set THREADLINE_REDIS_URL to that database, or use another THREADLINE_KEY_PREFIX"
                )


async def check_path(backplane: Backplane) -> None:
    """Read the log of a thread that cannot exist: a script on every way that a call takes, changing nothing.

    Raises:
        Misconfigured: when the answer is not what it must be.
        Unavailable: when Redis did not answer.
    """
    answer: Any = await backplane.run(backplane.call("read", thread_ref(f"self-test-{new_id()}"), "", "", 0, 1))
    if answer[0] != b"not_found":
        raise Misconfigured(
            f"expected b'not_found' for a thread that cannot exist, got {answer[0]!r}: this client or server changes "
            "answers; check THREADLINE_REDIS_URL with `threadline doctor`"
        )
