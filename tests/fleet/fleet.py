"""A fleet on this machine: a real store, gateways and workers, each a process of its own that may be hurt.

async with Fleet(folder, gateways=2, workers=2) as fleet:
    fleet.workers[0].signal(signal.SIGKILL)

Whatever happens inside, leaving the context ends every process that was started here, by its process id.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

import backplane
from backplane.embedded import FINDERS, EmbeddedStore, Finder, free_port, start_child
from backplane.ids import DEFAULT_TENANT, ThreadRef
from backplane.keys import Keys, ThreadKeys
from backplane.settings import ENV_PREFIX, Settings
from tests.fleet.conditions import PATIENCE, eventually
from tests.fleet.invariants import Entry
from tests.fleet.proxy import HOST, Proxy

CODE = Path(backplane.__file__).parents[1]
"""Where the members' code is, unless a fleet is told otherwise: the tree that this one was loaded from."""
QUICK: Mapping[str, Any] = {
    "lease": 1.2,
    "heartbeat": 0.3,
    "recover_interval": 0.1,
    "cancel_grace": 1.0,
    "drain_grace": 1.0,
    "canary_interval": 0.25,
    "poll_interval": 0.5,
    "partitions": 8,
    "calls_per_second": 1000,
    "calls_burst": 1000,
}
"""Settings under which a fault is noticed soon. A lease still outlives three heartbeats on a busy machine."""
_LOOK = 2.0
"""Seconds for one look at whether a gateway is ready: one that is frozen does not answer, and is asked again."""


