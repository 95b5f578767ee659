"""A fleet whose store is behind Sentinels, or a Cluster: what fails over by itself, and may lose the end of a log.

`judged` holds a thread up to what is promised of a failover (docs/operations.md): what the new primary lacks is told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from redis.asyncio import Redis

from backplane.connection import open_servers
from backplane.embedded import EmbeddedStore
from backplane.servers import Servers
from backplane.settings import ENV_PREFIX
from tests.fleet.conditions import eventually
from tests.fleet.fleet import Fleet, Member
from tests.fleet.invariants import Acknowledged, Entry, Transcript, violations
from tests.fleet.proxy import Proxy
from tests.servers.deployments import Cluster, Node, Watched


class ReplicatedFleet(Fleet):
    """Gateways and workers on a deployment that fails over by itself; each has a way of its own to each Sentinel."""

    def __init__(self, folder: Path, deployment: Watched | Cluster, *given: Any, **options: Any) -> None:
        super().__init__(folder, *given, **options)
        self.deployment = deployment
        self.store = cast(EmbeddedStore, deployment)  # for its address and its context; nobody restarts it
        self._servers: Servers | None = None
        self._ways: dict[str, list[Proxy]] = {}
        self._proxies = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with self._proxies as proxies:
            if isinstance(self.deployment, Watched):
                await self._lay_ways(self.deployment, proxies)
            await super().__aenter__()
            self._proxies = proxies.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with self._proxies:
            await super().__aexit__(kind, error, trace)
            if self._servers is not None:
                await self._servers.aclose()

    async def _lay_ways(self, watched: Watched, proxies: contextlib.AsyncExitStack) -> None:
        for member in self.members:
            ways = [await proxies.enter_async_context(Proxy(sentinel.port)) for sentinel in watched.sentinels]
            member.environment[f"{ENV_PREFIX}REDIS_URL"] = watched.url_by([way.port for way in ways])
            self._ways[member.name] = ways

    def looker(self) -> Redis:
        """Return a client for looking, which follows a failover."""
        self._servers = open_servers(self.store.url)
        return self._servers.client(100)

    async def store_lives(self) -> bool:
        """Whether it can be looked at; a deployment heals itself."""
        return True

    def store_ports(self, member: Member) -> set[int]:
        """Return the ports at which a member reaches the store."""
        return {node.port for node in self.deployment.nodes} | {way.port for way in self._ways.get(member.name, ())}

    async def primary_of(self, thread_id: str) -> Node:
        """Return the primary that holds a thread, as it was at the start."""
        if isinstance(self.deployment, Watched):
            return self.deployment.primary
        return await self.deployment.owner(self.keys(thread_id).thread)

    async def promoted(self, primary: Node) -> None:
        """Wait until the replica of a primary has become one."""
        replica = self.deployment.replica_of(primary)

        async def look() -> bool:
            return bool((await replica.info())["role"] == "master")

        await eventually(look, "the replica to be the primary", 60)

    async def follows(self, primary: Node) -> None:
        """Wait until we look at the one that took the place of this one."""
        assert self._servers is not None
        servers = self._servers

        async def look() -> bool:
            await servers.locate()
            return all(server.port != primary.port for server in servers.primaries)

        await eventually(look, "the new primary to be named")

    # --- a network that parts ----------------------------------------------------------------------------

    async def cut_off(self, primary: Node, *members: Member) -> None:
        """Part a primary, and these members with it, from its replica and from all Sentinels."""
        for member in members:
            for way in self._ways[member.name]:
                way.hole()
        await primary.shut_out("replication", "sentinel")

    async def join_again(self, primary: Node, *members: Member) -> None:
        """Make the network whole; the old primary comes back as a replica of the new one."""
        await primary.let_in("replication", "sentinel")
        for member in members:
            for way in self._ways[member.name]:
                way.cut()
                await way.heal()

        async def look() -> bool:
            return bool((await primary.info())["role"] == "slave")

        await eventually(look, "the old primary to be a replica", 60)


def judged(
    log: list[Entry],
    watched: Sequence[Transcript],
    acknowledged: list[Acknowledged],
    session: list[dict[str, Any]],
    *,
    torn: bool | None = True,
) -> list[str]:
    """Return what does not hold of a thread whose newest words may have been lost.

    What a client was sent and then told of as lost is taken out: it may differ from the log, nothing else may.

    Args:
        torn: whether words that clients had were lost: then each of those must have been told (True), or nobody may
            have been (False). None when that is for chance: who has what the log has not must have been told.
    """
    found = []
    kept = {entry.offset: entry.fields for entry in log}
    for transcript in watched:
        first = transcript.segments[0]
        # a client that comes back before its node has looked is sent the lost words once more, and told once more
        if torn is True and first.after == 0 and len(transcript.segments) < 2:
            found.append(f"{transcript.name} was not told of the loss")
        for segment in transcript.segments[:-1]:
            had = len(segment.frames)
            while segment.frames and dict(segment.frames[-1]) != kept.get(int(segment.frames[-1]["offset"])):
                segment.frames.pop()
            if had == len(segment.frames):
                found.append(f"{transcript.name} was told of a loss, and all that it had up to {segment.last} is there")
    return found + violations(log, watched, acknowledged, session, losses_told=torn is not False)
