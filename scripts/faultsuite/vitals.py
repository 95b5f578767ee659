"""What a process holds: memory, open files and tasks. After a fault, all of it must come back to where it was."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.fleet.conditions import eventually
from tests.fleet.fleet import Fleet, Member

MEMORY = 16 * 1024 * 1024
"""Bytes by which a process may grow in one row: caches that have a bound, and an allocator that gives nothing back."""
FILES = 2
"""Open files beside the connections to the store: a client of the suite itself may be about to leave."""
STORE_CONNECTIONS = 24
"""Connections to the store that a process may keep: as many as it had commands under way at once. One that was reset
while it was idle counts too: the pool notices when it is to be used again."""
TASKS = 3
"""Tasks that may run at any moment without being a leak: a readiness check, a heartbeat, a pass of the recoverer."""
_WITHIN = 15.0
"""Seconds until a process must be quiet again."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """What one process holds now."""

    memory: int
    """Bytes (RSS)."""
    files: int
    """Open files, without connections to the store."""
    store_connections: int
    tasks: int
    kinds: str
    """The tasks by kind, in words."""

    def grown(self, before: Vitals) -> list[str]:
        """Return what did not come back, in words."""
        found = []
        if self.memory > before.memory + MEMORY:
            found.append(f"memory {before.memory / 1e6:.0f} MB -> {self.memory / 1e6:.0f} MB")
        if self.files > before.files + FILES:
            found.append(f"open files {before.files} -> {self.files}")
        if self.store_connections > before.store_connections + STORE_CONNECTIONS:
            found.append(f"connections to the store {before.store_connections} -> {self.store_connections}")
        if self.tasks > before.tasks + TASKS:
            found.append(f"tasks {before.tasks} -> {self.tasks} ({before.kinds} -> {self.kinds})")
        return found


async def vitals(fleet: Fleet, member: Member) -> Vitals:
    """Return what a living process holds; its tasks it tells in its log when it gets SIGUSR1."""
    count, kinds = await _tasks(member)
    files, to_store = _files(member.pid, fleet.store_ports(member))
    return Vitals(memory(member.pid), files - to_store, to_store, count, kinds)


def memory(pid: int) -> int:
    """Return how much memory a process has (bytes, RSS)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _files(pid: int, ports: Collection[int]) -> tuple[int, int]:
    """Return how many files a process has open, and how many of them are connections to some ports."""
    to_store, known = _sockets(pid, ports)
    names = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            names.append(os.readlink(link))
    return len(names), sum(name.startswith("socket:") and (name in to_store or name not in known) for name in names)


def _sockets(pid: int, ports: Collection[int]) -> tuple[set[str], set[str]]:
    """Return how the connections to some ports, and all sockets that are not reset, are named among files (proc(5))."""
    to_ports, known = set(), set()
    for table, inode in (("tcp", 9), ("tcp6", 9), ("udp", 9), ("unix", 6)):
        path = Path(f"/proc/{pid}/net/{table}")
        for columns in map(str.split, path.read_text().splitlines()[1:] if path.exists() else ()):
            known.add(name := f"socket:[{columns[inode]}]")
            if table == "tcp" and int(columns[2].split(":")[1], 16) in ports:
                to_ports.add(name)
    return to_ports, known


async def _tasks(member: Member) -> tuple[int, str]:
    def told() -> list[str]:
        return re.findall(r"tasks\s.*?count=(\d+ kinds='[^']*)'", member.said)

    before = len(told())
    member.signal(signal.SIGUSR1)

    async def answered() -> bool:
        return len(told()) > before

    await eventually(answered, f"{member.name} to tell its tasks")
    count, _, kinds = told()[-1].partition(" kinds='")
    return int(count), kinds


async def baseline(fleet: Fleet) -> Mapping[str, Vitals]:
    """Return what each process of a quiet fleet holds, by the name of its life."""
    return {member.node_id: await vitals(fleet, member) for member in fleet.members}


async def back_to(fleet: Fleet, before: Mapping[str, Vitals]) -> list[str]:
    """Wait until every process holds no more than before; return what is too much, in words.

    One that was started anew is held up to those of its kind that were not.
    """
    grown: list[str] = []
    loop = asyncio.get_running_loop()
    until = loop.time() + _WITHIN
    while loop.time() < until:
        grown = []
        for member in fleet.members:
            kin = [held for name, held in before.items() if name.startswith(member.name.split("-")[0])]
            was = before.get(member.node_id) or max(kin, key=lambda held: held.memory)
            now = await vitals(fleet, member)
            grown += [f"{member.name}: {what}" for what in now.grown(was)]
        if not grown:
            return []
        await asyncio.sleep(0.5)
    return grown
