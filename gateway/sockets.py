"""Sockets: the Socket.IO side of a node. One `Socket` for each connected client, and the verbs that it may call."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from engineio import packet as engine_packet  # type: ignore[import-untyped]  # the library has no types
from socketio.exceptions import ConnectionRefusedError as Refused  # type: ignore[import-untyped]

from backplane.errors import Internal, RateLimited, ThreadlineError, UnknownEvent
from backplane.events import DELTAS, Event
from backplane.settings import Settings
from gateway import payloads
from gateway.audit import HERE, Where
from gateway.auth import Authenticator, Identity
from gateway.callers import Callers
from gateway.limits import Bucket
from gateway.metrics import GONE, Metrics
from gateway.node import Node
from gateway.packets import GuardedServer
from gateway.room import Room
from gateway.rpc import ERROR, REQUEST, RESPONSE, Rpc
from gateway.verbs import Ack, Verbs
from gateway.websocket import text_frame

_log = structlog.get_logger("gateway.sockets")
_PATIENCE = 20.0
"""Seconds that a socket may read nothing; then it is cut, and resumes when it comes back."""
_AGAIN_MS = 1000
"""When a socket with too many unanswered calls should call again. One takes milliseconds: something holds them up."""
_AWAY = 1012
"""WebSocket close code "service restart" (RFC 6455, IANA registry): clients come back by themselves."""
_NOTICE = 0.2
"""Part of a drain in which the node is unready and goes on as before: whoever balances the load must have seen it
before the first client comes back, or it would send that client here again. Until then it sends new ones here, too, and
these are taken in like any other: they leave with the rest."""
_WAVES = 100
"""Groups in which the transports are closed; few clients go one by one."""


class Encoded:
    """An event as clients get it, under its name and its alias: made once for all sockets of a node."""

    __slots__ = ("_packets", "_texts", "frame")

    def __init__(self, event: Event, aliases: bool) -> None:
        name = event.name.encode()
        self._texts = [b'2["' + name + b'",' + event.raw + b"]"]
        if aliases and "_" in event.name and event.name not in DELTAS:
            self._texts.append(b'2["' + name.replace(b"_", b":") + b'",' + event.raw + b"]")
        self.frame = b"".join([text_frame(b"4" + text) for text in self._texts])
        """As WebSocket frames."""
        self._packets: list[Any] | None = None

    @property
    def packets(self) -> list[Any]:
        """As Engine.IO packets, for sockets that are not written to directly."""
        if self._packets is None:
            self._packets = [engine_packet.Packet(engine_packet.MESSAGE, text.decode()) for text in self._texts]
        return self._packets


class Socket:
    """One connected client: who it is, and where its events go. A member of rooms."""

    def __init__(self, server: GuardedServer, settings: Settings, sid: str, eio_sid: str) -> None:
        self.sid = sid
        self.eio_sid = eio_sid
        self.identity: Identity
        self.bucket = Bucket.of(settings)
        # calls are answered in the order in which they came: a cancel that follows a start must find it
        self.order = asyncio.Lock()
        self.rooms: set[Room] = set()
        self.gone = False
        self.calls = 0
        """Those that are done, or wait for their turn."""
        self.expiry: asyncio.TimerHandle | None = None
        self._server = server
        self._session = server.eio.sockets[eio_sid]
        self.where = Where(self._session.address, sid)
        self._aliases = settings.aliases
        self._lost: asyncio.Task[None] | None = None

    def send(self, event: Event) -> bool:
        """Send an event, encoded once for all sockets of the node."""
        if event.encoded is None:
            event.encoded = Encoded(event, self._aliases)
        return self._session.write(event.encoded)  # type: ignore[no-any-return]  # the library has no types

    async def drained(self) -> bool:
        """Wait until the client has read what waits for it; False when it has not for long, or is gone."""
        return await self._session.drained(_PATIENCE)  # type: ignore[no-any-return]  # likewise

    async def has_room(self) -> bool:
        """Wait until the client has read its last answers; False when it is gone, or must be: it reads none."""
        if self.gone or await self._session.has_room(_PATIENCE):
            return not self.gone
        self.lose("reads no answers")
        return False

    def lose(self, reason: str) -> None:
        """Close the transport: a client comes back by itself, with its cursor."""
        if self._lost is None:
            self._lost = asyncio.create_task(self._server.cut(self.eio_sid, reason, _AWAY), name=f"cut-{self.sid}")


class Sockets:
    """All sockets of a node."""

    def __init__(
        self,
        server: GuardedServer,
        settings: Settings,
        authenticator: Authenticator,
        verbs: Verbs,
        node: Node,
        metrics: Metrics,
        callers: Callers,
    ) -> None:
        self._server = server
        self._settings = settings
        self._authenticator = authenticator
        self._verbs = verbs
        self._node = node
        self._metrics = metrics
        self._callers = callers
        self._sockets: dict[str, Socket] = {}
        self._rpc = Rpc(settings, verbs)
        self._handlers: dict[str, Callable[[Socket, Any], Awaitable[Ack]]] = {
            "chat:start": self._start,
            "chat:cancel": lambda socket, asked: verbs.cancel(socket.identity, asked),
            "thread:subscribe": self._subscribe,
            "thread:unsubscribe": self._unsubscribe,
            "thread:history": lambda socket, asked: verbs.history(socket.identity, asked),
            "thread:list": lambda socket, asked: verbs.threads(socket.identity, asked),
            "thread:rename": lambda socket, asked: verbs.rename(socket.identity, asked),
            "thread:delete": lambda socket, asked: verbs.delete(socket.identity, asked),
            "thread:edit": lambda socket, asked: verbs.edit(socket.identity, asked, socket.sid, socket),
            "thread:presence": lambda socket, asked: verbs.presence(socket.identity, asked),
            "queue:status": lambda socket, asked: verbs.queue_status(socket.identity, asked),
            "queue:clear": lambda socket, asked: verbs.queue_clear(socket.identity, asked),
            "queue:remove": lambda socket, asked: verbs.queue_remove(socket.identity, asked),
            "approval:decide": lambda socket, asked: verbs.decide(socket.identity, asked),
            "auth:refresh": self._refresh,
        }
        server.on("connect", self._connect)
        server.on("disconnect", self._disconnect)
        server.on("*", self._call)

    def __len__(self) -> int:
        return len(self._sockets)

    async def unplug(self, sid: str) -> bool:
        """Drop the transport of a socket, as a bad network does; False when this node has none of that name."""
        socket = self._sockets.get(sid)
        if socket is not None:
            socket.lose("unplugged")
        return socket is not None

    def end(self, whose: Callable[[Identity], bool]) -> None:
        """Tell sockets of these people that their token was taken back, and close them."""
        for socket in list(self._sockets.values()):
            if not socket.gone and whose(socket.identity):
                notice = {"message": "the token was taken back; sign in again for a new one"}
                self._server.tell(socket.eio_sid, "auth_revoked", notice)
                socket.lose("token revoked")

    # --- coming and going ------------------------------------------------------------------------------

    async def _connect(self, sid: str, environ: dict[str, Any], auth: object) -> None:
        eio_sid = self._server.manager.eio_sid_from_sid(sid, "/")
        if self._server.eio.is_leaving:
            # its handshake was let in just before. A refusal in words would make the JavaScript client stay away; a
            # lost transport lets it move on
            await self._server.cut(eio_sid, "draining", _AWAY)
            raise Refused("unavailable")
        token = auth.get("token") if isinstance(auth, dict) else None
        try:
            identity = await self._authenticator.authenticate(token)
        except ThreadlineError as error:
            raise _refused(error) from None
        if eio_sid not in self._server.eio.sockets:
            raise Refused("unavailable")
        try:
            self._callers.enter(identity)
        except ThreadlineError as error:
            raise _refused(error) from None
        socket = Socket(self._server, self._settings, sid, eio_sid)
        self._sockets[sid] = socket
        self._identify(socket, identity)
        # an event that is sent here would leave before the CONNECT packet, which follows in this step of the loop
        asyncio.get_running_loop().call_soon(self._greet, socket)

    def _greet(self, socket: Socket) -> None:
        self._server.tell(socket.eio_sid, "ready", {"sid": socket.sid})
        if not socket.gone:
            self._node.degraded.add(socket)

    def _identify(self, socket: Socket, identity: Identity) -> None:
        socket.identity = identity
        if socket.expiry is not None:
            socket.expiry.cancel()
            socket.expiry = None
        if identity.expires_at is not None:
            wait = max(0.0, identity.expires_at - time.time())
            socket.expiry = asyncio.get_running_loop().call_later(wait, self._expired, socket)

    def _expired(self, socket: Socket) -> None:
        grace = self._settings.expiry_grace
        socket.expiry = asyncio.get_running_loop().call_later(grace, socket.lose, "token expired")
        notice = {"message": "the token has expired; send auth:refresh with a new one", "grace_s": grace}
        self._server.tell(socket.eio_sid, "auth_expired", notice)

    async def _disconnect(self, sid: str, reason: str) -> None:
        socket = self._sockets.pop(sid, None)
        if socket is None:
            return
        self._callers.leave(socket.identity)
        if socket.expiry is not None:
            socket.expiry.cancel()
        # closing the tab never stops the turn: only its places in the rooms are given up
        socket.gone = True
        self._node.degraded.remove(socket)
        for room in list(socket.rooms):
            room.remove(socket)

    async def drain(self, seconds: float) -> None:
        """Close all transports, spread over some seconds, so that the other nodes are not stormed.

        New clients are taken in until the first one is sent away, and from then on sent to another node.
        """
        if self._sockets:
            await asyncio.sleep(seconds * _NOTICE)
        self._server.eio.is_leaving = True
        sockets = list(self._sockets.values())
        random.shuffle(sockets)
        at_once = math.ceil(len(sockets) / _WAVES)
        pause = seconds * (1 - _NOTICE) * at_once / max(len(sockets), 1)
        for start in range(0, len(sockets), at_once or 1):
            for socket in sockets[start : start + at_once]:
                socket.lose("draining")
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    # --- calls -----------------------------------------------------------------------------------------

    async def _call(self, event: str, sid: str, payload: object) -> Ack | None:
        socket = self._sockets.get(sid)
        if socket is None:
            return None
        HERE.set(socket.where)
        if event == REQUEST:
            await self._answer_rpc(socket, payload)
            return None
        handler = self._handlers.get(event)
        code = "ok"
        try:
            self._count(socket)
            if handler is None:
                raise UnknownEvent("expected the name of an event of this protocol; see docs/protocol.md")
            asked = payloads.parse(event, payload, self._settings)
            # nothing is awaited behind the handler: its acknowledgement comes before any later event
            ack = await self._do(socket, lambda: handler(socket, asked))
            code = "ok" if ack is not None else GONE
            return ack
        except ThreadlineError as error:
            code = error.code
            raise
        finally:
            self._metrics.calls.labels(event if handler else "unknown", code).inc()

    async def _do(self, socket: Socket, call: Callable[[], Awaitable[Ack]]) -> Ack | None:
        """Do a call when those before it are done and their answers read; None when its socket has left by then."""
        socket.calls += 1
        try:
            async with socket.order:
                # What still waits when its socket leaves is not begun, a start neither. Nobody was told that
                # it was done, and a client that comes back repeats it with the same client_message_id. Done late it
                # could overtake what the client has asked of another node since. And a socket that was closed because
                # its token has ended or was taken back has no right to anything more. What has begun goes on.
                return await call() if await socket.has_room() else None
        finally:
            socket.calls -= 1

    def _count(self, socket: Socket) -> None:
        try:
            most = self._settings.calls_burst
            if socket.calls >= most:  # they wait for the first of them, and each holds its payload
                raise RateLimited(
                    f"expected at most {most} calls that are not answered yet, got one more; wait for an answer",
                    retry_after_ms=_AGAIN_MS,
                )
            socket.bucket.take()
        except RateLimited:
            self._metrics.limited.labels("socket").inc()
            raise
        self._callers.take(socket.identity)

    async def _answer_rpc(self, socket: Socket, request: object) -> None:
        name, code = ERROR, "ok"
        answer: dict[str, Any] = {"id": self._rpc.id_of(request)}
        try:
            self._count(socket)
            result = await self._do(socket, lambda: self._rpc.call(socket.identity, request, socket.sid, socket))
            if result is None:
                self._metrics.calls.labels(REQUEST, GONE).inc()
                return
            name, answer["result"] = RESPONSE, result
        except ThreadlineError as error:
            code, answer["error"] = error.code, self._rpc.error(error)
        except Exception:
            _log.exception("a request failed", sid=socket.sid)
            failed = Internal("the gateway failed to handle this call; try again in a moment")
            code, answer["error"] = failed.code, self._rpc.error(failed)
        self._metrics.calls.labels(REQUEST, code).inc()
        await self._server.emit(name, answer, to=socket.sid)

    async def _start(self, socket: Socket, asked: payloads.ChatStart) -> Ack:
        return await self._verbs.start(socket.identity, asked, socket.sid, socket)

    async def _subscribe(self, socket: Socket, asked: payloads.ThreadSubscribe) -> Ack:
        return await self._verbs.subscribe(socket.identity, asked, socket)

    async def _unsubscribe(self, socket: Socket, asked: payloads.ThreadUnsubscribe) -> Ack:
        return self._verbs.unsubscribe(socket.identity, asked, socket)

    async def _refresh(self, socket: Socket, asked: payloads.AuthRefresh) -> Ack:
        identity = await self._authenticator.refresh(socket.identity, asked.token)
        if not socket.gone:  # else nobody would end the timer, and it holds the socket for as long as the token counts
            self._identify(socket, identity)
        return {"ok": True, "expires_at": identity.expires_at}


def _refused(error: ThreadlineError) -> Refused:
    return Refused(error.code, error.as_dict())  # JavaScript has them as err.message and err.data
