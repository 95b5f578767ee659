"""Vercel's AI SDK: one turn as its UI message stream, version 1.

The turn is one message of the assistant, and its id is the turn's. Tools are `dynamic`, and run by the
provider, which is the worker. A question to a person ends the stream, as the SDK expects it; the answer begins the
next one.

Source: https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backplane import events
from backplane.notices import THREAD_DELETED
from gateway.degraded import DEGRADED
from gateway.dialects.view import Fields, Frame, pending_call

_STOPPED = frozenset({"cancelled", "superseded"})
_OF_TOOLS = {"dynamic": True, "providerExecuted": True}


class AiSdk:
    """One turn as the AI SDK tells it. A `View`.

    Args:
        request_id: the turn.
    """

    def __init__(self, request_id: str) -> None:
        self.ended = False
        self._request_id = request_id
        self._number = 0
        self._in_step = False
        self._said = False
        """Whether anything of the turn stands."""
        self._open: tuple[str, str] | None = None
        """`text` or `reasoning`, and the id of the part that is being written."""
        self._writing: set[str] = set()
        """Tool calls whose arguments are being written."""
        self._calls: dict[str, tuple[str, Any]] = {}
        """Tool calls that have no result yet."""
        self._asked_about: dict[str, tuple[str, bool]] = {}
        """Approval -> the tool call that it is about, and whether that was made for it."""
        self._settled: frozenset[str] = frozenset()
        self._closing: list[Frame] = []
        self._feeds: dict[str, Callable[[Fields], list[Frame]]] = {
            events.ITERATION_START: lambda fields: [*self._end_step(), *self._step()],
            events.TEXT_DELTA: lambda fields: self._write("text", fields["delta"]),
            events.THINKING_DELTA: lambda fields: self._write("reasoning", fields["delta"]),
            events.TOOL_ARGS_DELTA: self._args,
            events.TOOL_CALL: self._call,
            events.TOOL_RESULT: self._result,
            events.APPROVAL_REQUEST: self._asked,
            events.APPROVAL_DECIDED: self._decided,
            events.TURN_RESTARTED: self._restarted,
            events.QUEUE_ITEM_QUEUED: self._queued,
            events.QUEUE_ITEM_DELIVERED: self._delivered,
            events.QUEUE_ITEM_REMOVED: lambda fields: self._stop("removed"),
            events.CHAT_DONE: self._answered,
            events.CHAT_ERROR: self._failed,
        }

    # --- the stream --------------------------------------------------------------------------------------

    def begin(self) -> list[Frame]:
        """Return `start`, and what is being written at this place, or how the stream has ended."""
        start = {"type": "start", "messageId": self._request_id, "messageMetadata": {"request_id": self._request_id}}
        if self.ended:
            return [start, *self._closing]
        if self._open is None:
            return [start]
        kind, _ = self._open
        self._open = (kind, self._next_id())  # a part goes on as a new one: the reader may not have the old one
        return [start, {"type": f"{kind}-start", "id": self._open[1]}]

    def feed(self, name: str, fields: Fields) -> list[Frame]:
        """Return the chunks of one event."""
        if name == THREAD_DELETED:
            return self._error("The thread was deleted.")
        if name == DEGRADED:
            return [{"type": "data-degraded", "data": fields, "transient": True}]
        if fields.get("request_id") != self._request_id or name not in self._feeds:
            return []
        return self._feeds[name](fields)

    def settle(self, approvals: frozenset[str]) -> None:
        """Take the ids of questions that are decided."""
        self._settled |= approvals

    def adopt(self, snapshot: Fields) -> list[Frame]:
        """Return the turn as a snapshot has it: thinking, tools, text, and its end if it has ended."""
        turns = [turn for turn in (snapshot["turn"], *snapshot["parallel"]) if turn]
        turn = next((turn for turn in turns if turn["request_id"] == self._request_id), None)
        if turn is None:
            said = [message for message in snapshot["messages"] if message["request_id"] == self._request_id]
            answer = next((message for message in said if message["role"] == "assistant"), None)
            frames = self._write("text", answer["content"]) if answer else []
            if answer is None or answer.get("interrupted"):
                return [*frames, *self._stop("interrupted")]
            return [*frames, *self._finish("stop", {})]
        frames = self._write("reasoning", turn["thinking"]) if turn["thinking"] else []
        for tool in turn["tools"]:
            frames += self._call(tool)
            if "output" in tool:
                frames += self._result(tool)
        if turn["text"]:
            frames += self._write("text", turn["text"])
        for approval in turn["approvals"]:
            if approval["state"] == "pending":
                frames += self._asked(approval)
        return frames

    # --- what is said ------------------------------------------------------------------------------------

    def _next_id(self) -> str:
        self._number += 1
        return f"{self._request_id}-{self._number}"

    def _step(self) -> list[Frame]:
        if self._in_step:
            return []
        self._in_step = self._said = True
        return [{"type": "start-step"}]

    def _end_step(self) -> list[Frame]:
        frames = self._close()
        if self._in_step:
            frames.append({"type": "finish-step"})
        self._in_step = False
        return frames

    def _close(self) -> list[Frame]:
        if self._open is None:
            return []
        kind, part_id = self._open
        self._open = None
        return [{"type": f"{kind}-end", "id": part_id}]

    def _write(self, kind: str, delta: str) -> list[Frame]:
        frames = self._step()
        if self._open is None or self._open[0] != kind:
            frames += self._close()
            self._open = (kind, self._next_id())
            frames.append({"type": f"{kind}-start", "id": self._open[1]})
        return [*frames, {"type": f"{kind}-delta", "id": self._open[1], "delta": delta}]

    def _args(self, fields: Fields) -> list[Frame]:
        call_id, frames = fields["tool_call_id"], [*self._step(), *self._close()]
        if call_id in self._calls:
            return frames
        if call_id not in self._writing:
            self._writing.add(call_id)
            start = {"type": "tool-input-start", "toolCallId": call_id, "toolName": fields["tool_name"]}
            frames.append({**start, **_OF_TOOLS})
        return [*frames, {"type": "tool-input-delta", "toolCallId": call_id, "inputTextDelta": fields["delta"]}]

    def _call(self, fields: Fields) -> list[Frame]:
        call_id, frames = fields["tool_call_id"], [*self._step(), *self._close()]
        self._writing.discard(call_id)
        self._calls[call_id] = (fields["tool_name"], fields["args"])
        ready = {"toolCallId": call_id, "toolName": fields["tool_name"], "input": fields["args"]}
        return [*frames, {"type": "tool-input-available", **ready, **_OF_TOOLS}]

    def _result(self, fields: Fields) -> list[Frame]:
        call_id, frames = fields["tool_call_id"], [*self._step(), *self._close()]
        if self._calls.pop(call_id, None) is None:
            return frames
        told = {"toolCallId": call_id, **_OF_TOOLS}
        if fields["success"]:
            return [*frames, {"type": "tool-output-available", "output": fields["output"], **told}]
        return [*frames, {"type": "tool-output-error", "errorText": fields["output"], **told}]

    # --- questions ---------------------------------------------------------------------------------------

    def _asked(self, fields: Fields) -> list[Frame]:
        approval_id, frames = fields["approval_id"], [*self._step(), *self._close()]
        if fields["kind"] == "approval":
            call_id = pending_call(self._calls, fields)
            self._asked_about[approval_id] = (call_id or approval_id, call_id is None)
            if call_id is None:  # the agent asks about something that it has not shown as a tool
                frames += self._call({**fields, "tool_call_id": approval_id})
            about = {"approvalId": approval_id, "toolCallId": call_id or approval_id}
            frames.append({"type": "tool-approval-request", **about})
        else:
            question = {name: fields[name] for name in ("approval_id", "question", "options", "expires_at")}
            frames.append({"type": "data-question", "id": approval_id, "data": question})
        if approval_id in self._settled:
            return frames
        self._closing = [{"type": "finish-step"}, {"type": "finish", "finishReason": "tool-calls"}]
        self.ended = True
        self._in_step = False
        return [*frames, *self._closing]

    def _decided(self, fields: Fields) -> list[Frame]:
        self.ended, self._closing = False, []  # only where the question was told by an earlier stream
        call_id, made = self._asked_about.pop(fields["approval_id"], ("", False))
        if not call_id:
            return []
        approved = fields["decision"] == "approved"
        if not approved:
            self._calls.pop(call_id, None)
            return [{"type": "tool-output-denied", "toolCallId": call_id}]
        if made:
            return self._result({"tool_call_id": call_id, "success": True, "output": "approved"})
        return []

    # --- restarts and ends -------------------------------------------------------------------------------

    def _restarted(self, fields: Fields) -> list[Frame]:
        frames = self._end_step()
        self._writing.clear()
        self._calls.clear()
        if not self._said:
            return frames
        # the SDK cannot take parts back: a reader shows what comes behind this one, and what is kept
        void: Fields = {"attempt": fields["attempt"], "kept_text": fields.get("kept_text", 0)}
        return [*frames, {"type": "data-restarted", "id": f"restarted-{fields['attempt']}", "data": void}]

    def _queued(self, fields: Fields) -> list[Frame]:
        about = {"lane": fields["lane"], "position": fields["position"]}
        return [{"type": "data-queued", "data": about, "transient": True}]

    def _delivered(self, fields: Fields) -> list[Frame]:
        if "into_request_id" not in fields:
            return []
        return self._finish("other", {"delivered_into": fields["into_request_id"]})

    def _answered(self, fields: Fields) -> list[Frame]:
        return self._finish("stop", {name: fields[name] for name in ("usage", "timing") if name in fields})

    def _failed(self, fields: Fields) -> list[Frame]:
        return self._stop(fields["error_type"]) if fields["error_type"] in _STOPPED else self._error(fields["message"])

    def _finish(self, reason: str, metadata: Fields) -> list[Frame]:
        frames, self.ended = self._end_step(), True
        self._closing = [{"type": "finish", "finishReason": reason, "messageMetadata": metadata}]
        return [*frames, *self._closing]

    def _stop(self, reason: str) -> list[Frame]:
        frames, self.ended = self._end_step(), True
        self._closing = [{"type": "abort", "reason": reason}, {"type": "finish", "finishReason": "other"}]
        return [*frames, *self._closing]

    def _error(self, message: str) -> list[Frame]:
        frames, self.ended = self._end_step(), True
        self._closing = [{"type": "error", "errorText": message}]
        return [*frames, *self._closing]
