"""The backplane of one process: its connections, and what is done with them. Whoever opens it, closes it.

Time-outs and retries are given here for each purpose. redis-py's own defaults differ between `Redis()` (10
retries, a minute) and `from_url()` (none), and its 5 s socket time-out breaks every longer blocking read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import lru_cache
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from backplane.addresses import parse
from backplane.admission import Admission
from backplane.allowances import Allowances
from backplane.approvals import Approvals
from backplane.cluster import ClusterClient, ClusterServers
from backplane.diagnosis import diagnose
from backplane.doorbell import Doorbell
from backplane.errors import Internal, Misconfigured, Unavailable
from backplane.ids import ThreadRef
from backplane.keys import REMEMBERED, Keys
from backplane.live import LiveChannels
from backplane.log import Log
from backplane.members import Members
from backplane.pipeline import pipelined
from backplane.presence import Presence
from backplane.readings import Readings
from backplane.revocations import Revocations
from backplane.scripts import Call, load_all, run, run_many
from backplane.self_test import check_memory, check_path, refuse_other_database
from backplane.sentinel import WatchedServers
from backplane.servers import Servers
from backplane.sessions import Sessions
from backplane.settings import Settings
from backplane.steps import Steps
from backplane.threads import Threads
from backplane.traces import Traces
from backplane.turns import Turns

RETRIES = 3
"""A reply may be lost and its command sent again: every script answers a repeated call as it did the first."""
# What one release writes and another reads, in the log, the turn and on the channels.
FORMAT = "1"
_WAIT_FOR_REDIS = 1.0
_log = structlog.get_logger("backplane.connection")


def open_servers(url: str) -> Servers:
    """Return the servers that a URL names; nothing is connected yet.

    Raises:
        Misconfigured: when the URL is of no form that is known, or names a file that cannot be read.
    """
    address = parse(url)
    _ = address.tls_context  # reads the files of certificates: one that is missing stops the start
    kinds: dict[str, type[Servers]] = {"single": Servers, "sentinel": WatchedServers, "cluster": ClusterServers}
    return kinds[address.kind](address)


def open_redis(settings: Settings, *, retries: int = RETRIES) -> Redis:
    """Return a client for one purpose, at the one server that these settings name."""
    return open_servers(settings.redis_url).client(retries)


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turn redis-py's errors into ours.

    Raises:
        Unavailable: when Redis did not answer, is loading, is read-only, or has no memory left.
        Internal: when it refused a command, which is a defect of ours.
    """
    try:
        yield
    except ResponseError as error:
        word = _code(error)
        if word in {
            "OOM",
            "READONLY",
            "LOADING",
            "MASTERDOWN",
            "CLUSTERDOWN",
            "TRYAGAIN",
            "NOREPLICAS",
            "MISCONF",
        }:
            raise Unavailable(f"Redis cannot take the call now ({word}); try again in a moment") from error
        raise Internal("Redis refused a command; the log of this process has the cause") from error
    except (RedisError, OSError) as error:
        raise Unavailable("Redis did not answer; send the same call again in a moment") from error


def _code(error: ResponseError) -> str:
    """Return the first word of what the server said: redis-py cuts it off from the errors that it has a class for."""
    return str(getattr(error, "status_code", None) or str(error).split(" ", 1)[0])


@asynccontextmanager
async def answered(seconds: float) -> AsyncIterator[None]:
    """Bound the calls of Redis in this block, and turn their errors into ours.

    Raises:
        Unavailable, Internal: as `redis_errors`; Unavailable too when it takes longer than `seconds`.
    """
    with redis_errors():
        async with asyncio.timeout(seconds):
            yield


async def as_recorded(settings: Settings, redis: Redis) -> Settings:
    """Return settings with the number of partitions that the deployment has, unless one is configured.

    So a deployment goes on when the default changes.

    Raises:
        Unavailable: when Redis did not answer.
    """
    if "partitions" in settings.model_fields_set:
        return settings
    async with answered(settings.redis_timeout):
        recorded: Any = await redis.hget(Keys(settings.key_prefix, 1).meta, "partitions")
    return settings if recorded is None else settings.model_copy(update={"partitions": int(recorded)})


