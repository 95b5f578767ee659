"""The description of the HTTP routes, as OpenAPI 3.1.

What a client sends is described by the models that read it (payloads.py); what it is answered with, here. A test
compares the operations with the routes, and the answers of a real gateway with their schemas, so that neither drifts.

Source: https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from backplane.errors import ThreadlineError
from gateway import payloads
from gateway.payloads import Payload

Schema = dict[str, Any]
PATH = "/openapi.json"

_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_TIME: Schema = {"type": "integer", "description": "Unix milliseconds, from Redis' clock"}
_TRUE: Schema = {"const": True}
_BOOLEAN: Schema = {"type": "boolean"}
_OBJECT: Schema = {"type": "object"}
_ID: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,128}$"}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def _object(optional: Schema | None = None, **required: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


_THREAD = {"ok": _TRUE, "thread_id": _ID}
_TURNS = {"turn": _or_null(_ref("Turn")), "parallel": _list(_ref("Turn"))}
ANSWERS: dict[str, Schema] = {
    "Started": _object(
        {"lane": _one_of("followup", "steer", "collect", "parallel"), "position": _WHOLE},
        **_THREAD,
        state=_one_of("accepted", "queued"),
        request_id=_ID,
        client_id=_TEXT,
        epoch=_TEXT,
        offset=_WHOLE,
    ),
    "Cancelled": _object(
        ok=_TRUE,
        cancelled=_BOOLEAN,
        request_id=_or_null(_ID),
        state=_TEXT,
        dropped=_list(_ID),
        cancel_requested_ms=_or_null(_TIME),
        cancel_seen_ms=_or_null(_TIME),
        cancel_stopped_ms=_or_null(_TIME),
        stopped=_or_null(_one_of("cooperative", "hard", "fenced", "unowned")),
    ),
    "Snapshot": _object(**_THREAD, epoch=_TEXT, offset=_WHOLE, messages=_list(_ref("Message")), **_TURNS),
    "History": _object(**_THREAD, messages=_list(_ref("Message")), branches=_list(_ref("Branch"))),
    "Edited": _object(
        {"position": _WHOLE},
        **_THREAD,
        state=_one_of("accepted"),
        request_id=_ID,
        client_id=_TEXT,
        epoch=_TEXT,
        offset=_WHOLE,
        branch=_ID,
        message_id=_WHOLE,
    ),
    "Presence": _object(
        **_THREAD,
        watchers=_list(_ref("Watcher")),
        running=_or_null(_ID),
        state=_one_of("ready", "running", "waiting", "idle"),
        worker=_or_null(_TEXT),
    ),
    "Threads": _object(ok=_TRUE, threads=_list(_ref("Thread")), next=_or_null(_TEXT)),
    "Renamed": _object(**_THREAD, title=_TEXT),
    "Deleted": _object(**_THREAD, deleted=_BOOLEAN),
    "Queue": _object(
        {"position": _WHOLE},
        **_THREAD,
        running=_or_null(_ID),
        state=_one_of("ready", "running", "waiting", "idle"),
        lanes=_object(**{lane: _list(_ref("Item")) for lane in ("followup", "steer", "collect", "parallel")}),
    ),
    "Removed": _object(**_THREAD, removed=_list(_ID)),
    "Decided": _object(
        **_THREAD,
        approval_id=_ID,
        decided=_BOOLEAN,
        state=_one_of("decided", "expired", "withdrawn"),
        decision=_or_null(_TEXT),
        by=_or_null(_TEXT),
    ),
    "Fleet": {
        "type": "object",
        "description": "See docs/operations.md.",
        "properties": {"ok": _TRUE, "now": {"type": "number"}, "node_id": _TEXT, "members": _list(_OBJECT)},
        "required": ["ok", "now", "node_id", "members"],
    },
    "Revoked": _object(ok=_TRUE, tenant=_TEXT),
    "Readiness": _object(ready=_BOOLEAN, reasons=_list(_TEXT)),
    "Error": _object(
        ok={"const": False},
        error={
            "type": "object",
            "properties": {"code": _ref("ErrorCode"), "message": _TEXT, "retryable": _BOOLEAN},
            "required": ["code", "message", "retryable"],
            "description": "Further fields belong to the code.",
        },
    ),
}
PARTS: dict[str, Schema] = {
    "Branch": _object(branch=_ID, message_id=_WHOLE, created=_TIME),
    "Watcher": _object(subject=_TEXT, connections=_WHOLE),
    "Message": _object(
        {"interrupted": _BOOLEAN, "steer": _BOOLEAN, "context": _BOOLEAN},
        id=_WHOLE,
        ts=_TIME,
        role=_one_of("user", "assistant"),
        content=_TEXT,
        request_id=_TEXT,
    ),
    "Turn": _object(
        {"position": _WHOLE},
        request_id=_ID,
        lane=_TEXT,
        state=_one_of("ready", "running", "waiting"),
        attempt=_WHOLE,
        text=_TEXT,
        thinking=_TEXT,
        tools=_list(_ref("Tool")),
        approvals=_list(_ref("Approval")),
    ),
    "Tool": _object(
        {"output": _TEXT, "success": _BOOLEAN}, tool_call_id=_TEXT, tool_name=_TEXT, args=_OBJECT, round=_WHOLE
    ),
    "Approval": _object(
        {"tool_name": _TEXT, "args": _OBJECT, "question": _TEXT},
        approval_id=_ID,
        state=_one_of("pending", "decided", "expired", "withdrawn"),
        expires_at=_TIME,
        decision=_or_null(_TEXT),
        by=_or_null(_TEXT),
        kind=_one_of("approval", "question"),
        options=_list(_TEXT),
    ),
    "Thread": _object(
        thread_id=_ID,
        title=_TEXT,
        preview=_TEXT,
        role=_TEXT,
        running=_or_null(_ID),
        state=_one_of("ready", "running", "waiting", "idle"),
        created=_TIME,
        active=_TIME,
    ),
    "Item": _object({"position": _WHOLE, "state": _TEXT}, item_id=_ID, preview=_TEXT, created=_TIME),
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one route.

    `model` reads what is sent: path and query parameters first, the rest is the body. `answer` is the name of a schema,
    or a media type.
    """

    method: Literal["get", "post", "patch", "delete"]
    path: str
    summary: str
    answer: str
    model: type[Payload] | None = None
    query: tuple[str, ...] = ()
    status: int = 200
    errors: tuple[int, ...] = (400, 401, 404)
    body: Schema | None = None
    """The body of what is no payload of ours."""
    nothing: str = ""
    """When the answer is 204 and empty."""
    cursor: bool = False
    """Whether `Last-Event-ID` is read."""


