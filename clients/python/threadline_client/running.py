"""A turn that runs, as a person sees it: what it has said so far, folded from its events. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from threadline_client.events import Event, whole


@dataclass(slots=True)
class ToolUse:
    """One call of a tool within a turn. `output` and `success` are None until it has run."""

    tool_call_id: str
    tool_name: str = ""
    args: Mapping[str, Any] | None = None
    args_text: str = ""
    """The arguments as the model writes them, before the call."""
    output: str | None = None
    success: bool | None = None
    round: int = 1


@dataclass(frozen=True, slots=True)
class _Kept:
    offset: int
    round: int
    text: str
    thinking: str
    tools: tuple[ToolUse, ...]


@dataclass(slots=True)
class RunningTurn:
    """A turn, and what it has said so far."""

    request_id: str
    state: str = "ready"
    """`ready`: no worker has it; `running`; `waiting` for a person; a parallel one also `done` or `failed`."""
    lane: str = ""
    """`parallel`, or the lane it waited in, or empty."""
    message: str = ""
    """The message that it answers, if this client saw it."""
    attempt: int = 1
    round: int = 1
    text: str = ""
    thinking: str = ""
    tools: list[ToolUse] = field(default_factory=list)
    error_type: str = ""
    kept: _Kept | None = field(default=None, repr=False)
    """What stands if another attempt goes on behind the last finished step."""

    def tool(self, tool_call_id: str) -> ToolUse:
        """Return the call with this id, made if it is new."""
        for tool in self.tools:
            if tool.tool_call_id == tool_call_id:
                return tool
        tool = ToolUse(tool_call_id)
        self.tools.append(tool)
        return tool


def turn_of(fields: Mapping[str, Any]) -> RunningTurn:
    """Return the running turn of a snapshot."""
    tools = fields.get("tools")
    return RunningTurn(
        request_id=str(fields.get("request_id", "")),
        state="waiting" if pending(fields) else str(fields.get("state", "ready")),
        attempt=whole(fields.get("attempt"), 1),
        text=str(fields.get("text") or ""),
        thinking=str(fields.get("thinking") or ""),
        tools=[
            ToolUse(
                tool_call_id=str(tool.get("tool_call_id", "")),
                tool_name=str(tool.get("tool_name", "")),
                args=tool.get("args"),
                output=tool.get("output"),
                success=tool.get("success"),
                round=whole(tool.get("round"), 1),
            )
            for tool in (tools if isinstance(tools, list) else [])
            if isinstance(tool, dict)
        ],
    )


def pending(turn: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what the turn of a snapshot asks a person and nobody has decided."""
    asked = turn.get("approvals")
    return [one for one in asked if one.get("state") == "pending"] if isinstance(asked, list) else []


def _started(turn: RunningTurn, event: Event) -> None:
    turn.state, turn.attempt = "running", whole(event.get("attempt"), turn.attempt)


def _alive(turn: RunningTurn, event: Event) -> None:
    if turn.state == "ready":
        turn.state = "running"


def _iteration(turn: RunningTurn, event: Event) -> None:
    turn.state, turn.round = "running", whole(event.get("round"), turn.round)


def _text(turn: RunningTurn, event: Event) -> None:
    turn.state = "running"
    turn.text += event.delta


def _thinking(turn: RunningTurn, event: Event) -> None:
    turn.state = "running"
    turn.thinking += event.delta


def _tool_of(turn: RunningTurn, event: Event) -> ToolUse:
    turn.state = "running"
    known = len(turn.tools)
    tool = turn.tool(str(event.get("tool_call_id", "")))
    tool.tool_name = str(event.get("tool_name") or tool.tool_name)
    if len(turn.tools) > known:
        tool.round = whole(event.get("round"), turn.round)
    return tool


def _tool_args(turn: RunningTurn, event: Event) -> None:
    _tool_of(turn, event).args_text += event.delta


def _tool_call(turn: RunningTurn, event: Event) -> None:
    tool = _tool_of(turn, event)
    tool.args, tool.round = event.get("args"), whole(event.get("round"), turn.round)


def _tool_result(turn: RunningTurn, event: Event) -> None:
    tool = _tool_of(turn, event)
    tool.output, tool.success = str(event.get("output", "")), bool(event.get("success", True))


def stepped(turn: RunningTurn, event: Event) -> None:
    """Note what stands from here on, whatever becomes of the worker."""
    tools = tuple(replace(tool) for tool in turn.tools)  # copies: a result may come behind the step
    turn.kept = _Kept(event.offset, turn.round, turn.text, turn.thinking, tools)


def _restarted(turn: RunningTurn, event: Event) -> None:
    # What the lost worker said is void; with `kept_offset`, only what it said behind its last finished step.
    turn.state, turn.attempt = "ready", whole(event.get("attempt"), turn.attempt + 1)
    kept = turn.kept
    if event.get("kept_offset") is None:
        turn.text, turn.thinking, turn.round, turn.tools, turn.kept = "", "", 1, [], None
    elif kept is not None and kept.offset == event["kept_offset"]:
        turn.text, turn.thinking, turn.round = kept.text, kept.thinking, kept.round
        turn.tools = [replace(tool) for tool in kept.tools]
    else:
        # the step was done before this client came: the length of the text is told, the rest is as good as it gets
        turn.text = turn.text[: whole(event.get("kept_text"))]
        turn.tools = [tool for tool in turn.tools if tool.output is not None]


PROGRESS = {
    "inference_start": _started,
    "inference_heartbeat": _alive,
    "iteration_start": _iteration,
    "text_delta": _text,
    "thinking_delta": _thinking,
    "tool_args_delta": _tool_args,
    "tool_call": _tool_call,
    "tool_result": _tool_result,
    "step_done": stepped,
    "turn_restarted": _restarted,
}
"""What each event of a turn changes in it."""
