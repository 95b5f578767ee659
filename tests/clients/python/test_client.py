"""The client against gateways that die, double, lose and refuse."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.clients.python.scripted_gateway import Deployment, Fields, ScriptedGateway, gateways
from threadline_client import (
    Cursor,
    Event,
    EventStream,
    NodeChange,
    NotConnected,
    NotFound,
    Refused,
    Snapshot,
    ThreadState,
    Turn,
    Unauthorized,
    connect,
    link,
)

EXPIRED = {"code": "unauthorized", "message": "the token has expired", "retryable": False}
UNAVAILABLE = {"code": "unavailable", "message": "Redis did not answer", "retryable": True}


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Deployment, ScriptedGateway, ScriptedGateway]]:
    """Return a deployment with two gateways."""
    async with gateways(2) as (deployment, (one, two)):
        yield deployment, one, two


Pair = tuple[Deployment, ScriptedGateway, ScriptedGateway]


async def take(events: EventStream, count: int) -> list[Event]:
    """Return the next events; a snapshot among them is a failure."""
    found: list[Event] = []
    while len(found) < count:
        item = await anext(events)
        assert isinstance(item, Event), item
        found.append(item)
    return found


def text_of(events: list[Event]) -> str:
    return "".join(event.delta for event in events)


async def test_a_turn_is_sent_and_its_answer_awaited(pair: Pair) -> None:
    deployment, one, two = pair
    async with connect([one.url, two.url]) as client:
        turn = await client.thread(" tea ").send("How long?", model="big", metadata={"a": 1})
        deployment.append("tea", turn.request_id, "text_delta", delta="Three minutes")
        await deployment.emit("tea", turn.request_id, "chat_done", full_response="Three minutes.")
        outcome = await turn.wait()
    assert (outcome.ok, outcome.text) == (True, "Three minutes.")
    sent = deployment.starts[0]
    assert (sent["thread_id"], sent["model"], sent["metadata"]) == ("tea", "big", {"a": 1})
    assert "queue_mode" not in sent


async def test_a_first_stream_begins_with_how_things_stand(pair: Pair) -> None:
    deployment, one, _ = pair
    deployment.append("tea", "r0", "chat_accepted", message="hi")
    deployment.thread("tea").messages = [{"id": "1", "role": "user", "content": "hi"}]
    async with connect(one.url) as client, client.thread("tea").events() as events:
        first = await anext(events)
        await deployment.emit("tea", "r0", "text_delta", delta="hello")
        (second,) = await take(events, 1)
    assert isinstance(first, Snapshot)
    assert (first.offset, first.recovered, first.messages[0]["content"]) == (1, None, "hi")
    assert (second.offset, second.delta) == (2, "hello")


async def test_a_stream_goes_on_at_another_node_without_gap_or_double(pair: Pair) -> None:
    deployment, one, two = pair
    deployment.thread("tea")
    changes: list[NodeChange] = []
    async with (
        connect([one.url, two.url], on_change=changes.append) as client,
        client.thread("tea").events() as events,
    ):
        assert isinstance(await anext(events), Snapshot)
        await deployment.say("tea", "r1", "the wa", "ter ")
        seen = await take(events, 2)
        deployment.append("tea", "r1", "text_delta", delta="is ")
        deployment.append("tea", "r1", "text_delta", delta="hot ")
        await one.kill()
        seen += await take(events, 2)
        await deployment.say("tea", "r1", "now")
        seen += await take(events, 1)
        assert client.url == two.url
    assert text_of(seen) == "the water is hot now"
    assert [event.offset for event in seen] == [1, 2, 3, 4, 5]
    assert [(change.state, change.url) for change in changes] == [
        ("connected", one.url),
        ("lost", one.url),
        ("connected", two.url),
    ]
    assert two.subscribes[0] == {"thread_id": "tea", "epoch": "e1", "after": 2}


async def test_it_is_known_while_the_gateway_in_use_has_lost_redis(pair: Pair) -> None:
    """Told once at the loss and once at the return; another gateway says for itself how it is there."""
    _, one, two = pair
    state, changes = ThreadState(), asyncio.Queue[NodeChange]()
    async with connect([one.url, two.url], on_change=changes.put_nowait) as client:

        async def changed() -> tuple[str, bool, bool]:
            change = await changes.get()
            state.node(change)
            return change.state, client.degraded, state.degraded

        assert await changed() == ("connected", False, False)
        await one.tell_all("degraded", {"active": True, "since": 5})
        assert await changed() == ("degraded", True, True)
        for active in (True, False, True):
            await one.tell_all("degraded", {"active": active, "since": 5})
        assert (await changed())[0] == "restored"
        assert (await changed())[0] == "degraded"
        await one.kill()
        assert await changed() == ("lost", False, False)


async def test_a_node_that_only_closes_its_transport_is_left_too(pair: Pair) -> None:
    """A draining node closes the transport; the client moves, and comes back when the other does the same."""
    deployment, one, two = pair
    deployment.thread("tea")
    async with connect([one.url, two.url]) as client, client.thread("tea").events() as events:
        await anext(events)
        for node, other in ((one, two), (two, one)):
            node.cut()
            event = deployment.append("tea", "r1", "text_delta", delta="x")
            (seen,) = await take(events, 1)
            assert (seen.offset, client.url) == (event["offset"], other.url)


async def test_a_node_that_ends_the_transport_in_the_handshake_is_left_at_once(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stops while the balancer still sends clients there; nobody waits for an answer that cannot come."""
    monkeypatch.setattr(link, "CONNECT_TIMEOUT", 3600.0)
    deployment, one, two = pair
    one.cuts_at_connect = 1
    async with connect([one.url, two.url]) as client:
        await client.thread("tea").send("How long?")
        assert client.url == two.url
    assert len(deployment.starts) == 1


