"""Cluster: many primaries, each with some of the 16,384 slots. Each command goes to the primary of its key.

redis-py's own cluster client sends a pipeline again as a whole when one shard of it failed, and closes the
connections to all shards: while one shard fails over, the turns of the others would stand still. Here what one
shard does not answer stands as an error in its place.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.backoff import ExponentialBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from backplane.addresses import Address, Server
from backplane.pipeline import Command, SplittingClient, pipelined
from backplane.servers import ASK_TIMEOUT, BACKOFF_BASE, BACKOFF_CAP, Servers, as_text, plain_client

SLOTS = 16384
_ASK_NODES = 3
"""Nodes that are asked at once who the primaries are: the newest answer counts, and one of them may be cut off."""
_GLANCES = 10
"""Looks of which one asks for everything although nothing seems to have changed: a slot can move without an epoch."""
_BEHIND = 1.0
"""Seconds that the answers of some primaries wait for that of another which hangs: with it, a heartbeat still comes
within a lease."""
_BEHIND_SILENT = 0.1
"""The same for a primary that gave none last time, and none since."""
_PASSING = (
    MovedError,
    ClusterDownError,
    MasterDownError,
    ReadOnlyError,
    TryAgainError,
    BusyLoadingError,
    RedisConnectionError,
    RedisTimeoutError,
    OSError,
)
"""What may be over when the primaries are located again."""


class _Silent(RedisTimeoutError):
    """A primary did not answer while the answers of others waited. It is not asked again in the same call."""


Version = tuple[bool, int]
"""How new what a node knows is: whether it sees the Cluster as whole, and the epoch."""


class ClusterServers(Servers):
    """The primaries of a Cluster, each with its slots."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._slots: list[Server | None] = [None] * SLOTS
        self._nodes: set[Server] = set(address.servers)
        """Whom to ask: those that were named, and later those that were found, replicas too."""
        self._version: Version | None = None
        self._glances = 0
        self._client: ClusterClient | None = None

    def client(self, retries: int) -> Redis:
        """Return a client that sends each command to the primary of its key."""
        made = ClusterClient(self, retries)
        self._client = self._client or made
        return made

    def of(self, name: bytes) -> Server | None:
        """Return the primary of the slot of a key or a channel."""
        return self._slots[key_slot(name)]

    def tag(self, server: Server) -> str:
        """Return the first number whose slot is at this server."""
        return next(str(number) for number in range(1_000_000) if self.of(b"%d" % number) == server)

    def moved(self, slot: int, server: Server) -> None:
        """Take the word of a node that a slot is elsewhere now."""
        if self._slots[slot] != server:
            self._slots[slot] = server
            self.take(tuple(dict.fromkeys(owner for owner in self._slots if owner)), moved=True)

    async def glance(self) -> None:
        """Ask some primaries, on connections that are open, whether their configuration is another; then for all of it.

        The answer of each node names every shard, and each process asks each second: in a large fleet that is more
        than all else that a shard does for its processes.
        """
        self._glances += 1
        if self._glances % _GLANCES == 0 or not await self._unchanged():
            await self.locate()

    async def _unchanged(self) -> bool:
        client = self._client
        if client is None or len(self.primaries) < _ASK_NODES:
            return False

        async def told(node: Server) -> Version:
            info: Any = await client.at(node).execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]
            return _version(info)

        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                versions = await asyncio.gather(*map(told, random.sample(self.primaries, _ASK_NODES)))
        except (RedisError, OSError):
            return False
        return max(versions) == self._version

    async def _locate(self) -> None:
        nodes = list(self._nodes | set(self.address.servers))
        random.shuffle(nodes)
        failed: BaseException = RedisConnectionError("no node of the Cluster was asked")
        while nodes:
            asked, nodes = nodes[:_ASK_NODES], nodes[_ASK_NODES:]
            answers = await asyncio.gather(*(self._ask(node) for node in asked), return_exceptions=True)
            known = [answer for answer in answers if not isinstance(answer, BaseException)]
            if known:
                self._version, found, owners = max(known, key=lambda answer: answer[0])
                self._nodes = found
                changed = owners != self._slots
                self._slots = owners
                self.take(tuple(dict.fromkeys(owner for owner in owners if owner)), moved=changed)
                return
            failed = next(answer for answer in answers if isinstance(answer, BaseException))
        raise failed if isinstance(failed, RedisError | OSError) else RedisConnectionError(repr(failed))

    async def _ask(self, node: Server) -> tuple[Version, set[Server], list[Server | None]]:
        """Return how new a node's answer is, all nodes, and who owns each slot."""
        client = plain_client(self.address, 0, host=node.host, port=node.port)
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                pipeline = client.pipeline(transaction=False)
                pipeline.execute_command("CLUSTER INFO")
                pipeline.execute_command("CLUSTER SLOTS")
                info, ranges = await pipeline.execute()
        finally:
            with suppress(Exception):
                await client.aclose()
        nodes: set[Server] = set()
        owners: list[Server | None] = [None] * SLOTS
        for first, last, *holders in _ranges(ranges):
            known = [Server(as_text(host or "") or node.host, int(port)) for host, port, *_ in holders]
            nodes.update(known)
            owners[int(first) : int(last) + 1] = [known[0]] * (int(last) - int(first) + 1)
        if not nodes:
            raise RedisConnectionError(f"the node {node} knows of no slots; is it in a Cluster yet?")
        return _version(info), nodes, owners


