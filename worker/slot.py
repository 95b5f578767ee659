"""A slot: one turn in a worker, from its claim to its end.

Four things can stop a turn from outside, and they are told apart: it was cancelled (its owner still writes the
end), it was fenced (somebody else owns it: write nothing more), the worker stops (hand it back), or the turn waits
for a person (park it).
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import lru_cache
from typing import Any, Literal

import structlog

from backplane.connection import Backplane
from backplane.errors import Unavailable
from backplane.events import CHAT_DONE, CHAT_ERROR, INFERENCE_HEARTBEAT, TEXT_DELTA, body, dumps
from backplane.sessions import Message as StoredMessage
from backplane.sessions import SessionCache
from backplane.turns import Claim, Ending, Finished, Verdict
from worker.appender import Appender
from worker.link import SlotLink
from worker.outbox import Outbox
from worker.spans import AgentSpans, attempt, note_outcome
from worker.turn import (
    Agent,
    AgentError,
    AgentEvent,
    Iteration,
    Message,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolResult,
    Turn,
    Usage,
)

_log = structlog.get_logger("worker.slot")
StopReason = Literal["cancelled", "fenced", "stopping", "parked"]
AGENT_TASK = "agent-"
"""How the name of an agent's task begins; its turn's request id follows."""
_RETRY_PAUSE = 0.2


class Slot:
    """Runs one turn."""

    def __init__(
        self, backplane: Backplane, appender: Appender, cache: SessionCache, agent: Agent, claim: Claim
    ) -> None:
        self.claim = claim
        self._backplane = backplane
        self._settings = backplane.settings
        self._cache = cache
        self._agent = agent
        self._outbox = Outbox(claim, appender, self.told)
        self._stop: asyncio.Future[StopReason] = asyncio.get_running_loop().create_future()
        self._known: list[StoredMessage] = []
        self._text = [claim.text]
        self._text_bytes = len(claim.text.encode())
        self._thinking_bytes = 0
        self._streamed: set[str] = set()
        """Calls whose arguments have come piece by piece, and are counted with that."""
        self._link = SlotLink(backplane, claim, self._say, self.told, self._wait_outside, self._outbox)
        self._spans = AgentSpans(backplane.traces, claim, self._settings.agent)
        self._usage: dict[str, Any] | None = None
        self._started = asyncio.get_running_loop().time()
        self._first_text: float | None = None
        self.outcome = "crashed"
        """What became of the turn here, once `run` has returned: its state, or fenced, handed_back or parked."""

    # --- told from outside -----------------------------------------------------------------------------

    def told(self, verdict: Verdict | None) -> None:
        """Take a verdict of an append or a heartbeat."""
        if verdict == "cancelled" or verdict == "fenced":
            self.stop(verdict)

    def renewed(self, verdict: Verdict | None) -> None:
        """Take the verdict of a heartbeat, which may have been asked for because a person has decided."""
        self.told(verdict)
        self._link.nudge()

    def _wait_outside(self) -> None:
        self.stop("parked")

    def stop(self, reason: StopReason) -> None:
        """Stop the agent; the first reason counts."""
        if not self._stop.done():
            self._stop.set_result(reason)

    def show_life(self) -> None:
        """Say that the worker is alive, when the turn has said nothing else for long."""
        silent = asyncio.get_running_loop().time() - max(self._outbox.last_sent, self._started)
        if silent >= self._settings.inference_heartbeat and not self._stop.done():
            self._outbox.put(INFERENCE_HEARTBEAT, {})

    # --- the turn --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the turn to its end, or until it is somebody else's."""
        # of this task and of those that it starts: lines of the agent and of its libraries name the turn too
        structlog.contextvars.bind_contextvars(
            thread_id=self.claim.ref.thread_id, request_id=self.claim.request_id, fence=self.claim.fence
        )
        with attempt(self._backplane, self.claim) as span:
            try:
                await self._run()
            finally:
                note_outcome(span, self.outcome)

    async def _run(self) -> None:
        _log.info("turn claimed")
        answering = asyncio.create_task(self._answer(), name=AGENT_TASK + self.claim.request_id)
        watched: list[asyncio.Future[Any]] = [answering, self._stop]
        try:
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                await self._halt(answering)
        finally:
            answering.cancel()
        # not in there: when this task is cancelled so is the appender, and nobody would tell of a batch on its way
        await self._outbox.close()
        await self._end(answering)

    async def _halt(self, answering: asyncio.Task[None]) -> None:
        answering.cancel()
        # half the grace: the end must be written before the recoverer writes it for us
        _, pending = await asyncio.wait([answering], timeout=self._settings.cancel_grace / 2)
        if pending:
            _log.warning("the agent ignores its cancellation; its turn ends without it")

    async def _end(self, answering: asyncio.Task[None]) -> None:
        reason = self._stop.result() if self._stop.done() else None
        if reason == "fenced":
            _log.info("turn lost to another owner")
            self.outcome = reason
            return
        answered = answering.done() and not answering.cancelled() and answering.exception() is None
        if reason == "stopping" and not answered:
            await self._hand_back()
            self.outcome = "handed_back"
            return
        if reason == "parked" and not answered:
            await self._park()
            self.outcome = reason
            return
        try:
            ending = self._ending(answering)
        except (TypeError, ValueError, RecursionError) as error:
            # an exception for a message, half a pair of characters: without an end, the agent would run again
            _log.error("the agent ended with what is not JSON; its turn fails", exc_info=error)
            ending = Ending("failed", CHAT_ERROR, body(_error_fields(_failed())))
        finished = await self._finish(ending)
        self.outcome = finished.state
        _log.info("turn ended", state=finished.state)

    def _ending(self, answering: asyncio.Task[None]) -> Ending:
        error: BaseException | None
        stopped: Literal["cooperative", "hard"] = "cooperative"
        if not answering.done() or answering.cancelled():
            # asked to stop: the script writes the event. Not asked: the agent cancelled itself, its own fault.
            error = AgentError("The agent gave up.", error_type="agent_error")
            stopped = "cooperative" if answering.done() else "hard"
        else:
            error = answering.exception()
        if error is None:
            answer = "".join(self._text)
            return Ending("done", CHAT_DONE, body(self._done_fields(answer)), answer)
        if not isinstance(error, AgentError):
            _log.error("the agent failed", exc_info=error)
            error = _failed()
        return Ending("failed", CHAT_ERROR, body(_error_fields(error)), stopped=stopped)

    def _done_fields(self, answer: str) -> dict[str, Any]:
        now = asyncio.get_running_loop().time()
        fields: dict[str, Any] = {"full_response": answer}
        if self._usage is not None:
            fields["usage"] = self._usage
        first = self._first_text or now
        fields["timing"] = {
            "first_text_ms": round((first - self._started) * 1000),
            "total_ms": round((now - self._started) * 1000),
        }
        return fields

    async def _finish(self, ending: Ending) -> Finished:
        batch = self._outbox.take()
        while True:
            try:
                finished = await self._backplane.turns.finish(self.claim, batch, ending)
            except Unavailable as error:
                _log.warning("the end of a turn is held back", error=error.message)
                await asyncio.sleep(_RETRY_PAUSE)
                continue
            self._remember(finished, ending)
            return finished

    async def _hand_back(self) -> None:
        try:
            await self._backplane.turns.release(self.claim)
            _log.info("turn handed back")
        except Unavailable:
            _log.warning("turn could not be handed back; its lease will lapse")

    async def _park(self) -> None:
        while True:
            try:
                state = await self._backplane.approvals.park(self.claim)
            except Unavailable:
                await asyncio.sleep(_RETRY_PAUSE)
                continue
            _log.info("turn parked", state=state)
            return

    # --- the session -----------------------------------------------------------------------------------

    async def _history(self) -> list[StoredMessage]:
        claim = self.claim
        # the version counts this turn's own message, which a local copy cannot hold yet
        copy = self._cache.get(claim.ref, claim.epoch, claim.session_version - 1)
        if copy is None:
            most = self._settings.session_max_messages
            _, copy = await self._backplane.sessions.history(claim.ref, before=claim.message_id, most=most)
        return copy

    def _remember(self, finished: Finished, ending: Ending) -> None:
        """Keep the local copy in step with what the script stored, or drop it."""
        claim, answer = self.claim, ending.answer
        if claim.lane == "parallel":
            return  # it left the session as it was
        if finished.state != "done" or not answer or finished.session_version != claim.session_version + 1:
            self._cache.invalidate(claim.ref)
            return
        ours: list[StoredMessage] = [
            {"id": claim.message_id, "ts": claim.began, "role": "user", "content": claim.message},
            {"id": finished.message_id, "ts": finished.ended, "role": "assistant", "content": answer},
        ]
        for message in ours:
            message["request_id"] = claim.request_id
        whole = [*self._known, *ours][-self._settings.session_max_messages :]
        self._cache.put(claim.ref, claim.epoch, finished.session_version, whole)

    # --- the agent -------------------------------------------------------------------------------------

    async def _answer(self) -> None:
        claim, given = self.claim, self.claim.input
        while True:
            try:
                self._known = await self._history()
                break
            except Unavailable:
                await asyncio.sleep(_RETRY_PAUSE)
        turn = Turn(
            thread_id=claim.ref.thread_id,
            request_id=claim.request_id,
            tenant=claim.ref.tenant,
            subject=claim.subject,
            message=claim.message,
            history=[_message(stored) for stored in self._known],
            attempt=claim.fence,
            policy=claim.policy,
            model=given["model"],
            temperature=given["temperature"],
            locale=given["locale"],
            metadata=given["metadata"],
            link=self._link,
        )
        with self._spans.running(turn):
            await self._hear(turn)

    async def _hear(self, turn: Turn) -> None:
        async with aclosing(self._agent(turn)) as said:  # type: ignore[type-var]  # async generators have aclose
            async for event in said:
                self._take(event)
                if self._outbox.is_full:
                    await self._outbox.moved()
        if self._link.replaying:
            # what it said was taken for a repetition: better no answer than half of one
            raise AgentError("The agent did not come to where it was before.", error_type="not_resumable")

    async def _say(self, event: str | AgentEvent) -> None:
        self._take(event)
        await self._outbox.moved()

    def _take(self, event: str | AgentEvent) -> None:
        """Put what the agent says into the outbox. Nothing is awaited: this is done for every token."""
        if isinstance(event, Usage):
            usage = {"input_tokens": event.input_tokens, "output_tokens": event.output_tokens, "model": event.model}
            body(usage)  # what is not JSON fails here, where the agent said it
            self._usage = usage
            self._spans.used(event)
            return
        if self._link.replaying:
            return
        if isinstance(event, str):
            self._take_text(event, 1)
        elif isinstance(event, Text):
            self._take_text(event.delta, event.round)
        elif isinstance(event, Thinking | ToolArgs):
            if event.delta:
                self._note_thinking(event.delta)
                if isinstance(event, ToolArgs):
                    self._streamed.add(event.tool_call_id)
                self._outbox.put_delta(*_as_delta(event))
        else:
            if isinstance(event, ToolCall):
                self._note_call(event)
            self._outbox.put(*_as_event(event, self._settings.max_tool_output_bytes))
            self._spans.take(event)

    def _take_text(self, text: str, turn_round: int) -> None:
        if text:
            text = storable(text)
            self._note_text(text)
            self._outbox.put_delta(TEXT_DELTA, text, turn_round, _of_round(turn_round))

    def _note_text(self, delta: str) -> None:
        self._text.append(delta)
        if self._first_text is None:
            self._first_text = asyncio.get_running_loop().time()
            self._spans.first_text()
        self._text_bytes += _size(delta)
        if self._text_bytes > self._settings.max_answer_bytes:
            raise AgentError("The answer grew too long and was stopped.", error_type="answer_too_large")

    def _note_thinking(self, delta: str) -> None:
        self._thinking_bytes += _size(delta)
        if self._thinking_bytes > self._settings.max_thinking_bytes:
            raise AgentError("The agent thought for too long and was stopped.", error_type="answer_too_large")

    def _note_call(self, call: ToolCall) -> None:
        if call.tool_call_id in self._streamed:
            self._streamed.remove(call.tool_call_id)
        else:
            self._note_thinking(dumps(call.args))


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def _message(stored: StoredMessage) -> Message:
    return Message(
        role=stored["role"],
        content=stored["content"],
        request_id=stored["request_id"],
        ts=stored["ts"],
        interrupted=stored.get("interrupted", False),
        steer=stored.get("steer", False),
        context=stored.get("context", False),
    )