_STREAM = "text/event-stream"
_MESSAGES: Schema = {"type": "array", "items": _OBJECT}
_AGUI: Schema = {
    "type": "object",
    "description": "AG-UI's RunAgentInput; see docs/dialects.md",
    "properties": {"threadId": _ID, "runId": _TEXT, "messages": _MESSAGES, "resume": _MESSAGES, "forwardedProps": {}},
    "required": ["threadId", "runId", "messages"],
}
_AI_SDK: Schema = {
    "type": "object",
    "description": "What the AI SDK's DefaultChatTransport sends; see docs/dialects.md",
    "properties": {"id": _ID, "messages": _MESSAGES, "trigger": _TEXT, "messageId": _TEXT},
    "required": ["id", "messages"],
}
_REVOCATION: Schema = {
    "type": "object",
    "description": "All tokens of a subject until now, or the one token of an id (`jti`).",
    "properties": {"subject": _TEXT, "token_id": _TEXT, "tenant": _TEXT},
    "required": [],
    "oneOf": [{"required": ["subject"]}, {"required": ["token_id"]}],
}
_NO_ERRORS: tuple[int, ...] = ()
_OF_A_START = (400, 401, 404, 409, 413)
_ONE = "/v1/threads/{thread_id}"
OPERATIONS: tuple[Operation, ...] = (
    Operation("get", "/", "What is here; the page for a browser.", "text/plain", errors=_NO_ERRORS),
    Operation("get", PATH, "This description.", "application/json", errors=_NO_ERRORS),
    Operation("get", "/healthz", "Whether the process lives.", "text/plain", errors=_NO_ERRORS),
    Operation("get", "/readyz", "Whether this node takes clients.", "Readiness", errors=_NO_ERRORS),
    Operation("get", "/metrics", "Metrics, for Prometheus.", "text/plain", errors=_NO_ERRORS),
    Operation("get", "/v1/operations", "See the fleet, as an operator.", "Fleet", errors=(401, 404)),
    Operation(
        "post",
        "/v1/revocations",
        "Take tokens back, as an operator.",
        "Revoked",
        body=_REVOCATION,
        errors=(400, 401, 404, 413),
    ),
    Operation(
        "get",
        "/v1/threads",
        "List the caller's threads.",
        "Threads",
        payloads.ThreadList,
        ("limit", "before"),
        errors=(400, 401),
    ),
    Operation("get", _ONE, "Read a thread as of now.", "Snapshot", payloads.ThreadHistory, ("limit",)),
    Operation("patch", _ONE, "Rename a thread.", "Renamed", payloads.ThreadRename, errors=(400, 401, 404, 413)),
    Operation("delete", _ONE, "End and erase a thread.", "Deleted", payloads.ThreadDelete),
    Operation("post", f"{_ONE}/turns", "Start a turn.", "Started", payloads.ChatStart, status=202, errors=_OF_A_START),
    Operation("post", f"{_ONE}/edit", "Edit a message.", "Edited", payloads.ThreadEdit, status=202, errors=_OF_A_START),
    Operation("get", f"{_ONE}/presence", "Read who watches, and who answers.", "Presence", payloads.ThreadPresence),
    Operation("post", f"{_ONE}/cancel", "Stop a turn.", "Cancelled", payloads.ChatCancel, errors=(400, 401, 404, 413)),
    Operation(
        "get",
        f"{_ONE}/messages",
        "Read older messages.",
        "History",
        payloads.ThreadHistory,
        ("limit", "before", "branch"),
    ),
    Operation("get", f"{_ONE}/queue", "Read what runs and what waits.", "Queue", payloads.QueueStatus),
    Operation("delete", f"{_ONE}/queue", "Remove everything that waits.", "Removed", payloads.QueueClear),
    Operation("delete", f"{_ONE}/queue/{{item_id}}", "Remove one item that waits.", "Removed", payloads.QueueRemove),
    Operation(
        "post",
        f"{_ONE}/approvals/{{approval_id}}",
        "Decide what an agent asks.",
        "Decided",
        payloads.ApprovalDecide,
        errors=(400, 401, 404, 413),
    ),
    Operation("get", f"{_ONE}/events", "Follow the log.", _STREAM, payloads.ThreadSubscribe, ("history",), cursor=True),
    Operation("post", "/v1/agui", "Run a turn, in AG-UI.", _STREAM, errors=_OF_A_START, body=_AGUI, cursor=True),
    Operation(
        "get",
        "/v1/agui/{thread_id}/stream",
        "Follow the running turn, in AG-UI.",
        _STREAM,
        payloads.QueueStatus,
        errors=(400, 401),
        nothing="No turn runs.",
        cursor=True,
    ),
    Operation(
        "post", "/v1/ai/chat", "Run a turn, for the AI SDK.", _STREAM, errors=_OF_A_START, body=_AI_SDK, cursor=True
    ),
    Operation(
        "get",
        "/v1/ai/chat/{thread_id}/stream",
        "Follow the running turn, for the AI SDK.",
        _STREAM,
        payloads.QueueStatus,
        errors=(400, 401),
        nothing="No turn runs.",
        cursor=True,
    ),
)


