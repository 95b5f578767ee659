"""The AI SDK's UI message stream: what each kind of turn becomes, and that no order of events breaks its rules."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.aisdk import AiSdk
from gateway.dialects.view import Frame
from tests.gateway.dialects.steps import (
    DONE,
    ENDS,
    MEANINGLESS,
    QUEUED,
    REMOVED,
    STEPS,
    TAKEN_IN,
    TURN,
    R,
    Step,
    approval,
    args,
    call,
    ended,
    failed,
    result,
    text,
    thinking,
)

OF_TOOLS = {"dynamic": True, "providerExecuted": True}


def fed(view: AiSdk, *steps: Step) -> list[Frame]:
    return [frame for name, fields in steps for frame in view.feed(name, {"request_id": R, **fields})]


def told(*steps: Step) -> list[Frame]:
    view = AiSdk(R)
    return [*view.begin(), *fed(view, *steps)]


def decided(decision: str | None, approval_id: str = "turn.a") -> Step:
    return "approval_decided", {"approval_id": approval_id, "state": "decided", "decision": decision, "by": "ann"}


ROUND: Step = ("iteration_start", {"round": 1})


def verified(frames: list[Frame], known: tuple[str, ...] = ()) -> None:
    """Hold the chunks to what the SDK's reader throws at: an unknown part, a delta before its start."""
    opened: set[str] = set()
    tools, writing = set(known), set[str]()
    assert frames[0]["type"] == "start"
    for frame in frames[1:]:
        kind = frame["type"]
        if kind in {"text-start", "reasoning-start"}:
            opened.add(frame["id"])
        elif kind in {"text-delta", "reasoning-delta"}:
            assert frame["id"] in opened
        elif kind in {"text-end", "reasoning-end"}:
            opened.remove(frame["id"])
        elif kind == "tool-input-start":
            writing.add(frame["toolCallId"])
            tools.add(frame["toolCallId"])
        elif kind == "tool-input-delta":
            assert frame["toolCallId"] in writing
        elif kind == "tool-input-available":
            tools.add(frame["toolCallId"])
        elif kind.startswith("tool-"):
            assert frame["toolCallId"] in tools
        elif kind == "finish-step":
            assert not opened
            opened.clear()
    assert not opened


def last_step(frames: list[Frame]) -> dict[str, str]:
    """Return what the SDK's reader holds of the tools of the last step: their ids and states."""
    told: dict[str, str] = {}
    steps: list[set[str]] = [set()]
    states = {"tool-input-start": "input-streaming", "tool-input-delta": "input-streaming"}
    for frame in frames:
        if frame["type"] == "start-step":
            steps.append(set())
        elif "toolCallId" in frame:
            told[frame["toolCallId"]] = states.get(frame["type"], frame["type"].removeprefix("tool-"))
            if frame["type"] in {"tool-input-start", "tool-input-available"}:
                steps[-1].add(frame["toolCallId"])
    return {call_id: told[call_id] for call_id in steps[-1]}


def test_a_turn_of_text_is_one_part_of_one_message() -> None:
    assert told(ROUND, text("Hel"), text("lo"), DONE) == [
        {"type": "start", "messageId": R, "messageMetadata": {"request_id": R}},
        {"type": "start-step"},
        {"type": "text-start", "id": "turn-1"},
        {"type": "text-delta", "id": "turn-1", "delta": "Hel"},
        {"type": "text-delta", "id": "turn-1", "delta": "lo"},
        {"type": "text-end", "id": "turn-1"},
        {"type": "finish-step"},
        {"type": "finish", "finishReason": "stop", "messageMetadata": {"timing": {"total_ms": 5}}},
    ]


def test_thinking_and_tools_stand_in_their_steps() -> None:
    frames = told(ROUND, thinking("Hm."), args('{"x":1}'), call(x=1), result(), ROUND, text("Three."), DONE)
    verified(frames)
    assert [frame["type"] for frame in frames[1:]] == [
        "start-step", "reasoning-start", "reasoning-delta", "reasoning-end",
        "tool-input-start", "tool-input-delta", "tool-input-available", "tool-output-available", "finish-step",
        "start-step", "text-start", "text-delta", "text-end", "finish-step", "finish",
    ]  # fmt: skip
    assert frames[7] == {
        "type": "tool-input-available",
        "toolCallId": "c",
        "toolName": "add",
        "input": {"x": 1},
        **OF_TOOLS,
    }