@lru_cache(maxsize=256, typed=True)
def _of_round(turn_round: int) -> str:
    return body({"round": turn_round})


def _as_delta(event: Thinking | ToolArgs) -> tuple[str, str, object, str]:
    """Return a delta as the outbox takes it: name, text, what its neighbours must share, and its other fields."""
    delta = storable(event.delta)
    if isinstance(event, Thinking):
        return "thinking_delta", delta, event.round, _of_round(event.round)
    fields = {"tool_call_id": event.tool_call_id, "tool_name": event.tool_name, "round": event.round}
    return "tool_args_delta", delta, (event.round, event.tool_call_id), body(fields)


def _as_event(event: Iteration | ToolCall | ToolResult, most_output: int) -> tuple[str, dict[str, Any]]:
    match event:
        case Iteration(turn_round):
            return "iteration_start", {"round": turn_round}
        case ToolCall(tool, args, call_id, turn_round):
            return "tool_call", {"tool_name": tool, "args": args, "tool_call_id": call_id, "round": turn_round}
        case ToolResult(tool, output, call_id, success, turn_round):
            return "tool_result", {
                "tool_name": tool,
                "output": cut(output, most_output),
                "success": success,
                "tool_call_id": call_id,
                "round": turn_round,
            }
    raise AgentError(f"The agent yielded something that is not an event: {type(event).__name__}.")


