"""Threadline itself: gateways and workers as `threadline gateway` and `threadline worker` start them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import httpx

from backplane.embedded import free_port
from backplane.settings import ENV_PREFIX
from scripts.benchmark import agents
from scripts.benchmark.notes import Notes
from scripts.benchmark.pace import Plan
from scripts.benchmark.processes import PATIENCE, NotReady, Process, Role
from scripts.benchmark.proxy import Proxy
from scripts.benchmark.systems import HOST, System, python
from scripts.benchmark.watcher import Style

_AT_ONCE = 32
"""Calls under way by HTTP while a run is prepared."""
_LOAD: Mapping[str, Any] = {
    "AGENT": "scripts.benchmark.agents:agent",
    # thousands of calls of one person on one socket are no attack here
    "CALLS_PER_SECOND": 100_000,
    "CALLS_BURST": 100_000,
    "SLOTS": 256,
}
_QUIET = Plan(steps=())


class Threadline(System):
    """Threadline with its defaults, but for what the load needs and a row says.

    Args:
        nodes: gateways.
        workers: workers.
        proxy: the workers' way to the store, when it is not the direct one.
        variant: of scripts/benchmark/variants.py, in place of the product's own processes.
        settings: further settings of all its processes, by their names in capitals.
    """

    name = "threadline"
    style: Style = "threadline"

    def __init__(
        self,
        nodes: int = 1,
        *,
        workers: int = 1,
        proxy: Proxy | None = None,
        variant: str | None = None,
        **settings: object,
    ) -> None:
        super().__init__(nodes)
        self._variant = variant
        self._workers = workers
        self._settings = {**_LOAD, **settings}
        self._proxy = proxy
        self._http = httpx.AsyncClient(timeout=PATIENCE)

    async def _start(self) -> None:
        self.notes = Notes(self.processes.folder / "notes")
        if self._proxy is not None:
            self._proxy.to = self.store_port
        for index in range(self._nodes):
            port = free_port()
            self.ports.append(port)
            own = {"PORT": port, "NODE_ID": f"node-{index}", "REDIS_URL": self.redis_url}
            await self.processes.start("gateway", self._program("gateway"), self._environment(own))
        for _ in range(self._workers):
            await self.start_worker()
        for process, port in zip(self.gateways, self.ports, strict=True):
            await self.processes.listens(process, port)
            await self._until(process, f"http://{HOST}:{port}/readyz", lambda answer: answer.status_code == 200)
        for process in self.processes.of("worker"):
            await self.processes.says(process, "worker ready")

    async def _stop(self) -> None:
        await self._http.aclose()

    async def start_worker(self) -> Process:
        """Start one more worker; it is not ready yet."""
        port = self._proxy.port if self._proxy is not None else self.store_port
        own = {"NODE_ID": f"worker-{len(self.processes.all)}", "REDIS_URL": f"redis://{HOST}:{port}/0"}
        return await self.processes.start("worker", self._program("worker"), self._environment(own))

    def _program(self, role: Role) -> tuple[str, ...]:
        if self._variant is None:
            return python("cli.main", role)
        return python("scripts.benchmark.variants", role, self._variant)

    def _environment(self, own: Mapping[str, object]) -> dict[str, str]:
        # what the shell sets for a deployment must not change what is measured
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        given = {ENV_PREFIX + name: str(value) for name, value in {**self._settings, **own}.items()}
        return {**clean, **given, agents.NOTES: str(self.notes.path)}

    # --- threads ---------------------------------------------------------------------------------------

    async def prepare(self, threads: Sequence[str]) -> None:
        """Make threads by a first turn, which says nothing, and wait for its end."""
        await self._each(threads, lambda thread: self.start_turn(thread, _QUIET))
        await self._each(threads, self.idle)

    async def _talk(self, threads: Sequence[str], plan: Plan) -> None:
        await self._each(threads, lambda thread: self.start_turn(thread, plan))

    async def silence(self, threads: Sequence[str]) -> None:
        """Cancel what runs, and wait until it has ended."""
        await self._each(threads, lambda thread: self._post(thread, "cancel", {}))
        await self._each(threads, self.idle)

    async def tops(self, threads: Sequence[str]) -> dict[str, int]:
        """Return the top offset of each thread's log."""
        found: dict[str, int] = {}

        async def look(thread: str) -> None:
            found[thread] = (await self.thread(thread))["offset"]

        await self._each(threads, look)
        return found

    async def start_turn(self, thread: str, plan: Plan) -> str:
        """Start a turn by HTTP, so that nobody is in the thread's room who does not want to; return its id."""
        answer = await self._post(thread, "turns", {"message": "go", "metadata": {"plan": plan.as_dict()}})
        return str(answer["request_id"])

    async def thread(self, thread: str) -> dict[str, Any]:
        """Return the state of a thread: `epoch`, `offset`, `turn`."""
        answer = await self._http.get(f"{self._url(thread)}?limit=0")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    async def idle(self, thread: str) -> None:
        """Wait until nothing runs in a thread."""
        await self._until(None, f"{self._url(thread)}?limit=0", lambda answer: answer.json()["turn"] is None)

    def _url(self, thread: str) -> str:
        return f"http://{HOST}:{self.ports[0]}/v1/threads/{thread}"

    async def _post(self, thread: str, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self._http.post(f"{self._url(thread)}/{verb}", json=body)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    async def _until(self, process: Process | None, url: str, true: Callable[[httpx.Response], bool]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not true(await self._http.get(url)):  # noqa: ASYNC110  another process decides it
                    await asyncio.sleep(0.02)
        except TimeoutError:
            said = process.said[-2000:] if process else ""
            raise NotReady(f"{url}: not so within {PATIENCE:g} s; it said last:\n{said}") from None

    async def _each(self, threads: Iterable[str], do: Callable[[str], Awaitable[object]]) -> None:
        waiting = iter(threads)

        async def one_after_the_other() -> None:
            for thread in waiting:
                await do(thread)

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(one_after_the_other())
