"""Sockets: the protocol as a client meets it, on a whole gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import socketio  # type: ignore[import-untyped]  # the library has no types

from backplane.settings import Settings
from gateway.auth import mint
from gateway.limits import Bucket
from tests.gateway.agents import echo, endless
from tests.gateway.conftest import Client, Clients, RunningGateway, serving, working
from tests.support.waiting import wait_until
from worker.turn import Turn

SECRET = "a secret of at least thirty-two bytes, for tests"
Make = Callable[..., Settings]


def done(client: Client, count: int = 1) -> Callable[[], bool]:
    return lambda: len(client.named("chat_done", "chat_error")) >= count


async def test_a_turn_from_start_to_done(gateway_settings: Make, clients: Clients) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, echo):
        client = await clients.connect(node.url)
        await wait_until(lambda: client.named("ready") != [], "ready")
        assert client.named("ready") == [{"sid": client.io.get_sid()}]
        ack = await client.call("chat:start", thread_id=" t ", message="hi")
        assert ack.items() >= {"ok": True, "state": "accepted", "thread_id": "t", "offset": 1}.items()
        assert ack["client_id"] == client.io.get_sid()
        await wait_until(done(client), "done")
        assert client.text == "You said: hi"
        assert [data["offset"] for data in client.log()] == list(range(1, len(client.log()) + 1))


async def test_each_event_comes_once_to_a_socket_and_under_its_alias_too(
    gateway_settings: Make, clients: Clients
) -> None:
    """The initiator is in its own room and in the thread's; still once. Per-token deltas have no alias."""
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, echo):
        client = await clients.connect(node.url)
        await client.call("chat:start", thread_id="t", message="hi")
        await client.call("thread:subscribe", thread_id="t")
        await wait_until(done(client), "done")
        names = [name for name, _ in client.events]
        for name in ("chat_accepted", "chat:accepted", "inference_start", "inference:start", "chat_done", "chat:done"):
            assert names.count(name) == 1, name
        assert "text:delta" not in names


async def test_aliases_can_be_turned_off(gateway_settings: Make, clients: Clients) -> None:
    settings = gateway_settings(aliases=False)
    async with serving(settings) as node, working(settings, echo):
        client = await clients.connect(node.url)
        await client.call("chat:start", thread_id="t", message="hi")
        await wait_until(done(client), "done")
        assert not [name for name, _ in client.events if ":" in name]


async def test_a_reconnect_to_another_node_finds_the_turn_in_flight(gateway_settings: Make, clients: Clients) -> None:
    """And goes on in the middle of the word: every offset once, over both connections."""
    go_on = asyncio.Event()

    async def halting(turn: Turn) -> AsyncIterator[str]:
        yield "be"
        await go_on.wait()
        yield "tween"

    one, two = gateway_settings(), gateway_settings()
    async with serving(one) as first, serving(two) as second, working(one, halting):
        before = await clients.connect(first.url)
        started = await before.call("chat:start", thread_id="t", message="hi")
        await wait_until(lambda: before.text == "be", "half a word")
        await before.io.disconnect()
        after = await clients.connect(second.url)
        joined = await after.call(
            "thread:subscribe", thread_id="t", epoch=started["epoch"], after=before.log()[-1]["offset"]
        )
        assert joined["recovered"] is True
        assert "snapshot" not in joined
        go_on.set()
        await wait_until(done(after), "done")
        assert before.text + after.text == "between"
        offsets = [data["offset"] for data in before.log() + after.log()]
        assert offsets == list(range(1, len(offsets) + 1))


async def test_missed_events_come_before_the_acknowledgement(gateway_settings: Make, clients: Clients) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, echo):
        first = await clients.connect(node.url)
        ack = await first.call("chat:start", thread_id="t", message="hi")
        await wait_until(done(first), "done")
        second = await clients.connect(node.url)
        seen_at_ack: list[int] = []
        answered = asyncio.Event()

        def acknowledged(_: Any) -> None:
            seen_at_ack.append(len(second.log()))
            answered.set()

        payload = {"thread_id": "t", "epoch": ack["epoch"], "after": 0}
        await second.io.emit("thread:subscribe", payload, callback=acknowledged)
        await answered.wait()
        assert seen_at_ack == [len(second.log())]
        assert second.log()[-1]["event"] == "chat_done"


