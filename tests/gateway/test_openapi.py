"""The OpenAPI description is valid, names every route and no other, and real answers are as it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # the library has no types
from openapi_spec_validator import validate
from starlette.routing import Route

from backplane.connection import Backplane
from backplane.settings import Settings
from gateway.auth import Authenticator, mint
from gateway.openapi import ANSWERS, OPERATIONS, PARTS, description
from gateway.payloads import VERBS
from gateway.server import Gateway
from tests.gateway.conftest import serving, working
from tests.support.waiting import wait_until
from worker.turn import AgentEvent, ToolCall, ToolResult, Turn

SECRET = "a secret of at least thirty-two bytes, for tests"
Make = Callable[..., Settings]


def test_the_description_is_valid() -> None:
    validate(description())


async def test_every_route_is_described_and_no_other(backplane: Backplane) -> None:
    async with Authenticator(backplane.settings) as authenticator:
        app = Gateway(backplane.settings, backplane, authenticator)
        routes = {
            (method.lower(), route.path)
            for route in app.routes
            if isinstance(route, Route)
            for method in (route.methods or set()) - {"HEAD"}
        }
    assert {(operation.method, operation.path) for operation in OPERATIONS} == routes
    assert len(OPERATIONS) == len(routes)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: f"{operation.method} {operation.path}")
def test_every_field_of_a_payload_has_its_place(operation: Any) -> None:
    """In the path, in the query, in the body; a cursor is a header."""
    described = description()["paths"][operation.path][operation.method]
    named = {parameter["name"] for parameter in described.get("parameters", [])}
    body = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if operation.model is None:
        return
    fields = {field.alias or name for name, field in operation.model.model_fields.items()}
    missing = fields - named - set(body.get("properties", {}))
    snapshot = {"before", "branch"}  # a thread as of now is neither older nor otherwise
    assert missing <= ({"epoch", "after"} if operation.cursor else snapshot if operation.path == ONE else set())


def test_every_verb_but_those_of_a_connection_has_a_route() -> None:
    described = {operation.model for operation in OPERATIONS}
    assert {verb for verb, model in VERBS.items() if model not in described} == {"thread:unsubscribe", "auth:refresh"}


def fits(answer: httpx.Response, method: str, path: str) -> Any:
    """Check an answer against what is said of it; return it as JSON."""
    responses = description()["paths"][path][method]["responses"]
    assert str(answer.status_code) in responses, (method, path, answer.status_code, answer.text)
    content = responses[str(answer.status_code)].get("content", {})
    if not content:
        assert answer.content == b""
        return None
    media = answer.headers["content-type"].partition(";")[0]
    schema = {**content[media]["schema"], "components": description()["components"]}
    if media == "application/json":
        Draft202012Validator(schema).validate(answer.json())
        return answer.json()
    return answer.text


class Caller:
    """Calls routes, and checks each answer."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.called: set[tuple[str, str]] = set()

    async def __call__(self, method: str, path: str, body: Any = None, query: str = "", **places: str) -> Any:
        url = path.format(thread_id="t", **places) if places else path.replace("{thread_id}", "t")
        answer = await self._http.request(method.upper(), f"{url}{query}", json=body)
        self.called.add((method, path))
        return fits(answer, method, path)


async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
    if turn.message == "ask":
        yield ToolCall("rm", {"path": "/"}, "c1")
        yield ToolResult("rm", "no", "c1", False)
        await turn.ask("Which?", ["a", "b"])
        await turn.approve("rm", {"path": "/"})
    elif turn.message == "wait":
        await asyncio.Event().wait()
    yield "Hello."


ONE = "/v1/threads/{thread_id}"
APPROVAL = f"{ONE}/approvals/{{approval_id}}"