class Member:
    """A gateway or a worker: how it is started, and its process now. Each life has a node id of its own."""

    def __init__(self, fleet: Fleet, name: str, url: str | None) -> None:
        self.name = name
        self.url = url
        self.lives = 0
        self.frozen = False
        self.leaving = False
        """Whether this life was told to stop."""
        self.environment: dict[str, str] = {}
        """What its next life is given beside the fleet's environment."""
        self.proxy: Proxy | None = None
        """Its way to the store, in a fleet with proxies."""
        self.code = fleet.code
        """The tree that its next life is started from."""
        self._fleet = fleet
        self._process: asyncio.subprocess.Process | None = None

    @property
    def node_id(self) -> str:
        """How this life is named in leases."""
        return f"{self.name}.{self.lives:03}"

    @property
    def process(self) -> asyncio.subprocess.Process:
        """Its process."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def living(self) -> bool:
        """Whether its process runs, or is frozen."""
        return self._process is not None and self._process.returncode is None

    @property
    def said(self) -> str:
        """What it printed in all its lives."""
        log = self._fleet.folder / f"{self.name}.log"
        return log.read_text(errors="replace") if log.exists() else ""

    async def start(self) -> None:
        """Start it; `ready` waits until it works."""
        self.lives += 1
        self.frozen = self.leaving = False
        kind = "gateway" if self.url else "worker"
        environment = (
            self._fleet.environment_from(self.code) | {f"{ENV_PREFIX}NODE_ID": self.node_id} | self.environment
        )
        if self.proxy:
            environment[f"{ENV_PREFIX}REDIS_URL"] = f"redis://{HOST}:{self.proxy.port}/0"
        if self.url:
            environment[f"{ENV_PREFIX}PORT"] = self.url.rsplit(":", 1)[1]
        with (self._fleet.folder / f"{self.name}.log").open("ab") as output:
            self._process = await start_child(
                (sys.executable, "-m", "cli.main", kind), env=environment, cwd=self.code, output=output
            )

    async def ready(self) -> None:
        """Wait until it takes clients, or turns.

        Raises:
            AssertionError: with its last lines, when it does not come up.
        """

        async def look() -> bool:
            return not self.living or await (self.is_ready() if self.url else self._is_working())

        with contextlib.suppress(AssertionError):
            await eventually(look, f"{self.name} to be ready")
            if self.living:
                return
        raise AssertionError(f"expected {self.name} to be ready, and it is not; it said last:\n{self.said[-2000:]}")

    async def is_ready(self) -> bool:
        """Whether /readyz of a gateway says yes now."""
        return await self._readiness() == httpx.codes.OK

    async def says_unready(self) -> bool:
        """Whether /readyz of a gateway says no now: it lives, and clients must not be sent there."""
        return await self._readiness() == httpx.codes.SERVICE_UNAVAILABLE

    async def _readiness(self) -> int | None:
        try:
            return (await self._fleet.http.get(f"{self.url}/readyz", timeout=_LOOK)).status_code
        except httpx.HTTPError:
            return None

    async def _is_working(self) -> bool:
        return any("worker ready" in line and self.node_id in line for line in self.said.splitlines())

    async def says(self, *words: str) -> str:
        """Wait until it prints a line with all these words; return the line."""

        async def look() -> str | None:
            return next((line for line in self.said.splitlines() if all(word in line for word in words)), None)

        return await eventually(look, f"{self.name} to say {words}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal: SIGKILL, SIGTERM, SIGSTOP, SIGCONT."""
        if number in (signal.SIGSTOP, signal.SIGCONT):
            self.frozen = number == signal.SIGSTOP
        self.leaving = self.leaving or number == signal.SIGTERM
        self.process.send_signal(number)

    async def ended(self, within: float = PATIENCE) -> int:
        """Wait until its process has ended; return the exit code (negative: the signal).

        Raises:
            TimeoutError: when it goes on.
        """
        async with asyncio.timeout(within):
            return await self.process.wait()

    async def kill(self) -> None:
        """End it at once, with kill -9."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        await self.ended()


class Fleet:
    """A store, K gateways and M workers.

    Args:
        folder: for the store's data and each member's output.
        gateways: how many.
        workers: how many.
        settings: by the names of backplane/settings.py, on top of `base`.
        code: the tree that members are started from, such as one with a defect put in on purpose.
        base: the settings of every fleet; `{}` takes the product's defaults.
        proxied: whether each member reaches the store by a proxy of its own.
        finders: which server the store is.
    """

    def __init__(
        self,
        folder: Path,
        gateways: int = 2,
        workers: int = 2,
        settings: Mapping[str, Any] | None = None,
        code: Path = CODE,
        *,
        base: Mapping[str, Any] = QUICK,
        proxied: bool = False,
        finders: Sequence[Finder] = FINDERS,
    ) -> None:
        self.folder = folder
        self.code = code
        self.store = EmbeddedStore(folder / "store", finders=finders)
        self._proxied = proxied
        self.gateways = [Member(self, f"gateway-{n}", f"http://127.0.0.1:{free_port()}") for n in range(gateways)]
        self.workers = [Member(self, f"worker-{n}", None) for n in range(workers)]
        self.given = {**base, **(settings or {})}
        """The settings of every member."""
        self._stack = contextlib.AsyncExitStack()
        self.http: httpx.AsyncClient
        self.redis: Redis
        self.settings: Settings

    @property
    def urls(self) -> list[str]:
        """Where the gateways are."""
        return [str(member.url) for member in self.gateways]

    @property
    def members(self) -> list[Member]:
        """Every gateway and worker."""
        return [*self.gateways, *self.workers]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every member, unless its code is another."""
        return self.environment_from(self.code)

    def environment_from(self, code: Path) -> dict[str, str]:
        """Return the environment of a member whose code is this tree."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        path = [str(code), str(code / "clients" / "python"), os.environ.get("PYTHONPATH", "")]
        given = {f"{ENV_PREFIX}{name.upper()}": str(value) for name, value in self.given.items()}
        return (
            inherited
            | given
            | {
                f"{ENV_PREFIX}REDIS_URL": self.store.url,
                f"{ENV_PREFIX}PAGE_GATEWAYS": ",".join(self.urls),
                "PYTHONPATH": os.pathsep.join(part for part in path if part),
                "PYTHONUNBUFFERED": "1",
            }
        )

    async def __aenter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.store)
            self.settings = Settings(redis_url=self.store.url, **self.given)
            self.http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=PATIENCE))
            self.redis = self.looker()
            stack.push_async_callback(self.redis.aclose)
            for member in self.members if self._proxied else ():
                member.proxy = await stack.enter_async_context(Proxy(self.store.port))
            stack.push_async_callback(self._end)
            await self.heal()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _end(self) -> None:
        for member in self.members:
            if member.living:
                await member.kill()

    async def heal(self) -> None:
        """Make it whole: what is dead is started, what is frozen goes on, and everybody is ready."""
        if not await self.store_lives():
            await self.store.restart()
        for member in self.members:
            if member.proxy is not None:
                await member.proxy.heal()
            if member.living and member.frozen:
                member.signal(signal.SIGCONT)
            if member.living and member.leaving:
                await member.ended()
            if not member.living:
                await member.start()
        for member in self.members:
            await member.ready()

    def looker(self) -> Redis:
        """Return a client for looking only; it outlives a restart of the store."""
        # with a time-out of its own redis-py sends through wait_for, which loses cancellations under Python 3.11
        retry = Retry(ConstantBackoff(0.05), 100)
        most = 1000  # hundreds of threads may come to rest at once; redis-py refuses the hundred and first connection
        return Redis.from_url(self.store.url, protocol=2, socket_timeout=None, retry=retry, max_connections=most)

    # --- the store -------------------------------------------------------------------------------------

    def store_ports(self, member: Member) -> set[int]:
        """Return the ports at which a member reaches the store."""
        return {self.store.port if member.proxy is None else member.proxy.port}

    async def store_lives(self) -> bool:
        """Whether the process of the store runs."""
        try:
            async with asyncio.timeout(0):
                await self.store.wait()
        except TimeoutError:
            return True
        return False

    async def kill_store(self) -> None:
        """End the store with kill -9; `store.restart` brings it back at the same address, with its data."""
        os.kill(self.store.pid, signal.SIGKILL)
        await self.store.wait()

    async def lose_store(self) -> None:
        """End the store with kill -9 and bring it back without its data, as a Redis without persistence comes back."""
        await self.kill_store()
        shutil.rmtree(self.folder / "store" / "store")
        (self.folder / "store" / "store").mkdir()
        await self.store.restart()

    async def listens(self) -> None:
        """Wait until every member listens to channels: whose connection was cut does so again a moment later."""

        async def look() -> bool:
            return len(await self.redis.client_list(_type="pubsub")) >= len(self.members)

        await eventually(look, "every member to listen")

    async def cut_everything(self) -> int:
        """Have the store close every connection but ours; return how many there were."""
        killed = await self.cut_live()
        others: Any = await self.redis.client_kill_filter(_type="normal", skipme=True)
        return killed + int(others)

    async def cut_live(self) -> int:
        """Have the store close every connection that listens to channels; return how many there were."""
        killed: Any = await self.redis.client_kill_filter(_type="pubsub")
        return int(killed)

    # --- what the store holds --------------------------------------------------------------------------

    def keys(self, thread_id: str) -> ThreadKeys:
        """Return the keys of a thread of the open deployment."""
        return Keys(self.settings.key_prefix, self.settings.partitions).thread(ThreadRef(DEFAULT_TENANT, thread_id))

    async def log(self, thread_id: str) -> list[Entry]:
        """Return the whole log of a thread, read past the product's own code."""
        entries: Any = await self.redis.xrange(self.keys(thread_id).log)
        return [
            Entry(int(place.split(b"-")[0]), fields[b"n"].decode(), json.loads(fields[b"d"]))
            for place, fields in entries
        ]

    async def session(self, thread_id: str) -> list[dict[str, Any]]:
        """Return the messages of a thread, oldest first."""
        entries: Any = await self.redis.xrange(self.keys(thread_id).session)
        return [json.loads(fields[b"m"]) for _, fields in entries]

    async def turn(self, thread_id: str, request_id: str) -> dict[str, str]:
        """Return the hash of a turn; empty when there is none."""
        found: Any = self.redis.hgetall(self.keys(thread_id).turn(request_id))
        return {name.decode(): value.decode(errors="replace") for name, value in (await found).items()}

    async def running(self, thread_id: str) -> str | None:
        """Return the request that the thread is busy with."""
        found: Any = self.redis.hget(self.keys(thread_id).thread, "running")
        value = await found
        return None if value is None else str(value.decode())

    async def owner(self, thread_id: str, request_id: str) -> Member:
        """Return the worker that runs a turn, as soon as one does."""

        async def look() -> Member | None:
            turn = await self.turn(thread_id, request_id)
            names = {member.node_id: member for member in self.workers}
            return names.get(turn.get("worker", "")) if turn.get("state") == "running" else None

        return await eventually(look, f"a worker to run {request_id}")

    async def attempt(self, thread_id: str, request_id: str, number: int) -> None:
        """Wait until a turn is in this attempt, or a later one."""

        async def look() -> bool:
            return int((await self.turn(thread_id, request_id)).get("attempt", 0)) >= number

        await eventually(look, f"attempt {number} of {request_id}")

    async def idle(self, thread_id: str, within: float = PATIENCE) -> None:
        """Wait until nothing runs in a thread, beside its primary turn either, and nothing waits for its turn."""
        keys = self.keys(thread_id)

        async def look() -> bool:
            busy: Any = await self.redis.exists(*(f"{keys.lanes}{lane}" for lane in ("followup", "steer", "parallel")))
            return not busy and await self.running(thread_id) is None

        await eventually(look, f"{thread_id} to be idle", within)
