"""The measured processes: started, read from /proc, and ended by their ids."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from backplane.embedded import start_child
from scripts.benchmark.peers import ROOT, Peer

Role = Literal["gateway", "store", "worker"]
_OF_ALL_THREADS = 2
"""CPUCLOCK_SCHED: how Linux makes the clock of a process out of its id (include/linux/posix-timers.h)."""
PATIENCE = 30.0
"""Seconds in which a process must be ready."""


class NotReady(Exception):
    """A process ended, or did not come up in time."""


class Process:
    """One of the measured processes."""

    def __init__(self, role: Role, handle: asyncio.subprocess.Process, log: Path | None) -> None:
        self.role = role
        self.handle = handle
        self.log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.handle.pid

    @property
    def cpu(self) -> float:
        """Seconds of processor time that it has used."""
        return cpu_of(self.pid)

    @property
    def memory(self) -> int:
        """Bytes of memory that it holds (RSS)."""
        return memory_of(self.pid)

    @property
    def said(self) -> str:
        """What it printed."""
        return self.log.read_text(errors="replace") if self.log is not None else ""

    async def kill(self) -> None:
        """End it with SIGKILL, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self.handle.kill()
        await self.handle.wait()


class Processes:
    """All measured processes of one system, ended when the context is left, whatever happened inside."""

    def __init__(self) -> None:
        self.all: list[Process] = []
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with self._stack:
            await asyncio.gather(*(process.kill() for process in self.all))

    async def start(self, role: Role, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
        """Start a process that needs no input; its output goes to a log of its own."""
        log = self.folder / f"{role}-{len(self.all)}.log"
        with log.open("wb") as output:
            process = Process(role, await start_child(argv, env=env, cwd=ROOT, output=output), log)
        self.all.append(process)
        return process

    async def start_peer(self, role: Role, argv: Sequence[str]) -> Peer:
        """Start a process that the conductor talks with."""
        peer = await Peer.start(argv)
        self.all.append(Process(role, peer.process, None))
        return peer

    def of(self, role: Role) -> list[Process]:
        """Return the living processes of a role."""
        return [process for process in self.all if process.role == role and process.handle.returncode is None]

    def cpu(self, *roles: Role) -> float:
        """Return the processor seconds of all processes of these roles together."""
        return sum(process.cpu for role in roles for process in self.of(role))

    async def says(self, process: Process, text: str) -> None:
        """Wait until a process has printed something.

        Raises:
            NotReady: with its last lines.
        """
        until = time.monotonic() + PATIENCE
        while text not in process.said:
            await self._look_again(process, until, f"expected it to print {text!r}")

    async def listens(self, process: Process, port: int) -> None:
        """Wait until a process takes connections.

        Raises:
            NotReady: with its last lines.
        """
        until = time.monotonic() + PATIENCE
        while not _answers(port):
            await self._look_again(process, until, f"expected it to listen on port {port}")

    async def _look_again(self, process: Process, until: float, expected: str) -> None:
        if process.handle.returncode is not None or time.monotonic() > until:
            raise NotReady(f"{process.role}: {expected}, it said last:\n{process.said[-2000:]}")
        await asyncio.sleep(0.02)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cpu_of(pid: int) -> float:
    """Return how many seconds of processor time a process has used, user and system together, of all its threads.

    From its own clock (clock_getcpuclockid(3)): /proc/PID/stat counts in hundredths of a second, and an idle
    process uses less than that in a second.
    """
    return time.clock_gettime((~pid << 3) | _OF_ALL_THREADS)


def memory_of(pid: int) -> int:
    """Return how many bytes of memory a process holds (RSS)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def raise_open_files_limit() -> int:
    """Allow this process and its children as many open files as the system lets it; return how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS names no limit here, and refuses "none"
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
