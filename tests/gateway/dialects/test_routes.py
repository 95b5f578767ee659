"""The dialects' routes on real gateways: streams, cursors, answers to questions, and who may."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import httpx
import pytest

from backplane import sessions
from backplane.ids import ThreadRef
from backplane.settings import Settings
from gateway.auth import ANONYMOUS, mint
from gateway.verbs import Verbs
from tests.gateway.agents import count, endless
from tests.gateway.conftest import serving, working
from tests.support.rewinding import elsewhere
from tests.support.waiting import wait_until
from worker.turn import AgentEvent, ToolCall, Turn

SECRET = "a secret of at least thirty-two bytes, for tests"
Make = Callable[..., Settings]
Frames = list[tuple[str, dict[str, Any]]]
"""The id of each frame, empty without one, and its data."""


async def asking(turn: Turn) -> AsyncIterator[str | AgentEvent]:
    yield "May I? "
    yield ToolCall("rm", {"path": "/"}, "c1")
    decision = await turn.approve("rm", {"path": "/"})
    yield f"{decision.decision}."


async def asking_twice(turn: Turn) -> AsyncIterator[str]:
    yield "One? "
    await turn.approve("rm", {"path": "/one"})
    yield "Two? "
    await turn.approve("rm", {"path": "/two"})
    yield "Done."


def agui(thread: str, message: str, run: str = "run-1", **more: Any) -> dict[str, Any]:
    messages = [{"id": "u1", "role": "user", "content": message}]
    return {"threadId": thread, "runId": run, "messages": messages, "tools": [], "context": [], **more}


def chat(thread: str, *parts: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"id": thread, "messages": [{"id": "u1", "role": role, "parts": list(parts)}], **more}


def words(message: str) -> dict[str, str]:
    return {"type": "text", "text": message}


async def frames_of(response: httpx.Response, until: str = "") -> Frames:
    """Return the frames of a stream, up to the first of a type when one is named."""
    assert response.status_code == 200, await response.aread()
    assert response.headers["content-type"].startswith("text/event-stream")
    found: Frames = []
    place = data = ""
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        place, data = value if name == "id" else place, value if name == "data" else data
        if not line and data:
            found.append((place, {"type": "[DONE]"} if data == "[DONE]" else json.loads(data)))
            place = data = ""
            if found[-1][1]["type"] == until:
                break
    return found


async def run(http: httpx.AsyncClient, url: str, body: Any = None, until: str = "", **headers: str) -> Frames:
    method = "GET" if body is None else "POST"
    async with http.stream(method, url, json=body, headers=headers, timeout=20) as response:
        return await frames_of(response, until)


def types(frames: Frames) -> list[str]:
    return [frame["type"] for _, frame in frames]


def text(frames: Frames) -> str:
    """Return the text of either dialect."""
    return "".join(frame["delta"] for _, frame in frames if frame["type"] in {"TEXT_MESSAGE_CONTENT", "text-delta"})


async def test_a_run_of_agui_by_http(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, count), httpx.AsyncClient(base_url=node.url) as http:
        frames = await run(http, "/v1/agui", agui("t", "3"))
        assert types(frames)[:2] == ["RUN_STARTED", "TEXT_MESSAGE_START"]
        assert text(frames) == "0 1 2 "
        assert types(frames)[-1] == "RUN_FINISHED"
        history = (await http.get("/v1/threads/t/messages")).json()["messages"]
        assert [message["content"] for message in history] == ["3", "0 1 2 "]
        await wait_until(lambda: len(node.gateway.rooms) == 0, "the stream has left")


async def test_a_chat_of_the_ai_sdk_by_http(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, count), httpx.AsyncClient(base_url=node.url) as http:
        async with http.stream("POST", "/v1/ai/chat", json=chat("t", words("3"))) as response:
            assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
            frames = await frames_of(response)
        assert text(frames) == "0 1 2 "
        assert types(frames)[-2:] == ["finish", "[DONE]"]


@pytest.mark.parametrize(("url", "body"), [("/v1/agui", agui("t", "30")), ("/v1/ai/chat", chat("t", words("30")))])
async def test_the_same_request_goes_on_behind_any_cursor_on_another_node(
    gateway_settings: Make, url: str, body: Any
) -> None:
    """One message is one turn, and what comes behind each cursor is what came behind it before."""
    one, two = gateway_settings(), gateway_settings()
    async with serving(one) as first, serving(two) as second, working(one, count), httpx.AsyncClient() as http:
        whole = await run(http, f"{first.url}{url}", body)
        assert text(whole) == "".join(f"{number} " for number in range(30))
        places = [(number, place) for number, (place, _) in enumerate(whole) if place]
        for number, place in places:
            rest = await run(http, f"{second.url}{url}", body, **{"Last-Event-ID": place})
            assert types(rest)[0] == types(whole)[0]
            assert text(whole[: number + 1]) + text(rest) == text(whole)
            assert types(rest)[-1] == types(whole)[-1]
        # the log's own stream and the dialects have one cursor
        headers = {"Last-Event-ID": places[-2][1]}
        async with http.stream("GET", f"{first.url}/v1/threads/t/events", headers=headers) as events:
            ids = [line[4:] async for line in _until(events.aiter_lines(), "id: ")]
        assert ids == [places[-1][1]]


async def _until(lines: AsyncIterator[str], prefix: str) -> AsyncIterator[str]:
    async for line in lines:
        if line.startswith(prefix):
            yield line
            return


async def test_a_stream_that_is_dropped_does_not_stop_the_turn(gateway_settings: Make) -> None:
    """It is found again by its thread: from the beginning, or behind a cursor. Without a turn there is nothing."""
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, endless), httpx.AsyncClient(base_url=node.url) as http:
        await run(http, "/v1/agui", agui("t", "x"), until="TEXT_MESSAGE_CONTENT")
        await run(http, "/v1/ai/chat/t/stream", until="text-delta")
        frames = await run(http, "/v1/agui/t/stream", until="TEXT_MESSAGE_CONTENT")
        assert types(frames)[:2] == ["RUN_STARTED", "MESSAGES_SNAPSHOT"]
        assert [message["content"] for message in frames[1][1]["messages"]] == ["x"]
        await wait_until(lambda: len(node.gateway.rooms) == 0, "those who read before have left")
        waiting = [
            asyncio.create_task(run(http, f"/v1/{url}/t/stream", **{"Last-Event-ID": frames[-1][0]}))
            for url in ("agui", "ai/chat")
        ]
        room = node.gateway.rooms.get
        ref = ThreadRef("default", "t")
        await wait_until(lambda: len(room(ref) or ()) == 2, "both read")
        assert (await http.post("/v1/threads/t/cancel")).json()["cancelled"] is True
        in_agui, in_ai = [await one for one in waiting]
        assert in_agui[-1][1]["outcome"] == {"type": "cancelled"}
        assert types(in_ai)[-3:] == ["abort", "finish", "[DONE]"]
        assert types(in_agui)[0] == "RUN_STARTED"
        for url in ("/v1/agui/t/stream", "/v1/ai/chat/t/stream", "/v1/ai/chat/other/stream"):
            assert (await http.get(url)).status_code == 204


@pytest.mark.parametrize("policy", ["retry", "resume"])
async def test_an_interrupt_of_agui_is_answered_by_the_next_run(gateway_settings: Make, policy: str) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, asking), httpx.AsyncClient(base_url=node.url) as http:
        frames = await run(http, "/v1/agui", agui("t", "go", forwardedProps={"policy": policy}))
        [interrupt] = frames[-1][1]["outcome"]["interrupts"]
        assert interrupt["toolCallId"] == "c1"
        again = await run(http, "/v1/agui", agui("t", "go", forwardedProps={"policy": policy}))
        assert again[-1][1]["outcome"]["interrupts"][0]["id"] == interrupt["id"]
        resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": True}}]
        rest = await run(http, "/v1/agui", agui("t", "go", "run-2", resume=resume))
        assert (types(rest)[0], rest[0][1]["runId"]) == ("RUN_STARTED", "run-2")
        assert text(rest) == "approved."
        assert rest[-1][1]["outcome"] == {"type": "success"}
        # whoever reads the whole turn afterwards is not asked any more
        whole = await run(http, "/v1/agui", agui("t", "go", forwardedProps={"policy": policy}))
        assert text(whole) == "May I? approved."


async def test_what_came_before_the_last_answered_question_is_not_told_again(gateway_settings: Make) -> None:
    """In whatever order the answers stand; and a run that answers goes on behind its cursor as any other."""
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, asking_twice), httpx.AsyncClient(base_url=node.url) as http:
        asked: list[str] = []
        told = ""
        for number in range(3):
            resume = [{"interruptId": one, "payload": {"approved": True}} for one in reversed(asked)]
            body = agui("t", "go", f"run-{number}", resume=resume)
            frames = await run(http, "/v1/agui", body)
            told += text(frames)
            asked += [one["id"] for one in frames[-1][1]["outcome"].get("interrupts", ())]
        assert told == "One? Two? Done."
        rest = await run(http, "/v1/agui", body, **{"Last-Event-ID": frames[-1][0]})
        assert types(rest) == ["RUN_STARTED", "RUN_FINISHED"]


async def test_a_cursor_of_an_older_epoch_is_good_as_long_as_the_log_holds_it(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, count), httpx.AsyncClient(base_url=node.url) as http:
        whole = await run(http, "/v1/agui", agui("t", "30"))
        place = next(place for place, frame in whole if frame["type"] == "TEXT_MESSAGE_CONTENT")
        await elsewhere(node.backplane, node.backplane.keys.thread(ThreadRef("default", "t")))
        await run(http, "/v1/agui", agui("t", "1", "run-2"))  # begins the next epoch
        rest = await run(http, "/v1/agui", agui("t", "30"), **{"Last-Event-ID": place})
        seen = next(number for number, (found, _) in enumerate(whole) if found == place)
        assert text(whole[: seen + 1]) + text(rest) == text(whole)


async def test_an_approval_of_the_ai_sdk_is_answered_by_the_next_request(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, asking), httpx.AsyncClient(base_url=node.url) as http:
        frames = await run(http, "/v1/ai/chat", chat("t", words("go")))
        [asked] = [frame for _, frame in frames if frame["type"] == "tool-approval-request"]
        assert asked["toolCallId"] == "c1"
        waiting = await run(http, "/v1/ai/chat/t/stream")
        assert types(waiting)[-2:] == ["finish", "[DONE]"]
        part = {"type": "dynamic-tool", "state": "approval-responded"}
        answer = chat("t", {**part, "approval": {"id": asked["approvalId"], "approved": False}}, role="assistant")
        rest = await run(http, "/v1/ai/chat", answer)
        assert types(rest)[:2] == ["start", "tool-output-denied"]
        assert text(rest) == "denied."


async def test_an_answer_that_is_wanted_anew_stands_in_the_place_of_the_old_one(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, count), httpx.AsyncClient(base_url=node.url) as http:
        first = await run(http, "/v1/ai/chat", chat("t", words("2")))
        again = {"trigger": "regenerate-message", "queue_mode": "reject"}
        frames = await run(http, "/v1/ai/chat", chat("t", words("3"), messageId=first[0][1]["messageId"], **again))
        assert text(frames) == "0 1 2 "
        assert frames[0][1]["messageId"] != first[0][1]["messageId"]
        assert text(await run(http, "/v1/ai/chat", chat("t", words("1"), **again))) == "0 "
        history = (await http.get("/v1/threads/t/messages")).json()["messages"]
        assert [message["content"] for message in history] == ["1", "0 "]
        unknown = await http.post("/v1/ai/chat", json=chat("t", words("1"), messageId="unknown", **again))
        assert unknown.status_code == 404


def sent(thread: str, *messages: tuple[str, str, str], **more: Any) -> dict[str, Any]:
    """Return what the AI SDK sends: messages as role, id and text."""
    shown = [{"id": name, "role": role, "parts": [words(said)]} for role, name, said in messages]
    return {"id": thread, "messages": shown, "trigger": "submit-message", **more}


async def said_in(http: httpx.AsyncClient, thread: str) -> list[str]:
    return [one["content"] for one in (await http.get(f"/v1/threads/{thread}/messages")).json()["messages"]]


async def test_a_message_that_is_changed_stands_in_the_place_of_the_old_one(gateway_settings: Make) -> None:
    """Every time: the client keeps the id, and each turn is another."""
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, count), httpx.AsyncClient(base_url=node.url) as http:
        await run(http, "/v1/ai/chat", sent("t", ("user", "u1", "2")))
        await run(http, "/v1/ai/chat", sent("t", ("user", "u1", "2"), ("user", "u2", "1")))
        ids = set()
        for text_sent, answer in (("3", "0 1 2 "), ("1", "0 "), ("3", "0 1 2 ")):
            frames = await run(http, "/v1/ai/chat", sent("t", ("user", "u1", text_sent), messageId="u1"))
            ids.add(frames[0][1]["messageId"])
            assert text(frames) == answer
            assert await said_in(http, "t") == [text_sent, answer]
        assert len(ids) == 3
        anew = sent("t", ("user", "u1", "3"), messageId="u1") | {"trigger": "regenerate-message"}
        ids.add((await run(http, "/v1/ai/chat", anew))[0][1]["messageId"])
        assert len(ids) == 4
        again = await run(http, "/v1/ai/chat", sent("t", ("user", "u1", "3"), messageId="u1"))
        assert again[0][1]["messageId"] in ids, "the same call again is the same turn"
        listed = f"message-{(await http.get('/v1/threads/t/messages')).json()['messages'][0]['id']}"
        assert text(await run(http, "/v1/ai/chat", sent("t", ("user", listed, "1"), messageId=listed))) == "0 "


async def test_the_history_is_read_no_further_than_to_the_message_that_is_meant(
    gateway_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of it has a megabyte, and here one message."""
    monkeypatch.setattr(sessions, "PAGE_BYTES", 1)
    settings = gateway_settings()
    reading, read = Verbs.history, []

    async def counted(self: Verbs, identity: Any, asked: Any) -> Any:
        read.append(asked.before)
        return await reading(self, identity, asked)

    monkeypatch.setattr(Verbs, "history", counted)
    async with serving(settings) as node, working(settings, count), httpx.AsyncClient(base_url=node.url) as http:
        for number in range(3):
            await run(http, "/v1/ai/chat", sent("t", ("user", f"u{number}", "1")))
        await run(http, "/v1/ai/chat", sent("t", ("user", "u2", "2"), messageId="u2"))
        assert len(read) == 2, "the answer, and what it answers"


