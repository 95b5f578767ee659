"""Gateways in a test's hand: they speak the protocol over real sockets, and misbehave as they are told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import socketio  # type: ignore[import-untyped]
import uvicorn

Fields = dict[str, Any]
Answer = dict[str, Any]


class ScriptedThread:
    """What every gateway knows of one thread."""

    def __init__(self, thread_id: str) -> None:
        self.id = thread_id
        self.epoch = "e1"
        self.log: list[Fields] = []
        self.top = 0
        self.messages: list[Fields] = []
        self.turn: Fields | None = None
        self.status: Fields = {"running": None, "state": "idle", "lanes": {}}
        """What `queue:status` is answered."""

    def snapshot(self) -> Fields:
        return {"messages": list(self.messages), "turn": self.turn}


class Deployment:
    """The log that scripted gateways share, and the test's pen to write in it."""

    def __init__(self) -> None:
        self.threads: dict[str, ScriptedThread] = {}
        self.gateways: list[ScriptedGateway] = []
        self.starts: list[Fields] = []
        self.cancels: list[Fields] = []
        self.answered: dict[str, Answer] = {}
        self.on_start: Callable[[ScriptedThread, str, Fields], None] = lambda thread, request_id, payload: None
        self.taken = asyncio.Event()
        """Set once a message has been taken."""
        self._numbers = itertools.count(1)

    def thread(self, thread_id: str) -> ScriptedThread:
        return self.threads.setdefault(thread_id, ScriptedThread(thread_id))

    async def emit(self, thread_id: str, request_id: str, name: str, **fields: Any) -> Fields:
        """Append an event and deliver it through every gateway."""
        event = self.append(thread_id, request_id, name, **fields)
        for gateway in self.gateways:
            await gateway.deliver(thread_id, event)
        return event

    def append(self, thread_id: str, request_id: str, name: str, **fields: Any) -> Fields:
        """Append an event that nobody is told of: the log has it, the wire lost it."""
        thread = self.thread(thread_id)
        thread.top += 1
        event = {
            "event": name,
            "client_id": "c",
            "thread_id": thread_id,
            "request_id": request_id,
            "epoch": thread.epoch,
            "offset": thread.top,
            "seq": thread.top,
            "ts": 1,
            **fields,
        }
        thread.log.append(event)
        return event

    async def say(self, thread_id: str, request_id: str, *pieces: str) -> None:
        for piece in pieces:
            await self.emit(thread_id, request_id, "text_delta", delta=piece, round=1)

    async def start(self, payload: Fields) -> Answer:
        self.starts.append(payload)
        key = payload["client_message_id"]
        if key not in self.answered:
            thread, request_id = self.thread(payload["thread_id"]), f"r{next(self._numbers)}"
            queued = payload.get("queue_mode") == "followup"
            name = "queue_item_queued" if queued else "chat_accepted"
            event = await self.emit(thread.id, request_id, name, message=payload["message"], client_message_id=key)
            self.answered[key] = {
                "ok": True,
                "state": "queued" if queued else "accepted",
                "thread_id": thread.id,
                "request_id": request_id,
                "client_id": "c",
                "epoch": thread.epoch,
                "offset": event["offset"],
            }
            self.on_start(thread, request_id, payload)
            self.taken.set()
        return self.answered[key]


