"""Findings: what is made of what a server says of itself, and what to change. No I/O here; checks.py asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backplane.addresses import Address, Kind, Server
from backplane.diagnosis import Encryption
from backplane.self_test import KEEPS_ALL

MIN_REDIS = 7
"""The first Redis with sharded pub/sub (SPUBLISH); every Valkey has it (https://redis.io/commands/spublish)."""
CLOCKS_APART = 0.5
"""Seconds that the clocks of primaries may differ: less than a heartbeat, so that a failover ends no lease."""
CLOCK_OFF = 5.0
"""Seconds that ours may differ from theirs: only tokens are judged by it."""
FULL = 0.9
"""Share of maxmemory above which somebody has to do something: what is kept falls slowly."""
FREE_CLIENTS, MANY_CLIENTS = 100, 1000
"""Connections that must be free, for a rolling restart; and how many a fleet of some size needs (docs/sizing.md)."""
LEAST_BUFFER = 8 << 20
"""Bytes that a connection may have unread: the soft limit of Redis' own default for pub/sub."""
MANY = 12
"""Commands that are named, where more are not allowed."""
ENDING = 14.0
"""Days before its end in which a certificate should have been renewed."""
_OF_CLIENTS = {"normal": "0 0 0", "pubsub": "32mb 8mb 60"}
_UNSEEN = "cannot be seen by this user; ask as the user `doctor` of deploy/valkey/users.acl"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice` says what to change; empty when there is nothing to say."""

    name: str
    ok: bool
    text: str
    advice: str = ""

    @property
    def level(self) -> str:
        """`ok`, `warn` (it works, and could be better or safer), or `FAIL`."""
        if not self.ok:
            return "FAIL"
        return "warn" if self.advice else "ok"


def version(info: dict[str, Any]) -> Finding:
    """Judge the server's version, from its INFO."""
    if "valkey_version" in info:
        return Finding("version", True, f"Valkey {info['valkey_version']}")
    told = str(info.get("redis_version", "unknown"))
    major = told.split(".")[0]
    ok = major.isdigit() and int(major) >= MIN_REDIS
    advice = "" if ok else f"run Redis {MIN_REDIS} or newer, or Valkey: sharded pub/sub is missing here"
    return Finding("version", ok, f"Redis {told}", advice)


def kind(info: dict[str, Any], wanted: Kind) -> Finding:
    """Judge whether the server is what the URL says, from its INFO."""
    mode = str(info.get("redis_mode", info.get("server_mode", "standalone")))
    if wanted == "single" and mode != "standalone":
        return Finding(
            "kind",
            False,
            f"expected one server, got a {'Sentinel' if mode == 'sentinel' else 'node of a Cluster'}",
            f"write redis+{mode}:// in THREADLINE_REDIS_URL",
        )
    if wanted == "single" and info.get("role") == "slave":
        return Finding(
            "kind",
            False,
            f"expected a primary, got a replica of {info.get('master_host')}:{info.get('master_port')}, which takes "
            "no writes",
            "name the primary in THREADLINE_REDIS_URL, or its Sentinels with redis+sentinel://",
        )
    return Finding(
        "kind", True, {"single": "one server", "sentinel": "a primary behind Sentinels"}.get(wanted, "a Cluster")
    )


def persistence(info: dict[str, Any], config: dict[str, str]) -> Finding:
    """Judge whether acknowledged turns survive a crash of the server, from its INFO and configuration."""
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
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return Finding(
            "persistence",
            False,
            "the last snapshot could not be written, and then the server takes no writes",
            "look at its disk and memory, and at `stop-writes-on-bgsave-error`",
        )
    sync = config.get("appendfsync", "")
    if sync == "no":
        return Finding(
            "persistence",
            True,
            "the append-only file is on, and synced when the system sees fit: a machine that dies loses up to 30 s",
            "set `appendfsync everysec`",
        )
    return Finding("persistence", True, f"the append-only file is on{sync and f', appendfsync {sync}'}")


def forgetful() -> Finding:
    """Say what a server may do that reads its append-only file as a user without rights (redis/redis#14541)."""
    return Finding(
        "persistence",
        False,
        "the user `default` may not write: many servers read the append-only file with its rights, and forget at a "
        "restart what scripts wrote",
        "leave it its rights and no way in: `user default off ~* &* +@all`",
    )


def eviction(info: dict[str, Any]) -> Finding:
    """Judge what the server does when its memory is full, from its INFO."""
    policy = str(info.get("maxmemory_policy", "unknown"))
    if policy != KEEPS_ALL:
        advice = f"set `maxmemory-policy {KEEPS_ALL}`: any other drops turns and logs to make room"
        return Finding("memory", False, f"maxmemory-policy is {policy}", advice)
    bound, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    text = f"maxmemory-policy is {policy}"
    if not bound:
        return Finding("memory", True, f"{text}; no maxmemory, so the machine's memory is the bound")
    if used > FULL * bound:
        return Finding(
            "memory",
            False,
            f"{used / bound:.0%} of maxmemory are used; at 100% starts are answered `unavailable`",
            "raise `maxmemory`, or shorten THREADLINE_THREAD_TTL and THREADLINE_REPLAY_WINDOW for what comes",
        )
    return Finding("memory", True, f"{text}, {used / bound:.0%} of maxmemory are used")


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


def clients(info: dict[str, Any]) -> Finding:
    """Judge whether there is room for the connections of all processes, from the server's INFO."""
    if "maxclients" not in info:
        return Finding("clients", True, _UNSEEN)
    most, now = int(info["maxclients"]), int(info.get("connected_clients", 0))
    text = f"{now} connections of {most} (maxclients)"
    advice = "raise `maxclients` and the server's limit of open files: each process takes about three, more under load"
    if most - now < FREE_CLIENTS:
        return Finding("clients", False, f"{text}: a process that comes back may find no place", advice)
    return Finding("clients", True, text, "" if most >= MANY_CLIENTS else advice)


def buffers(config: dict[str, str]) -> Finding:
    """Judge how much the server holds for a connection that reads slowly before it cuts it."""
    words = config.get("client-output-buffer-limit", "").split()
    if not words:
        return Finding("buffers", True, _UNSEEN)
    for kind, hard, soft, _ in zip(words[::4], words[1::4], words[2::4], words[3::4], strict=False):
        least = min((int(bound) for bound in (hard, soft) if int(bound)), default=LEAST_BUFFER)
        if kind in _OF_CLIENTS and least < LEAST_BUFFER:
            return Finding(
                "buffers",
                False,
                f"the server cuts a {kind} connection with {least} bytes unread: one burst of answers is more",
                f"set `client-output-buffer-limit {kind} {_OF_CLIENTS[kind]}`, Redis' default",
            )
    return Finding("buffers", True, "slow connections are given time")


def encryption(address: Address, open_to: Sequence[Server], found: Encryption | None) -> Finding:
    """Judge who can read along.

    Args:
        address: the URL.
        open_to: servers that are spoken to without TLS over a network.
        found: how the connection is encrypted, if it is.
    """
    if not address.tls:
        secret = bool(address.password or address.sentinel_password)
        if not open_to:
            return Finding("encryption", True, "none; what is said stays on this machine")
        return Finding(
            "encryption",
            True,
            f"none: {'the password and ' if secret else ''}all messages go in clear to {open_to[0]}",
            "use rediss:// (docs/redis.md#tls), unless nobody else is on that network",
        )
    version = found.version if found else "TLS"
    options = address.tls_options
    if options.get("ssl_cert_reqs") == "none" or options.get("ssl_check_hostname") is False:
        what = "certificate" if options.get("ssl_cert_reqs") == "none" else "host name"
        return Finding(
            "encryption",
            True,
            f"{version}, but the {what} of the server is not checked: whoever is between can change everything",
            "take ssl_cert_reqs and ssl_check_hostname out of THREADLINE_REDIS_URL; ssl_ca_certs names an authority",
        )
    days = found.days if found else None
    if days is not None and days < ENDING:
        return Finding(
            "encryption",
            True,
            f"{version}, and the server's certificate ends in {days:.1f} days",
            "renew it: after that nobody connects any more",
        )
    return Finding(
        "encryption", True, f"{version}, certificate checked{f', valid for {days:.0f} days' if days else ''}"
    )


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


def rights(user: str, lacks: Sequence[str] | None, *, here: bool) -> Finding:
    """Judge who we are and what we may do.

    Args:
        user: whom we are known as.
        lacks: what that user may not do of what gateways and workers do; None when that is not known.
        here: whether the server is on this machine alone.
    """
    name = f"the user is {user}" if user else "the user cannot be seen"
    if lacks and "HSET" in lacks and "HGET" not in lacks:
        return Finding(
            "rights",
            True,
            f"{name}; it may look and not write",
            "ask once more with the URL that gateways and workers have",
        )
    if lacks:
        return Finding(
            "rights",
            False,
            f"{name}, and may not: {', '.join(lacks[:MANY])}{f' and {len(lacks) - MANY} more' if lacks[MANY:] else ''}",
            "compare its rights with deploy/valkey/users.acl, and the prefix there with THREADLINE_KEY_PREFIX",
        )
    if user == "default" and not here:
        return Finding(
            "rights",
            False,
            "the user is `default`, who usually may do everything, such as FLUSHALL",
            "make a user with the fewest rights (deploy/valkey/users.acl is one), and name it in THREADLINE_REDIS_URL",
        )
    return Finding("rights", True, name if lacks is None else f"{name}, and may do what gateways and workers do")
