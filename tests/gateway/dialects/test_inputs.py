"""What clients of a dialect send is read strictly, and refused with words."""

from __future__ import annotations

from typing import Any

import pytest

from backplane.errors import InvalidPayload
from gateway.dialects.inputs import Decided, Revision, from_agui, from_aisdk


def agui(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"threadId": "t", "runId": "r", "messages": list(messages), "tools": [], "context": [], **more}


def user(content: Any, message_id: str = "m") -> dict[str, Any]:
    return {"id": message_id, "role": "user", "content": content}


def ui(role: str, *parts: Any) -> dict[str, Any]:
    return {"id": "m", "role": role, "parts": list(parts)}


def test_the_last_user_message_is_the_turn_s() -> None:
    asked = from_agui(agui(user("one"), user("two"), {"id": "a", "role": "assistant", "content": "half"}))
    assert asked.start == {"thread_id": "t", "client_message_id": "r", "message": "two"}


def test_parts_of_text_are_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert from_agui(agui(user(parts))).start["message"] == "ab"
    assert from_aisdk({"id": "t", "messages": [ui("user", *parts)]}).start["message"] == "ab"


def test_what_is_null_is_not_there() -> None:
    asked = from_agui(agui(user("x"), resume=None))
    assert (asked.decided, asked.start["message"]) == ([], "x")


def test_options_of_a_start_are_taken_and_others_are_not() -> None:
    given = {"model": "m", "queue_mode": "reject", "thread_id": "other", "client_message_id": "x"}
    start = from_agui(agui(user("x"), forwardedProps=given)).start
    assert (start["model"], start["queue_mode"], start["thread_id"]) == ("m", "reject", "t")
    start = from_aisdk({"id": "t", "messages": [ui("user", {"type": "text", "text": "x"})], **given}).start
    assert (start["model"], start["thread_id"], start["client_message_id"]) == ("m", "t", "m")


def test_a_message_that_is_changed_or_asked_anew_is_told_by_the_ids_around_it() -> None:
    text = {"type": "text", "text": "x"}
    before = {**ui("assistant", text), "id": "turn-1"}
    body = {"id": "t", "messages": [before, {**ui("user", text), "id": "u2"}]}
    assert from_aisdk(body).revision is None
    assert from_aisdk({**body, "messageId": "u2"}).revision == Revision("u2", "turn-1")
    again = {**body, "trigger": "regenerate-message"}
    assert from_aisdk(again).revision == Revision("u2", "turn-1", anew=True)
    assert from_aisdk({**again, "messageId": "u2"}).revision == Revision("u2", "turn-1", anew=True)
    assert from_aisdk({**again, "messageId": "turn-2"}).revision == Revision("u2", "turn-1", "turn-2", anew=True)
    assert from_aisdk({**again, "messages": body["messages"][1:]}).revision == Revision("u2", "", anew=True)


def test_what_follows_an_answer_to_an_approval_changes_no_message() -> None:
    text = {"type": "text", "text": "x"}
    answer = {**ui("assistant", text), "id": "turn-1"}
    body = {"id": "t", "messages": [ui("user", text), answer], "trigger": "submit-message", "messageId": "turn-1"}
    assert from_aisdk(body).revision is None


@pytest.mark.parametrize(
    ("payload", "decision"),
    [
        ({"approved": True}, "approved"),
        ({"approved": False}, "denied"),
        ({"answer": "red"}, "red"),
        (True, "approved"),
        ("blue", "blue"),
    ],
)
def test_an_interrupt_is_answered(payload: Any, decision: str) -> None:
    resume = [{"interruptId": "r.a", "status": "resolved", "payload": payload}]
    assert from_agui(agui(resume=resume)).decided == [Decided("r.a", decision)]


def test_an_interrupt_that_is_cancelled_is_refused() -> None:
    assert from_agui(agui(resume=[{"interruptId": "r.a", "status": "cancelled"}])).decided == [Decided("r.a", "denied")]


def test_approvals_of_the_last_message_are_answers() -> None:
    parts = [
        {"type": "dynamic-tool", "state": "approval-responded", "approval": {"id": "r.a", "approved": True}},
        {"type": "dynamic-tool", "state": "approval-responded", "approval": {"id": "r.b", "approved": False}},
        {"type": "dynamic-tool", "state": "output-available"},
    ]
    decided = from_aisdk({"id": "t", "messages": [ui("assistant", *parts)]}).decided
    assert decided == [Decided("r.a", "approved"), Decided("r.b", "denied")]


@pytest.mark.parametrize(
    "body",
    [
        {},
        agui(),
        agui("text"),
        agui(user(None)),
        agui(user([])),
        agui(user([{"type": "image", "source": {}}])),
        agui(user([{"type": "text", "text": 5}])),
        {**agui(user("x")), "runId": 5},
        {**agui(user("x")), "messages": "x"},
        agui(user("x"), resume=[{"interruptId": 5, "payload": True}]),
        agui(user("x"), resume=[{"interruptId": "r.a", "payload": {"other": 1}}]),
        agui(user("x"), resume=[{}] * 101),
    ],
)
def test_what_is_no_input_of_agui_is_refused(body: Any) -> None:
    with pytest.raises(InvalidPayload, match="expected"):
        from_agui(body)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": 5},
        {"messages": [5]},
        {"messages": [ui("assistant")]},
        {"messages": [ui("user")]},
        {"messages": [ui("user", {"type": "file", "url": "x"})]},
        {"messages": [ui("assistant", {"state": "approval-responded"})]},
        {"messages": [ui("assistant", {"state": "approval-responded", "approval": {"id": 5}})]},
        {"messages": [ui("assistant", 5)]},
    ],
)
def test_what_is_no_input_of_the_ai_sdk_is_refused(body: Any) -> None:
    with pytest.raises(InvalidPayload, match="expected"):
        from_aisdk(body)