class ScriptedGateway:
    """One node. Set `refusals`, `deaf_to`, `on_deliver`, `refuse_connect`, `cuts_at_connect` to make it misbehave."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.calls: Counter[str] = Counter()
        self.subscribes: list[Fields] = []
        self.tokens: list[object] = []
        self.refusals: dict[str, list[Fields]] = defaultdict(list)
        """Errors to answer with, per verb, one per call."""
        self.deaf_to: set[str] = set()
        """Verbs that are done, but whose acknowledgement is lost together with the connection, once."""
        self.on_deliver: Callable[[Fields], list[Fields]] = lambda event: [event]
        """What becomes of a live event: `[]` loses it, twice the same doubles it."""
        self.refuse_connect: Fields | None = None
        self.cuts_at_connect = 0
        """How many clients lose their transport in place of an answer to their CONNECT, as at a node that stops."""
        self.recovers = True
        self.sends_again = True
        """False: a member is never sent again what was sent to its connection, even when it asks."""
        self.before_status: Callable[[], Awaitable[object]] | None = None
        """What happens in the thread just before a `queue:status` is answered."""
        self._asked: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.members: dict[str, set[str]] = defaultdict(set)
        self.url = ""
        self._sio = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins=[])
        self._server: _Quiet | None = None
        self._task: asyncio.Task[None] | None = None
        self._handlers()

    def _handlers(self) -> None:
        @self._sio.event  # type: ignore[untyped-decorator]
        async def connect(sid: str, environ: Fields, auth: Fields | None) -> None:
            self.tokens.append((auth or {}).get("token"))
            if self.cuts_at_connect:
                self.cuts_at_connect -= 1
                self.cut()
            if self.refuse_connect is not None:
                raise socketio.exceptions.ConnectionRefusedError(self.refuse_connect["code"], self.refuse_connect)

        @self._sio.event  # type: ignore[untyped-decorator]
        async def disconnect(sid: str, reason: str) -> None:
            for members in self.members.values():
                members.discard(sid)

        for verb, handler in {
            "chat:start": self._start,
            "chat:cancel": self._cancel,
            "thread:subscribe": self._subscribe,
            "thread:unsubscribe": self._unsubscribe,
            "thread:history": self._history,
            "queue:status": self._status,
            "auth:refresh": self._refresh,
        }.items():
            self._sio.on(verb, self._wrap(verb, handler))

    def _wrap(self, verb: str, handler: Callable[[str, Fields], Any]) -> Callable[[str, Fields], Any]:
        async def answer(sid: str, payload: Fields) -> Answer:
            self.calls[verb] += 1
            if self.refusals[verb]:
                return {"ok": False, "error": self.refusals[verb].pop(0)}
            told: Answer = await handler(sid, payload)
            self._asked[verb].set()
            if verb in self.deaf_to:
                self.deaf_to.discard(verb)
                self.cut()
            return told

        return answer

    async def _start(self, sid: str, payload: Fields) -> Answer:
        self.members[payload["thread_id"]].add(sid)
        return await self.deployment.start(payload)

    async def _cancel(self, sid: str, payload: Fields) -> Answer:
        self.deployment.cancels.append(payload)
        thread = self.deployment.threads.get(payload["thread_id"])
        if thread is None or thread.turn is None:
            return {"ok": True, "cancelled": False, "request_id": None, "state": "none"}
        request_id, thread.turn = thread.turn["request_id"], None
        await self.deployment.emit(
            thread.id, request_id, "chat_error", error_type="cancelled", message="The turn was cancelled."
        )
        return {"ok": True, "cancelled": True, "request_id": request_id, "state": "running"}

    async def _subscribe(self, sid: str, payload: Fields) -> Answer:
        self.subscribes.append(payload)
        thread = self.deployment.threads.get(payload["thread_id"])
        if thread is None:
            return {"ok": False, "error": {"code": "not_found", "message": "no such thread", "retryable": False}}
        member = sid in self.members[thread.id]
        self.members[thread.id].add(sid)
        answer = {"ok": True, "joined": True, "thread_id": thread.id, "epoch": thread.epoch, "offset": thread.top}
        if "epoch" not in payload:
            return answer | {"recovered": None, "snapshot": thread.snapshot()}
        if payload["epoch"] != thread.epoch or not self.recovers:
            return answer | {"recovered": False, "snapshot": thread.snapshot()}
        for event in thread.log if self.sends_again or not member else []:
            if payload["after"] < event["offset"] <= answer["offset"]:
                await self._sio.emit(event["event"], event, to=sid)
        return answer | {"recovered": True}

    async def _unsubscribe(self, sid: str, payload: Fields) -> Answer:
        self.members[payload["thread_id"]].discard(sid)
        return {"ok": True, "joined": False}

    async def _history(self, sid: str, payload: Fields) -> Answer:
        thread = self.deployment.threads.get(payload["thread_id"])
        if thread is None:
            return {"ok": False, "error": {"code": "not_found", "message": "no such thread", "retryable": False}}
        return {"ok": True, "messages": thread.messages}

    async def _status(self, sid: str, payload: Fields) -> Answer:
        if self.before_status is not None:
            await self.before_status()
        return {"ok": True, **self.deployment.thread(payload["thread_id"]).status}

    async def _refresh(self, sid: str, payload: Fields) -> Answer:
        self.tokens.append(payload["token"])
        return {"ok": True, "expires_at": None}

    async def deliver(self, thread_id: str, event: Fields) -> None:
        for told in self.on_deliver(event):
            for sid in tuple(self.members[thread_id]):
                await self._sio.emit(told["event"], told, to=sid)
                await self._sio.emit(told["event"].replace("_", ":"), told, to=sid)

    async def asked(self, verb: str) -> None:
        """Wait until a verb has been asked for and its answer decided."""
        await self._asked[verb].wait()

    async def tell_all(self, name: str, fields: Fields) -> None:
        """Send a frame that is not an entry of any log."""
        await self._sio.emit(name, fields)

    async def open(self, port: int = 0) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(socketio.ASGIApp(self._sio), lifespan="off", log_config=None, ws="websockets-sansio")
        self._server = _Quiet(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        await self._server.up.wait()

    def cut(self) -> None:
        """Drop every connection without a farewell; the node goes on listening."""
        assert self._server is not None
        for connection in tuple(self._server.server_state.connections):
            connection.transport.abort()

    async def kill(self) -> None:
        """Drop every connection and stop listening."""
        if self._server is None or self._task is None:
            return
        if self in self.deployment.gateways:
            self.deployment.gateways.remove(self)
        for server in self._server.servers:
            server.close()
        self.cut()
        self._server.should_exit = self._server.force_exit = True
        await self._task
        self._server = None
        await self._sio.shutdown()


class _Quiet(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the test runner."""
        yield


@asynccontextmanager
async def gateways(count: int) -> AsyncIterator[tuple[Deployment, list[ScriptedGateway]]]:
    """Run a deployment of so many gateways; what is left of it is killed at the end."""
    deployment = Deployment()
    nodes = [ScriptedGateway(deployment) for _ in range(count)]
    try:
        for node in nodes:
            await node.open()
            deployment.gateways.append(node)
        yield deployment, nodes
    finally:
        await asyncio.gather(*(node.kill() for node in nodes))