async def test_real_answers_are_as_described(gateway_settings: Make) -> None:
    """Every route is called, also where it refuses; the streams have tests of their own."""
    settings = gateway_settings()
    async with (
        serving(settings) as node,
        working(settings, agent),
        httpx.AsyncClient(base_url=node.url, timeout=20) as http,
    ):
        call = Caller(http)
        for path in ("/", "/openapi.json", "/healthz", "/readyz", "/metrics", "/v1/operations"):
            await call("get", path)
        await call("post", "/v1/revocations", {"subject": "mallory"})
        await call("post", "/v1/revocations", {})
        assert (await http.get("/openapi.json")).json() == description()

        async def asked(kind: str) -> Any:
            found: list[Any] = []

            async def pending() -> bool:
                turn = (await call("get", ONE))["turn"] or {"approvals": []}
                found[:] = [one for one in turn["approvals"] if (one["state"], one["kind"]) == ("pending", kind)]
                return bool(found)

            await wait_until(pending, f"it asks a {kind}")
            return found[0]["approval_id"]

        await call("post", f"{ONE}/turns", {"message": "ask", "client_message_id": "1", "metadata": {"a": 1}})
        for kind, decision in (("question", "b"), ("approval", "denied")):
            approval_id = await asked(kind)
            for _ in range(2):
                await call("post", APPROVAL, {"decision": decision}, approval_id=approval_id)
        await wait_until_idle(call)
        await call("post", f"{ONE}/turns", {"message": "wait"})
        await call("post", f"{ONE}/turns", {"message": "later", "queue_mode": "followup"})
        queued = await call("post", f"{ONE}/turns", {"message": "and later", "queue_mode": "followup"})
        await call("post", f"{ONE}/turns", {"message": "beside", "queue_mode": "parallel"})
        await call("get", f"{ONE}/queue")
        await call("delete", f"{ONE}/queue/{{item_id}}", item_id=queued["request_id"])
        await call("delete", f"{ONE}/queue/{{item_id}}", item_id=queued["request_id"])
        await call("delete", f"{ONE}/queue")
        await call("get", ONE)
        await call("post", f"{ONE}/cancel", {})
        await call("post", f"{ONE}/cancel", {"request_id": "unknown"})
        await wait_until_idle(call)
        await call("get", f"{ONE}/messages", query="?limit=2&before=3")
        await call("get", f"{ONE}/messages", query="?limit=many")
        await call("get", f"{ONE}/presence")
        edited = await call("post", f"{ONE}/edit", {"message": "hi"})
        await wait_until_idle(call)
        await call("get", f"{ONE}/messages", query=f"?branch={edited['branch']}")
        await call("post", f"{ONE}/edit", {"message_id": 999})
        await call("get", "/v1/threads", query="?limit=1")
        await call("patch", ONE, {"title": "Tea"})
        await call("patch", ONE, {"title": ""})
        for stream in ("/v1/agui/{thread_id}/stream", "/v1/ai/chat/{thread_id}/stream"):
            await call("get", stream)
        for post in ("/v1/agui", "/v1/ai/chat", f"{ONE}/turns", APPROVAL):
            await call("post", post, {}, **({"approval_id": "x"} if post == APPROVAL else {}))
        await call("delete", ONE)
        for method, path in (
            ("get", ONE),
            ("get", f"{ONE}/events"),
            ("post", f"{ONE}/cancel"),
            ("get", f"{ONE}/queue"),
        ):
            await call(method, path)
        assert call.called == {(operation.method, operation.path) for operation in OPERATIONS}


async def test_the_place_of_a_turn_that_waits_for_a_worker_is_described(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, httpx.AsyncClient(base_url=node.url, timeout=20) as http:
        call = Caller(http)
        await call("post", f"{ONE}/turns", {"message": "nobody works"})
        assert (await call("get", f"{ONE}/queue"))["position"] == 1


async def wait_until_idle(call: Caller) -> None:
    async def idle() -> bool:
        return bool((await call("get", ONE))["turn"] is None)

    await wait_until(idle, "the turn ends")


async def test_without_a_token_every_call_is_refused_as_described(gateway_settings: Make) -> None:
    settings = gateway_settings(jwt_secret=SECRET)
    async with serving(settings) as node, httpx.AsyncClient(base_url=node.url) as http:
        for operation in OPERATIONS:
            if operation.errors:
                path = (
                    operation.path.replace("{thread_id}", "t").replace("{item_id}", "i").replace("{approval_id}", "a")
                )
                answer = await http.request(operation.method.upper(), path, json={})
                assert answer.status_code == 401
                assert fits(answer, operation.method, operation.path)["error"]["code"] == "unauthorized"
        token = {"Authorization": f"Bearer {mint(SECRET, 'ann', 60)}"}
        assert fits(await http.get("/v1/threads", headers=token), "get", "/v1/threads")["threads"] == []


def test_every_schema_is_used() -> None:
    text = str(description())
    for name in (*ANSWERS, *PARTS, "ErrorCode"):
        assert f"#/components/schemas/{name}'" in text
