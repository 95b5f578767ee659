"""HTTP: the same verbs as the socket's, the log as server-sent events, health and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from backplane.errors import Internal, InvalidPayload, ThreadlineError, TooLarge, UnknownEvent
from backplane.settings import Settings
from gateway import openapi, payloads, strictjson
from gateway.auth import Authenticator, Identity, bearer, stream_token
from gateway.callers import Callers
from gateway.metrics import GONE, Metrics
from gateway.node import Node
from gateway.spans import sent_with
from gateway.streams import Stream, StreamResponse, cursor, unread
from gateway.verbs import Verbs

_log = structlog.get_logger("gateway.http")

INDEX = """Threadline: a Socket.IO gateway for AI-agent chat.

  Socket.IO      /socket.io/                          docs/protocol.md
  start a turn   POST /v1/threads/{thread_id}/turns   {"message": "hello"}
  watch it       GET  /v1/threads/{thread_id}/events  server-sent events; Last-Event-ID: epoch:offset
  stop it        POST /v1/threads/{thread_id}/cancel
  read it        GET  /v1/threads/{thread_id}
  all of them    GET  /v1/threads                     PATCH and DELETE one: a title, an end
  AG-UI, AI SDK  POST /v1/agui  /v1/ai/chat           docs/dialects.md
  described      /openapi.json
  health         /healthz  /readyz  /metrics