@pytest.mark.parametrize("said", [b"", b"\x88\x02\x03\xf4", b"\x81\x01?"], ids=["nothing", "farewell", "nonsense"])
async def test_a_node_that_breaks_off_before_its_greeting_is_left_at_once(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """Something between the client and the gateway may have taken the handshake, and then find nobody behind it."""
    monkeypatch.setattr(link, "CONNECT_TIMEOUT", 3600.0)
    _, one, _ = pair

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        (key,) = [
            line.partition(": ")[2] for line in request.splitlines() if line.lower().startswith("sec-websocket-key")
        ]
        digest = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        writer.write(b"Sec-WebSocket-Accept: " + digest + b"\r\n\r\n" + said)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect([f"http://127.0.0.1:{port}", one.url]) as client:
            assert client.url == one.url


async def test_doubles_are_dropped_and_aliases_ignored(pair: Pair) -> None:
    deployment, one, _ = pair
    deployment.thread("tea")
    one.on_deliver = lambda event: [event, event]
    async with connect(one.url) as client, client.thread("tea").events() as events:
        await anext(events)
        await deployment.say("tea", "r1", "a", "b", "c")
        seen = await take(events, 3)
    assert [event.offset for event in seen] == [1, 2, 3]


async def test_a_hole_is_filled_from_the_log_before_anything_later_passes(pair: Pair) -> None:
    deployment, one, _ = pair
    deployment.thread("tea")
    one.on_deliver = lambda event: [] if event["offset"] in (2, 3) else [event]
    async with connect(one.url) as client, client.thread("tea").events() as events:
        await anext(events)
        await deployment.say("tea", "r1", "a", "b", "c", "d")
        seen = await take(events, 4)
    assert text_of(seen) == "abcd"
    assert one.subscribes[1] == {"thread_id": "tea", "epoch": "e1", "after": 1}


async def test_lost_events_are_told_by_a_snapshot(pair: Pair) -> None:
    deployment, one, two = pair
    thread = deployment.thread("tea")
    two.recovers = False
    async with connect([one.url, two.url]) as client, client.thread("tea").events() as events:
        await anext(events)
        await deployment.say("tea", "r1", "a")
        await take(events, 1)
        deployment.append("tea", "r1", "text_delta", delta="b")
        thread.turn = {"request_id": "r1", "state": "running", "attempt": 1, "text": "ab"}
        await one.kill()
        snapshot = await anext(events)
        await deployment.say("tea", "r1", "c")
        (after,) = await take(events, 1)
    assert isinstance(snapshot, Snapshot)
    assert (snapshot.recovered, snapshot.offset) == (False, 2)
    assert snapshot.turn == thread.turn
    assert after.delta == "c"


async def test_another_epoch_on_a_live_connection_is_noticed(pair: Pair) -> None:
    deployment, one, _ = pair
    thread = deployment.thread("tea")
    async with connect(one.url) as client, client.thread("tea").events() as events:
        await anext(events)
        await deployment.say("tea", "r1", "a")
        await take(events, 1)
        thread.epoch, thread.top, thread.log = "e2", 0, []
        await deployment.say("tea", "r2", "new")
        snapshot = await anext(events)
    assert isinstance(snapshot, Snapshot)
    assert (snapshot.recovered, snapshot.cursor) == (False, Cursor("e2", 1))


async def test_a_lost_acknowledgement_is_asked_for_again_under_the_same_key(pair: Pair) -> None:
    deployment, one, two = pair
    one.deaf_to.add("chat:start")
    async with connect([one.url, two.url]) as client:
        turn = await client.thread("tea").send("hi")
    keys = {start["client_message_id"] for start in deployment.starts}
    assert len(deployment.starts) == 2
    assert keys == {turn.client_message_id}
    assert turn.request_id == "r1"


async def test_a_start_is_sent_again_while_the_gateway_says_retry(pair: Pair) -> None:
    deployment, one, _ = pair
    one.refusals["chat:start"] = [UNAVAILABLE, {**UNAVAILABLE, "code": "rate_limited", "retry_after_ms": 1}]
    async with connect(one.url) as client:
        turn = await client.thread("tea").send("hi", client_message_id="key-1")
    assert (one.calls["chat:start"], turn.client_message_id) == (3, "key-1")
    assert [start["client_message_id"] for start in deployment.starts] == ["key-1"]


@pytest.mark.parametrize(("code", "retryable"), [("too_large", False), ("turn_running", True), ("queue_full", True)])
async def test_an_answer_about_the_message_or_the_thread_is_raised_at_once(
    pair: Pair, code: str, retryable: bool
) -> None:
    _, one, _ = pair
    one.refusals["chat:start"] = [{"code": code, "message": "no", "retryable": retryable}]
    async with connect(one.url) as client:
        with pytest.raises(Refused) as caught:
            await client.thread("tea").send("hi", queue_mode="reject")
    assert (caught.value.code, caught.value.retryable) == (code, retryable)
    assert one.calls["chat:start"] == 1


async def test_a_subscribe_that_may_be_retried_is(pair: Pair) -> None:
    deployment, one, _ = pair
    deployment.thread("tea")
    one.refusals["thread:subscribe"] = [UNAVAILABLE]
    async with connect(one.url) as client, client.thread("tea").events() as events:
        assert isinstance(await anext(events), Snapshot)
    assert one.calls["thread:subscribe"] == 2


async def test_a_subscribe_that_is_refused_ends_the_stream_with_the_reason(pair: Pair) -> None:
    _, one, _ = pair
    one.refusals["thread:subscribe"] = [{"code": "invalid_thread_id", "message": "no", "retryable": False}]
    async with connect(one.url) as client, client.thread("}").events() as events:
        with pytest.raises(Refused, match="no"):
            await anext(events)


async def test_a_refused_token_is_raised_and_not_tried_for_ever(pair: Pair) -> None:
    _, one, two = pair
    for node in (one, two):
        node.refuse_connect = EXPIRED
    with pytest.raises(Unauthorized, match="expired"):
        async with connect([one.url, two.url], "old"):
            pass
    assert one.tokens == ["old"]
    assert two.tokens == []


async def test_a_token_refused_at_a_reconnect_ends_streams_and_calls(pair: Pair) -> None:
    deployment, one, two = pair
    deployment.thread("tea")
    tokens = iter(["first", "second", "third", "fourth"])
    async with connect([one.url, two.url], lambda: next(tokens)) as client, client.thread("tea").events() as events:
        await anext(events)
        one.refuse_connect = two.refuse_connect = EXPIRED
        one.cut()
        with pytest.raises(Unauthorized):
            await anext(events)
        with pytest.raises(Unauthorized):
            await client.thread("tea").cancel()
    assert (one.tokens, two.tokens) == (["first", "third"], ["second", "fourth"])


async def test_a_token_that_ended_on_its_way_is_followed_by_another(pair: Pair) -> None:
    _, one, two = pair
    tokens = iter(["first", "ended", "third"])
    async with connect([one.url, two.url], lambda: next(tokens)) as client:
        two.refuse_connect = EXPIRED
        one.cut()
        await client.thread("tea").send("hi")
        assert client.url == one.url
    assert (one.tokens, two.tokens) == (["first", "third"], ["ended"])


async def test_a_token_function_that_fails_between_two_connections_is_asked_again(pair: Pair) -> None:
    """It may need the network itself, and that was lost with the connection."""
    _, one, two = pair
    tokens: Iterator[str | OSError] = iter(["first", OSError("no network"), "third"])

    def fetched() -> str:
        told = next(tokens)
        if isinstance(told, OSError):
            raise told
        return told

    async with connect([one.url, two.url], fetched) as client:
        one.cut()
        await client.thread("tea").send("hi")
    assert one.tokens + two.tokens == ["first", "third"]


async def test_an_on_change_that_raises_is_reported_and_ends_nothing(pair: Pair) -> None:
    _, one, two = pair
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))

    def broken(change: NodeChange) -> None:
        raise ValueError(change.state)

    async with connect([one.url, two.url], on_change=broken) as client:
        await one.tell_all("degraded", {"active": True, "since": 5})
        await client.thread("tea").cancel()  # its answer comes behind that
        one.cut()
        await client.thread("tea").send("hi")
    assert [str(error) for error in reported] == ["connected", "degraded", "lost", "connected"]