def storable(text: str) -> str:
    """Return text without lone surrogates, which no UTF-8 reader takes (a model may split a pair).

    Raises:
        TypeError: when it is no text: in a batch it would stop the appender, and with it the whole worker.
    """
    if not isinstance(text, str):
        raise TypeError(f"expected text as str, got {type(text).__name__}; decode it before it is yielded")
    return text if text.isascii() else text.encode("utf-8", errors="replace").decode()


def cut(text: str, most: int) -> str:
    """Return text of at most `most` bytes of UTF-8, and a marker that says how much was left out."""
    encoded = text.encode("utf-8", errors="replace")
    if len(encoded) <= most:
        return encoded.decode()
    kept = encoded[:most].decode("utf-8", errors="ignore")
    return f"{kept}… [cut: {len(encoded) - len(kept.encode())} bytes of {len(encoded)} left out]"


def _failed() -> AgentError:
    """Return what a person is told when the cause is for the log alone."""
    return AgentError("The agent failed.", retryable=True)


def _error_fields(error: AgentError) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "message": error.message,
        "error_type": error.error_type,
        "error_source": error.source,
        "error_retryable": error.retryable,
    }
    if error.retry_after_ms is not None:
        fields["error_retry_after_ms"] = error.retry_after_ms
    return fields