"""

Handler = Callable[[Request], Awaitable[Response]]


class Http:
    """The routes of a node."""

    def __init__(
        self,
        settings: Settings,
        authenticator: Authenticator,
        verbs: Verbs,
        node: Node,
        metrics: Metrics,
        callers: Callers,
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._verbs = verbs
        self._node = node
        self._metrics = metrics
        self._callers = callers

    def routes(self) -> list[BaseRoute]:
        """Return every route but Socket.IO's."""
        thread = "/v1/threads/{thread_id}"
        return [
            Route(openapi.PATH, self._openapi),
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/v1/threads", self.answered(self._threads), methods=["GET"]),
            Route(thread, self.answered(self._snapshot), methods=["GET"]),
            Route(thread, self.answered(self._rename), methods=["PATCH"]),
            Route(thread, self.answered(self._delete), methods=["DELETE"]),
            Route(f"{thread}/turns", self.answered(self._start), methods=["POST"]),
            Route(f"{thread}/presence", self.answered(self._presence), methods=["GET"]),
            Route(f"{thread}/edit", self.answered(self._edit), methods=["POST"]),
            Route(f"{thread}/cancel", self.answered(self._cancel), methods=["POST"]),
            Route(f"{thread}/messages", self.answered(self._history), methods=["GET"]),
            Route(f"{thread}/queue", self.answered(self._queue_status), methods=["GET"]),
            Route(f"{thread}/queue", self.answered(self._queue_clear), methods=["DELETE"]),
            Route(f"{thread}/queue/{{item_id}}", self.answered(self._queue_remove), methods=["DELETE"]),
            Route(f"{thread}/approvals/{{approval_id}}", self.answered(self._decide), methods=["POST"]),
            Route(f"{thread}/events", self.answered(self._events), methods=["GET"]),
        ]

    # --- for operators ---------------------------------------------------------------------------------

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(openapi.description())

    async def _healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _readyz(self, request: Request) -> Response:
        reasons = await self._node.unready_because()
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    # --- verbs -----------------------------------------------------------------------------------------

    def answered(self, handler: Handler) -> Handler:
        """Return a handler that answers errors with their code and status, and count the call."""

        @wraps(handler)
        async def answered(request: Request) -> Response:
            code = "ok"
            try:
                with sent_with(request.headers):
                    return await handler(request)
            except ThreadlineError as error:
                code = error.code
                return _refusal(error)
            except ClientDisconnect:  # before the end of its body: no defect of ours, and nobody hears an answer
                code = GONE
                return Response(status_code=400)
            except Exception:
                code = Internal.code
                _log.exception("a request failed", path=request.url.path)
                return _refusal(Internal("the gateway failed to handle this call; try again in a moment"))
            finally:
                self._metrics.calls.labels(f"http:{handler.__name__.strip('_')}", code).inc()

        return answered

    async def who(self, request: Request) -> Identity:
        """Return who asks, and count the call.

        Raises:
            Unauthorized: when the token is missing or not valid.
            RateLimited: when its user or tenant calls too often.
        """
        return await self._counted(bearer(request.headers))

    async def _counted(self, token: str | None) -> Identity:
        identity = await self._authenticator.authenticate(token)
        self._callers.take(identity)
        return identity

    def _read(self, model: type[payloads.AnyPayload], request: Request, given: dict[str, Any]) -> payloads.AnyPayload:
        return payloads.read(model, given | request.path_params, self._settings)

    async def _start(self, request: Request) -> Response:
        identity = await self.who(request)
        asked = self._read(payloads.ChatStart, request, await self.body(request))
        ack = await self._verbs.start(identity, asked, client_id="http", member=None)
        return JSONResponse(ack, 202)

    async def _presence(self, request: Request) -> Response:
        identity = await self.who(request)
        return JSONResponse(await self._verbs.presence(identity, self._read(payloads.ThreadPresence, request, {})))

    async def _edit(self, request: Request) -> Response:
        identity = await self.who(request)
        asked = self._read(payloads.ThreadEdit, request, await self.body(request))
        return JSONResponse(await self._verbs.edit(identity, asked, client_id="http", member=None), 202)

    async def _cancel(self, request: Request) -> Response:
        identity = await self.who(request)
        asked = self._read(payloads.ChatCancel, request, await self.body(request))
        return JSONResponse(await self._verbs.cancel(identity, asked))

    async def _snapshot(self, request: Request) -> Response:
        identity = await self.who(request)
        asked = self._read(payloads.ThreadHistory, request, _counts(request, "limit"))
        return JSONResponse(await self._verbs.snapshot(identity, asked))

    async def _history(self, request: Request) -> Response:
        identity = await self.who(request)
        given = _counts(request, "limit", "before")
        if "branch" in request.query_params:
            given["branch"] = request.query_params["branch"]
        asked = self._read(payloads.ThreadHistory, request, given)
        return JSONResponse(await self._verbs.history(identity, asked))

    async def _threads(self, request: Request) -> Response:
        identity = await self.who(request)
        given: dict[str, Any] = _counts(request, "limit")
        if "before" in request.query_params:
            given["before"] = request.query_params["before"]
        return JSONResponse(await self._verbs.threads(identity, self._read(payloads.ThreadList, request, given)))

    async def _rename(self, request: Request) -> Response:
        identity = await self.who(request)
        asked = self._read(payloads.ThreadRename, request, await self.body(request))
        return JSONResponse(await self._verbs.rename(identity, asked))

    async def _delete(self, request: Request) -> Response:
        identity = await self.who(request)
        return JSONResponse(await self._verbs.delete(identity, self._read(payloads.ThreadDelete, request, {})))

    async def _queue_status(self, request: Request) -> Response:
        identity = await self.who(request)
        return JSONResponse(await self._verbs.queue_status(identity, self._read(payloads.QueueStatus, request, {})))

    async def _queue_clear(self, request: Request) -> Response:
        identity = await self.who(request)
        return JSONResponse(await self._verbs.queue_clear(identity, self._read(payloads.QueueClear, request, {})))

    async def _queue_remove(self, request: Request) -> Response:
        identity = await self.who(request)
        return JSONResponse(await self._verbs.queue_remove(identity, self._read(payloads.QueueRemove, request, {})))

    async def _decide(self, request: Request) -> Response:
        identity = await self.who(request)
        asked = self._read(payloads.ApprovalDecide, request, await self.body(request))
        return JSONResponse(await self._verbs.decide(identity, asked))

    async def _events(self, request: Request) -> Response:
        identity = await self._counted(stream_token(request.headers, request.query_params))
        given: dict[str, Any] = _counts(request, "history")
        place = request.headers.get("last-event-id") or request.query_params.get("after")
        if place:
            given["epoch"], given["after"] = cursor(place)
        asked = self._read(payloads.ThreadSubscribe, request, given)
        if request.method == "HEAD":
            await self._verbs.beginning(identity, asked.thread_id)  # refused as a GET is
            return unread()
        stream = self.open_stream(identity, asked)
        return StreamResponse(stream, stream.events(await stream.join()))

    def open_stream(self, identity: Identity, asked: payloads.ThreadSubscribe) -> Stream:
        """Return a reader of a thread's events, which has not joined yet."""
        return Stream(self._verbs, self._metrics, self._node.degraded, self._callers, identity, asked)

    async def body(self, request: Request) -> dict[str, Any]:
        """Return the JSON object that a request carries, or an empty one.

        Raises:
            InvalidPayload, TooLarge: when it is none, or over `max_frame_bytes`.
        """
        raw = bytearray()
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > self._settings.max_frame_bytes:
                raise TooLarge(f"body: expected at most {self._settings.max_frame_bytes} bytes, got more; send less")
        if not raw:
            return {}
        try:
            body = strictjson.loads(bytes(raw))
        except strictjson.MalformedJson as error:
            raise InvalidPayload(f"body: {error}; send one JSON object") from None
        if not isinstance(body, dict):
            raise InvalidPayload(f"body: expected a JSON object, got {type(body).__name__}; send one JSON object")
        return body


def _counts(request: Request, *names: str) -> dict[str, Any]:
    """Return the named query parameters as whole numbers; what is no number is left for the model to refuse."""
    given = {name: request.query_params[name] for name in names if name in request.query_params}
    return {
        name: int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else text
        for name, text in given.items()
    }


async def unrouted(request: Request, error: Exception) -> Response:
    """Answer what no route takes, a method too, in the form of every other error."""
    assert isinstance(error, HTTPException)
    told = UnknownEvent(
        "expected a route and a method that are served, got others; see GET /openapi.json for all of them"
    )
    return JSONResponse({"ok": False, "error": told.as_dict()}, error.status_code, error.headers)


def _refusal(error: ThreadlineError) -> Response:
    headers = {}
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if (wait := error.details.get("retry_after_ms")) is not None:
        headers["Retry-After"] = str(-(-int(wait) // 1000))
    return JSONResponse({"ok": False, "error": error.as_dict()}, error.http_status, headers)