async def test_a_token_may_come_from_a_coroutine(pair: Pair) -> None:
    _, one, _ = pair

    async def fetch() -> str:
        return "fresh"

    async with connect(one.url, fetch):
        pass
    assert one.tokens == ["fresh"]


async def test_a_callback_that_fails_is_the_programs_error_and_hangs_nobody(pair: Pair) -> None:
    _, one, _ = pair

    def broken() -> str:
        raise RuntimeError("no key ring")

    with pytest.raises(Exception, match="no key ring"):
        async with connect(one.url, broken):
            pass


async def test_no_gateway_in_time_is_an_error_that_names_them() -> None:
    async with gateways(1) as (_, (one,)):
        url = one.url
    with pytest.raises(NotConnected, match=url):
        async with connect(url, within=0.2):
            pass


async def test_something_else_than_a_url_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="expected URLs"):
        connect("127.0.0.1:8080")


async def test_a_thread_that_does_not_exist_is_said_so_and_waited_for(pair: Pair) -> None:
    deployment, one, _ = pair
    async with connect(one.url) as client, client.thread("new").events() as events:
        first = await anext(events)
        turn = await client.thread("new").send("hi")
        await deployment.say("new", turn.request_id, "yes")
        seen = await take(events, 2)
    assert isinstance(first, Snapshot)
    assert not first.exists
    assert [(event.offset, event.name) for event in seen] == [(1, "chat_accepted"), (2, "text_delta")]