@cache
def description() -> Schema:
    """Return the whole description."""
    paths: Schema = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    codes = sorted(error.code for error in _errors(ThreadlineError))
    schemas = {**ANSWERS, **PARTS, "ErrorCode": _one_of(*codes)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Threadline",
            "version": "1",
            "summary": "Conversations between people and AI agents that survive whatever breaks.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "security": [{"token": []}, {}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _errors(kind: type[ThreadlineError]) -> list[type[ThreadlineError]]:
    return [found for child in kind.__subclasses__() for found in (child, *_errors(child))]


def _described(operation: Operation) -> Schema:
    fields = _fields(operation.model) if operation.model else {}
    needed = {name for name, field in fields.items() if field.pop("needed")}
    in_path = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {**fields.pop(name), "pattern": _ID["pattern"]}}
        for name in in_path
    ]
    parameters += [
        {"name": name, "in": "query", "required": False, "schema": fields.pop(name)} for name in operation.query
    ]
    if operation.cursor:
        cursor = {"type": "string", "description": "epoch:offset, the id of the last event that was taken"}
        parameters.append({"name": "Last-Event-ID", "in": "header", "required": False, "schema": cursor})
    if operation.path.endswith("/events"):
        parameters.append({"name": "after", "in": "query", "required": False, "schema": {**cursor}})
        parameters.append({"name": "access_token", "in": "query", "required": False, "schema": _TEXT})
    described: Schema = {"summary": operation.summary, "responses": _responses(operation)}
    if parameters:
        described["parameters"] = parameters
    body = operation.body
    if operation.method in {"post", "patch"} and body is None:
        body = {"type": "object", "properties": fields, "required": sorted(needed & set(fields))}
    if body is not None:
        required = bool(body["required"])
        described["requestBody"] = {"required": required, "content": {"application/json": {"schema": body}}}
    return described


