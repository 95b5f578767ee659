"""AG-UI: one turn as the events of the Agent-User Interaction protocol.

A run is a stream: it begins with RUN_STARTED and ends with RUN_FINISHED or RUN_ERROR. A question to a person ends the
run with the outcome `interrupt`; the next run brings the answer in `resume`, and goes on with the same turn.

Source: https://docs.ag-ui.com/concepts/events, https://docs.ag-ui.com/concepts/interrupts
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from backplane.events import dumps
from gateway.degraded import DEGRADED
from gateway.dialects.view import Fields, Frame, View, pending_call


class AgUi(View):
    """One turn as AG-UI tells it.

    Args:
        thread_id: the thread.
        run_id: what the client calls this run.
        request_id: the turn.
        given: the messages that the client has; a snapshot must repeat them.
        tell_given: whether the client does not have them yet.
    """

    def __init__(
        self, thread_id: str, run_id: str, request_id: str, given: Sequence[Frame] = (), *, tell_given: bool = False
    ) -> None:
        super().__init__(request_id)
        self._thread_id = thread_id
        self._run_id = run_id
        # what the client has of this turn is made anew from the log
        self._given = [message for message in given if not str(message.get("id", "")).startswith(f"{request_id}-")]
        self._tell_given = tell_given
        self._writing: dict[str, str] = {}
        """Tool calls whose arguments are being written: id -> name."""
        self._done: set[str] = set()
        self._parent = ""
        """The message that tool calls of this round belong to."""
        self._pieces: list[tuple[int, str, str, Any]] = []
        """What the turn has said: offset (0 in a snapshot), kind, id of the message, and the piece."""

    # --- the stream --------------------------------------------------------------------------------------

    def begin(self) -> list[Frame]:
        """Return RUN_STARTED, and what is being written at this place, or how the run has ended."""
        frames: list[Frame] = [{"type": "RUN_STARTED", "threadId": self._thread_id, "runId": self._run_id}]
        if self._tell_given:
            frames.append(self._snapshot())
        if self.ended:
            return [*frames, *self._closing]
        if self._open is not None:
            frames += _opened(*self._open)
        for call_id, name in self._writing.items():
            frames.append(self._call_started(call_id, name))
        return frames

    def _told(self, name: str, fields: Fields) -> list[Frame]:
        frames = super()._told(name, fields)
        # the time of the event, in Unix milliseconds
        return [{**frame, "timestamp": fields["ts"]} for frame in frames] if "ts" in fields else frames

    def _so_far(self, turn: Fields) -> list[Frame]:
        """Return all messages at once."""
        if turn["thinking"]:
            self._pieces.append((0, "reasoning", self._next_id(), turn["thinking"]))
        self._parent = self._next_id()
        for tool in turn["tools"]:
            self._calls[tool["tool_call_id"]] = (tool["tool_name"], tool["args"])
            self._pieces.append((0, "call", self._parent, tool))
            if "output" in tool:
                self._done.add(tool["tool_call_id"])
                self._pieces.append((0, "result", tool["tool_call_id"], tool))
        if turn["text"]:
            self._pieces.append((0, "text", self._next_id(), turn["text"]))
        return [self._snapshot()]

    def _over(self, answer: Fields | None) -> list[Frame]:
        if answer is not None:
            self._pieces.append((0, "text", self._next_id(), answer["content"]))
        whole = answer is not None and not answer.get("interrupted")
        return [self._snapshot(), *self._finish({"type": "success" if whole else "cancelled"})]

    def _degraded(self, fields: Fields) -> list[Frame]:
        return [{"type": "CUSTOM", "name": DEGRADED, "value": fields}]

    # --- what is said ------------------------------------------------------------------------------------

    def _close(self) -> list[Frame]:
        """Return the end of everything that is being written."""
        frames: list[Frame] = []
        if self._open is not None:
            frames += _closed(*self._open)
            self._open = None
        frames += [{"type": "TOOL_CALL_END", "toolCallId": call_id} for call_id in self._writing]
        self._writing = {}
        return frames

    def _round(self, fields: Fields) -> list[Frame]:
        self._parent = ""
        return self._close()

    def _write(self, kind: str, fields: Fields) -> tuple[list[Frame], str]:
        if self._open is not None and self._open[0] == kind:
            frames, message_id = [], self._open[1]
        else:
            frames, message_id = self._close(), self._next_id()
            self._open = (kind, message_id)
            self._parent = message_id if kind == "text" else ""
            frames += _opened(kind, message_id)
        self._pieces.append((fields["offset"], kind, message_id, fields["delta"]))
        return frames, message_id

    def _text(self, fields: Fields) -> list[Frame]:
        frames, message_id = self._write("text", fields)
        return [*frames, {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": fields["delta"]}]

    def _thinking(self, fields: Fields) -> list[Frame]:
        frames, message_id = self._write("reasoning", fields)
        return [*frames, {"type": "REASONING_MESSAGE_CONTENT", "messageId": message_id, "delta": fields["delta"]}]

    def _args(self, fields: Fields) -> list[Frame]:
        call_id = fields["tool_call_id"]
        if call_id in self._calls or call_id in self._done:
            return []
        frames = []
        if call_id not in self._writing:
            frames = self._begin_call(call_id, fields["tool_name"])
        return [*frames, {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": fields["delta"]}]

    def _begin_call(self, call_id: str, name: str) -> list[Frame]:
        # several calls are written beside each other; a text or a thought ends where a call begins
        frames = _closed(*self._open) if self._open is not None else []
        self._open = None
        self._parent = self._parent or self._next_id()
        self._writing[call_id] = name
        return [*frames, self._call_started(call_id, name)]

    def _call_started(self, call_id: str, name: str) -> Frame:
        parent = self._parent or f"{self._request_id}-{self._number}"
        return {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": name, "parentMessageId": parent}

    def _call(self, fields: Fields) -> list[Frame]:
        call_id = fields["tool_call_id"]
        if call_id in self._calls or call_id in self._done:
            return []
        frames = []
        if call_id not in self._writing:
            frames = self._begin_call(call_id, fields["tool_name"])
            frames.append({"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": dumps(fields["args"])})
        del self._writing[call_id]
        self._calls[call_id] = (fields["tool_name"], fields["args"])
        self._pieces.append((fields["offset"], "call", self._parent, fields))
        return [*frames, {"type": "TOOL_CALL_END", "toolCallId": call_id}]

    def _result(self, fields: Fields) -> list[Frame]:
        call_id = fields["tool_call_id"]
        if call_id in self._done or (call_id not in self._calls and call_id not in self._writing):
            return []
        frames = []
        if call_id in self._writing:
            frames.append({"type": "TOOL_CALL_END", "toolCallId": call_id})
            del self._writing[call_id]
        self._calls.pop(call_id, None)
        self._done.add(call_id)
        self._parent = ""  # what comes is an answer to the result
        self._pieces.append((fields["offset"], "result", call_id, fields))
        result = {"messageId": f"{self._request_id}-{call_id}", "toolCallId": call_id, "content": fields["output"]}
        return [*frames, {"type": "TOOL_CALL_RESULT", **result, "role": "tool"}]

    # --- questions ---------------------------------------------------------------------------------------

    def _asked(self, fields: Fields) -> list[Frame]:
        if fields["approval_id"] in self._settled:
            return []
        return self._finish({"type": "interrupt", "interrupts": [self._interrupt(fields)]})

    def _interrupt(self, fields: Fields) -> Frame:
        expires = datetime.fromtimestamp(fields["expires_at"] / 1000, UTC).isoformat()
        interrupt: Frame = {"id": fields["approval_id"], "expiresAt": expires}
        if fields["kind"] == "approval":
            schema = {"type": "object", "properties": {"approved": {"type": "boolean"}}, "required": ["approved"]}
            interrupt |= {"reason": "tool_call", "message": f"May {fields['tool_name']} run?"}
            about = {"toolName": fields["tool_name"], "args": fields["args"]}
        else:
            answer = {"type": "string", "enum": fields["options"]} if fields["options"] else {"type": "string"}
            schema = {"type": "object", "properties": {"answer": answer}, "required": ["answer"]}
            interrupt |= {"reason": "input_required", "message": fields["question"]}
            about = {"options": fields["options"]}
        if (call_id := pending_call(self._calls, fields)) is not None:
            interrupt["toolCallId"] = call_id
        return {**interrupt, "responseSchema": schema, "metadata": about}

    # --- restarts and ends -------------------------------------------------------------------------------

    def _restarted(self, fields: Fields) -> list[Frame]:
        frames = self._close()
        had = self._pieces
        self._pieces = self._kept(fields)
        standing = {piece[3]["tool_call_id"]: piece[3] for piece in self._pieces if piece[1] == "call"}
        self._done = {piece[2] for piece in self._pieces if piece[1] == "result"}
        self._calls = {
            call_id: (call["tool_name"], call["args"])
            for call_id, call in standing.items()
            if call_id not in self._done
        }
        self._parent = ""
        if self._pieces != had:
            frames.append(self._snapshot())
        return frames

    def _kept(self, fields: Fields) -> list[tuple[int, str, str, Any]]:
        """Return the pieces that a restart leaves standing.

        What a snapshot told has no offsets: its text stands as far as it is kept, and so do the tools that have run.
        """
        if "kept_offset" not in fields:
            return []
        kept = []
        for piece in self._pieces:
            offset, kind, message_id, said = piece
            if offset or kind == "reasoning":
                if offset <= fields["kept_offset"]:
                    kept.append(piece)
            elif kind == "text":
                kept.append((offset, kind, message_id, said[: fields["kept_text"]]))
            elif said["tool_call_id"] in self._done:
                kept.append(piece)
        return kept

    def _snapshot(self) -> Frame:
        """Return MESSAGES_SNAPSHOT: what the client has without what is void."""
        made: dict[str, Frame] = {}
        for _, kind, message_id, piece in self._pieces:
            if kind == "result":
                output = {"id": f"{self._request_id}-{message_id}", "role": "tool", "toolCallId": message_id}
                made[f"result {message_id}"] = {**output, "content": piece["output"]}
                continue
            role = "reasoning" if kind == "reasoning" else "assistant"
            fresh: Frame = {"id": message_id, "role": role}
            message = made.setdefault(message_id, fresh)
            if kind == "call":
                function = {"name": piece["tool_name"], "arguments": dumps(piece["args"])}
                message.setdefault("toolCalls", []).append(
                    {"id": piece["tool_call_id"], "type": "function", "function": function}
                )
            else:
                message["content"] = message.get("content", "") + piece
        return {"type": "MESSAGES_SNAPSHOT", "messages": [*self._given, *made.values()]}

    def _queued(self, fields: Fields) -> list[Frame]:
        about = {"lane": fields["lane"], "position": fields["position"]}
        return [{"type": "CUSTOM", "name": "queued", "value": about}]

    def _taken_in(self, request_id: str) -> list[Frame]:
        return self._finish({"type": "success"}, result={"deliveredInto": request_id})

    def _removed(self, fields: Fields) -> list[Frame]:
        return self._finish({"type": "cancelled"})

    def _answered(self, fields: Fields) -> list[Frame]:
        usage = fields.get("usage")
        spent = {"inputTokens": usage["input_tokens"], "outputTokens": usage["output_tokens"]} if usage else {}
        if usage and usage["model"]:
            spent["model"] = usage["model"]
        return self._finish({"type": "success"}, **({"usage": [spent]} if spent else {}))

    def _stopped(self, reason: str) -> list[Frame]:
        return self._finish({"type": "cancelled"}, result={"reason": reason})

    def _finish(self, outcome: Frame, **further: Any) -> list[Frame]:
        self.ended = True
        run = {"threadId": self._thread_id, "runId": self._run_id, "outcome": outcome}
        self._closing = [{"type": "RUN_FINISHED", **run, **further}]
        return [*self._close(), *self._closing]

    def _error(self, message: str, code: str) -> list[Frame]:
        self.ended = True
        self._closing = [{"type": "RUN_ERROR", "message": message, "code": code}]
        return [*self._close(), *self._closing]


def _opened(kind: str, message_id: str) -> list[Frame]:
    if kind == "text":
        return [{"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "assistant"}]
    return [
        {"type": "REASONING_START", "messageId": message_id},
        {"type": "REASONING_MESSAGE_START", "messageId": message_id, "role": "reasoning"},
    ]


def _closed(kind: str, message_id: str) -> list[Frame]:
    if kind == "text":
        return [{"type": "TEXT_MESSAGE_END", "messageId": message_id}]
    return [
        {"type": "REASONING_MESSAGE_END", "messageId": message_id},
        {"type": "REASONING_END", "messageId": message_id},
    ]