async def test_a_message_that_never_came_begins_a_turn_at_the_end(gateway_settings: Make) -> None:
    """A page's Retry asks for another answer, though what was refused or lost was the message itself."""
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, count), httpx.AsyncClient(base_url=node.url) as http:
        again: dict[str, Any] = {"trigger": "regenerate-message"}
        first = await run(http, "/v1/ai/chat", sent("t", ("user", "u1", "2"), **again))
        answer = ("assistant", first[0][1]["messageId"], "0 1 ")
        second = sent("t", ("user", "u1", "2"), answer, ("user", "u2", "3"), **again)
        assert text(await run(http, "/v1/ai/chat", second)) == "0 1 2 "
        assert await said_in(http, "t") == ["2", "0 1 ", "3", "0 1 2 "]
        without_answer = sent(
            "t", ("user", "u1", "2"), answer, ("user", "u2", "3"), ("user", "u3", "1"), messageId="u3"
        )
        assert text(await run(http, "/v1/ai/chat", without_answer)) == "0 "
        assert len(await said_in(http, "t")) == 6


async def test_of_a_client_without_ids_the_newest_message_is_meant_and_never_a_new_one(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, count), httpx.AsyncClient(base_url=node.url) as http:
        nameless = sent("t", ("user", "", "3"), trigger="regenerate-message")
        assert (await http.post("/v1/ai/chat", json=nameless)).status_code == 404
        await run(http, "/v1/ai/chat", sent("t", ("user", "u1", "2")))
        assert text(await run(http, "/v1/ai/chat", nameless)) == "0 1 2 "
        assert await said_in(http, "t") == ["3", "0 1 2 "]