def _fields(model: type[Payload]) -> Schema:
    """Return the schema of each field that a client may send, and whether it is `needed`."""
    schema = model.model_json_schema(by_alias=True)
    required = set(schema.get("required", ()))
    found: Schema = {}
    for name, field in schema["properties"].items():
        field = {key: value for key, value in field.items() if key != "title"}
        if "pattern" in field:
            field["pattern"] = field["pattern"].replace(r"\z", "$")  # as the patterns of JSON Schema say it
        for choice in field.get("anyOf", ()):
            if "pattern" in choice:
                choice["pattern"] = choice["pattern"].replace(r"\z", "$")
        found[name] = {**field, "needed": name in required}
    return found


def _responses(operation: Operation) -> Schema:
    media, schema = operation.answer, {"schema": _TEXT}
    if "/" not in media:
        media, schema = "application/json", {"schema": _ref(operation.answer)}
    elif media == "application/json":
        schema = {"schema": _OBJECT}
    responses: Schema = {str(operation.status): {"description": "Done.", "content": {media: schema}}}
    if operation.nothing:
        responses["204"] = {"description": operation.nothing}
    if operation.path == "/readyz":
        responses["503"] = {"description": "It does not.", "content": {media: schema}}
    error = {"application/json": {"schema": _ref("Error")}}
    for status in (*operation.errors, 429, 500, 503) if operation.errors else ():
        responses[str(status)] = {"description": _MEANINGS[status], "content": error}
    return responses


_MEANINGS = {
    400: "What was sent is not of the right form.",
    401: "There is no valid token.",
    404: "There is no such thread, or it is another's.",
    409: "Something else runs, or the key was used for another message.",
    413: "It is too large.",
    429: "Too much waits or runs, or calls come too often; `Retry-After` says when to come back.",
    500: "A defect of the gateway.",
    503: "Redis did not answer; nothing was acknowledged.",
}