def _version(info: dict[str, Any]) -> Version:
    return info.get("cluster_state") == "ok", int(info.get("cluster_current_epoch", 0))


def _ranges(answer: Any) -> Iterable[Any]:
    """Return the entries of CLUSTER SLOTS, whether redis-py has decoded them or not."""
    if isinstance(answer, dict):
        return [(first, last, found["primary"], *found.get("replicas", ())) for (first, last), found in answer.items()]
    return list(answer)


class ClusterClient(SplittingClient):
    """A client that sends each command, and each part of a pipeline, to the primary of its key.

    A command without a key goes to every primary, and the answer of one is returned: PING asks whether all are there,
    SCRIPT LOAD makes all of them know it. TIME goes to one, and to another when that one hangs.

    Args:
        servers: who the primaries are.
        retries: how often a command is sent again when its primary is lost, or another.
    """

    def __init__(self, servers: ClusterServers, retries: int) -> None:
        super().__init__(protocol=2)  # for the commands' methods: this pool never connects
        self._servers = servers
        self._retries = retries
        self._pauses = ExponentialBackoff(cap=BACKOFF_CAP, base=BACKOFF_BASE)
        self._clients: dict[Server, Redis] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._silent: set[Server] = set()
        """Those that others waited for in vain, until they answer something."""
        self._prompt: Server | None = None
        """Who answered last what any of them can answer."""
        servers.on_change(self._leave)

    def at(self, server: Server) -> Redis:
        """Return the client of one primary."""
        client = self._clients.get(server)
        if client is None:
            client = plain_client(self._servers.address, 0, host=server.host, port=server.port)
            self._clients[server] = client
        return client

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command; on a failover, to the next primary."""
        if args[0] in _OF_ANY:
            return await self._any(lambda server: self._send(server, args, options))
        key = _key(args)
        for attempt in range(self._retries + 1):
            try:
                if key is not None:
                    return await self._send(await self._owner(key), args, options)
                answers = [await self._send(server, args, options) for server in await self._primaries()]
                return answers[0]
            except MovedError as error:
                failed: Exception = error
            except AskError as error:
                return await self._ask(error, args, options)
            except _PASSING as error:
                failed = error
            if attempt == self._retries:
                raise failed
            await self._look_again([failed], attempt)
        raise AssertionError("a loop that returns or raises")

    async def pipelined(self, commands: Sequence[Command]) -> list[Any]:
        """Send each part to its primary, all at once."""

        async def send(server: Server, places: list[int]) -> list[Any]:
            return await pipelined(self.at(server), [commands[place] for place in places], raises=False)

        if len(commands) == 1 and commands[0][0] in _OF_ANY:
            answers: list[Any] = await self._any(lambda server: send(server, [0]))
            return answers
        return await self.split([_key(command) for command in commands], send)

    async def split(self, keys: list[bytes | None], send: Send) -> list[Any]:
        """Have each part sent to its primary; what comes back as an error that may pass is sent again.

        A primary that hangs holds up the others for a moment only: then an error stands in the place of its answers.

        Raises:
            redis.RedisError, OSError: when nothing was answered; else an error stands in its place.
        """
        answers: list[Any] = [None] * len(keys)
        todo = list(range(len(keys)))
        for attempt in range(self._retries + 1):
            parts: dict[Server, list[int]] = defaultdict(list)
            for place in todo:
                try:
                    for server in [await self._owner(keys[place])] if keys[place] else await self._primaries():
                        parts[server].append(place)
                except (RedisError, OSError) as error:
                    answers[place] = error
            await self._ask_all(parts, send, answers, len(todo) < len(keys))
            failed = [place for place in todo if isinstance(answers[place], (*_PASSING, AskError))]
            todo = [place for place in failed if not isinstance(answers[place], _Silent)]
            if not todo:
                break
            if attempt < self._retries:
                await self._look_again([answers[place] for place in todo], attempt)
        if answers and all(isinstance(answer, (*_PASSING, AskError)) for answer in answers):
            raise answers[0]
        return answers

    async def _ask_all(
        self, parts: Mapping[Server, list[int]], send: Send, answers: list[Any], others_wait: bool
    ) -> None:
        """Have all parts answered, at once; `others_wait`: answers of primaries that are not asked now wait as well."""
        if len(parts) == 1 and not others_wait:  # nobody is held up: the caller's bound is enough
            ((server, places),) = parts.items()
            await self._part(server, places, send, answers)
            return
        async with asyncio.TaskGroup() as group:
            tasks = {
                group.create_task(self._part(server, places, send, answers)): server for server, places in parts.items()
            }
            late = await self._late(tasks, others_wait) if tasks else set()
            for task in late:
                task.cancel()
        for server in [tasks[task] for task in late if task.cancelled()]:
            self._silent.add(server)
            error = _Silent(f"{server} did not answer while others did")
            _note([error] * len(parts[server]), parts[server], answers)

    async def _late(self, tasks: Mapping[asyncio.Task[None], Server], others_wait: bool) -> set[asyncio.Task[None]]:
        """Wait for answers, and return what is not worth waiting for any longer."""
        _, late = await asyncio.wait(tasks, timeout=_BEHIND_SILENT)
        if not late:
            return late
        if len(late) == len(tasks) and not others_wait:
            # measured from the first answer: where all are slow, none of them hangs
            _, late = await asyncio.wait(late, return_when=asyncio.FIRST_COMPLETED)
        if trusted := {task for task in late if tasks[task] not in self._silent}:
            await asyncio.wait(trusted, timeout=_BEHIND)
        return (await asyncio.wait(late, timeout=_BEHIND_SILENT))[1] if late else late

    async def _part(self, server: Server, places: list[int], send: Send, answers: list[Any]) -> None:
        try:
            found = await send(server, places)
            self._silent.discard(server)
        except (RedisError, OSError) as error:
            found = [error] * len(places)
        _note(found, places, answers)

    async def _any(self, send: Callable[[Server], Awaitable[Any]]) -> Any:
        """Have one primary answer: whoever did so last, so that it is the same clock, and when it hangs, another."""
        failed: Exception = ClusterDownError("the Cluster has no primaries")
        for attempt in range(self._retries + 1):
            for server in sorted(await self._primaries(), key=lambda server: server != self._prompt):
                try:
                    async with asyncio.timeout(_BEHIND):
                        answer = await send(server)
                except (RedisError, OSError) as error:
                    failed = error
                    continue
                self._prompt = server
                return answer
            if attempt < self._retries:
                await self._look_again([failed], attempt)
        raise failed

    async def _send(self, server: Server, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return await self.at(server).execute_command(*args, **options)  # type: ignore[no-untyped-call]

    async def _ask(self, error: AskError, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Ask the primary that a slot is on its way to."""
        pipeline = self.at(Server(error.host, error.port)).pipeline(transaction=False)
        pipeline.execute_command("ASKING")
        pipeline.execute_command(*args, **options)
        return (await pipeline.execute())[1]

    async def _primaries(self) -> tuple[Server, ...]:
        if not self._servers.primaries:
            await self._servers.locate()
        return self._servers.primaries

    async def _owner(self, key: bytes | None) -> Server:
        await self._primaries()
        server = self._servers.of(key or b"")
        if server is None:
            raise ClusterDownError("no primary owns the slot of this key")
        return server

    async def _look_again(self, errors: list[Any], attempt: int) -> None:
        """Learn from errors who the primaries are now, before the next attempt."""
        moves = [error for error in errors if isinstance(error, MovedError)]
        for error in moves:
            self._servers.moved(error.slot_id, Server(error.host, error.port))
        if len(moves) < len(errors):
            await asyncio.sleep(self._pauses.compute(attempt + 1))
            with suppress(RedisError, OSError):
                await self._servers.locate()

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Return a pipeline that is split by primaries. A transaction must be of keys of one slot."""
        return _ClusterPipeline(self, transaction)

    def _leave(self) -> None:
        """Close the clients of those that are no primaries any more: whoever waits there is sent to the next one."""
        self._silent &= set(self._servers.primaries)
        for server in set(self._clients) - set(self._servers.primaries):
            closing = asyncio.create_task(self._clients.pop(server).aclose(), name=f"leave-{server}")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close every connection."""
        clients, self._clients = list(self._clients.values()), {}
        await asyncio.gather(*self._closing, *(client.aclose() for client in clients), return_exceptions=True)