async def test_a_thread_born_by_a_start_whose_answer_was_lost_is_read_from_its_beginning(pair: Pair) -> None:
    _, one, two = pair
    one.deaf_to.add("chat:start")
    one.on_deliver = lambda event: []
    async with connect([one.url, two.url]) as client, client.thread("new").events() as events:
        await anext(events)
        await client.thread("new").send("hi")
        item = await anext(events)
    assert item.offset == 1


async def test_cancel_tells_the_truth(pair: Pair) -> None:
    deployment, one, _ = pair
    deployment.thread("tea").turn = {"request_id": "r7", "state": "running"}
    async with connect(one.url) as client:
        thread = client.thread("tea")
        first, second = await thread.cancel(), await thread.cancel("r7")
    assert (first.cancelled, first.request_id, first.state) == (True, "r7", "running")
    assert (second.cancelled, second.request_id, second.state) == (False, None, "none")
    assert deployment.cancels == [{"thread_id": "tea"}, {"thread_id": "tea", "request_id": "r7"}]


async def test_history_is_read_and_a_missing_thread_not_found(pair: Pair) -> None:
    deployment, one, _ = pair
    deployment.thread("tea").messages = [{"id": "1", "role": "user", "content": "hi"}]
    async with connect(one.url) as client:
        assert (await client.thread("tea").history(limit=5))[0]["content"] == "hi"
        with pytest.raises(NotFound):
            await client.thread("nowhere").history()