async def test_a_snapshot_comes_before_any_later_event(gateway_settings: Make, clients: Clients) -> None:
    """Many join in the middle of a fast stream: what each gets after its snapshot follows on it, without gap."""

    async def fast(turn: Turn) -> AsyncIterator[str]:
        for number in range(300):
            yield f"{number} "
            if number == 250:
                await everybody_joined.wait()
            await asyncio.sleep(0)

    everybody_joined = asyncio.Event()
    settings = gateway_settings(coalesce=0.0)
    async with serving(settings) as node, working(settings, fast):
        starter = await clients.connect(node.url)
        await starter.call("chat:start", thread_id="t", message="hi")
        await wait_until(lambda: starter.text != "", "it talks")
        joined: list[tuple[Client, dict[str, Any], int]] = []
        for number in range(8):
            client = await clients.connect(node.url)

            def acknowledged(ack: dict[str, Any], client: Client = client) -> None:
                joined.append((client, ack, len(client.log())))

            await client.io.emit("thread:subscribe", {"thread_id": "t"}, callback=acknowledged)
            await wait_until(lambda n=number: len(joined) > n, "acknowledged")
        everybody_joined.set()
        for client, ack, before in joined:
            assert before == 0
            await wait_until(done(client), "done")
            assert client.log()[0]["offset"] == ack["offset"] + 1
            assert ack["snapshot"]["turn"]["text"] + client.text == "".join(f"{n} " for n in range(300))


async def test_a_thread_that_does_not_exist_cannot_be_watched(gateway_settings: Make, clients: Clients) -> None:
    settings = gateway_settings()
    async with serving(settings) as node:
        client = await clients.connect(node.url)
        ack = await client.call("thread:subscribe", thread_id="nowhere")
        assert (ack["ok"], ack["error"]["code"], ack["error"]["retryable"]) == (False, "not_found", False)


async def test_cancel_from_another_node(gateway_settings: Make, clients: Clients) -> None:
    one, two = gateway_settings(), gateway_settings()
    async with serving(one) as first, serving(two) as second, working(one, endless):
        talker, stopper = await clients.connect(first.url), await clients.connect(second.url)
        started = await talker.call("chat:start", thread_id="t", message="hi")
        await wait_until(lambda: talker.text != "", "it talks")
        stale = await stopper.call("chat:cancel", thread_id="t", request_id="another")
        assert (stale["ok"], stale["cancelled"], stale["state"]) == (True, False, "unknown")
        ack = await stopper.call("chat:cancel", thread_id="t")
        assert (ack["cancelled"], ack["request_id"], ack["state"]) == (True, started["request_id"], "running")
        await wait_until(done(talker), "ended")
        assert talker.named("chat_error")[0]["error_type"] == "cancelled"
        again = await stopper.call("chat:cancel", thread_id="t")
        assert (again["cancelled"], again["request_id"], again["state"]) == (False, None, "idle")


async def test_a_cancel_right_behind_its_start_ends_the_turn(gateway_settings: Make, clients: Clients) -> None:
    """Handlers run as tasks of their own; calls of one socket are still carried out in their order."""
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, endless):
        client = await clients.connect(node.url)
        for number in range(1, 41):
            await client.io.emit("chat:start", {"thread_id": f"t{number}", "message": "hi"})
            ack = await client.call("chat:cancel", thread_id=f"t{number}")
            assert ack["cancelled"] is True
        await wait_until(done(client, 40), "all ended")
        assert len(client.named("chat_error")) == 40


async def test_ten_equal_starts_through_two_nodes_are_one_turn(gateway_settings: Make, clients: Clients) -> None:
    one, two = gateway_settings(), gateway_settings()
    async with serving(one) as first, serving(two) as second, working(one, echo):
        callers = [await clients.connect((first, second)[n % 2].url) for n in range(10)]
        call = {"thread_id": "t", "message": "once", "client_message_id": "k"}
        acks = await asyncio.gather(*(caller.call("chat:start", **call) for caller in callers))
        assert len({json.dumps(ack, sort_keys=True) for ack in acks}) == 1
        await wait_until(done(callers[0]), "done")
        assert len(callers[0].named("chat_accepted")) == 1
        conflict = await callers[1].call("chat:start", **(call | {"message": "other"}))
        assert conflict["error"]["code"] == "idempotency_conflict"


