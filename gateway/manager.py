"""A client manager for python-socketio with one channel per room, in place of `AsyncRedisManager`'s one for everything.

A node listens to a room's channel while it has a member there (gateway/channels.py), and to nothing else of other
nodes' rooms. What concerns one client goes to the channel of its node alone: a client's id names its node, `NODE~ID`.
So a name of that form is never a room that somebody could enter, whichever node the client is on.

Members on the emitting node get a packet directly, at the call, and the node passes over its own message when it
comes back. Hearing only would put everything behind a round trip to Redis, so that an emit to a client of this node,
which needs none, would overtake an earlier one to its room. All that one node emits is published in the order of the
calls (backplane/publisher.py) and heard in that order: each socket gets it so, however it was addressed.

This is the one file on the internals of python-socketio's managers, written against 5.18, which pyproject.toml bounds.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import re
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Self

import socketio  # type: ignore[import-untyped]  # the library has no types
import structlog
from engineio import packet as engine_wire  # type: ignore[import-untyped]  # likewise
from socketio import packet as wire

from backplane.errors import ThreadlineError, Unavailable
from backplane.keys import RelayChannels
from backplane.live import LiveChannels
from backplane.publisher import OwnChannels, Publisher
from gateway import relay
from gateway.channels import Channel, Channels
from gateway.relay import Answer, CloseRoom, Disconnect, Done, Emit, EnterRoom, Frame, LeaveRoom, Message, Room

MAX_QUESTIONS = 65_536
"""Acknowledgements of other nodes' clients that may be outstanding; beyond it the oldest is forgotten."""
MAX_QUESTIONS_PER_CLIENT = 1_024
"""Acknowledgements that one client may owe; beyond it the oldest is forgotten."""
MAX_REQUESTS = 4_096
"""What other nodes may ask of this one at the same time; beyond it, it is refused."""
ANSWER_TIMEOUT = 5.0
"""Seconds that another node may take to let a client into a room."""
CONNECT_PATIENCE = 0.5
"""Seconds that a client's connect waits for the channels of node and namespace. Redis confirms in one round trip;
while it is away, clients connect all the same, and hear what other nodes say as soon as it is back."""

_SID = re.compile(r"([0-9a-f]{16})~.+", re.DOTALL)
_ACK_BITS = 52  # JavaScript reads an acknowledgement id as a number, exact below 2^53

_log = structlog.get_logger("gateway.manager")


def node_of(name: object) -> str | None:
    """Return the node that a client's id names; None for any other name."""
    match = _SID.fullmatch(name) if isinstance(name, str) else None
    return None if match is None else match[1]


class _Names(set[str]):
    """A set where the library expects a list: taking a name out must not cost a walk through all."""

    append = set.add