async def test_a_turn_yields_its_own_events_and_ends_with_its_own_end(pair: Pair) -> None:
    deployment, one, _ = pair
    async with connect(one.url) as client:
        turn = await client.thread("tea").send("hi")
        deployment.append("tea", "other", "text_delta", delta="not mine")
        deployment.append("tea", turn.request_id, "text_delta", delta="mine")
        deployment.append("tea", "other", "chat_done", full_response="not mine")
        deployment.append("tea", turn.request_id, "chat_error", error_type="cancelled", message="stopped")
        names = [item.name async for item in turn if isinstance(item, Event)]
        outcome = await turn.wait()
    assert names == ["chat_accepted", "text_delta", "chat_error"]
    assert (outcome.ok, outcome.error_type, outcome.text) == (False, "cancelled", "mine")


async def test_a_turn_whose_end_left_the_log_is_found_in_the_history(pair: Pair) -> None:
    deployment, one, _ = pair
    async with connect(one.url) as client:
        turn = await client.thread("tea").send("hi")
        one.recovers = False
        deployment.thread("tea").messages = [
            {"id": "2", "role": "assistant", "content": "All done.", "request_id": turn.request_id}
        ]
        outcome = await turn.wait()
    assert (outcome.ok, outcome.text) == (True, "All done.")


@pytest.mark.parametrize("epoch", ["e1", "e2"])
async def test_a_queued_turn_that_nothing_knows_of_any_more_is_not_waited_for(pair: Pair, epoch: str) -> None:
    """It was cleared, or ran long ago, and the log was trimmed or lost: no event of it is to come."""
    deployment, one, _ = pair
    async with connect(one.url) as client:
        turn = await client.thread("tea").send("more", queue_mode="followup")
        one.recovers, deployment.thread("tea").epoch = False, epoch
        async with asyncio.timeout(10):
            outcome = await turn.wait()
            items = [item async for item in turn]
    assert (outcome.ok, outcome.error_type) == (False, "unknown")
    assert [type(item) for item in items] == [Event, Snapshot]


@pytest.mark.parametrize(
    "status",
    [
        {"running": "r0", "lanes": {"followup": [{"item_id": "r1"}]}},
        {"running": "r1", "state": "ready", "lanes": {}},
    ],
    ids=["waits", "runs by now"],
)
async def test_a_queued_turn_that_a_snapshot_does_not_show_is_waited_for_if_it(pair: Pair, status: Fields) -> None:
    deployment, one, _ = pair
    async with connect(one.url) as client, asyncio.timeout(10):
        turn = await client.thread("tea").send("more", queue_mode="followup")
        one.recovers, deployment.thread("tea").status = False, status
        waiting = asyncio.create_task(turn.wait())
        await one.asked("queue:status")
        await client.thread("tea").queue_status()  # its answer comes behind that one
        await deployment.emit("tea", turn.request_id, "queue_item_delivered", item_id=turn.request_id)
        await deployment.emit("tea", turn.request_id, "chat_accepted", message="more")
        await deployment.emit("tea", turn.request_id, "chat_done", full_response="here")
        outcome = await waiting
    assert (outcome.ok, outcome.text) == (True, "here")


async def test_a_queued_turn_whose_end_came_before_the_lanes_were_read_is_told_by_its_end(pair: Pair) -> None:
    deployment, one, _ = pair
    async with connect(one.url) as client, asyncio.timeout(10):
        turn = await client.thread("tea").send("more", queue_mode="followup")
        one.recovers = False
        one.before_status = lambda: deployment.emit("tea", turn.request_id, "queue_item_removed", lane="followup")
        outcome = await turn.wait()
    assert (outcome.ok, outcome.error_type) == (False, "removed")


async def test_a_queued_turn_that_a_snapshot_showed_running_is_not_waited_for_behind_the_next(pair: Pair) -> None:
    deployment, one, two = pair
    one.recovers = two.recovers = False
    thread = deployment.thread("tea")
    async with connect([one.url, two.url]) as client, asyncio.timeout(10):
        turn = await client.thread("tea").send("more", queue_mode="followup")
        thread.turn = {"request_id": turn.request_id, "state": "running", "text": "half"}
        items = aiter(turn)
        assert (await anext(items)).cursor == turn.cursor
        assert isinstance(await anext(items), Snapshot)
        thread.turn = None
        one.cut()
        assert isinstance(await anext(items), Snapshot)
        assert [item async for item in items] == []
    assert one.calls["queue:status"] + two.calls["queue:status"] == 0, "it had begun"