def test_a_tool_that_failed_is_an_error_of_the_tool() -> None:
    assert told(call(), result(success=False, output="no"))[-1] == {
        "type": "tool-output-error",
        "toolCallId": "c",
        "errorText": "no",
        **OF_TOOLS,
    }


@pytest.mark.parametrize("error_type", ["cancelled", "superseded"])
def test_a_turn_that_was_stopped_is_aborted(error_type: str) -> None:
    frames = told(text("Hel"), failed(error_type))
    verified(frames)
    assert frames[-2:] == [{"type": "abort", "reason": error_type}, {"type": "finish", "finishReason": "other"}]


def test_a_turn_that_failed_is_an_error() -> None:
    frames = told(text("Hel"), failed("worker_lost"))
    verified(frames)
    assert frames[-1] == {"type": "error", "errorText": "It broke."}


def test_an_approval_ends_the_stream_and_names_the_tool() -> None:
    view = AiSdk(R)
    frames = [*view.begin(), *fed(view, call(x=1), approval(x=1))]
    verified(frames)
    assert view.ended
    assert [frame["type"] for frame in frames[-3:]] == ["tool-approval-request", "finish-step", "finish"]
    assert frames[-3] == {"type": "tool-approval-request", "approvalId": "turn.a", "toolCallId": "c"}


def test_an_approval_of_what_was_not_shown_as_a_tool_shows_it() -> None:
    frames = told(approval(path="/"))
    verified(frames)
    assert frames[2]["toolCallId"] == frames[3]["toolCallId"] == "turn.a"
    assert frames[2]["input"] == {"path": "/"}


def test_a_question_is_a_part_of_data() -> None:
    asked = {"kind": "question", "question": "Which?", "options": ["a"], "approval_id": "turn.q", "expires_at": 1}
    frames = told(("approval_request", asked))
    assert frames[2]["type"] == "data-question"
    assert frames[2]["data"] == {"approval_id": "turn.q", "question": "Which?", "options": ["a"], "expires_at": 1}


@pytest.mark.parametrize(
    ("decision", "steps", "expected"),
    [
        ("approved", [call(x=1), approval(x=1)], ["tool-output-available"]),
        ("denied", [call(x=1), approval(x=1)], ["tool-output-denied"]),
        (None, [call(x=1), approval(x=1)], ["tool-output-denied"]),
        ("approved", [approval()], ["tool-output-available"]),
        ("denied", [approval()], ["tool-output-denied"]),
    ],
)
def test_a_stream_goes_on_behind_an_answer(decision: str | None, steps: list[Step], expected: list[str]) -> None:
    """What a refused tool says afterwards does not take the refusal back."""
    view = AiSdk(R)
    view.settle(frozenset({"turn.a"}))
    fed(view, *steps)
    frames = [*view.begin(), *fed(view, decided(decision), result(success=decision == "approved"), DONE)]
    verified(frames, known=("c", "turn.a"))
    assert [frame["type"] for frame in frames if frame["type"].startswith("tool-")] == expected


def test_a_restart_says_what_is_void() -> None:
    frames = told(
        text("Hel"), args("{"), ("turn_restarted", {"attempt": 2, "kept_offset": 1, "kept_text": 3}), text("x")
    )
    assert frames[-4]["type"] == "data-restarted"
    assert frames[-4]["data"] == {"attempt": 2, "kept_text": 3}


def test_a_restart_before_anything_was_said_says_nothing() -> None:
    assert len(told(("turn_restarted", {"attempt": 2}))) == 1


@pytest.mark.parametrize(
    "ending",
    [[failed("cancelled")], [DONE], [("turn_restarted", {"attempt": 2}), failed("cancelled")]],
    ids=["cancelled", "done", "restarted"],
)
def test_no_approved_tool_is_left_open_when_its_turn_ends(ending: list[Step]) -> None:
    """A reader that answers by itself would take the answer for one that was not sent, and send it for ever."""
    view = AiSdk(R)
    frames = [*view.begin(), *fed(view, call(), approval(), decided("approved"), *ending)]
    verified(frames)
    assert last_step(frames)["c"] in {"output-available", "output-error"}