async def test_every_watcher_of_a_thread_sees_a_turn_of_another_socket(
    gateway_settings: Make, clients: Clients
) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, echo):
        one, two = await clients.connect(node.url), await clients.connect(node.url)
        await one.call("chat:start", thread_id="t", message="first")
        await wait_until(done(one), "done")
        await two.call("thread:subscribe", thread_id="t")
        await one.call("chat:start", thread_id="t", message="second")
        await wait_until(done(two), "the watcher sees it")
        assert two.text == "You said: second"
        assert (await two.call("thread:unsubscribe", thread_id="t")) == {"ok": True, "joined": False, "thread_id": "t"}
        await one.call("chat:start", thread_id="t", message="third")
        await wait_until(done(one, 3), "done")
        assert two.text == "You said: second"


async def test_a_decision_is_taken_at_any_node_and_told_to_everybody(gateway_settings: Make, clients: Clients) -> None:
    async def asking(turn: Turn) -> AsyncIterator[str]:
        yield str(await turn.ask("Which?", ["left", "right"]))

    one, two = gateway_settings(), gateway_settings()
    async with serving(one) as first, serving(two) as second, working(one, asking):
        client, other = await clients.connect(first.url), await clients.connect(second.url)
        await client.call("chat:start", thread_id="t", message="go", policy="resume")
        await wait_until(lambda: bool(client.named("approval_request")), "it asks")
        approval_id = client.named("approval_request")[0]["approval_id"]
        seen = await other.call("thread:subscribe", thread_id="t")
        assert [a["approval_id"] for a in seen["snapshot"]["turn"]["approvals"]] == [approval_id]
        decided = await other.call("approval:decide", thread_id="t", approval_id=approval_id, decision="left")
        assert (decided["decided"], decided["decision"]) == (True, "left")
        late = await client.call("approval:decide", thread_id="t", approval_id=approval_id, decision="right")
        assert (late["decided"], late["decision"], late["by"]) == (False, "left", decided["by"])
        await wait_until(lambda: bool(client.named("chat_done")), "it goes on")
        assert client.named("chat_done")[0]["full_response"] == "left"
        assert client.named("approval_decided")[0]["decision"] == "left"


async def test_parallel_turns_and_steers_reach_the_watchers(gateway_settings: Make, clients: Clients) -> None:
    given = gateway_settings()
    async with serving(given) as gateway, working(given, endless):
        client = await clients.connect(gateway.url)
        await client.call("chat:start", thread_id="t", message="0")
        steer = await client.call("chat:start", thread_id="t", message="1", queue_mode="steer")
        assert (steer["state"], steer["lane"], steer["position"]) == ("queued", "steer", 1)
        beside = await client.call("chat:start", thread_id="t", message="2", queue_mode="parallel")
        assert (beside["state"], beside["lane"]) == ("accepted", "parallel")
        status = await client.call("queue:status", thread_id="t")
        assert [item["item_id"] for item in status["lanes"]["steer"]] == [steer["request_id"]]
        assert [item["item_id"] for item in status["lanes"]["parallel"]] == [beside["request_id"]]
        cancelled = await client.call("chat:cancel", thread_id="t")
        assert cancelled["dropped"] == [steer["request_id"]]
        await client.call("chat:cancel", thread_id="t", request_id=beside["request_id"])
        await wait_until(lambda: len(client.named("chat_error")) == 2, "both end")


