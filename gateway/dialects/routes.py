"""The routes of the dialects: what their own clients send, and the streams that they read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict

from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from backplane.errors import NotFound
from backplane.settings import Settings
from gateway import payloads
from gateway.auth import Identity
from gateway.callers import Callers
from gateway.dialects import inputs
from gateway.dialects.agui import AgUi
from gateway.dialects.aisdk import AiSdk
from gateway.dialects.feed import Feed, Place
from gateway.dialects.inputs import Asked
from gateway.dialects.revisions import Revisions
from gateway.dialects.view import Fields, Frame, View
from gateway.http import Http
from gateway.streams import StreamResponse, cursor, unread
from gateway.verbs import Verbs

_AI_SDK_HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}


class Dialects:
    """The dialects' routes of a node."""

    def __init__(self, settings: Settings, verbs: Verbs, http: Http, callers: Callers) -> None:
        self._settings = settings
        self._verbs = verbs
        self._http = http
        self._callers = callers
        self._revisions = Revisions(settings, verbs)

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        answered = self._http.answered
        return [
            Route("/v1/agui", answered(self._agui_run), methods=["POST"]),
            Route("/v1/agui/{thread_id}/stream", answered(self._agui_stream), methods=["GET"]),
            Route("/v1/ai/chat", answered(self._ai_chat), methods=["POST"]),
            Route("/v1/ai/chat/{thread_id}/stream", answered(self._ai_stream), methods=["GET"]),
        ]

    # --- AG-UI -------------------------------------------------------------------------------------------

    async def _agui_run(self, request: Request) -> Response:
        identity = await self._http.who(request)
        _cursor(request)  # refused before anything is changed
        asked = inputs.from_agui(await self._http.body(request))
        place = await self._placed(identity, asked)
        view = AgUi(place.thread_id, asked.run_id, place.request_id, asked.messages)
        return await self._followed(request, identity, place, view, asked)

    async def _agui_stream(self, request: Request) -> Response:
        identity = await self._http.who(request)
        place = await self._running(request, identity)
        if place is None:
            return Response(status_code=204)
        asked = payloads.read(payloads.ThreadHistory, {"thread_id": place.thread_id}, self._settings)
        history = await self._verbs.history(identity, asked)
        # what the stream tells is not told twice: the turn may have ended just now
        of_turn = {"role": "assistant", "request_id": place.request_id}
        given = [_as_agui(message) for message in history["messages"] if not of_turn.items() <= message.items()]
        view = AgUi(place.thread_id, place.request_id, place.request_id, given, tell_given=_cursor(request) is None)
        return await self._followed(request, identity, place, view)

    # --- AI SDK ------------------------------------------------------------------------------------------

    async def _ai_chat(self, request: Request) -> Response:
        identity = await self._http.who(request)
        _cursor(request)
        asked = inputs.from_aisdk(await self._http.body(request))
        place = await self._placed(identity, asked)
        return await self._followed(request, identity, place, AiSdk(place.request_id), asked, ai_sdk=True)

    async def _ai_stream(self, request: Request) -> Response:
        identity = await self._http.who(request)
        place = await self._running(request, identity)
        if place is None:
            return Response(status_code=204, headers=_AI_SDK_HEADERS)
        return await self._followed(request, identity, place, AiSdk(place.request_id), ai_sdk=True)

    # --- both --------------------------------------------------------------------------------------------

    async def _placed(self, identity: Identity, asked: Asked) -> Place:
        """Start the turn that is asked for, or decide what is answered; return where the turn is found."""
        self._callers.check(identity)  # its stream would be refused, and the turn begun
        if asked.revision is not None:
            return await self._revisions.place(identity, asked, asked.revision)
        if not asked.decided:
            start = payloads.read(payloads.ChatStart, asked.start, self._settings)
            ack = await self._verbs.start(identity, start, client_id="http", member=None)
            return Place.of(ack)
        decisions = [  # all of them are looked at before the first one counts
            payloads.read(payloads.ApprovalDecide, {"thread_id": asked.thread_id, **asdict(answer)}, self._settings)
            for answer in asked.decided
        ]
        self._callers.charge(identity, len(decisions) - 1)  # one call was counted when it came
        for decide in decisions:
            await self._verbs.decide(identity, decide)
        thread_id = decisions[0].thread_id
        request_id = asked.decided[-1].approval_id.partition(".")[0]
        found = await self._verbs.beginning(identity, thread_id, request_id)
        if found is None:
            raise NotFound("no such turn; it has ended, and is forgotten: read the thread's history")
        return Place(thread_id, *found)

    async def _running(self, request: Request, identity: Identity) -> Place | None:
        """Return where the running turn is found; None when nothing runs, or there is no such thread."""
        asked = payloads.read(payloads.QueueStatus, dict(request.path_params), self._settings)
        try:
            found = await self._verbs.beginning(identity, asked.thread_id)
        except NotFound:
            return None
        return None if found is None else Place(asked.thread_id, *found)

    async def _followed(
        self,
        request: Request,
        identity: Identity,
        place: Place,
        view: View,
        asked: Asked | None = None,
        *,
        ai_sdk: bool = False,
    ) -> Response:
        headers = _AI_SDK_HEADERS if ai_sdk else None
        if request.method == "HEAD":
            return unread(headers)
        behind = frozenset(answer.approval_id for answer in asked.decided) if asked else frozenset[str]()
        feed = Feed(self._verbs, self._http.open_stream, identity, place, view, _cursor(request), behind)
        stream, joined = await feed.join()

        async def sent() -> AsyncIterator[ServerSentEvent]:
            async with aclosing(feed.frames(stream, joined)) as frames:
                async for event in frames:
                    yield event
            if ai_sdk and view.ended:
                yield ServerSentEvent(data="[DONE]", sep="\n")

        return StreamResponse(stream, sent(), headers)


def _cursor(request: Request) -> tuple[str, int] | None:
    place = request.headers.get("last-event-id")
    return cursor(place) if place else None


def _as_agui(message: Fields) -> Frame:
    return {"id": f"message-{message['id']}", "role": message["role"], "content": message["content"]}