class _ClusterPipeline(Pipeline):
    """redis-py's pipeline, whose commands go to their primaries at once and come back in their order."""

    def __init__(self, cluster: ClusterClient, transaction: bool) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, transaction, None)
        self._cluster = cluster

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Return the answers in order; without `raise_on_error` an error stands in its place."""
        stack, self.command_stack = list(self.command_stack), []

        async def send(server: Server, places: list[int]) -> list[Any]:
            pipeline = self._cluster.at(server).pipeline(transaction=self.is_transaction)
            for place in places:
                args, options = stack[place]
                pipeline.execute_command(*args, **options)
            found: list[Any] = await pipeline.execute(raise_on_error=False)
            return found

        answers = await self._cluster.split([_key(args) for args, _ in stack], send)
        for answer in answers if raise_on_error else ():
            if isinstance(answer, Exception):
                raise answer
        return answers


Send = Callable[[Server, list[int]], Awaitable[list[Any]]]
_KEYLESS = frozenset({"PING", "TIME", "INFO", "DBSIZE", "FLUSHALL", "FLUSHDB"})
_OF_ANY = frozenset({"TIME"})
"""What any primary can answer."""


def _note(found: Iterable[Any], places: Iterable[int], answers: list[Any]) -> None:
    """Put answers in their places; one that is good stays, whatever another primary says."""
    for place, answer in zip(places, found, strict=True):
        if answers[place] is None or isinstance(answers[place], Exception) or not isinstance(answer, Exception):
            answers[place] = answer


def _key(args: Sequence[Any]) -> bytes | None:
    """Return the key that a command is about, None for one without."""
    name = str(args[0]).upper()
    if name in _KEYLESS or " " in name:
        return None
    key = args[3 if name in ("EVAL", "EVALSHA") else 1]
    return key if isinstance(key, bytes) else str(key).encode()