async def test_the_queue_can_be_seen_and_changed_from_any_node(gateway_settings: Make, clients: Clients) -> None:
    one, two = gateway_settings(), gateway_settings()
    async with serving(one) as first, serving(two) as second, working(one, endless):
        client, other = await clients.connect(first.url), await clients.connect(second.url)
        running = await client.call("chat:start", thread_id="t", message="0")
        queued = [
            await client.call("chat:start", thread_id="t", message=str(n), queue_mode="followup") for n in (1, 2, 3)
        ]
        assert [(q["state"], q["lane"], q["position"]) for q in queued] == [
            ("queued", "followup", 1), ("queued", "followup", 2), ("queued", "followup", 3),
        ]  # fmt: skip
        status = await other.call("queue:status", thread_id="t")
        assert status["running"] == running["request_id"]
        assert [(i["item_id"], i["preview"]) for i in status["lanes"]["followup"]] == [
            (q["request_id"], str(n)) for n, q in enumerate(queued, start=1)
        ]
        removed = await other.call("queue:remove", thread_id="t", item_id=queued[1]["request_id"])
        assert removed["removed"] == [queued[1]["request_id"]]
        gone = await other.call("queue:remove", thread_id="t", item_id=queued[1]["request_id"])
        assert gone["error"]["code"] == "not_found"
        cleared = await other.call("queue:clear", thread_id="t")
        assert cleared["removed"] == [queued[0]["request_id"], queued[2]["request_id"]]
        await wait_until(lambda: len(client.named("queue_item_removed")) == 3, "watchers are told")
        rejected = await other.call("chat:start", thread_id="t", message="x", queue_mode="reject")
        assert (rejected["error"]["code"], rejected["error"]["retryable"]) == ("turn_running", True)


async def test_history_comes_in_pages(gateway_settings: Make, clients: Clients) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, echo):
        client = await clients.connect(node.url)
        for number in range(3):
            await client.call("chat:start", thread_id="t", message=str(number))
            await wait_until(done(client, number + 1), "done")
        newest = await client.call("thread:history", thread_id="t", limit=2)
        assert [m["content"] for m in newest["messages"]] == ["2", "You said: 2"]
        older = await client.call("thread:history", thread_id="t", before=newest["messages"][0]["id"])
        assert [m["content"] for m in older["messages"]] == ["0", "You said: 0", "1", "You said: 1"]
        everything = await client.call("thread:history", thread_id="t", limit=10**9)
        assert len(everything["messages"]) == 6


@pytest.mark.parametrize(
    ("verb", "payload", "code"),
    [
        ("chat:start", {"thread_id": "t"}, "invalid_payload"),
        ("chat:start", {"thread_id": "t", "message": 7}, "invalid_payload"),
        ("chat:start", {"thread_id": "t", "message": "  "}, "invalid_payload"),
        ("chat:start", {"thread_id": "t", "message": "x" * 300_000}, "too_large"),
        ("chat:start", {"thread_id": "t", "message": "x", "queue_mode": "whatever"}, "invalid_payload"),
        ("chat:start", {"thread_id": "}", "message": "x"}, "invalid_thread_id"),
        ("chat:start", [1, 2], "invalid_payload"),
        ("chat:start", None, "invalid_payload"),
        ("thread:subscribe", {"thread_id": "a" * 129}, "invalid_thread_id"),
        ("thread:subscribe", {"thread_id": "t", "after": -1, "epoch": "e"}, "invalid_payload"),
        ("thread:subscribe", {"thread_id": "t", "after": True, "epoch": "e"}, "invalid_payload"),
        ("chat:cancel", {"thread_id": "t", "request_id": "a/b"}, "invalid_payload"),
        ("no:such:verb", {}, "unknown_event"),
    ],
)
async def test_a_bad_call_gets_the_clear_error_and_changes_nothing(
    gateway_settings: Make, clients: Clients, verb: str, payload: object, code: str
) -> None:
    settings = gateway_settings()
    async with serving(settings) as node:
        client = await clients.connect(node.url)
        ack = await client.io.call(verb, payload, timeout=10)
        assert (ack["ok"], ack["error"]["code"]) == (False, code)
        assert [key async for key in node.backplane.redis.scan_iter(match=f"{settings.key_prefix}:{{*")] == []


async def test_too_many_calls_are_answered_with_when_to_come_back(gateway_settings: Make, clients: Clients) -> None:
    settings = gateway_settings(calls_per_second=0.001, calls_burst=5)
    async with serving(settings) as node:
        client = await clients.connect(node.url)
        acks = [await client.call("queue:status", thread_id="t") for _ in range(6)]
        assert [ack["error"]["code"] for ack in acks] == ["not_found"] * 5 + ["rate_limited"]
        assert acks[-1]["error"]["retry_after_ms"] > 0


