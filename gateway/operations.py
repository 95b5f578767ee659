"""What operators see: every member of the fleet, what is under way, and, in development, plugs to pull.

Who may see it: on a gateway without a key, everybody who reaches it; otherwise the subjects of the setting
`operators`. For anybody else there is nothing here.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from backplane import overview
from backplane.addresses import Server
from backplane.connection import Backplane
from backplane.errors import InvalidPayload, NotFound, ThreadlineError
from backplane.ids import DEFAULT_TENANT
from backplane.overview import Mark
from backplane.settings import Settings
from gateway import audit, payloads
from gateway.auth import MAX_SUBJECT, Identity, is_open
from gateway.metrics import Metrics

FRESH = 0.5
"""Seconds for which one look at the fleet serves all who ask."""
_LAST_WORDS = 0.1
"""Seconds that the answer has to leave before this process ends itself."""

_TOKEN = re.compile(r"ey[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)
"""The form of a signed JSON Web Token (RFC 7515, section 3.1); its header begins with `{"`."""

Who = Callable[[Request], Awaitable[Identity]]
Body = Callable[[Request], Awaitable[dict[str, Any]]]
Answer = Callable[[Callable[[Request], Awaitable[Response]]], Callable[[Request], Awaitable[Response]]]


class Revocation(payloads.Payload):
    """Takes back the tokens of a subject, or one token."""

    verb: ClassVar[str] = "POST /v1/revocations"
    subject: Annotated[str | None, Field(max_length=MAX_SUBJECT, description="1 to 256 characters")] = None
    token_id: Annotated[str | None, Field(max_length=MAX_SUBJECT, description="1 to 256 characters")] = None
    tenant: Annotated[str | None, Field(max_length=128, description="1 to 128 characters")] = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.subject) is bool(self.token_id):
            raise InvalidPayload("payload: expected one of subject and token_id, got both or none; send one")
        if self.token_id is not None and _TOKEN.fullmatch(self.token_id):  # it would stand in the audit log
            raise InvalidPayload("token_id: expected the id of a token, its `jti`, got the token itself; send the id")
        return self


class Operations:
    """The routes for operators, and what this node says of itself.

    Args:
        settings: `operators` and `plugs` are read, and what a member is told of.
        backplane: where the others report.
        metrics: this node's.
        cut: drops the transport of one of this node's sockets, named by its `sid`; False when it has none of them.
    """

    def __init__(
        self, settings: Settings, backplane: Backplane, metrics: Metrics, cut: Callable[[str], Awaitable[bool]]
    ) -> None:
        self._settings = settings
        # another tenant may have a subject of the same name
        self._operators = {name if "/" in name else f"{DEFAULT_TENANT}/{name}" for name in settings.operators}
        self._backplane = backplane
        self._metrics = metrics
        self._cut = cut
        self._looking: asyncio.Task[dict[str, Any]] | None = None
        self._looked = float("-inf")
        self._reported = (time.monotonic(), 0.0)

    def routes(self, who: Who, answer: Answer, body: Body) -> list[BaseRoute]:
        """Return the routes; `who` authenticates a request, `answer` turns errors into answers, `body` reads JSON."""

        async def operations(request: Request) -> Response:
            self._may(await who(request))
            return JSONResponse(await self._look())

        async def plug(request: Request) -> Response:
            what, name = request.path_params["what"], request.path_params["name"]
            with audit.acting("plug", operator := await who(request)) as told:
                self._may(operator)
                told["plug"] = f"{what}/{name}"
                return JSONResponse(await self._pull(what, name))

        async def revocations(request: Request) -> Response:
            with audit.acting("revoke", operator := await who(request)) as told:
                self._may(operator)
                asked = payloads.read(Revocation, await body(request), self._settings)
                tenant = asked.tenant or operator.tenant
                told |= {"of_tenant": tenant}
                told |= {"of_subject": asked.subject} if asked.subject else {"of_jti": asked.token_id}
                await self._backplane.revocations.revoke(tenant, subject=asked.subject, token_id=asked.token_id)
            return JSONResponse({"ok": True, "tenant": tenant})

        routes: list[BaseRoute] = [
            Route("/v1/revocations", answer(revocations), methods=["POST"]),
            Route("/metrics", self._serve_metrics),
            Route("/v1/operations", answer(operations), methods=["GET"]),
        ]
        if self._settings.plugs:
            routes.append(Route("/v1/plugs/{what}/{name}", answer(plug), methods=["POST"]))
        return routes

    async def _serve_metrics(self, request: Request) -> Response:
        # what concerns the whole deployment is looked at when somebody asks, and by this node for all that ask it
        with suppress(ThreadlineError):
            await self._look()
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def facts(self) -> dict[str, Any]:
        """Return what this node says of itself; rates are since the last time."""
        settings, metrics, live = self._settings, self._metrics, self._backplane.live
        now, sent = time.monotonic(), metrics.read(metrics.sent)
        before, sent_before = self._reported
        self._reported = (now, sent)
        return {
            "url": f"http://{Server(settings.host, settings.port)}",
            "ready": bool(metrics.read(metrics.ready)),
            "deaf": live.deaf,
            "reconnects": live.reconnects,
            "sockets": int(metrics.read(metrics.sockets)),
            "rooms": int(metrics.read(metrics.rooms)),
            "gaps_filled": int(metrics.read(metrics.gaps_filled)),
            "slow_clients": int(metrics.read(metrics.slow_clients)),
            "sent_per_second": round((sent - sent_before) / max(now - before, 0.001), 1),
            "append_to_socket": metrics.latency.take(),
        }

    def _may(self, identity: Identity) -> None:
        named = f"{identity.tenant}/{identity.subject}"
        if not (is_open(self._settings) or named in self._operators):
            raise NotFound("there is nothing here for you; THREADLINE_OPERATORS names who may look")

    # --- looking ---------------------------------------------------------------------------------------

    async def _look(self) -> dict[str, Any]:
        now = time.monotonic()
        if self._looking is None or now - self._looked > FRESH:
            self._looked = now
            self._looking = asyncio.create_task(self._gather(), name="operations")
        return await asyncio.shield(self._looking)

    async def _gather(self) -> dict[str, Any]:
        members, seen = await asyncio.gather(self._backplane.members.all(), overview.look(self._backplane))
        metrics = self._metrics
        metrics.waiting.set(seen.waiting)
        metrics.oldest.set(seen.longest[0].seconds if seen.longest else 0)
        metrics.under_way.set(seen.under_way)
        return {
            "ok": True,
            "now": round(self._backplane.members.clock.now(), 3),
            "node_id": self._settings.node_id,
            "lease": self._settings.lease,
            "plugs": self._settings.plugs,
            "members": [{"node_id": member.node_id, "silent": member.silent, **member.facts} for member in members],
            "waiting": seen.waiting,
            "longest_waiting": [_shown(mark) for mark in seen.longest],
            "under_way": seen.under_way,
            "due": [_shown(mark) for mark in seen.due],
        }

    # --- plugs -----------------------------------------------------------------------------------------

    async def _pull(self, what: str, name: str) -> dict[str, Any]:
        if what == "socket":
            if not await self._cut(name):
                raise NotFound("expected the sid of a socket of this node; ask the node that it is connected to")
            return {"ok": True, "pulled": name}
        pid = os.getpid() if what == "node" and name == self._settings.node_id else await self._pid(what, name)
        asyncio.get_running_loop().call_later(_LAST_WORDS, os.kill, pid, signal.SIGKILL)
        return {"ok": True, "pulled": name, "pid": pid}

    async def _pid(self, what: str, name: str) -> int:
        """Return the process of a node, of a worker, or of the worker that runs a turn of a thread, on this machine."""
        for member in await self._backplane.members.all():
            facts = member.facts
            if facts["host"] != socket.gethostname():
                continue
            turns = [turn["thread_id"] for turn in facts.get("turns", ()) if "ended" not in turn]
            if (what in ("node", "worker") and name == member.node_id) or (what == "turn" and name in turns):
                return int(facts["pid"])
        raise NotFound(f"no {what} of that name reports from this machine; it may have begun or ended just now")


def _shown(mark: Mark) -> dict[str, Any]:
    return {
        "tenant": mark.ref.tenant,
        "thread_id": mark.ref.thread_id,
        "request_id": mark.request_id,
        "seconds": mark.seconds,
    }
