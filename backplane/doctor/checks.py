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
from redis.exceptions import ResponseError

from backplane import diagnosis
from backplane.addresses import Address
from backplane.connection import RETRIES, Backplane, answered, as_recorded, open_servers
from backplane.doctor import findings
from backplane.doctor.findings import Finding
from backplane.doctor.rights import lacking
from backplane.errors import Internal, Misconfigured, ThreadlineError
from backplane.ids import new_id, thread_ref
from backplane.servers import Servers, as_text
from backplane.settings import Settings

_ASKED = (
    "appendfsync", "client-output-buffer-limit", "min-replicas-to-write", "tcp-keepalive", "timeout",
)  # fmt: skip
_ACL = "compare the user's rights with those of deploy/valkey/users.acl, and the prefix with THREADLINE_KEY_PREFIX"
HEARING_TIMEOUT = 5.0
"""Seconds within which a message must come back; a healthy path takes milliseconds."""


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
    lacks: tuple[str, ...] | None
    """What the user may not do of what gateways and workers do; None when the server cannot say."""
    rereads: bool
    """Whether `default`, with whose rights many servers read their append-only file, may write; True when unseen."""


async def check_redis(settings: Settings) -> list[Finding]:
    """Return what was found at the Redis of these settings, the most basic first. Never raises for a fault of it."""
    try:
        servers = open_servers(settings.redis_url)
    except Misconfigured as error:
        return [Finding("redis", False, error.message, "correct it, and ask again")]
    redis = servers.client(RETRIES)
    try:
        reach = await _reachable(servers, redis, settings.redis_timeout)
        if not reach.ok:
            return [reach]
        what = await _kind(servers, redis, settings.redis_timeout)
        if not what.ok:
            return [reach, what]
        return [reach, what, await _encryption(servers), *await _at_primaries(settings, servers, redis)]
    except ThreadlineError as error:
        return [Finding("redis", False, *_refused(error))]
    finally:
        with suppress(Exception):
            await redis.aclose()
            await servers.aclose()


async def _at_primaries(settings: Settings, servers: Servers, redis: Redis) -> list[Finding]:
    known = settings
    with suppress(Internal):  # who may not read it is told so below, with everything else
        known = await as_recorded(settings, redis)
    backplane = Backplane(known, servers, redis, redis)
    primaries = list(zip(servers.primaries, backplane.primaries(), strict=True))
    seen = [await _look(str(server), client, servers.address, settings) for server, client in primaries]
    watched = servers.address.kind != "single"
    here = all(server.here for server in servers.primaries)
    return [
        _worst([(one, findings.version(one.info)) for one in seen]),
        _worst([(one, _persistence(one)) for one in seen]),
        _worst([(one, findings.eviction(one.info)) for one in seen]),
        _worst([(one, findings.replicas(one.info, one.config, watched=watched)) for one in seen]),
        _worst([(one, findings.timeouts(one.config)) for one in seen]),
        _worst([(one, findings.clients(one.info)) for one in seen]),
        _worst([(one, findings.buffers(one.config)) for one in seen]),
        findings.clock([one.ahead for one in seen]),
        _worst([(one, findings.rights(one.user, one.lacks, here=here)) for one in seen]),
        await _guarded("partitions", lambda: _partitions(settings, backplane)),
        await _guarded("scripts", lambda: _scripts(backplane)),
        await _guarded("pub/sub", lambda: _pubsub(backplane)),
    ]


def _persistence(one: Seen) -> Finding:
    found = findings.persistence(one.info, one.config)
    return found if one.rereads or not found.ok else findings.forgetful()


def _worst(found: list[tuple[Seen, Finding]]) -> Finding:
    """Return the worst finding, with the server's name if there are several; the first one where all is well."""
    one, finding = max(found, key=lambda pair: ("ok", "warn", "FAIL").index(pair[1].level))
    if len(found) == 1:
        return finding
    if finding.level != "ok":
        return replace(finding, text=f"{one.server}: {finding.text}")
    return replace(finding, text=f"{finding.text} (and well at {len(found) - 1} more)")


async def _look(server: str, redis: Redis, address: Address, settings: Settings) -> Seen:
    async def allowed(call: Awaitable[Any], otherwise: Any) -> Any:
        try:
            async with answered(settings.redis_timeout):
                return await call
        except Internal:  # forbidden by an ACL, or unknown to a substitute: judged as what it is, unknown
            return otherwise

    before = time.time()
    seconds, micros = await allowed(redis.time(), (before, 0))
    ahead = seconds + micros / 1_000_000 - (before + time.time()) / 2
    info = await allowed(redis.info(), {})
    config: dict[Any, Any] = await allowed(redis.config_get(*_ASKED), {})
    user = await allowed(redis.acl_whoami(), b"")
    lacks = await allowed(lacking(redis, settings.key_prefix, cluster=address.kind == "cluster"), None)
    known = {as_text(name): as_text(value) for name, value in config.items()}
    words = ("ACL DRYRUN", "default", "SET", f"{settings.key_prefix}:x", "x")
    rereads = as_text(await allowed(redis.execute_command(*words), b"OK")) == "OK"  # type: ignore[no-untyped-call]
    return Seen(server, info, known, as_text(user), ahead, lacks, rereads)


async def _guarded(name: str, check: Callable[[], Awaitable[Finding]]) -> Finding:
    try:
        return await check()
    except ThreadlineError as error:
        return Finding(name, False, *_refused(error))


def _refused(error: ThreadlineError) -> tuple[str, str]:
    """Return what is behind an error, and what to do: whoever asks the doctor may see what clients may not."""
    cause = error.__cause__
    if isinstance(cause, ResponseError):
        told = f"the server refuses: {cause}"
        return told, _ACL if "NOPERM" in str(cause) or "ermission" in str(cause) else "see the log of that server"
    if trouble := error.details.get("trouble"):
        return f"the live path: {trouble}", _ACL if "NOPERM" in trouble else "see the log of that server"
    return error.message, "see that the server runs and is not overloaded, and ask again"


async def _reachable(servers: Servers, redis: Redis, patience: float) -> Finding:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        async with answered(patience):  # one that is stopped, or behind a dead path, takes a call and never answers
            await servers.locate()
            await redis.ping()
    except ThreadlineError as error:
        fault = await diagnosis.diagnose(servers.address)
        if fault is None:
            return Finding("redis", False, *_refused(error))
        return Finding("redis", False, fault.text, fault.advice)
    primaries = ", ".join(str(server) for server in servers.primaries)
    return Finding("redis", True, f"answers in {(loop.time() - begun) * 1000:.1f} ms ({primaries})")


async def _kind(servers: Servers, redis: Redis, patience: float) -> Finding:
    info: dict[str, Any] = {}
    if servers.address.kind == "single":  # the others have named a primary, which nothing else does
        with suppress(Internal):
            async with answered(patience):
                info = await redis.info()
    return findings.kind(info, servers.address.kind)


async def _encryption(servers: Servers) -> Finding:
    address = servers.address
    named = [*servers.primaries, *(address.servers if address.kind == "sentinel" else ())]
    found = await diagnosis.encryption(address, servers.primaries[0])
    return findings.encryption(address, [server for server in named if not server.here], found)


async def _partitions(settings: Settings, backplane: Backplane) -> Finding:
    async with answered(settings.redis_timeout):
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
