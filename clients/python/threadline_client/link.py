"""One Socket.IO connection to one gateway, from its handshake to its end. It never comes back: see connection.py."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import socketio  # type: ignore[import-untyped]  # python-socketio ships no types

from threadline_client.errors import ClientError, Refused, refusal

CONNECT_TIMEOUT = 5.0
"""Seconds for TCP, WebSocket and Socket.IO handshakes together; a node that needs more is not well."""
CALL_TIMEOUT = 10.0
"""Seconds for an acknowledgement: twice what a gateway itself gives Redis for one command."""
CLOSE_TIMEOUT = 2.0
"""Seconds for a farewell; a dead node never answers it."""
PING_INTERVAL = 10.0
"""Seconds between WebSocket pings, so that a frozen node is noticed long before Engine.IO's 45 seconds."""
MAX_FRAME = 64 * 1024 * 1024
"""Bytes. aiohttp stops at 4 MiB, which is less than a snapshot of long messages may take."""

_log = logging.getLogger("threadline_client")
_log.addHandler(logging.NullHandler())

FrameHandler = Callable[[str, object], None]
AnswerHandler = Callable[[Mapping[str, Any]], None]


class LinkLost(ClientError):
    """The connection ended, or did not come about; another one may do better."""


class _Sockets:
    """A session that keeps the WebSocket it opened: the library forgets one that breaks off before its greeting."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.websocket: aiohttp.ClientWebSocketResponse | None = None
        self._session = session

    async def ws_connect(self, *given: Any, **options: Any) -> aiohttp.ClientWebSocketResponse:
        """Open the WebSocket."""
        self.websocket = await self._session.ws_connect(*given, **options)
        return self.websocket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class Link:
    """A live connection. `gone` is set once, when it ends, for whatever reason."""

    def __init__(self, url: str, session: aiohttp.ClientSession, on_frame: FrameHandler) -> None:
        self.url = url
        self.gone = asyncio.Event()
        self.reason = "closed"
        self._waiting: set[asyncio.Future[Mapping[str, Any]]] = set()
        self._told = asyncio.Event()
        """The gateway has let us in, or refused us."""
        self._refused: Refused | None = None
        self._sockets = _Sockets(session)
        self._sio = socketio.AsyncClient(
            reconnection=False,  # connection.py decides, and it alone
            handle_sigint=False,  # signals belong to the program
            logger=_log,
            engineio_logger=_log,
            http_session=self._sockets,
            request_timeout=CLOSE_TIMEOUT,
            websocket_extra_options={"max_msg_size": MAX_FRAME, "heartbeat": PING_INTERVAL},
        )
        # Plain functions, not coroutines: frames then pass in the order in which they came.
        self._sio.on("*", lambda name, *args: on_frame(name, args[0] if args else None))
        self._sio.on("disconnect", lambda *reason: self.cut(str(reason[0]) if reason else "closed"))
        self._sio.on("connect", self._told.set)
        self._sio.on("connect_error", self._connect_error)

    async def open(self, token: str | None) -> None:
        """Shake hands.

        Raises:
            Refused: when the gateway answered and said no.
            LinkLost: when it could not be reached.
        """
        path = urlsplit(self.url).path.strip("/")
        try:
            with _heeding_cancels():
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    await self._sio.connect(
                        self.url,
                        auth={} if token is None else {"token": token},
                        transports=["websocket"],
                        socketio_path=f"{path}/socket.io" if path else "socket.io",
                        wait=False,  # it would not notice when the transport ends before the answer
                    )
                    await self._answered()
        except Exception as error:  # the library raises what it likes about a gateway that breaks off in mid-word
            await self.close()
            if self._refused is None:
                raise LinkLost(f"{self.url}: {error or type(error).__name__}") from None
        except BaseException:
            await self.close()
            raise
        if self._refused is not None:
            await self.close()
            raise self._refused
        if self._sio.get_sid() is None or self._sio.eio.state != "connected":
            await self.close()
            raise LinkLost(f"{self.url}: the gateway closed the connection at once")

    async def _answered(self) -> None:
        """Wait until the gateway has let us in or refused us, or the transport has ended, as a node's that stops."""
        told = asyncio.create_task(self._told.wait())
        try:
            await asyncio.wait({told, self._sio.eio.read_loop_task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()

    async def call(
        self, event: str, payload: Mapping[str, Any], *, on_answer: AnswerHandler | None = None
    ) -> Mapping[str, Any]:
        """Return the acknowledgement of a call.

        `on_answer` is called with it in its place among the frames: before it all that came earlier, after
        it all that comes later. A gateway that does not answer in time is given up.

        Raises:
            LinkLost: when the connection ended first.
        """
        if self.gone.is_set():
            raise LinkLost(f"{self.url}: {self.reason}")
        answered: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.add(answered)

        def take(*args: object) -> None:
            answer = args[0] if args and isinstance(args[0], dict) else {"ok": False, "error": None}
            if not answered.done():
                if on_answer is not None:
                    on_answer(answer)
                answered.set_result(answer)

        try:
            await self._sio.emit(event, dict(payload), callback=take)
            async with asyncio.timeout(CALL_TIMEOUT):
                return await answered
        except TimeoutError:
            self.cut(f"no answer to {event} in {CALL_TIMEOUT:g} s")
            raise LinkLost(f"{self.url}: {self.reason}") from None
        except socketio.exceptions.SocketIOError as error:
            self.cut(str(error))
            raise LinkLost(f"{self.url}: {error}") from None
        finally:
            self._waiting.discard(answered)

    async def tell(self, event: str, payload: Mapping[str, Any]) -> None:
        """Send a call whose answer does not matter; a connection that is gone is no error."""
        with suppress(socketio.exceptions.SocketIOError):
            await self._sio.emit(event, dict(payload))

    def cut(self, reason: str) -> None:
        """Give the connection up; calls that wait raise `LinkLost`."""
        if self.gone.is_set():
            return
        self.reason = reason
        self.gone.set()
        for answered in self._waiting:
            if not answered.done():
                answered.set_exception(LinkLost(f"{self.url}: {reason}"))

    async def close(self) -> None:
        """End the connection and free what it holds, also when the other side is dead."""
        self.cut("closed")
        with _heeding_cancels(), suppress(Exception):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._sio.disconnect()
                # engineio leaves the WebSocket open when it gave up on a silent server.
                if self._sockets.websocket is not None:
                    await self._sockets.websocket.close()

    def _connect_error(self, data: object = None) -> None:
        # `{message: code, data: {code, message, retryable}}` when the gateway refused; else a transport's text.
        self._told.set()
        if not isinstance(data, dict):
            return
        inside = data.get("data")
        told = {"code": data.get("message"), **(inside if isinstance(inside, dict) else {})}
        self._refused = refusal(told)


@contextmanager
def _heeding_cancels() -> Iterator[None]:
    """Raise a cancellation of this task that a library kept to itself in this block.

    `asyncio.wait_for` of Python 3.11, which python-socketio and engineio wait with, drops one that comes in the
    moment of its result (https://github.com/python/cpython/issues/86296), and engineio's loops end on one as on any
    farewell. The task would go on, and whoever ends it would wait for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    yield
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