class RoomChannelManager(socketio.AsyncManager):  # type: ignore[misc] # the library has no types
    """Keeps the clients of this node, and reaches those of all others.

    Give it to `socketio.AsyncServer(client_manager=…)`, and `close` it when the server has stopped. With
    `from_url` it makes its own connections. Every method that speaks to other nodes raises `Unavailable` when
    Redis cannot be reached; members on this node have got what was emitted even then.

    Args:
        publisher: what it publishes with.
        live: what it listens with; None makes a manager for processes without clients, which only emit.
        prefix: of its channels, the same on all nodes.
        serializer: the packet class of the servers, where this manager has no server.
    """

    def __init__(
        self,
        publisher: Publisher,
        live: LiveChannels | None,
        *,
        prefix: str = "socketio",
        serializer: type[wire.Packet] = wire.Packet,
    ) -> None:
        super().__init__()
        self.host_id = secrets.token_hex(8)
        """The name of this node in client ids; a new one at each start, and it tells nothing of the machine."""
        self.write_only = live is None
        self.garbage = 0
        """Messages on the channels that were none of ours: ignored, and counted."""
        self.refused = 0
        """What other nodes asked while `MAX_REQUESTS` of them were under way."""
        self._publisher = publisher
        self._own: OwnChannels | None = None
        self._names = RelayChannels(prefix)
        self._serializer = serializer
        self._head = relay.head(self.host_id)
        self._numbers = itertools.count(1)
        self._seen = relay.Seen()
        self._channels = Channels(live, self._hear)
        self._places: dict[tuple[str, str], dict[Room | None, None]] = {}
        """(namespace, client) -> its rooms: what its disconnect has to look at."""
        self._questions: dict[int, Callable[..., Any]] = {}
        self._asked: dict[int, asyncio.Future[bool]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def from_url(
        cls,
        url: str = "redis://127.0.0.1:6379/0",
        channel: str = "socketio",
        write_only: bool = False,
        serializer: type[wire.Packet] = wire.Packet,
    ) -> Self:
        """Return a manager on its own connections to Redis 7 or Valkey, made when they are needed.

        The arguments are those of `socketio.AsyncRedisManager`; `channel` is the prefix of all channels.
        """
        own = OwnChannels(url, channel, secrets.token_hex(8))
        manager = cls(own.publisher, None if write_only else own.live, prefix=channel, serializer=serializer)
        manager._own, manager._channels.connect = own, own.listen
        return manager

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def initialize(self) -> None:
        """Begin to listen; the server calls it when the first client connects."""
        if not self.write_only:
            self._channel_of_this_node()

    async def close(self) -> None:
        """Leave all channels, stop what is under way, and close the connections that it made."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await self._channels.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._own is not None:
            await self._own.close()

    # --- channels --------------------------------------------------------------------------------------

    @property
    def channels(self) -> int:
        """How many channels this node listens to."""
        return len(self._channels)

    def _channel_of_this_node(self) -> Channel:
        return self._channels.for_good(self._names.node(self.host_id))

    async def _listening(self) -> None:
        """Return when other nodes can answer this one."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await self._channel_of_this_node().confirmed()
        except TimeoutError:
            raise Unavailable("this node has no live connection to Redis; try again in a moment") from None

    def _channels_to(self, namespace: str, rooms: list[Room] | None) -> Collection[str]:
        """Return the channels that reach members on other nodes, each once."""
        if rooms is None:
            return (self._names.namespace(namespace),)
        found: dict[str, None] = {}
        for room in rooms:
            node = node_of(room)
            if node is None:
                found[self._names.room(namespace, room)] = None
            elif node != self.host_id:
                found[self._names.node(node)] = None
        return found

    async def _publish(self, channels: Collection[str], message: Message, number: int | None = None) -> int:
        data = relay.encode(self.host_id, next(self._numbers) if number is None else number, message)
        return await self._publisher.publish(channels, data)

    # --- clients come and go ---------------------------------------------------------------------------

    async def pre_connect(self, eio_sid: str, namespace: str) -> str | None:
        """Register a client whose connect handler is about to run; return its id, or None if it is connected."""
        async with self._heard_by_others(namespace) as channel:
            # while it waited, the client may have gone, or asked twice
            if eio_sid not in self.server.environ or self.sid_from_eio_sid(eio_sid, namespace) is not None:
                return None
            if namespace not in self.rooms:
                channel.holders += 1
            sid = f"{self.host_id}~{self.server.eio.generate_id()}"
            self.basic_enter_room(sid, namespace, None, eio_sid=eio_sid)
            self.basic_enter_room(sid, namespace, sid, eio_sid=eio_sid)
            self.pending_connect.setdefault(namespace, _Names()).append(sid)
            return sid

    @asynccontextmanager
    async def _heard_by_others(self, namespace: str) -> AsyncIterator[Channel]:
        node = self._channel_of_this_node()
        with self._channels.holding(self._names.namespace(namespace), standing=True) as channel:
            pending = [each.opening for each in (node, channel) if not each.opening.done()]
            if pending:
                await asyncio.wait(pending, timeout=CONNECT_PATIENCE)
            yield channel

    def pre_disconnect(self, sid: str, namespace: str) -> str | None:
        """Mark a client as about to leave, while its disconnect handler runs; return its Engine.IO session."""
        self.pending_disconnect.setdefault(namespace, _Names()).append(sid)
        eio_sid: str | None = self.rooms[namespace][None].get(sid)
        return eio_sid

    def basic_disconnect(self, sid: str, namespace: str, **_: Any) -> None:
        """Forget a client. It costs as much as the client has rooms, however many there are."""
        for room in list(self._places.get((namespace, sid), ())):
            self.basic_leave_room(sid, namespace, room)
        self.callbacks.pop(sid, None)
        for waiting in (self.pending_connect, self.pending_disconnect):
            names = waiting.get(namespace, ())
            if sid in names:
                names.remove(sid)
                if not names:
                    del waiting[namespace]

    async def can_disconnect(self, sid: str, namespace: str) -> bool:
        """Return whether the server is to disconnect a client itself; on another node, that node is asked to.

        Raises:
            Unavailable: when it could not be asked.
        """
        namespace, node = namespace or "/", node_of(sid)
        if node is None or node == self.host_id:
            connected: bool = self.is_connected(sid, namespace)
            return connected
        await self._publish((self._names.node(node),), Disconnect(namespace, sid))
        return False

    async def disconnect(self, sid: str, namespace: str, **options: Any) -> None:
        """Forget a client that has left (`ignore_queue`), or disconnect one, wherever it is.

        Raises:
            Unavailable: when its node could not be asked.
        """
        if options.get("ignore_queue"):
            self.basic_disconnect(sid, namespace)
        elif await self.can_disconnect(sid, namespace):
            await self.server.disconnect(sid, namespace=namespace, ignore_queue=True)

    # --- rooms -----------------------------------------------------------------------------------------

    async def enter_room(self, sid: str, namespace: str, room: Room, eio_sid: str | None = None) -> None:
        """Put a client into a room, wherever it is. When this returns, emits of any node to the room reach it.

        Nothing happens when the client is gone.

        Raises:
            ValueError: when the room is another client's id, or the client's id is none of ours.
            Unavailable: when Redis or the client's node did not confirm it in time.
        """
        _check_room(room)
        if room == sid:
            return  # it has been there from the beginning
        if node_of(room) is not None:
            raise ValueError("cannot enter a sid room: expected a name of your own, got one of a client's form")
        node = node_of(sid)
        if node is None:
            raise ValueError(f"sid: expected the id of a client of this manager, got {sid!r}; is it the room's name?")
        if node == self.host_id:
            await self._enter_here(sid, namespace or "/", room)
        else:
            await self._ask(node, EnterRoom(namespace or "/", sid, room))

    async def _enter_here(self, sid: str, namespace: str, room: Room) -> None:
        with self._channels.holding(self._names.room(namespace, room)) as channel:
            await channel.confirmed()
            if not self._is_here(sid, namespace):
                return
            if room not in self.rooms[namespace]:
                channel.holders += 1
            self.basic_enter_room(sid, namespace, room)

    async def leave_room(self, sid: str, namespace: str, room: Room) -> None:
        """Take a client out of a room, wherever it is.

        Raises:
            Unavailable: when the client's node did not confirm it in time.
        """
        _check_room(room)
        node = node_of(sid)
        if node is None or node == self.host_id:
            self.basic_leave_room(sid, namespace or "/", room)
        else:
            await self._ask(node, LeaveRoom(namespace or "/", sid, room))

    async def close_room(self, room: Room, namespace: str | None = None) -> None:
        """Take everybody out of a room, on all nodes.

        Raises:
            ValueError: when the room is a client's id.
            Unavailable: when other nodes could not be told.
        """
        _check_room(room)
        if node_of(room) is not None:
            raise ValueError("cannot close a sid room: expected a name of your own, got one of a client's form")
        self.basic_close_room(room, namespace or "/")
        await self._publish((self._names.room(namespace or "/", room),), CloseRoom(namespace or "/", room))

    def basic_enter_room(self, sid: str, namespace: str, room: Room | None, eio_sid: str | None = None) -> None:
        """Note that a client of this node is in a room, whose channel is open."""
        super().basic_enter_room(sid, namespace, room, eio_sid=eio_sid)
        self._places.setdefault((namespace, sid), {})[room] = None

    def basic_leave_room(self, sid: str, namespace: str, room: Room | None) -> None:
        """Note that a client of this node has left a room; the last one leaves the channel too."""
        places = self._places.get((namespace, sid), {})
        if room not in places:
            return
        del places[room]
        if not places:
            del self._places[namespace, sid]
        super().basic_leave_room(sid, namespace, room)
        if room in self.rooms.get(namespace, ()):
            return
        if room is None:
            self._channels.release(self._names.namespace(namespace))
        elif room != sid:
            self._channels.release(self._names.room(namespace, room))

    def get_rooms(self, sid: str, namespace: str) -> list[Room]:
        """Return the rooms of a client of this node."""
        return [room for room in self._places.get((namespace, sid), ()) if room is not None]

    def _is_here(self, sid: str, namespace: str) -> bool:
        return (namespace, sid) in self._places

    async def _ask(self, node: str, message: EnterRoom | LeaveRoom) -> None:
        """Ask another node for something, and wait until it is done. Without ears, only ask."""
        channels, number = (self._names.node(node),), next(self._numbers)
        if self.write_only:
            await self._publish(channels, message, number)
            return
        await self._listening()
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                if not await self._publish(channels, message, number):
                    return  # the node is gone, and its clients with it
                if await answer:
                    return
        except TimeoutError:
            pass
        finally:
            del self._asked[number]
        raise Unavailable("the client's node did not confirm it; try again in a moment")

    # --- emits -----------------------------------------------------------------------------------------

    async def emit(
        self,
        event: str,
        data: object = None,
        namespace: str | None = None,
        room: Room | Iterable[Room] | None = None,
        skip_sid: str | Iterable[str] | None = None,
        callback: Callable[..., Any] | None = None,
        to: Room | Iterable[Room] | None = None,
        **options: Any,
    ) -> None:
        """Send an event to a client, to rooms (once to each member), or to a whole namespace, on all nodes.

        Args:
            event: its name.
            data: its argument; a tuple is several.
            namespace: where; `/` if not given.
            room: a client's id, a room's name, or several of them; None is everybody.
            skip_sid: clients that do not get it.
            callback: called with what the client acknowledges; of several clients, with the first answer.
            to: the same as `room`.
            options: `ignore_queue=True` leaves the other nodes out.

        Raises:
            RuntimeError: for a callback where there is no server.
            ValueError: for a callback without a room.
            Unavailable: when Redis did not take it: other nodes may not have it, members on this node do.
        """
        namespace = namespace or "/"
        rooms = _listed(room if to is None else to)
        channels = () if options.get("ignore_queue") else self._channels_to(namespace, rooms)
        question = None
        if callback is not None:
            question = secrets.randbits(_ACK_BITS)
            if channels:
                await self._expect(question, callback, rooms)
                callback = partial(self._answered, question)
        frames = self._encode(wire.EVENT, [event, *_arguments(data)], namespace, question)
        message = Emit(namespace, rooms, _skipped(skip_sid), frames, question)
        self._deliver(message, callback)
        if channels:
            await self._publish(channels, message)

    async def _expect(self, question: int, callback: Callable[..., Any], rooms: list[Room] | None) -> None:
        if self.server is None or self.write_only:
            raise RuntimeError("Callbacks can only be issued from the context of a server.")
        if rooms is None:
            raise ValueError("Cannot use callback without a room set.")
        await self._listening()
        self._questions[question] = callback
        _bound(self._questions, MAX_QUESTIONS)

    def _encode(self, kind: int, data: list[Any], namespace: str, packet_id: int | None) -> list[Frame]:
        packet_class = self._serializer if self.server is None else self.server.packet_class
        encoded = packet_class(kind, namespace=namespace, data=data, id=packet_id).encode()
        return encoded if isinstance(encoded, list) else [encoded]

    def _deliver(self, message: Emit, callback: Callable[..., Any] | None) -> None:
        """Queue a packet for the members on this node: encoded once, in this step, its attachments behind it."""
        packets = [engine_wire.Packet(engine_wire.MESSAGE, frame) for frame in message.frames]
        for sid, eio_sid in self._members(message.namespace, message.rooms).items():
            session = self.server.eio.sockets.get(eio_sid)
            if session is None or session.closed or sid in message.skip:
                continue
            if callback is not None and message.question is not None:
                owed = self.callbacks.setdefault(sid, {})
                owed[message.question] = callback
                _bound(owed, MAX_QUESTIONS_PER_CLIENT)
            for packet in packets:
                session.queue.put_nowait(packet)

    def _members(self, namespace: str, rooms: list[Room] | None) -> Mapping[str, str]:
        """Return the clients of this node in any of these rooms, and their Engine.IO sessions."""
        here: dict[Room | None, Mapping[str, str]] = self.rooms.get(namespace, {})
        if rooms is None:
            return here.get(None, {})
        if len(rooms) == 1:
            return here.get(rooms[0], {})
        return {sid: eio_sid for room in rooms for sid, eio_sid in here.get(room, {}).items()}

    # --- acknowledgements ------------------------------------------------------------------------------

    async def trigger_callback(self, sid: str, id: int, data: list[Any]) -> None:  # noqa: A002  as the library has it
        """Call back whoever waits for this acknowledgement of a client of this node; ignore one that nobody asked."""
        callback = self.callbacks.get(sid, {}).pop(id, None)
        if callback is None:
            _log.info("acknowledgement_ignored", session=sid)
            return
        await _called(callback, data)

    async def _answered(self, question: int, *data: Any) -> None:
        callback = self._questions.pop(question, None)
        if callback is not None:  # else another client was faster
            await _called(callback, data)

    async def _return_answer(self, origin: str, question: int, namespace: str, *data: Any) -> None:
        frames = self._encode(wire.ACK, list(data), namespace, question)
        await self._reply(origin, Answer(question, frames))

    def _read_answer(self, message: Answer) -> None:
        if message.question not in self._questions:
            return
        try:
            packet = self.server.packet_class(encoded_packet=message.frames[0])
            for attachment in message.frames[1:]:
                packet.add_attachment(attachment)
        except Exception:  # each packet class has its own
            self.garbage += 1
            return
        self._in_background(self._answered(message.question, *(packet.data or ())))

    # --- what other nodes say --------------------------------------------------------------------------

    def _hear(self, data: bytes) -> None:
        """Act on a message. What must await goes on in the background; emits never do, which keeps them in order."""
        if data.startswith(self._head):
            return
        try:
            origin, number, message = relay.decode(data)
        except relay.Garbage:
            self.garbage += 1
            return
        if not self._seen.first_time(origin, number):
            return
        match message:
            case Emit(namespace=namespace, question=question):
                asking = None if question is None else partial(self._return_answer, origin, question, namespace)
                self._deliver(message, asking)
            case CloseRoom(namespace, room):
                self.basic_close_room(room, namespace)
            case EnterRoom():
                self._in_background(self._enter_for(origin, number, message))
            case LeaveRoom(namespace, sid, room):
                self.basic_leave_room(sid, namespace, room)
                self._in_background(self._reply(origin, Done(number, True)))
            case Disconnect(namespace, sid):
                self._in_background(self.server.disconnect(sid, namespace=namespace, ignore_queue=True))
            case Answer():
                self._read_answer(message)
            case Done(asked, ok):
                answer = self._asked.get(asked)
                if answer is not None and not answer.done():
                    answer.set_result(ok)

    async def _enter_for(self, origin: str, number: int, message: EnterRoom) -> None:
        ok = True
        try:
            await self._enter_here(message.sid, message.namespace, message.room)
        except (Unavailable, ValueError) as error:
            ok = False
            _log.warning("a client could not enter a room for another node", session=message.sid, error=str(error))
        await self._reply(origin, Done(number, ok))

    async def _reply(self, origin: str, message: Answer | Done) -> None:
        try:
            await self._publish((self._names.node(origin),), message)
        except (ThreadlineError, ValueError, OverflowError) as error:
            _log.warning("another node could not be answered", node=origin, error=repr(error))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._tasks) >= MAX_REQUESTS:
            self.refused += 1
            work.close()
            return
        task = asyncio.create_task(work, name="relay")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a request of another node failed", error=repr(error), exc_info=error)


def _check_room(room: object) -> None:
    if not isinstance(room, str | int) or isinstance(room, bool):  # True is 1 in a dict, and another name elsewhere
        raise ValueError(f"room: expected a str or an int, got {type(room).__name__}; name it by its str()")


def _listed(rooms: Room | Iterable[Room] | None) -> list[Room] | None:
    if rooms is None:
        return None
    listed: list[Room] = [rooms] if isinstance(rooms, str | int) else list(rooms)
    for room in listed:
        _check_room(room)
    return listed


def _skipped(sids: str | Iterable[str] | None) -> list[str]:
    if sids is None:
        return []
    return [sids] if isinstance(sids, str) else [sid for sid in sids if sid is not None]


def _arguments(data: object) -> list[Any]:
    if isinstance(data, tuple):
        return list(data)
    return [] if data is None else [data]


def _bound(found: dict[int, Any], most: int) -> None:
    if len(found) > most:
        del found[next(iter(found))]


async def _called(callback: Callable[..., Any], data: Iterable[Any]) -> None:
    result = callback(*data)
    if inspect.isawaitable(result):
        await result
