"""Calls in the form of JSON-RPC, for the web client that this protocol began with.

It sends `rpc:request {id, method, params}` and hears `rpc:response {id, result}` or `rpc:error {id, error}`. Each
method is one of the verbs, checked by the verb's own model; only the form of question and answer is made here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from backplane.errors import InvalidPayload, NotFound, ThreadlineError, UnknownEvent
from backplane.settings import Settings
from gateway import payloads
from gateway.auth import Identity
from gateway.room import Member
from gateway.verbs import Ack, Verbs

REQUEST, RESPONSE, ERROR = "rpc:request", "rpc:response", "rpc:error"
_MAX_ID = 128
# JSON-RPC 2.0, section 5.1; the client shows the message and reads no other number than these
_NO_SUCH_METHOD, _INVALID_PARAMS, _REFUSED = -32601, -32602, -32000

Result = dict[str, Any]
Method = Callable[[Identity, Mapping[str, Any], str, Member], Awaitable[Result]]


class Rpc:
    """The methods. What they refuse is an error of backplane/errors.py, as a verb's is."""

    def __init__(self, settings: Settings, verbs: Verbs) -> None:
        self._settings = settings
        self._verbs = verbs
        self._methods: dict[str, Method] = {
            "openhuman.channel_web_chat": self._chat,
            "openhuman.channel_web_cancel": self._cancel,
            "openhuman.channel_web_queue_status": self._queue_status,
            "openhuman.channel_web_queue_clear": self._queue_clear,
            "openhuman.channel_web_queue_remove": self._queue_remove,
        }

    async def call(self, identity: Identity, request: object, client_id: str, member: Member) -> Result:
        """Do what a request asks for, and return the result of its response.

        Raises:
            ThreadlineError: what `error` makes an `rpc:error` of.
        """
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            raise InvalidPayload(
                f"{REQUEST}: expected {{id, method, params}}, got something else; see docs/protocol.md"
            )
        method = self._methods.get(request["method"])
        if method is None:
            raise UnknownEvent(f"method: expected one of {', '.join(self._methods)}, got another; check its spelling")
        params = request.get("params")
        if params is not None and not isinstance(params, dict):
            raise InvalidPayload("params: expected an object, got something else; send the fields by their names")
        return await method(identity, params or {}, client_id, member)

    @staticmethod
    def id_of(request: object) -> str | int | None:
        """Return the id that an answer has to carry; None for one that is of no use."""
        given = request.get("id") if isinstance(request, dict) else None
        if isinstance(given, bool) or not isinstance(given, str | int) or len(str(given)) > _MAX_ID:
            return None
        return given

    @staticmethod
    def error(error: ThreadlineError) -> Result:
        """Return the `error` of an `rpc:error`: `{code, message, data}`, and in `data` the code of the protocol."""
        code = _REFUSED
        if isinstance(error, UnknownEvent):
            code = _NO_SUCH_METHOD
        elif isinstance(error, InvalidPayload):
            code = _INVALID_PARAMS
        return {"code": code, "message": error.message, "data": error.as_dict()}

    def _read(self, model: type[payloads.AnyPayload], params: Mapping[str, Any]) -> payloads.AnyPayload:
        return payloads.read(model, dict(params), self._settings)

    async def _chat(self, identity: Identity, params: Mapping[str, Any], client_id: str, member: Member) -> Result:
        ack = await self._verbs.start(identity, self._read(payloads.ChatStart, params), client_id, member)
        return {"accepted": True, "queued": ack["state"] == "queued", **_plain(ack)}

    async def _cancel(self, identity: Identity, params: Mapping[str, Any], client_id: str, member: Member) -> Result:
        asked = self._read(payloads.ChatCancel, params)
        told: Result = {"client_id": client_id, "thread_id": asked.thread_id}
        try:
            return told | _plain(await self._verbs.cancel(identity, asked))
        except NotFound:  # to this client a thread without a first message is a thread like any other
            return told | {"cancelled": False, "request_id": None, "state": "idle"}

    async def _queue_status(
        self, identity: Identity, params: Mapping[str, Any], client_id: str, member: Member
    ) -> Result:
        asked = self._read(payloads.QueueStatus, params)
        counts = {"steers": 0, "followups": 0, "collects": 0, "total": 0}
        told: Result = {"thread_id": asked.thread_id, "active": False, **counts}
        try:
            ack = await self._verbs.queue_status(identity, asked)
        except NotFound:
            return told
        counts = {f"{lane}s": len(ack["lanes"][lane]) for lane in ("steer", "followup", "collect")}
        told |= {**counts, "total": sum(counts.values()), "active": ack["running"] is not None, "lanes": ack["lanes"]}
        return told | ({"request_id": ack["running"]} if ack["running"] is not None else {})

    async def _queue_clear(
        self, identity: Identity, params: Mapping[str, Any], client_id: str, member: Member
    ) -> Result:
        asked = self._read(payloads.QueueClear, params)
        try:
            removed = (await self._verbs.queue_clear(identity, asked))["removed"]
        except NotFound:
            removed = []
        return {"thread_id": asked.thread_id, "cleared": bool(removed), "dropped": len(removed), "removed": removed}

    async def _queue_remove(
        self, identity: Identity, params: Mapping[str, Any], client_id: str, member: Member
    ) -> Result:
        asked = self._read(payloads.QueueRemove, params)
        try:
            removed = (await self._verbs.queue_remove(identity, asked))["removed"]
        except NotFound:
            removed = []
        return {"thread_id": asked.thread_id, "item_id": asked.item_id, "removed": bool(removed)}


def _plain(ack: Ack) -> Result:
    return {name: value for name, value in ack.items() if name != "ok"}
