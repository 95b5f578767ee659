"""What `threadline doctor` asks Redis: is it there, will it keep what it is given, does everything work on it.

Nothing is written but a script into Redis' script cache; no key is made or changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from backplane.connection import RETRIES, Backplane, open_servers, redis_errors
from backplane.errors import Internal, ThreadlineError
from backplane.ids import new_id, thread_ref
from backplane.settings import Settings

MIN_REDIS = 7
"""The first Redis with sharded pub/sub (SPUBLISH); every Valkey has it (https://redis.io/commands/spublish)."""
KEEPS_ALL = "noeviction"
HEARING_TIMEOUT = 5.0
"""Seconds within which a message must come back; a healthy path takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice` says what to change; empty when all is well."""

    name: str
    ok: bool
    text: str
    advice: str = ""


async def check_redis(settings: Settings) -> list[Finding]:
    """Return what was found at the Redis of these settings, the most basic first. Never raises for a fault of it."""
    try:
        servers = open_servers(settings.redis_url)
    except ThreadlineError as error:
        return [Finding("redis", False, str(error), "set THREADLINE_REDIS_URL")]
    redis = servers.client(RETRIES)
    try:
        reach = await _guarded("redis", lambda: _reachable(settings, redis))
        if not reach.ok:
            return [reach]
        info = await _info(redis)
        backplane = Backplane(settings, servers, redis, redis)
        return [
            reach,
            version(info),
            persistence(info),
            eviction(info),
            await _guarded("partitions", lambda: _partitions(settings, backplane)),
            await _guarded("scripts", lambda: _scripts(backplane)),
            await _guarded("pub/sub", lambda: _pubsub(backplane)),
        ]
    except ThreadlineError as error:
        return [Finding("redis", False, str(error), "look into the log of the Redis server")]
    finally:
        with suppress(Exception):
            await redis.aclose()
            await servers.aclose()


def version(info: dict[str, Any]) -> Finding:
    """Judge the server's version, from its INFO."""
    if "valkey_version" in info:
        return Finding("version", True, f"Valkey {info['valkey_version']}")
    told = str(info.get("redis_version", "unknown"))
    major = told.split(".")[0]
    ok = major.isdigit() and int(major) >= MIN_REDIS
    advice = "" if ok else f"run Redis {MIN_REDIS} or newer, or Valkey: sharded pub/sub is missing here"
    return Finding("version", ok, f"Redis {told}", advice)


def persistence(info: dict[str, Any]) -> Finding:
    """Judge whether acknowledged turns survive a crash of the server, from its INFO."""
    if not info:
        return Finding(
            "persistence", False, "cannot be seen: INFO is not allowed or not known", "allow INFO, or look there"
        )
    if str(info.get("aof_enabled")) != "1":
        return Finding(
            "persistence",
            False,
            "the append-only file is off: a crash of Redis loses acknowledged messages",
            "set `appendonly yes` (CONFIG SET appendonly yes, and in its configuration file)",
        )
    if info.get("aof_last_write_status", "ok") != "ok":
        return Finding(
            "persistence",
            False,
            "the append-only file cannot be written",
            "look at the disk of the Redis server: full, or read-only",
        )
    return Finding("persistence", True, "the append-only file is on")


def eviction(info: dict[str, Any]) -> Finding:
    """Judge what the server does when its memory is full, from its INFO."""
    policy = str(info.get("maxmemory_policy", "unknown"))
    ok = policy == KEEPS_ALL
    advice = "" if ok else f"set `maxmemory-policy {KEEPS_ALL}`: any other drops turns and logs to make room"
    return Finding("memory", ok, f"maxmemory-policy is {policy}", advice)


async def _info(redis: Redis) -> dict[str, Any]:
    try:
        with redis_errors():
            info: dict[str, Any] = await redis.info()
    except Internal:  # forbidden by an ACL, or unknown to a substitute: judged as what it is, unknown
        return {}
    return info


async def _guarded(name: str, check: Callable[[], Awaitable[Finding]]) -> Finding:
    try:
        return await check()
    except ThreadlineError as error:
        return Finding(name, False, str(error), "set THREADLINE_REDIS_URL, and see that the server runs")
    except (OSError, ValueError) as error:
        return Finding(name, False, f"{type(error).__name__}: {error}", "set THREADLINE_REDIS_URL")


async def _reachable(settings: Settings, redis: Redis) -> Finding:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with redis_errors():
        await redis.ping()
    return Finding("redis", True, f"answers in {(loop.time() - begun) * 1000:.1f} ms")


async def _partitions(settings: Settings, backplane: Backplane) -> Finding:
    with redis_errors():
        recorded: Any = await backplane.redis.hget(backplane.keys.meta, "partitions")
    if recorded is None:
        return Finding(
            "partitions", True, f"nothing is recorded yet; the first start will record {settings.partitions}"
        )
    found = int(recorded)
    if found != settings.partitions:
        return Finding(
            "partitions",
            False,
            f"the deployment has {found}, this configuration says {settings.partitions}",
            f"set THREADLINE_PARTITIONS={found}, or another THREADLINE_KEY_PREFIX",
        )
    return Finding("partitions", True, f"{found}, as configured")


async def _scripts(backplane: Backplane) -> Finding:
    # Reading the log of a thread that cannot exist changes nothing and takes the whole way.
    answer: Any = await backplane.run(backplane.call("read", thread_ref(f"doctor-{new_id()}"), "", "", 0, 1))
    ok = answer[0] == b"not_found"
    advice = "" if ok else "a Lua script answered what it should not; is another program's data under this prefix?"
    return Finding("scripts", ok, "Lua scripts run" if ok else f"expected not_found, got {answer[0]!r}", advice)


async def _pubsub(backplane: Backplane) -> Finding:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with backplane.live:
        while backplane.live.deaf:
            if loop.time() - begun > HEARING_TIMEOUT:
                return Finding(
                    "pub/sub",
                    False,
                    f"a message did not come back within {HEARING_TIMEOUT:g} s",
                    "see that no proxy or ACL between here and Redis stops SSUBSCRIBE and SPUBLISH",
                )
            await asyncio.sleep(0.01)
    return Finding("pub/sub", True, "a message came back")
