"""HTTP: the same verbs, the log as server-sent events, health and metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import structlog

from backplane.errors import InvalidPayload
from backplane.live import LiveChannels
from backplane.settings import Settings
from gateway.auth import mint
from gateway.streams import cursor
from tests.gateway.agents import count, endless
from tests.gateway.conftest import serving, working
from tests.support.waiting import wait_until
from worker.turn import Turn

SECRET = "a secret of at least thirty-two bytes, for tests"
Make = Callable[..., Settings]


async def read(
    http: httpx.AsyncClient, url: str, until: str, found: list[dict[str, str]] | None = None, /, **headers: str
) -> list[dict[str, str]]:
    """Return server-sent events up to the first of a name; `found` has those that have come so far."""
    found = [] if found is None else found
    async with http.stream("GET", url, headers=headers, timeout=20) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        event: dict[str, str] = {}
        async for line in response.aiter_lines():
            if not line:
                if event:
                    found.append(event)
                    if event.get("event") == until:
                        return found
                event = {}
            elif not line.startswith(":"):
                name, _, value = line.partition(": ")
                event[name] = value
    return found


async def ended(http: httpx.AsyncClient, url: str) -> None:
    async def idle() -> bool:
        return (await http.get(url)).json()["turn"] is None

    await wait_until(idle, "the turn ends")


async def test_a_turn_by_http_alone(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, count), httpx.AsyncClient(base_url=node.url) as http:
        started = await http.post("/v1/threads/t/turns", json={"message": "3"})
        assert started.status_code == 202
        assert started.json()["state"] == "accepted"
        events = await read(http, f"/v1/threads/t/events?after={started.json()['epoch']}:0", "chat_done")
        assert json.loads(events[-1]["data"])["full_response"] == "0 1 2 "
        snapshot = (await http.get("/v1/threads/t")).json()
        assert [m["content"] for m in snapshot["messages"]] == ["3", "0 1 2 "]
        assert snapshot["turn"] is None
        history = (await http.get("/v1/threads/t/messages?limit=1")).json()
        assert [m["content"] for m in history["messages"]] == ["0 1 2 "]


async def test_a_stream_goes_on_after_its_last_event_id(gateway_settings: Make) -> None:
    """On another node, without gap or double."""
    one, two = gateway_settings(), gateway_settings()
    async with serving(one) as first, serving(two) as second, working(one, count), httpx.AsyncClient() as http:
        started = (await http.post(f"{first.url}/v1/threads/t/turns", json={"message": "50"})).json()
        await ended(http, f"{first.url}/v1/threads/t")
        whole = await read(http, f"{first.url}/v1/threads/t/events?after={started['epoch']}:0", "chat_done")
        place = whole[1]["id"]
        rest = await read(http, f"{second.url}/v1/threads/t/events", "chat_done", **{"Last-Event-ID": place})
        assert rest[0]["event"] == "text_delta"
        assert [event["data"] for event in rest] == [event["data"] for event in whole[2:]]


async def test_a_stream_without_a_place_begins_with_a_snapshot(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, endless), httpx.AsyncClient(base_url=node.url) as http:
        await http.post("/v1/threads/t/turns", json={"message": "x"})

        async def talks() -> bool:
            return ((await http.get("/v1/threads/t")).json()["turn"] or {}).get("text") == "on and on"

        await wait_until(talks, "it talks")
        come: list[dict[str, str]] = []
        reading = asyncio.create_task(read(http, "/v1/threads/t/events", "chat_error", come))
        await wait_until(lambda: come != [], "the stream has begun")
        cancelled = await http.post("/v1/threads/t/cancel", json={})
        assert cancelled.json()["cancelled"] is True
        events = await reading
        assert [event["event"] for event in events] == ["snapshot", "chat_error"]
        assert json.loads(events[0]["data"])["turn"]["text"] == "on and on"
        await wait_until(lambda: len(node.gateway.rooms) == 0, "the stream was closed with its reader")


async def asking(turn: Turn) -> AsyncIterator[str]:
    decision = await turn.approve("rm", {"path": "/"})
    yield f"{decision.decision} by {decision.by}"


async def test_a_decision_by_http(gateway_settings: Make) -> None:
    """Seen in the snapshot, decided once; the second hears what stands; a wrong one and an unknown one are refused."""
    given = gateway_settings()
    async with serving(given) as gateway, working(given, asking), httpx.AsyncClient(trust_env=False) as http:
        url = f"{gateway.url}/v1/threads/t"
        await http.post(f"{url}/turns", json={"message": "go", "policy": "resume"})

        async def waits() -> bool:
            turn = (await http.get(url)).json()["turn"]
            return turn is not None and turn["state"] == "waiting"

        await wait_until(waits, "the turn is parked")
        asked = (await http.get(url)).json()["turn"]["approvals"][0]
        assert (asked["state"], asked["tool_name"], asked["args"]) == ("pending", "rm", {"path": "/"})
        place = f"{url}/approvals/{asked['approval_id']}"
        wrong = await http.post(place, json={"decision": "maybe"})
        assert (wrong.status_code, wrong.json()["error"]["field"]) == (400, "decision")
        first = (await http.post(place, json={"decision": "approved"})).json()
        second = (await http.post(place, json={"decision": "denied"})).json()
        assert (first["decided"], second["decided"]) == (True, False)
        assert (second["state"], second["decision"], second["by"]) == ("decided", "approved", first["by"])
        unknown = await http.post(f"{url}/approvals/r.x", json={"decision": "approved"})
        assert unknown.status_code == 404
        await ended(http, url)
        assert (await http.get(url)).json()["messages"][-1]["content"] == f"approved by {first['by']}"


async def test_the_queue_by_http(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, endless), httpx.AsyncClient(base_url=node.url) as http:
        await http.post("/v1/threads/t/turns", json={"message": "0"})
        items = [
            (await http.post("/v1/threads/t/turns", json={"message": m, "queue_mode": "followup"})).json()["request_id"]
            for m in "12"
        ]
        status = (await http.get("/v1/threads/t/queue")).json()
        assert [item["item_id"] for item in status["lanes"]["followup"]] == items
        assert (await http.delete(f"/v1/threads/t/queue/{items[0]}")).json()["removed"] == [items[0]]
        assert (await http.delete(f"/v1/threads/t/queue/{items[0]}")).status_code == 404
        assert (await http.delete("/v1/threads/t/queue")).json()["removed"] == [items[1]]


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "code"),
    [
        ("POST", "/v1/threads/t/turns", b"", 400, "invalid_payload"),
        ("POST", "/v1/threads/t/turns", b"{", 400, "invalid_payload"),
        ("POST", "/v1/threads/t/turns", b'{"message": NaN}', 400, "invalid_payload"),
        ("POST", "/v1/threads/t/turns", b"[" * 20_000, 400, "invalid_payload"),
        ("POST", "/v1/threads/t/turns", b"[]", 400, "invalid_payload"),
        ("POST", "/v1/threads/t/turns", b'{"message": "' + b"x" * 2_000_000 + b'"}', 413, "too_large"),
        ("POST", "/v1/threads/%7D/turns", b'{"message": "x"}', 400, "invalid_thread_id"),
        ("GET", "/v1/threads/nowhere", b"", 404, "not_found"),
        ("GET", "/v1/threads/nowhere/messages", b"", 404, "not_found"),
        ("GET", "/v1/threads/nowhere/events", b"", 404, "not_found"),
        ("GET", "/v1/threads/nowhere/messages?limit=many", b"", 400, "invalid_payload"),
        ("GET", "/v1/threads/t/events?after=nonsense", b"", 400, "invalid_payload"),
        ("POST", "/v1/threads/nowhere/cancel", b"{}", 404, "not_found"),
        ("GET", "/v1/threads/t/nothing", b"", 404, "unknown_event"),
        ("PUT", "/v1/threads/t", b"", 405, "unknown_event"),
    ],
)
async def test_a_bad_request_gets_the_clear_error(
    gateway_settings: Make, method: str, path: str, content: bytes, status: int, code: str
) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, httpx.AsyncClient(base_url=node.url) as http:
        answer = await http.request(method, path, content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_a_token_is_asked_for_on_every_route_of_a_thread(gateway_settings: Make) -> None:
    settings = gateway_settings(jwt_secret=SECRET)
    async with serving(settings) as node, working(settings, count), httpx.AsyncClient(base_url=node.url) as http:
        for method, path in (
            ("GET", ""), ("POST", "/turns"), ("POST", "/cancel"), ("GET", "/messages"), ("GET", "/queue"),
            ("DELETE", "/queue"), ("DELETE", "/queue/x"), ("GET", "/events"),
        ):  # fmt: skip
            answer = await http.request(method, f"/v1/threads/t{path}")
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
        ann = {"Authorization": f"Bearer {mint(SECRET, 'ann', 60)}"}
        bob = {"Authorization": f"Bearer {mint(SECRET, 'bob', 60)}"}
        assert (await http.post("/v1/threads/t/turns", json={"message": "1"}, headers=ann)).status_code == 202
        assert (await http.get("/v1/threads/t", headers=ann)).status_code == 200
        for path in ("", "/events", "/messages", "/queue"):
            theirs = await http.get(f"/v1/threads/t{path}", headers=bob)
            none = await http.get(f"/v1/threads/nowhere{path}", headers=bob)
            assert (theirs.status_code, theirs.json()) == (none.status_code, none.json()) == (404, none.json())


async def test_a_node_says_whether_it_is_ready_and_why_not(
    gateway_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, httpx.AsyncClient(base_url=node.url) as http:
        assert (await http.get("/healthz")).text == "ok\n"

        async def ready() -> bool:
            return bool((await http.get("/readyz")).json() == {"ready": True, "reasons": []})

        await wait_until(ready, "ready")
        monkeypatch.setattr(LiveChannels, "deaf", True)
        answer = await http.get("/readyz")
        assert answer.status_code == 503
        assert "deaf" in answer.json()["reasons"][0]


async def test_a_node_whose_redis_is_gone_is_unready_and_refuses_starts(gateway_settings: Make, valkey: str) -> None:
    """A start is answered `unavailable`, never acknowledged and lost."""
    settings = gateway_settings()
    async with serving(settings) as node, httpx.AsyncClient(base_url=node.url) as http:

        async def nothing(*args: Any, **given: Any) -> Any:
            raise ConnectionResetError

        redis: Any = node.backplane.redis
        whole, redis.execute_command = redis.execute_command, nothing
        try:
            answer = await http.get("/readyz")
            assert answer.status_code == 503
            refused = await http.post("/v1/threads/t/turns", json={"message": "x"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
            assert refused.json()["error"]["retryable"] is True
        finally:
            redis.execute_command = whole


async def test_metrics_are_served_in_prometheus_text(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, httpx.AsyncClient(base_url=node.url) as http:
        await http.get("/v1/threads/nowhere")
        text = (await http.get("/metrics")).text
        assert 'threadline_calls_total{code="not_found",verb="http:snapshot"} 1.0' in text
        assert "threadline_sockets 0.0" in text


async def test_a_client_that_leaves_while_it_sends_its_body_is_no_defect_of_the_gateway(
    gateway_settings: Make,
) -> None:
    """It is counted as gone, and no error is logged."""
    settings = gateway_settings()
    async with serving(settings, roles=False) as node, httpx.AsyncClient(base_url=node.url) as http:
        with structlog.testing.capture_logs() as logged:
            _, writer = await asyncio.open_connection("127.0.0.1", http.base_url.port)
            head = b"POST /v1/threads/t/turns HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
            writer.write(head + b'{"message": ')
            await writer.drain()
            writer.close()
            await writer.wait_closed()

            async def counted() -> str:
                lines = (await http.get("/metrics")).text.splitlines()
                return next((line for line in lines if line.startswith("threadline_calls_total{")), "")

            async def is_counted() -> bool:
                return await counted() != ""

            await wait_until(is_counted, "the call is over")
        assert await counted() == 'threadline_calls_total{code="gone",verb="http:start"} 1.0'
        assert not [line for line in logged if line["log_level"] in {"warning", "error"}]


async def test_the_front_door_says_what_is_where(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, httpx.AsyncClient(base_url=node.url) as http:
        assert "/v1/threads/{thread_id}/turns" in (await http.get("/")).text


@pytest.mark.parametrize("text", ["", "x", ":1", "e:", "e:-1", "e:1.5", "e:" + "9" * 40, "e:٣"])
def test_a_cursor_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidPayload):
        cursor(text)


def test_a_cursor_is_epoch_and_offset() -> None:
    assert cursor("a:b:17") == ("a:b", 17)


async def test_a_turn_that_waits_for_a_worker_shows_its_place(gateway_settings: Make) -> None:
    """In the answer to its start, in the state of the queue and in the snapshot; it moves up."""
    given = gateway_settings()
    # without its roles: the recoverer would ring again for what nobody has taken
    async with serving(given, roles=False) as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        threads = [f"/v1/threads/line-{number}" for number in range(3)]
        starts = [(await http.post(f"{thread}/turns", json={"message": "1"})).json() for thread in threads]
        assert [start.get("position") for start in starts] == [None, 2, 3]
        assert [(await http.get(f"{thread}/queue")).json().get("position") for thread in threads] == [1, 2, 3]
        assert (await http.get(threads[2])).json()["turn"]["position"] == 3
        assert await gateway.backplane.doorbell.wait() is not None
        assert (await http.get(threads[2])).json()["turn"]["position"] == 2
        async with working(given, count):
            await ended(http, threads[2])
        assert "position" not in (await http.get(f"{threads[2]}/queue")).json()


async def test_a_message_that_is_sent_again_is_told_its_place_of_now(gateway_settings: Make) -> None:
    given = gateway_settings()
    async with serving(given) as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        for number in range(2):
            await http.post(f"/v1/threads/line-{number}/turns", json={"message": "1"})
        asked = {"message": "1", "client_message_id": "once"}
        first, again = [(await http.post("/v1/threads/mine/turns", json=asked)).json() for _ in range(2)]
        assert first == again
        assert first["position"] == 3