@pytest.mark.parametrize("between", [[], [text("Next: ")]], ids=["at once", "behind a text"])
def test_what_is_asked_stands_alone_in_the_last_step_when_other_tools_wait(between: list[Step]) -> None:
    """The SDK sends an answer by itself once every tool of the last step has one, or a result."""
    view = AiSdk(R)
    frames = [*view.begin(), *fed(view, ROUND, call("a", x=1), args("{", "b"), call("b", x=2), approval("turn.1", x=1))]
    assert last_step(frames) == {"turn.1": "approval-request"}
    frames += fed(view, decided("approved", "turn.1"), result("a"), *between, approval("turn.2", x=2))
    assert last_step(frames)["turn.2"] == "approval-request"
    assert set(last_step(frames).values()) <= {"approval-request", "output-available"}
    frames += fed(view, decided("denied", "turn.2"), result("b", "no", success=False), DONE)
    verified(frames)
    assert [frame["toolCallId"] for frame in frames if frame["type"] == "tool-output-error"] == ["b"]


def test_a_stream_that_goes_on_has_the_arguments_so_far_again() -> None:
    """The SDK refuses a piece of arguments whose beginning was in another stream."""
    view = AiSdk(R)
    fed(view, args('{"x":'))
    frames = [*view.begin(), *fed(view, args("1}"), call(x=1))]
    verified(frames)
    assert "".join(frame["inputTextDelta"] for frame in frames if frame["type"] == "tool-input-delta") == '{"x":1}'


def test_a_stream_that_goes_on_goes_on_with_a_new_part() -> None:
    view = AiSdk(R)
    fed(view, text("Hel"))
    frames = [*view.begin(), *fed(view, text("lo"), DONE)]
    verified(frames)
    assert [frame["type"] for frame in frames[1:4]] == ["text-start", "text-delta", "text-end"]
    assert frames[1]["id"] == "turn-2"


def test_a_stream_behind_the_end_tells_the_end_alone() -> None:
    view = AiSdk(R)
    fed(view, DONE)
    assert [frame["type"] for frame in view.begin()] == ["start", "finish"]


def test_a_message_that_waits_is_told_and_its_end_without_a_turn_too() -> None:
    assert told(QUEUED)[-1] == {"type": "data-queued", "data": {"lane": "steer", "position": 1}, "transient": True}
    assert told(QUEUED, TAKEN_IN)[-1]["messageMetadata"] == {"delivered_into": "other"}
    assert told(QUEUED, REMOVED)[-2]["reason"] == "removed"


def test_other_turns_and_what_has_no_meaning_here_are_passed_over() -> None:
    view = AiSdk(R)
    assert view.feed("text_delta", {"request_id": "other", "delta": "x"}) == []
    for name in MEANINGLESS:
        assert view.feed(name, {"request_id": R}) == []
    assert view.feed("degraded", {"degraded": True})[-1]["data"] == {"degraded": True}
    assert view.feed("thread_deleted", {})[-1]["type"] == "error"


def test_a_snapshot_stands_for_what_the_log_lost() -> None:
    view = AiSdk(R)
    frames = [*view.begin(), *view.adopt({"turn": TURN, "parallel": [], "messages": []})]
    frames += fed(view, result("b"), text(", and on"), DONE)
    verified(frames)
    assert "".join(frame["delta"] for frame in frames if frame["type"] == "text-delta") == "so far, and on"


@pytest.mark.parametrize(("more", "end"), [({}, "stop"), ({"interrupted": True}, "other")])
def test_a_snapshot_without_the_turn_has_its_answer(more: Any, end: str) -> None:
    view = AiSdk(R)
    frames = [*view.begin(), *view.adopt(ended(**more))]
    verified(frames)
    assert frames[-1]["finishReason"] == end


@settings(deadline=None, max_examples=300)
@given(st.lists(STEPS, max_size=12), ENDS, st.integers(0, 12))
def test_no_order_of_events_breaks_the_rules(steps: list[Step], end: Step, cut: int) -> None:
    """Whatever an agent yields, and wherever a stream broke off and went on."""
    frames = told(*steps, end)
    verified(frames)
    json.dumps(frames)
    again = AiSdk(R)
    events = [*steps, end]
    fed(again, *events[:cut])
    verified([*again.begin(), *fed(again, *events[cut:])], known=("a", "b"))