async def test_events_that_do_not_exist_are_counted_like_calls(gateway_settings: Make, clients: Clients) -> None:
    async with serving(gateway_settings(calls_per_second=0.001, calls_burst=5)) as node:
        client = await clients.connect(node.url)
        acks = [await client.call("no:such", thread_id="t") for _ in range(6)]
        assert [ack["error"]["code"] for ack in acks] == ["unknown_event"] * 5 + ["rate_limited"]


async def test_calls_that_wait_for_one_that_is_held_up_are_not_piled_up(
    gateway_settings: Make, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slowly they come: the limit of the rate alone would let in as many as it takes time."""
    async with serving(gateway_settings(calls_burst=5)) as node:
        client = await clients.connect(node.url)
        begun, go_on = held(node.backplane.threads, "page", monkeypatch)
        calls = [asyncio.create_task(client.call("thread:list")) for _ in range(5)]
        await begun.wait()
        (socket,) = node.gateway.sockets._sockets.values()
        await wait_until(lambda: socket.calls == 5, "the others wait")
        monkeypatch.setattr(socket, "bucket", Bucket(1000, 1000))
        refused = (await client.call("thread:list"))["error"]
        assert (refused["code"], refused["retry_after_ms"]) == ("rate_limited", 1000)
        await client.io.emit("rpc:request", {"id": 1, "method": "openhuman.channel_web_queue_status"})
        await wait_until(lambda: client.named("rpc:error") != [], "so is a call of the other form")
        assert client.named("rpc:error")[0]["error"]["data"]["code"] == "rate_limited"
        go_on.set()
        assert [answer["ok"] for answer in await asyncio.gather(*calls)] == [True] * 5
        assert (await client.call("thread:list"))["ok"] is True


async def test_another_persons_thread_is_answered_like_none_on_both_nodes(
    gateway_settings: Make, clients: Clients
) -> None:
    one, two = gateway_settings(jwt_secret=SECRET), gateway_settings(jwt_secret=SECRET)
    async with serving(one) as first, serving(two) as second, working(one, endless):
        ann = await clients.connect(first.url, mint(SECRET, "ann", 60))
        await ann.call("chat:start", thread_id="mine", message="hi")
        for node in (first, second):
            bob = await clients.connect(node.url, mint(SECRET, "bob", 60))
            for verb, more in (
                ("thread:subscribe", {}), ("chat:cancel", {}), ("thread:history", {}), ("queue:status", {}),
                ("queue:clear", {}), ("queue:remove", {"item_id": "x"}),
            ):  # fmt: skip
                theirs = await bob.call(verb, thread_id="mine", **more)
                none = await bob.call(verb, thread_id="nowhere", **more)
                assert theirs == none
                assert theirs["error"]["code"] == "not_found"
            assert (await bob.call("chat:start", thread_id="mine", message="x"))["error"]["code"] == "not_found"
            assert bob.log() == []
            stranger = await clients.connect(node.url, mint(SECRET, "ann", 60, tenant="elsewhere"))
            assert (await stranger.call("thread:subscribe", thread_id="mine"))["error"]["code"] == "not_found"


async def test_a_user_beyond_its_budget_of_turns_is_refused_and_nobody_else_is(
    gateway_settings: Make, clients: Clients
) -> None:
    """The message that was accepted gets its answer again; a new one is refused, and nothing of it is stored."""
    settings = gateway_settings(jwt_secret=SECRET, max_turns_per_user=2)
    async with serving(settings) as node, working(settings, endless):
        ann = await clients.connect(node.url, mint(SECRET, "ann", 60))
        bob = await clients.connect(node.url, mint(SECRET, "bob", 60))
        first = await ann.call("chat:start", thread_id="t0", message="hi", client_message_id="k")
        await ann.call("chat:start", thread_id="t1", message="hi")
        refused = await ann.call("chat:start", thread_id="t2", message="hi")
        assert (refused["error"]["code"], refused["error"]["retryable"]) == ("rate_limited", True)
        assert refused["error"]["retry_after_ms"] > 0
        assert (await ann.call("thread:subscribe", thread_id="t2"))["error"]["code"] == "not_found"
        assert await ann.call("chat:start", thread_id="t0", message="hi", client_message_id="k") == first
        assert (await bob.call("chat:start", thread_id="t3", message="hi"))["ok"] is True
        await ann.call("chat:cancel", thread_id="t1")
        await wait_until(done(ann), "ended")
        assert (await ann.call("chat:start", thread_id="t2", message="hi"))["ok"] is True


async def test_without_a_valid_token_there_is_no_connection(gateway_settings: Make, clients: Clients) -> None:
    """The refusal reaches the client as message and data."""
    settings = gateway_settings(jwt_secret=SECRET)
    async with serving(settings) as node:
        io = socketio.AsyncClient(reconnection=False)
        refusals: list[Any] = []
        io.on("connect_error", refusals.append)
        for token in (None, "nonsense", mint("another secret that is just as long as the first", "ann", 60)):
            with pytest.raises(socketio.exceptions.ConnectionError):
                await io.connect(node.url, auth={"token": token}, transports=["websocket"], wait_timeout=10)
        assert [refusal["message"] for refusal in refusals] == ["unauthorized"] * 3
        assert refusals[0]["data"]["retryable"] is False


async def test_a_token_is_refreshed_in_band_and_only_by_its_own_subject(
    gateway_settings: Make, clients: Clients
) -> None:
    settings = gateway_settings(jwt_secret=SECRET)
    async with serving(settings) as node:
        client = await clients.connect(node.url, mint(SECRET, "ann", 60))
        ack = await client.call("auth:refresh", token=mint(SECRET, "ann", 600))
        assert ack["ok"] is True
        assert ack["expires_at"] > 0
        refused = await client.call("auth:refresh", token=mint(SECRET, "bob", 600))
        assert refused["error"]["code"] == "unauthorized"


async def left(client: Client, node: RunningGateway) -> None:
    """Have a client leave, and wait until the node knows."""
    await client.io.disconnect()
    await wait_until(lambda: len(node.gateway.sockets) == 0, "the node has noticed")


def held(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Have a method stop at its beginning; return what tells that it has, and what lets it go on."""
    begun, go_on, real = asyncio.Event(), asyncio.Event(), getattr(owner, name)

    async def patient(*given: Any, **named: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await real(*given, **named)

    monkeypatch.setattr(owner, name, patient)
    return begun, go_on


async def test_a_refresh_that_ends_behind_its_socket_leaves_no_timer(
    gateway_settings: Make, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would live until the token's end, up to 30 days, and the socket with it."""
    settings = gateway_settings(jwt_secret=SECRET)
    async with serving(settings) as node:
        client = await clients.connect(node.url, mint(SECRET, "ann", 60))
        (socket,) = node.gateway.sockets._sockets.values()
        begun, go_on = held(node.gateway.sockets._authenticator, "refresh", monkeypatch)
        await client.io.emit("auth:refresh", {"token": mint(SECRET, "ann", 86_400)})
        await begun.wait()
        await left(client, node)
        go_on.set()
        async with socket.order:
            assert socket.expiry is not None
            assert socket.expiry.cancelled()


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        ("chat:start", {"thread_id": "late", "message": "hi"}),
        (
            "rpc:request",
            {"id": 1, "method": "openhuman.channel_web_chat", "params": {"thread_id": "late", "message": "hi"}},
        ),
        ("auth:refresh", {"token": mint(SECRET, "ann", 86_400)}),
    ],
)
async def test_what_waits_behind_a_call_when_its_socket_leaves_is_not_begun_and_what_has_begun_goes_on(
    gateway_settings: Make, clients: Clients, monkeypatch: pytest.MonkeyPatch, event: str, payload: dict[str, Any]
) -> None:
    settings = gateway_settings(jwt_secret=SECRET)
    async with serving(settings) as node:
        client = await clients.connect(node.url, mint(SECRET, "ann", 60))
        (socket,) = node.gateway.sockets._sockets.values()
        begun, go_on = held(node.backplane.turns, "start", monkeypatch)
        await client.io.emit("chat:start", {"thread_id": "t", "message": "hi"})
        await client.io.emit(event, payload)
        await begun.wait()
        await wait_until(lambda: len(socket.order._waiters or ()) == 1, "the second waits")
        await left(client, node)
        identity = socket.identity
        go_on.set()
        async with socket.order:
            threads, _ = await node.backplane.threads.page(identity.tenant, "ann", before=None, most=10)
            assert [thread.thread_id for thread in threads] == ["t"]
            assert socket.identity is identity


async def test_closing_the_tab_never_stops_the_turn(gateway_settings: Make, clients: Clients) -> None:
    go_on = asyncio.Event()

    async def patient(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        await go_on.wait()
        yield "b"

    settings = gateway_settings()
    async with serving(settings) as node, working(settings, patient):
        client = await clients.connect(node.url)
        await client.call("chat:start", thread_id="t", message="hi")
        await wait_until(lambda: client.text == "a", "it talks")
        await client.io.disconnect()
        await wait_until(lambda: len(node.gateway.sockets) == 0, "the node has noticed")
        await wait_until(lambda: len(node.gateway.rooms) == 0, "and watches no more")
        go_on.set()
        again = await clients.connect(node.url)

        async def answered() -> bool:
            messages = (await again.call("thread:history", thread_id="t"))["messages"]
            return [m["content"] for m in messages] == ["hi", "ab"]

        await wait_until(answered, "the answer is in the history")


async def test_a_draining_node_is_unready_before_the_first_of_its_clients_is_sent_away(
    gateway_settings: Make, clients: Clients
) -> None:
    """A load balancer that has not seen it yet would send that client to the same node again."""
    async with serving(gateway_settings(drain_grace=600)) as node:
        client = await clients.connect(node.url)
        draining = asyncio.create_task(node.gateway.drain())
        try:
            await wait_until(lambda: node.gateway.node.draining, "it is unready")
            assert await node.gateway.node.unready_because() == ["draining"]
            await client.call("thread:subscribe", thread_id="t")
            assert client.io.connected
            assert not draining.done()
            late = await clients.connect(node.url)
            assert (await late.call("thread:unsubscribe", thread_id="t"))["ok"] is True, "it is served like any other"
        finally:
            draining.cancel()


async def test_a_draining_node_is_unready_and_closes_transports_so_that_clients_come_back(
    gateway_settings: Make, clients: Clients
) -> None:
    settings = gateway_settings(drain_grace=0.1)
    async with serving(settings) as node:
        client = await clients.connect(node.url)
        reasons: list[Any] = []
        client.io.on("disconnect", reasons.append)
        await node.gateway.drain()
        assert await node.gateway.node.unready_because() == ["draining"]
        await wait_until(lambda: reasons != [], "the transport is closed")
        assert reasons == ["transport error"], "a disconnect packet would make the JavaScript client stay away"


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_draining_node_sends_new_clients_elsewhere_before_anything_of_theirs_has_happened(
    gateway_settings: Make, clients: Clients, transport: str
) -> None:
    """With a status that a load balancer understands: it may ask the next node in the client's name."""
    async with serving(gateway_settings(drain_grace=0.1, polling=True)) as node:
        await clients.connect(node.url)
        await node.gateway.drain()
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.get(
                f"{node.url}/socket.io/?EIO=4&transport={transport}",
                headers=upgrade | key if transport == "websocket" else {},
            )
        assert answer.status_code == 503
        assert len(node.gateway.sockets) == 0


async def test_a_socket_watches_so_many_threads_and_no_more(gateway_settings: Make, clients: Clients) -> None:
    """What it watches already it may ask for again; what it leaves makes room; nothing is started beyond."""
    settings = gateway_settings(max_threads_per_socket=2)
    async with serving(settings) as node, working(settings, echo):
        client, other = await clients.connect(node.url), await clients.connect(node.url)
        for thread_id in ("a", "b"):
            await client.call("chat:start", thread_id=thread_id, message="hi")
        await other.call("chat:start", thread_id="c", message="hi")
        await wait_until(lambda: done(client, 2)() and done(other)(), "all are done")
        for verb in ("chat:start", "thread:subscribe"):
            refused = (await client.call(verb, thread_id="c", message="more"))["error"]
            assert (refused["code"], refused["limit"], refused["retryable"]) == ("too_many_threads", 2, False)
        assert (await client.call("thread:subscribe", thread_id="a"))["ok"] is True
        assert len((await other.call("thread:history", thread_id="c"))["messages"]) == 2
        await client.call("thread:unsubscribe", thread_id="b")
        assert (await client.call("thread:subscribe", thread_id="c"))["ok"] is True
