"""What happens in a turn, as events and as a snapshot, for the tests of every dialect."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Step = tuple[str, dict[str, Any]]
"""An event: its name, and its fields without those that every event has."""

R = "turn"
"""The turn's id."""


def text(delta: str) -> Step:
    return "text_delta", {"delta": delta, "round": 1}


def thinking(delta: str) -> Step:
    return "thinking_delta", {"delta": delta, "round": 1}


def args(delta: str, call_id: str = "c") -> Step:
    return "tool_args_delta", {"delta": delta, "tool_call_id": call_id, "tool_name": "add", "round": 1}


def call(call_id: str = "c", **given: Any) -> Step:
    return "tool_call", {"tool_name": "add", "args": given, "tool_call_id": call_id, "round": 1}


def result(call_id: str = "c", output: str = "3", success: bool = True) -> Step:
    fields = {"tool_name": "add", "output": output, "success": success, "tool_call_id": call_id, "round": 1}
    return "tool_result", fields


def approval(approval_id: str = "turn.a", **given: Any) -> Step:
    about = {"kind": "approval", "tool_name": "add", "args": given, "options": ["approved", "denied"]}
    return "approval_request", {"approval_id": approval_id, "expires_at": 1_700_000_000_000, **about}


def failed(error_type: str) -> Step:
    return "chat_error", {"message": "It broke.", "error_type": error_type}


DONE: Step = ("chat_done", {"full_response": "x", "timing": {"total_ms": 5}})

QUEUED: Step = ("queue_item_queued", {"item_id": R, "lane": "steer", "position": 1, "preview": "x"})
TAKEN_IN: Step = ("queue_item_delivered", {"item_id": R, "lane": "steer", "into_request_id": "other"})
REMOVED: Step = ("queue_item_removed", {"item_id": R, "lane": "steer"})

MEANINGLESS = ("chat_accepted", "inference_start", "inference_heartbeat", "step_done", "thread_renamed")
"""Events that no dialect has a word for."""

TOOLS = [
    {"tool_call_id": "a", "tool_name": "add", "args": {}, "round": 1, "output": "3", "success": True},
    {"tool_call_id": "b", "tool_name": "add", "args": {}, "round": 1},
]
"""What a snapshot has of two tools; one has run."""
TURN = {"request_id": R, "text": "so far", "thinking": "Hm", "tools": TOOLS, "approvals": [], "state": "running"}
"""What a snapshot has of the running turn."""


def ended(**more: Any) -> dict[str, Any]:
    """Return a snapshot in which the turn has left its answer, and runs no more."""
    answer = {"id": 2, "role": "assistant", "content": "It was.", "request_id": R, **more}
    return {"turn": None, "parallel": [], "messages": [answer]}


STEPS = st.sampled_from(
    [
        text("x"), thinking("y"), args("{", "a"), args("}", "b"), call("a"), call("b"), result("a"), result("b"),
        ("iteration_start", {"round": 2}), ("turn_restarted", {"attempt": 2}),
        ("turn_restarted", {"attempt": 3, "kept_offset": 3}), ("inference_heartbeat", {}),
    ]
)  # fmt: skip
"""What may happen in any order, as far as a dialect knows."""
ENDS = st.sampled_from([DONE, failed("cancelled"), failed("agent_error"), approval()])
"""How a stream may end."""