async def test_a_message_that_is_not_remembered_changes_no_other(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, count), httpx.AsyncClient(base_url=node.url) as http:
        await run(http, "/v1/ai/chat", sent("t", ("user", "u1", "2")))
        for more in ({"messageId": "x"}, {"trigger": "regenerate-message"}):
            refused = await http.post("/v1/ai/chat", json=sent("t", ("user", "x", "3"), **more))
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
        edit = {"message": "1", "message_id": 1}
        await http.post("/v1/threads/t/edit", json=edit)
        refused = await http.post("/v1/ai/chat", json=sent("t", ("user", "u1", "3"), messageId="u1"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "edit_conflict")
        # an application that gave the history ids of its own: the newest one with this text
        frames = await run(http, "/v1/ai/chat", sent("t", ("user", "x", "1"), trigger="regenerate-message"))
        assert text(frames) == "0 "


async def test_the_message_of_an_answer_that_is_wanted_anew_is_found_behind_long_ones(
    gateway_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of the history has so many bytes: here each has one message."""
    monkeypatch.setattr(sessions, "PAGE_BYTES", 1)
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, count), httpx.AsyncClient(base_url=node.url) as http:
        first = await run(http, "/v1/ai/chat", chat("t", words("2")))
        await run(http, "/v1/agui", agui("t", "1"))
        again = chat("t", words("3"), messageId=first[0][1]["messageId"], trigger="regenerate-message")
        assert text(await run(http, "/v1/ai/chat", again)) == "0 1 2 "
        unknown = await http.post("/v1/ai/chat", json=again | {"messageId": "unknown"})
        assert unknown.status_code == 404


async def test_a_turn_that_the_log_lost_is_told_from_a_snapshot(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, count), httpx.AsyncClient(base_url=node.url) as http:
        await run(http, "/v1/agui", agui("t", "3"))
        ref = next(iter([key async for key in node.backplane.redis.scan_iter(match=f"{settings.key_prefix}:*:log:*")]))
        await node.backplane.redis.xtrim(ref, maxlen=1, approximate=False)
        frames = await run(http, "/v1/agui", agui("t", "3"))
        assert types(frames) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
        assert frames[1][1]["messages"][-1]["content"] == "0 1 2 "
        assert text(await run(http, "/v1/ai/chat", chat("t", words("3"), trigger="submit-message"))) == "0 1 2 "


async def test_a_turn_that_ends_while_its_stream_begins_is_told_once(
    gateway_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look for what runs and the look at the history: then its answer stands in both."""
    settings, release = gateway_settings(), asyncio.Event()

    async def held(turn: Turn) -> AsyncIterator[str]:
        await release.wait()
        yield "The answer."

    history = Verbs.history

    async def late(verbs: Verbs, *given: Any) -> Any:
        release.set()
        while len((found := await history(verbs, *given))["messages"]) < 2:
            pass
        return found

    monkeypatch.setattr(Verbs, "history", late)
    async with serving(settings) as node, working(settings, held), httpx.AsyncClient(base_url=node.url) as http:
        await http.post("/v1/threads/t/turns", json={"message": "go"})
        frames = await run(http, "/v1/agui/t/stream")
        assert [message["role"] for message in frames[1][1]["messages"]] == ["user"]
        assert text(frames) == "The answer."


async def test_of_a_turn_of_long_ago_no_more_than_itself_is_kept(
    gateway_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what the thread has said since, which may be all that a log holds; the reading ends with the turn."""
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, count), httpx.AsyncClient(base_url=node.url) as http:
        first = (await run(http, "/v1/ai/chat", chat("t", words("3"))))[0][1]["messageId"]
        await run(http, "/v1/agui", agui("t", "3"))
        await run(http, "/v1/agui", agui("t", "3", "run-2"))
        monkeypatch.setattr(node.backplane.log, "read", partial(node.backplane.log.read, most=3))
        verbs = Verbs(node.backplane, node.gateway.rooms)
        begun = await verbs.beginning(ANONYMOUS, "t", first)
        assert begun is not None
        told = await verbs.told(ANONYMOUS, "t", begun[0], begun[2] - 1, first)
        assert told is not None
        page, after, events = told
        assert after < page.top
        assert {event.request_id for event in events} == {first}
        assert events[-1].name == "chat_done"


async def test_a_cursor_or_one_of_several_answers_that_is_malformed_changes_nothing(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, asking), httpx.AsyncClient(base_url=node.url) as http:
        for url, body in (("/v1/agui", agui("t", "go")), ("/v1/ai/chat", chat("t", words("go")))):
            assert (await http.post(url, json=body, headers={"Last-Event-ID": "nonsense"})).status_code == 400
            assert (await http.get("/v1/threads/t")).status_code == 404, "no turn was begun"
        frames = await run(http, "/v1/agui", agui("t", "go"))
        approval = frames[-1][1]["outcome"]["interrupts"][0]["id"]
        resume = [{"interruptId": approval, "payload": True}, {"interruptId": "a b", "payload": True}]
        assert (await http.post("/v1/agui", json=agui("t", "go", "run-2", resume=resume))).status_code == 400
        [asked] = (await http.get("/v1/threads/t")).json()["turn"]["approvals"]
        assert asked["state"] == "pending"


@pytest.mark.parametrize("dialect", ["agui", "ai/chat"])
async def test_a_message_that_waits_goes_on_waiting_when_the_log_lost_it(gateway_settings: Make, dialect: str) -> None:
    """A snapshot does not say what waits: that the turn is not in it does not mean that it has ended."""
    settings, release = gateway_settings(), asyncio.Event()

    async def slow(turn: Turn) -> AsyncIterator[str]:
        if turn.message == "slow":
            await release.wait()
        yield turn.message

    bodies = {
        "agui": agui("t", "next", "run-2", forwardedProps={"queue_mode": "followup"}),
        "ai/chat": chat("t", words("next"), queue_mode="followup"),
    }
    async with serving(settings) as node, working(settings, slow), httpx.AsyncClient(base_url=node.url) as http:
        await http.post("/v1/threads/t/turns", json={"message": "slow"})
        await run(http, f"/v1/{dialect}", bodies[dialect], until="CUSTOM" if dialect == "agui" else "data-queued")
        await node.backplane.redis.xtrim(node.backplane.keys.thread(ThreadRef("default", "t")).log, maxlen=0)
        async with http.stream("POST", f"/v1/{dialect}", json=bodies[dialect]) as response:
            release.set()
            assert text(await frames_of(response)) == "next"


async def test_only_the_owner_may(gateway_settings: Make) -> None:
    """Another's thread looks like none, and nobody without a token gets in."""
    settings = gateway_settings(jwt_secret=SECRET)
    ann, bob = ({"Authorization": f"Bearer {mint(SECRET, name, 60)}"} for name in ("ann", "bob"))
    async with serving(settings) as node, working(settings, asking), httpx.AsyncClient(base_url=node.url) as http:
        frames = await run(http, "/v1/agui", agui("t", "go"), **ann)
        approval = frames[-1][1]["outcome"]["interrupts"][0]["id"]
        resume = [{"interruptId": approval, "status": "resolved", "payload": True}]
        part = {"state": "approval-responded", "approval": {"id": approval, "approved": True}}
        for url, body in (
            ("/v1/agui", agui("t", "go", "run-2")),
            ("/v1/agui", agui("t", "go", "run-2", resume=resume)),
            ("/v1/ai/chat", chat("t", words("x"))),
            ("/v1/ai/chat", chat("t", part, role="assistant")),
        ):
            assert (await http.post(url, json=body)).status_code == 401
            refused = await http.post(url, json=body, headers=bob)
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
        for url in ("/v1/agui/t/stream", "/v1/ai/chat/t/stream"):
            assert (await http.get(url)).status_code == 401
            assert (await http.get(url, headers=bob)).status_code == 204
        assert (await http.get("/v1/threads/t", headers=ann)).json()["turn"]["state"] == "running"


@pytest.mark.parametrize(
    ("url", "body", "field"),
    [
        ("/v1/agui", agui("no/such", "x"), None),
        ("/v1/agui", agui("t", "  "), "message"),
        ("/v1/agui", agui("t", "x", forwardedProps={"temperature": "hot"}), "temperature"),
        ("/v1/agui", agui("t", "x", run="\n"), "client_message_id"),
        ("/v1/agui", agui("t", "x", resume=[{"interruptId": "a b", "payload": True}]), "approval_id"),
        ("/v1/ai/chat", chat("t"), "messages"),
        ("/v1/ai/chat", chat("t", words("x"), queue_mode="later"), "queue_mode"),
        ("/v1/agui/no%20such/stream", None, None),
    ],
)
async def test_what_is_malformed_is_refused_and_changes_nothing(
    gateway_settings: Make, url: str, body: Any, field: str | None
) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, httpx.AsyncClient(base_url=node.url) as http:
        answer = await (http.get(url) if body is None else http.post(url, json=body))
        assert answer.status_code == 400
        assert answer.json()["error"].get("field") == field
        assert (await http.post("/v1/agui", content=b'{"threadId": NaN}')).status_code == 400
        too_large = await http.post("/v1/ai/chat", content=b" " * (settings.max_frame_bytes + 1))
        assert too_large.status_code == 413
        assert (await http.get("/v1/threads/t")).status_code == 404


async def test_each_answer_that_a_request_brings_is_a_call_of_its_user(gateway_settings: Make) -> None:
    """They are done at once, and what they are beyond the limit is waited for."""
    settings = gateway_settings(jwt_secret=SECRET, user_calls_per_second=1)
    answers = [{"interruptId": f"none.{number}", "payload": {"approved": True}} for number in range(100)]
    async with serving(settings) as node:
        head = {"Authorization": f"Bearer {mint(SECRET, 'ann', 60)}"}
        async with httpx.AsyncClient(base_url=node.url, trust_env=False, headers=head) as http:
            assert (await http.post("/v1/agui", json=agui("t", "", resume=answers))).status_code == 404
            refused = await http.get("/v1/threads")
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) > 60