async def test_unknown_events_with_an_offset_pass_and_frames_without_one_do_not(pair: Pair) -> None:
    deployment, one, _ = pair
    deployment.thread("tea")
    async with connect(one.url) as client, client.thread("tea").events() as events:
        await anext(events)
        await one.tell_all("token_expiring", {"thread_id": "tea", "seconds": 5})
        await deployment.emit("tea", "r1", "subagent_started", who="x")
        (event,) = await take(events, 1)
    assert (event.name, event["who"], event.get("missing", 7)) == ("subagent_started", "x", 7)


async def test_a_reader_that_lags_is_not_buffered_for_without_end(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the backlog events are left, and read from the log once the reader has caught up."""
    monkeypatch.setattr("threadline_client.stream.BACKLOG", 5)
    deployment, one, _ = pair
    deployment.thread("tea")
    async with connect(one.url) as client, client.thread("tea").events() as events:
        await anext(events)
        await deployment.say("tea", "r1", *(str(number % 10) for number in range(40)))
        await client.thread("tea").cancel()  # its answer comes behind all of them
        assert len(events._items) <= 5
        seen = await take(events, 40)
    assert text_of(seen) == "0123456789" * 4


async def test_two_streams_of_one_thread_have_cursors_of_their_own(pair: Pair) -> None:
    deployment, one, _ = pair
    deployment.thread("tea")
    await deployment.say("tea", "r1", "a", "b")
    async with connect(one.url) as client:
        thread = client.thread("tea")
        async with thread.events() as late, thread.events(Cursor("e1", 0)) as early:
            await anext(late)
            assert text_of(await take(early, 2)) == "ab"
            await deployment.say("tea", "r1", "c")
            assert text_of(await take(early, 1)) == "c"
            assert text_of(await take(late, 1)) == "c"
            assert (early.cursor, late.cursor) == (Cursor("e1", 3), Cursor("e1", 3))


async def test_a_closed_stream_ends_and_leaves_the_thread(pair: Pair) -> None:
    deployment, one, _ = pair
    deployment.thread("tea")
    async with connect(one.url) as client:
        async with client.thread("tea").events() as events:
            await anext(events)
        assert [item async for item in events] == []
        await client.thread("tea").cancel()
        assert one.calls["thread:unsubscribe"] == 1


async def test_a_stream_whose_closing_is_cancelled_leaves_the_thread_too(pair: Pair) -> None:
    """Else what happens in the thread would be gathered for a reader that is gone."""
    deployment, one, _ = pair
    deployment.thread("tea")
    async with connect(one.url) as client:
        events = client.thread("tea").events()
        await anext(events)
        closing = asyncio.create_task(events.aclose())
        await asyncio.sleep(0)  # it waits for its keeper
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await client.thread("tea").cancel()  # its answer comes behind the farewell's
        assert one.calls["thread:unsubscribe"] == 1


async def test_a_stream_that_was_closed_before_it_began_asks_for_nothing(pair: Pair) -> None:
    deployment, one, _ = pair
    deployment.thread("tea")
    async with connect(one.url) as client:
        events = client.thread("tea").events()
        await events.aclose()
        assert [item async for item in events] == []
        await client.thread("tea").cancel()
    assert one.subscribes == []


async def test_a_turn_is_followed_from_the_event_that_took_it(pair: Pair) -> None:
    """By whoever follows it, however late, and however many do."""
    deployment, one, _ = pair

    async def names(turn: Turn) -> list[str]:
        return [item.name async for item in turn if isinstance(item, Event)]

    async with connect(one.url) as client, asyncio.timeout(10):
        turn = await client.thread("tea").send("hi")
        later = await client.thread("tea").send("more", queue_mode="followup")
        following = asyncio.create_task(names(turn))
        await deployment.emit("tea", turn.request_id, "chat_done", full_response="hello")
        await deployment.emit("tea", later.request_id, "queue_item_removed", item_id=later.request_id)
        followed = tuple(await asyncio.gather(following, names(turn), names(later)))
        assert followed == (
            ["chat_accepted", "chat_done"],
            ["chat_accepted", "chat_done"],
            ["queue_item_queued", "queue_item_removed"],
        )


async def test_a_turn_that_a_failover_lost_is_not_waited_for(pair: Pair) -> None:
    """Its message was the last that was written, and the log ends just before it: nothing of it will ever come."""
    deployment, one, _ = pair
    thread = deployment.thread("tea")
    deployment.append("tea", "r0", "chat_done", full_response="before")
    async with connect(one.url) as client, asyncio.timeout(10):
        turn = await client.thread("tea").send("hi")
        thread.log.pop()
        thread.top -= 1
        one.cut()
        await client.thread("tea").history()  # over the next connection
        outcome = await turn.wait()
    assert (outcome.ok, outcome.error_type) == (False, "unknown")


async def test_a_storm_of_reconnects_changes_no_word(pair: Pair) -> None:
    deployment, one, two = pair
    deployment.thread("tea")
    words = [f"{number} " for number in range(200)]
    state = ThreadState()

    async def write() -> None:
        for number, word in enumerate(words):
            await deployment.say("tea", "r1", word)
            if number % 40 == 20:
                one.cut()
                two.cut()
            await asyncio.sleep(0)
        await deployment.emit("tea", "r1", "chat_done", full_response="".join(words))

    async with connect([one.url, two.url]) as client, client.thread("tea").events() as events:
        state.apply(await anext(events))
        writer = asyncio.create_task(write())
        text = ""
        async for item in events:
            assert isinstance(item, Event)
            state.apply(item)
            text += item.delta
            if item.terminal:
                break
        await writer
    assert text == "".join(words)
    assert state.messages[-1].content == text


async def test_a_turn_whose_events_have_passed_is_answered_from_what_came(pair: Pair) -> None:
    """The gateway sends each event once per connection; whoever asks later finds it here."""
    deployment, one, _ = pair
    one.sends_again = False
    async with connect(one.url) as client:
        turn = await client.thread("tea").send("hi")
        await deployment.say("tea", turn.request_id, "a", "b")
        await deployment.emit("tea", turn.request_id, "chat_error", error_type="cancelled", message="stopped")
        await client.thread("tea").history()  # its answer comes behind the events
        outcome = await turn.wait()
    assert (outcome.text, outcome.error_type) == ("ab", "cancelled")
    assert len(one.tokens) == 1, "on the same connection"


async def test_what_a_gateway_will_not_send_again_is_had_over_a_new_connection(pair: Pair) -> None:
    deployment, one, two = pair
    deployment.thread("tea")
    one.sends_again = False
    one.on_deliver = lambda event: [] if event["offset"] == 2 else [event]
    async with connect([one.url, two.url]) as client, client.thread("tea").events() as events:
        await anext(events)
        await deployment.say("tea", "r1", "a", "b", "c")
        seen = await take(events, 3)
        assert client.url == two.url
    assert text_of(seen) == "abc"


async def test_a_message_that_went_into_another_turn_is_not_waited_for(pair: Pair) -> None:
    """A steer that was taken never has a turn, so no terminal event would ever come."""
    deployment, one, _ = pair
    async with connect([one.url]) as client:
        turn = await client.thread("tea").send("left", queue_mode="steer")
        await deployment.emit(
            "tea", turn.request_id, "queue_item_delivered", item_id=turn.request_id, lane="steer", into_request_id="r0"
        )
        outcome = await turn.wait()
    assert (outcome.ok, outcome.error_type) == (False, "delivered")


async def test_a_token_that_ends_is_refreshed_on_the_same_connection(pair: Pair) -> None:
    _, one, _ = pair
    tokens = iter(["first", "second", "third"])
    changes: list[NodeChange] = []
    async with connect(one.url, lambda: next(tokens), on_change=changes.append) as client:
        assert client.url == one.url
        one.refusals["auth:refresh"].append(UNAVAILABLE)
        await one.tell_all("auth_expired", {"message": "it has ended", "grace_s": 30})
        await one.asked("auth:refresh")
        assert [change.state for change in changes] == ["connected"]
    assert one.tokens == ["first", "third"]
    assert one.calls["auth:refresh"] == 2


async def test_a_connection_whose_new_token_is_refused_gives_way_to_one_with_another(pair: Pair) -> None:
    _, one, two = pair
    tokens = iter(["first", "refused", "third"])
    two_connected = asyncio.Event()

    def changed(change: NodeChange) -> None:
        if (change.state, change.url) == ("connected", two.url):
            two_connected.set()

    async with connect([one.url, two.url], lambda: next(tokens), on_change=changed):
        one.refusals["auth:refresh"].append({"code": "unauthorized", "message": "no", "retryable": False})
        await one.tell_all("auth_expired", {"message": "it has ended", "grace_s": 30})
        async with asyncio.timeout(10):
            await two_connected.wait()
    assert (one.tokens, two.tokens) == (["first"], ["third"])
