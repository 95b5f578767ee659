"""What `threadline doctor` asks Redis: is it there, will it keep what it is given, does everything work on it.

Nothing is written but a script into Redis' script cache; no key is made or changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from redis.asyncio import Redis

from backplane.connection import RETRIES, Backplane, as_recorded, open_servers, redis_errors
from backplane.errors import Internal, ThreadlineError
from backplane.ids import new_id, thread_ref
from backplane.self_test import KEEPS_ALL
from backplane.servers import Servers
from backplane.settings import Settings

MIN_REDIS = 7
"""The first Redis with sharded pub/sub (SPUBLISH); every Valkey has it (https://redis.io/commands/spublish)."""
CLOCKS_APART = 0.5
"""Seconds that the clocks of primaries may differ: less than a heartbeat, so that a failover ends no lease."""
CLOCK_OFF = 5.0
"""Seconds that ours may differ from theirs: only tokens are judged by it."""
_UNSEEN = "cannot be seen by this user; ask as the user `doctor` of deploy/valkey/users.acl"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
HEARING_TIMEOUT = 5.0
"""Seconds within which a message must come back; a healthy path takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice` says what to change; empty when all is well."""

    name: str
    ok: bool
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one primary said of itself."""

    server: str
    info: dict[str, Any]
    """Empty when the user may not INFO, or a substitute has none."""
    config: dict[str, str]
    """Empty when the user may not CONFIG GET."""
    user: str
    ahead: float
    """Seconds that its clock is ahead of ours; as exact as the round trip."""


async def check_redis(settings: Settings) -> list[Finding]:
    """Return what was found at the Redis of these settings, the most basic first. Never raises for a fault of it."""
    try:
        servers = open_servers(settings.redis_url)
    except ThreadlineError as error:
        return [Finding("redis", False, str(error), "set THREADLINE_REDIS_URL")]
    redis = servers.client(RETRIES)
    try:
        reach = await _guarded("redis", lambda: _reachable(servers, redis))
        if not reach.ok:
            return [reach]
        backplane = Backplane(await as_recorded(settings, redis), servers, redis, redis)
        primaries = zip(servers.primaries, backplane.primaries(), strict=True)
        seen = [await _look(str(server), client) for server, client in primaries]
        watched = servers.address.kind != "single"
        open_to_all = any(server.path or server.host in _LOOPBACK for server in servers.primaries)
        return [
            reach,
            _worst([(one, version(one.info)) for one in seen]),
            _worst([(one, persistence(one.info)) for one in seen]),
            _worst([(one, eviction(one.info)) for one in seen]),
            _worst([(one, replicas(one.info, one.config, watched=watched)) for one in seen]),
            _worst([(one, timeouts(one.config)) for one in seen]),
            clock([one.ahead for one in seen]),
            _worst([(one, rights(one.user, here=open_to_all)) for one in seen]),
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


def _worst(found: list[tuple[Seen, Finding]]) -> Finding:
    """Return the first finding that is not well, with the server's name if there are several; else the first."""
    for one, finding in found:
        if not finding.ok:
            return finding if len(found) == 1 else replace(finding, text=f"{one.server}: {finding.text}")
    first = found[0][1]
    return first if len(found) == 1 else replace(first, text=f"{first.text} (and so at {len(found) - 1} more)")


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


def replicas(info: dict[str, Any], config: dict[str, str], *, watched: bool) -> Finding:
    """Judge whether somebody can take over, and how long a primary that is cut off goes on; for one server neither."""
    if not watched:
        return Finding("replicas", True, "one server: nobody takes over when it is lost")
    count = int(info.get("connected_slaves", 0))
    if info and not count:
        return Finding(
            "replicas", False, "there is none: nobody takes over when this primary is lost", "give it a replica"
        )
    if config and config.get("min-replicas-to-write", "0") == "0":
        return Finding(
            "replicas",
            False,
            f"{count}, and a primary that is cut off from all of them takes writes for ever, which are lost",
            "set `min-replicas-to-write 1` and `min-replicas-max-lag 10`",
        )
    return Finding("replicas", True, f"{count}")


def timeouts(config: dict[str, str]) -> Finding:
    """Judge whether the server closes connections that are only quiet, and notices those that are dead."""
    if not config:
        return Finding("time-outs", True, _UNSEEN)
    idle = int(config.get("timeout", "0"))
    if idle:
        return Finding(
            "time-outs",
            False,
            f"the server closes connections that were quiet for {idle} s",
            "set `timeout 0`: live connections are quiet while nobody talks",
        )
    if config.get("tcp-keepalive", "300") == "0":
        return Finding(
            "time-outs", False, "the server never finds out that a connection is dead", "set `tcp-keepalive 300`"
        )
    return Finding("time-outs", True, "quiet connections stay open, dead ones are noticed")


def clock(ahead: list[float]) -> Finding:
    """Judge the clocks of the primaries: they decide leases and deadlines, and ours decides when a token expires."""
    apart = max(ahead) - min(ahead)
    if apart > CLOCKS_APART:
        return Finding(
            "clock",
            False,
            f"the clocks of the primaries are {apart:.1f} s apart: after a failover, leases are judged by another one",
            "run NTP on the machines of all Redis servers",
        )
    furthest = max(ahead, key=abs)
    if abs(furthest) > CLOCK_OFF:
        way = "ahead of" if furthest > 0 else "behind"
        return Finding(
            "clock",
            False,
            f"Redis is {abs(furthest):.0f} s {way} this machine: tokens expire at the wrong time",
            "run NTP on both",
        )
    return Finding("clock", True, f"Redis and this machine are {abs(furthest):.1f} s apart")


def rights(user: str, *, here: bool) -> Finding:
    """Judge whom we are known as; `here` when the server is on this machine alone."""
    if user == "default" and not here:
        return Finding(
            "rights",
            False,
            "the user is `default`, who usually may do everything, such as FLUSHALL",
            "make a user with the fewest rights (deploy/valkey/users.acl is one), and name it in THREADLINE_REDIS_URL",
        )
    return Finding("rights", True, f"the user is {user}" if user else _UNSEEN)


async def _look(server: str, redis: Redis) -> Seen:
    async def allowed(call: Awaitable[Any], otherwise: Any) -> Any:
        try:
            with redis_errors():
                return await call
        except Internal:  # forbidden by an ACL, or unknown to a substitute: judged as what it is, unknown
            return otherwise

    before = time.time()
    with redis_errors():
        seconds, micros = await redis.time()
    ahead = seconds + micros / 1_000_000 - (before + time.time()) / 2
    info = await allowed(redis.info(), {})
    config: dict[Any, Any] = await allowed(redis.config_get("timeout", "tcp-keepalive", "min-replicas-to-write"), {})
    user = await allowed(redis.acl_whoami(), b"")
    return Seen(server, info, {_text(name): _text(value) for name, value in config.items()}, _text(user), ahead)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


async def _guarded(name: str, check: Callable[[], Awaitable[Finding]]) -> Finding:
    try:
        return await check()
    except ThreadlineError as error:
        return Finding(name, False, str(error), "set THREADLINE_REDIS_URL, and see that the server runs")
    except (OSError, ValueError) as error:
        return Finding(name, False, f"{type(error).__name__}: {error}", "set THREADLINE_REDIS_URL")


async def _reachable(servers: Servers, redis: Redis) -> Finding:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with redis_errors():
        await servers.locate()
        await redis.ping()
    primaries = ", ".join(str(server) for server in servers.primaries)
    return Finding("redis", True, f"answers in {(loop.time() - begun) * 1000:.1f} ms ({primaries})")


async def _partitions(settings: Settings, backplane: Backplane) -> Finding:
    with redis_errors():
        recorded: Any = await backplane.redis.hget(backplane.keys.meta, "partitions")
    if recorded is None:
        return Finding(
            "partitions", True, f"nothing is recorded yet; the first start will record {settings.partitions}"
        )
    found = int(recorded)
    if "partitions" not in settings.model_fields_set:
        return Finding("partitions", True, f"{found}, as recorded")
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
