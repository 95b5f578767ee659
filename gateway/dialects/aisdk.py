"""Vercel's AI SDK: one turn as its UI message stream, version 1.

The turn is one message of the assistant, and its id is the turn's. Tools are `dynamic`, and run by the
provider, which is the worker. A question to a person ends the stream, as the SDK expects it; the answer begins the
next one.

Source: https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol
"""

from __future__ import annotations

from gateway.dialects.view import Fields, Frame, View, pending_call

_OF_TOOLS = {"dynamic": True, "providerExecuted": True}


class AiSdk(View):
    """One turn as the AI SDK tells it.

    Args:
        request_id: the turn.
    """

    def __init__(self, request_id: str) -> None:
        super().__init__(request_id)
        self._in_step = False
        self._said = False
        """Whether anything of the turn stands."""
        self._writing: dict[str, tuple[str, str]] = {}
        """Tool calls whose arguments are being written: id -> name, and the arguments so far."""
        self._of_step: set[str] = set()
        """Tool calls that were told in this step."""
        self._asked_about: dict[str, tuple[str, bool]] = {}
        """Approval -> the tool call that it is about, and whether that was made for it."""
        self._approved: set[str] = set()
        """Tool calls that a person has approved."""

    # --- the stream --------------------------------------------------------------------------------------

    def begin(self) -> list[Frame]:
        """Return `start`, and what is being written at this place, or how the stream has ended."""
        start = {"type": "start", "messageId": self._request_id, "messageMetadata": {"request_id": self._request_id}}
        if self.ended:
            return [start, *self._closing]
        frames: list[Frame] = [start]
        for call_id, (name, so_far) in self._writing.items():  # the reader refuses more of what it saw no beginning of
            frames += [_input_started(call_id, name), _input_delta(call_id, so_far)]
        if self._open is not None:
            kind, _ = self._open
            self._open = (kind, self._next_id())  # a part goes on as a new one: the reader may not have the old one
            frames.append({"type": f"{kind}-start", "id": self._open[1]})
        return frames

    def _so_far(self, turn: Fields) -> list[Frame]:
        """Return thinking, tools and text."""
        frames = self._write("reasoning", turn["thinking"]) if turn["thinking"] else []
        for tool in turn["tools"]:
            frames += self._call(tool)
            if "output" in tool:
                frames += self._result(tool)
        if turn["text"]:
            frames += self._write("text", turn["text"])
        return frames

    def _over(self, answer: Fields | None) -> list[Frame]:
        frames = self._write("text", answer["content"]) if answer else []
        if answer is None or answer.get("interrupted"):
            return [*frames, *self._stopped("interrupted")]
        return [*frames, *self._finish("stop", {})]

    def _degraded(self, fields: Fields) -> list[Frame]:
        return [{"type": "data-degraded", "data": fields, "transient": True}]

    # --- what is said ------------------------------------------------------------------------------------

    def _round(self, fields: Fields) -> list[Frame]:
        return [*self._end_step(), *self._step()]

    def _text(self, fields: Fields) -> list[Frame]:
        return self._write("text", fields["delta"])

    def _thinking(self, fields: Fields) -> list[Frame]:
        return self._write("reasoning", fields["delta"])

    def _step(self) -> list[Frame]:
        if self._in_step:
            return []
        self._in_step = self._said = True
        self._of_step.clear()
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
            frames.append(_input_started(call_id, fields["tool_name"]))
        name, so_far = self._writing.get(call_id, (fields["tool_name"], ""))
        self._writing[call_id] = (name, so_far + fields["delta"])
        self._of_step.add(call_id)
        return [*frames, _input_delta(call_id, fields["delta"])]

    def _call(self, fields: Fields) -> list[Frame]:
        call_id, frames = fields["tool_call_id"], [*self._step(), *self._close()]
        self._writing.pop(call_id, None)
        self._of_step.add(call_id)
        self._calls[call_id] = (fields["tool_name"], fields["args"])
        ready = {"toolCallId": call_id, "toolName": fields["tool_name"], "input": fields["args"]}
        return [*frames, {"type": "tool-input-available", **ready, **_OF_TOOLS}]

    def _result(self, fields: Fields) -> list[Frame]:
        call_id, frames = fields["tool_call_id"], self._close()  # no step: it belongs to that of its call
        if self._calls.pop(call_id, None) is None:
            return frames
        told = {"toolCallId": call_id, **_OF_TOOLS}
        if fields["success"]:
            return [*frames, {"type": "tool-output-available", "output": fields["output"], **told}]
        return [*frames, {"type": "tool-output-error", "errorText": fields["output"], **told}]

    # --- questions ---------------------------------------------------------------------------------------

    def _asked(self, fields: Fields) -> list[Frame]:
        approval_id, frames = fields["approval_id"], self._close()
        if fields["kind"] == "approval":
            call_id = pending_call(self._calls, fields)
            made = call_id is None or not self._stands_alone(call_id)
            if made:  # it is not shown as a tool, or the reader would wait for the tools beside it before it answers
                frames += [*self._end_step(), *self._call({**fields, "tool_call_id": approval_id})]
            self._asked_about[approval_id] = about = (approval_id if made else call_id or approval_id, made)
            request = {"type": "tool-approval-request", "approvalId": approval_id, "toolCallId": about[0]}
        else:
            frames += self._step()
            question = {name: fields[name] for name in ("approval_id", "question", "options", "expires_at")}
            request = {"type": "data-question", "id": approval_id, "data": question}
        if approval_id in self._settled:
            return frames  # nobody is asked any more
        step = [{"type": "finish-step"}] if self._in_step else []
        self._closing = [*step, {"type": "finish", "finishReason": "tool-calls"}]
        self.ended = True
        self._in_step = False
        return [*frames, request, *self._closing]

    def _stands_alone(self, call_id: str) -> bool:
        """Return whether a tool call is of the last step, and no other in it waits for anything but its result."""
        beside = (self._of_step & (self._calls.keys() | self._writing.keys())) - self._approved
        return call_id in self._of_step and beside <= {call_id}

    def _decided(self, fields: Fields) -> list[Frame]:
        super()._decided(fields)
        call_id, made = self._asked_about.pop(fields["approval_id"], ("", False))
        if not call_id:
            return []
        approved = fields["decision"] == "approved"
        if not approved:
            self._calls.pop(call_id, None)
            return [{"type": "tool-output-denied", "toolCallId": call_id}]
        if made:
            return self._result({"tool_call_id": call_id, "success": True, "output": "approved"})
        self._approved.add(call_id)
        return []

    def _let_go(self, success: bool, output: str) -> list[Frame]:
        """Return an end of the approved tools without a result: else the reader would send its answers for ever."""
        frames: list[Frame] = []
        for call_id in [call_id for call_id in self._calls if call_id in self._approved]:
            frames += self._result({"tool_call_id": call_id, "success": success, "output": output})
        return frames

    # --- restarts and ends -------------------------------------------------------------------------------

    def _restarted(self, fields: Fields) -> list[Frame]:
        frames = [*self._let_go(False, "The worker that ran it was lost."), *self._end_step()]
        self._writing.clear()
        self._calls.clear()
        self._approved.clear()
        if not self._said:
            return frames
        # the SDK cannot take parts back: a reader shows what comes behind this one, and what is kept
        void: Fields = {"attempt": fields["attempt"], "kept_text": fields.get("kept_text", 0)}
        return [*frames, {"type": "data-restarted", "id": f"restarted-{fields['attempt']}", "data": void}]

    def _queued(self, fields: Fields) -> list[Frame]:
        about = {"lane": fields["lane"], "position": fields["position"]}
        return [{"type": "data-queued", "data": about, "transient": True}]

    def _taken_in(self, request_id: str) -> list[Frame]:
        return self._finish("other", {"delivered_into": request_id})

    def _removed(self, fields: Fields) -> list[Frame]:
        return self._stopped("removed")

    def _answered(self, fields: Fields) -> list[Frame]:
        return self._finish("stop", {name: fields[name] for name in ("usage", "timing") if name in fields})

    def _finish(self, reason: str, metadata: Fields) -> list[Frame]:
        frames, self.ended = [*self._let_go(True, "approved"), *self._end_step()], True
        self._closing = [{"type": "finish", "finishReason": reason, "messageMetadata": metadata}]
        return [*frames, *self._closing]

    def _stopped(self, reason: str) -> list[Frame]:
        frames, self.ended = [*self._let_go(False, "The turn was stopped."), *self._end_step()], True
        self._closing = [{"type": "abort", "reason": reason}, {"type": "finish", "finishReason": "other"}]
        return [*frames, *self._closing]

    def _error(self, message: str, code: str) -> list[Frame]:
        frames, self.ended = self._end_step(), True
        self._closing = [{"type": "error", "errorText": message}]
        return [*frames, *self._closing]


def _input_started(call_id: str, name: str) -> Frame:
    return {"type": "tool-input-start", "toolCallId": call_id, "toolName": name, **_OF_TOOLS}


def _input_delta(call_id: str, delta: str) -> Frame:
    return {"type": "tool-input-delta", "toolCallId": call_id, "inputTextDelta": delta}