class Backplane:
    """What one process shares with all others, by way of Redis."""

    def __init__(
        self, settings: Settings, servers: Servers, redis: Redis, blocking: Redis, *, relaxed: bool = False
    ) -> None:
        self.settings = settings
        self.servers = servers
        self.redis = redis
        self.keys = Keys(settings.key_prefix, settings.partitions)
        self.traces = Traces()
        self._slots = lru_cache(maxsize=REMEMBERED)(self._slots_of)
        self.live = LiveChannels(
            settings,
            servers,
            lambda tag: self.keys.canary(settings.node_id, tag),
            self._publish,
            relaxed=relaxed,
        )
        self.doorbell = Doorbell(self.keys, redis, blocking, settings.redis_timeout, settings.tenant_weights)
        self.readings = Readings(self)
        self.log = Log(self)
        self.sessions = Sessions(self)
        self.turns = Turns(self)
        self.admission = Admission(self)
        self.allowances = Allowances(self)
        self.steps = Steps(self)
        self.threads = Threads(self)
        self.presence = Presence(self)
        self.approvals = Approvals(self)
        self.members = Members(self)
        self.revocations = Revocations(self)

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, *, relaxed: bool = False) -> AsyncIterator[Backplane]:
        """Connect, check that this deployment fits what Redis holds, and listen; `relaxed` as LiveChannels has it.

        A number of partitions that is not configured is the one that is recorded.

        Raises:
            Unavailable: when Redis cannot be reached.
            Misconfigured: when the number of partitions or the format differs from what is recorded, when the server
                drops keys to make room, or when it is another database than that of the deployment.
        """
        async with AsyncExitStack() as stack:
            servers = open_servers(settings.redis_url)
            stack.push_async_callback(servers.aclose)
            redis = servers.client(RETRIES)
            stack.push_async_callback(redis.aclose)
            # the claimer retries by itself, after a pause
            blocking = servers.client(0)
            stack.push_async_callback(blocking.aclose)
            backplane = cls(await as_recorded(settings, redis), servers, redis, blocking, relaxed=relaxed)
            await check_memory(backplane)
            await backplane.check_meta()
            async with answered(settings.redis_timeout):
                await load_all(redis)
            await stack.enter_async_context(backplane.live)
            await check_path(backplane)
            yield backplane

    def primaries(self) -> list[Redis]:
        """Return a client for each primary; the one client where there is one."""
        if isinstance(self.redis, ClusterClient):
            return [self.redis.at(server) for server in self.servers.primaries]
        return [self.redis]

    def call(self, name: str, ref: ThreadRef, *args: str | int, extra_keys: Sequence[str] = ()) -> Call:
        """Return the call of a thread's script: its own arguments behind the slots that all of them share."""
        keys, shared = self._slots(ref)
        return Call(name, [*keys, *extra_keys], [*shared, *args])

    def _slots_of(self, ref: ThreadRef) -> tuple[tuple[str, ...], tuple[str | int, ...]]:
        """Return the keys and the arguments that lua/lib/thread.lua names."""
        keys, settings = self.keys.thread(ref), self.settings
        partition = keys.partition
        return (
            (
                keys.thread,
                keys.log,
                keys.session,
                keys.lanes,
                keys.turns,
                keys.texts,
                partition.due,
                partition.ready,
                keys.live,
                partition.control,
                keys.steps,
                keys.approvals,
            ),
            (
                str(ref),
                settings.thread_ttl * 1000,
                settings.replay_window * 1000,
                settings.turn_ttl * 1000,
                settings.log_max_entries,
                settings.session_max_messages,
                "SPUBLISH",
            ),
        )

    def answering(self) -> AbstractAsyncContextManager[None]:
        """Bound the calls of Redis in this block by `redis_timeout`, and turn their errors into ours."""
        return answered(self.settings.redis_timeout)

    async def run(self, call: Call) -> Any:
        """Run one script.

        Raises:
            Unavailable: when Redis did not answer.
        """
        async with self.answering():
            return await run(self.redis, call)

    async def run_many(self, calls: list[Call]) -> list[Any]:
        """Run several scripts in one round trip; a failed call's error stands in its place.

        Raises:
            Unavailable: when Redis did not answer.
        """
        async with self.answering():
            return await run_many(self.redis, calls)

    async def check_meta(self) -> None:
        """Record the partitions and the format at the first start; later, refuse to differ.

        Raises:
            Misconfigured: when they differ: threads would be looked for in the wrong place; and when the client
                gives text, because its URL says so.
        """
        wanted = {"partitions": str(self.settings.partitions), "format": FORMAT}
        async with self.answering():
            for name, value in wanted.items():
                if await self.redis.hsetnx(self.keys.meta, name, value):
                    await refuse_other_database(self)
                answer: Any = await self.redis.hget(self.keys.meta, name)
                if not isinstance(answer, bytes):
                    raise Misconfigured(
                        f"expected bytes from Redis, got {type(answer).__name__}; "
                        "take decode_responses out of THREADLINE_REDIS_URL"
                    )
                found = answer.decode()
                if found != value:
                    # no setting chooses the format: a release writes one
                    change = (
                        f"set THREADLINE_PARTITIONS={found}" if name == "partitions" else "run a release of that one"
                    )
                    raise Misconfigured(
                        f"this deployment was started with {name}={found}, and this process has {value}; "
                        f"{change}, or use another THREADLINE_KEY_PREFIX"
                    )

    async def ping(self) -> None:
        """Make one round trip.

        Raises:
            Unavailable: when Redis did not answer.
        """
        async with self.answering():
            await self.redis.ping()

    async def _publish(self, channel: str, message: bytes) -> None:
        async with self.answering():
            await pipelined(self.redis, [("SPUBLISH", channel, message)])


@asynccontextmanager
async def opened_when_reachable(
    settings: Settings, stop: asyncio.Event, *, relaxed: bool = False
) -> AsyncIterator[Backplane | None]:
    """Open a backplane, however long Redis takes to come up; None when `stop` was set first.

    Raises:
        Misconfigured: when the settings contradict what Redis holds.
    """
    async with AsyncExitStack() as stack:
        while not stop.is_set():
            try:
                backplane = await stack.enter_async_context(Backplane.open(settings, relaxed=relaxed))
            except Unavailable as error:
                address = parse(settings.redis_url)
                fault = await diagnose(address)
                _log.warning("waiting for Redis", url=str(address), error=str(fault or error.message))
                with suppress(TimeoutError):
                    async with asyncio.timeout(_WAIT_FOR_REDIS):
                        await stop.wait()
                continue
            yield backplane
            return
        yield None
