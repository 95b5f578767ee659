"""What an agent holds in its hands: the turn it answers, and the events it may yield.

    async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
        yield f"You said: {turn.message}"

A `str` is text for the person. Everything else is one of the typed events below.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the thread's history: who said it, and what."""

    role: Literal["user", "assistant"]
    content: str
    request_id: str = ""
    ts: int = 0
    """Unix time in milliseconds, from Redis' clock."""
    interrupted: bool = False
    """True when the answer stopped in the middle (cancelled, superseded, failed)."""
    steer: bool = False
    """True when it came while a turn ran, and that turn took it."""
    context: bool = False
    """True when it was sent as context (`queue_mode` collect): something to know, not something to do."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """A piece of the model's reasoning (`thinking_delta`)."""

    delta: str
    round: int = 1


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer (`text_delta`), when the round matters; else yield a plain `str`."""

    delta: str
    round: int = 1


@dataclass(frozen=True, slots=True)
class Iteration:
    """A new round of model and tools begins (`iteration_start`). Rounds count from 1."""

    round: int


@dataclass(frozen=True, slots=True)
class ToolArgs:
    """A piece of a tool call's arguments while the model writes them (`tool_args_delta`)."""

    delta: str
    tool_call_id: str
    tool_name: str = ""
    round: int = 1


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool is about to run (`tool_call`)."""

    tool_name: str
    args: dict[str, Any]
    tool_call_id: str
    round: int = 1


@dataclass(frozen=True, slots=True)
class ToolResult:
    """A tool has run (`tool_result`). An output over the limit is cut with a marker before it is stored."""

    tool_name: str
    output: str
    tool_call_id: str
    success: bool = True
    round: int = 1


@dataclass(frozen=True, slots=True)
class Usage:
    """What the turn cost; kept and sent with `chat_done`. Yielding it again replaces the numbers."""

    input_tokens: int = 0
    output_tokens: int = 0
    model: str = ""


AgentEvent = Thinking | Text | Iteration | ToolArgs | ToolCall | ToolResult | Usage


class AgentError(Exception):
    """Raised by an agent to end its turn with a clear `chat_error`.

    `message` is shown to the person, so it must not hold raw provider text, keys or addresses.

    Args:
        message: what went wrong, in words for the person who waits.
        error_type: stable word for programs, such as `rate_limited`, `auth`, `max_iterations`.
        source: who failed: `provider`, `tool` or `agent`.
        retryable: whether the same message may succeed later.
        retry_after_ms: when to come back, if the provider said so.
    """

    def __init__(
        self,
        message: str,
        *,
        error_type: str = "agent_error",
        source: str = "agent",
        retryable: bool = False,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.error_type = error_type
        self.source = source
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms


_STEP_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,100}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Step:
    """The step that runs now."""

    key: str
    began_before: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """What an agent asks a person: shown to clients as `fields`."""

    fields: dict[str, Any]
    options: tuple[str, ...] = ()
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decided. Without a decision in time, `decision` and `by` are None and nothing is approved."""

    decision: str | None
    by: str | None

    @property
    def approved(self) -> bool:
        """True only when a person has said so."""
        return self.decision == APPROVED


APPROVED, DENIED = "approved", "denied"
_MOST_OPTIONS, _LONGEST_OPTION = 20, 200
_STEP: ContextVar[Step] = ContextVar("step")


class Link(Protocol):
    """What joins a turn to the worker that runs it."""

    async def say(self, event: str | AgentEvent) -> None:
        """Take an event as if the agent had yielded it."""

    async def step(self, name: str, run: Callable[[Step], Awaitable[Any]]) -> Any:
        """Return the recorded result of a step, or run it and record what it returns."""

    async def steers(self) -> list[str]:
        """Return the messages that came for the running turn since the last call."""

    async def ask(self, ask: Ask) -> Decision:
        """Ask a person, and wait for the decision."""


class Unlinked:
    """The link of a turn without a worker: what a test of an agent has in its hands.

    Steps run and nothing is recorded; what the agent says beside its yields is in `said`, and what it asks in `asked`.

    Args:
        decisions: what the person decides, one after the other; then nobody decides, and everything is refused.
    """

    def __init__(self, *decisions: str) -> None:
        self.asked: list[Ask] = []
        self._decisions = list(decisions)
        self.said: list[str | AgentEvent] = []

    async def say(self, event: str | AgentEvent) -> None:
        """Keep the event in `said`."""
        self.said.append(event)

    async def step(self, name: str, run: Callable[[Step], Awaitable[Any]]) -> Any:
        """Run the step."""
        return await run(Step(f"unlinked:{name}"))

    async def steers(self) -> list[str]:
        """Return nothing: nobody steers."""
        return []

    async def ask(self, ask: Ask) -> Decision:
        """Return the next of the decisions."""
        self.asked.append(ask)
        return Decision(self._decisions.pop(0), "unlinked") if self._decisions else Decision(None, None)


@dataclass(slots=True)
class Turn:
    """One user message and the agent's answer to come.

    When the turn is cancelled, the agent's task is cancelled: `asyncio.CancelledError` is raised at its
    current `await`. Clean up in `finally`, and do not swallow it.
    """

    thread_id: str
    request_id: str
    tenant: str
    subject: str
    """Who asked (the token's `sub`)."""
    message: str
    """The user's message. It is not in `history`."""
    history: list[Message]
    """Every earlier message of the thread, oldest first, up to the session's limit."""
    attempt: int = 1
    """1, or more when an earlier worker was lost."""
    policy: Literal["retry", "resume", "fail"] = "retry"
    """What becomes of the turn when its worker is lost. With `resume`, what finished steps have said stands; with
    `retry` another attempt says it again."""
    model: str | None = None
    """`model_override`, or else `model`, of the request."""
    temperature: float | None = None
    locale: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    link: Link = field(default_factory=Unlinked, repr=False)

    async def steers(self) -> list[str]:
        """Return what the person has added since the last call (`queue_mode` steer), oldest first.

        Call it where the agent can turn: between two rounds, after a tool. One round trip of Redis; a cancelled
        turn does not come back from it. What is never taken becomes the next turn; what was taken by an attempt
        whose worker was lost is returned to the next attempt again.
        """
        return await self.link.steers()

    async def say(self, event: str | AgentEvent) -> None:
        """Say something from inside a step, as if the agent had yielded it here."""
        await self.link.say(event)

    async def step(self, name: str, fn: Callable[..., Any], *args: Any) -> Any:
        """Run `fn(*args)` once in this turn, however many attempts it takes, and return its result.

        The result is recorded as JSON; a later attempt gets it from there, and so does this one (a tuple comes
        back as a list). An exception is not recorded: it passes through, and the step may be tried again. Later
        attempts know a step by its name and by how many steps of that name came before it.

        Args:
            name: 1 to 100 letters, digits, or `. _ : -`.
            fn: a function or a coroutine function. Inside it `step_key` and `step_began_before` are known.
            args: given to `fn`.

        Raises:
            AgentError: `invalid_step` when the name or the result is not of this form, `step_too_large` when the
                turn's results take over `max_steps_bytes`.
        """
        if not _STEP_NAME.fullmatch(name):
            raise AgentError("The agent named a step in a form that cannot be kept.", error_type="invalid_step")

        async def run(step: Step) -> Any:
            with _running(step):
                result = fn(*args)
                return await result if inspect.isawaitable(result) else result

        return await self.link.step(name, run)

    async def approve(self, tool: str, args: dict[str, Any], *, expires: float | None = None) -> Decision:
        """Ask the person whether a tool may run, and wait for the decision.

        A safe point, durable, and decided once: another attempt that asks the same gets the same decision. With
        the policy `resume` the turn leaves its worker while it waits, so this may not come back at all; then an
        attempt on any worker comes to this place again, by way of the recorded steps. The turn's deadline stands
        still meanwhile.

        Args:
            tool: the name of the tool.
            args: what it would be given, shown to the person.
            expires: seconds until nobody's silence is taken for a no; None for the setting `approval_timeout`.
        """
        fields = {"kind": "approval", "tool_name": tool, "args": args, "options": [APPROVED, DENIED]}
        return await self.link.ask(Ask(fields, (APPROVED, DENIED), expires))

    async def ask(self, question: str, options: Sequence[str] = (), *, expires: float | None = None) -> str | None:
        """Ask the person something, and return the answer; None when nobody answered in time. Waits as `approve`.

        Args:
            question: shown to the person.
            options: at most 20 answers of at most 200 characters to choose from; none for any text.
            expires: seconds; None for the setting `approval_timeout`.

        Raises:
            AgentError: `invalid_question` when the options are not of this form.
        """
        if len(options) > _MOST_OPTIONS or any(not 0 < len(option) <= _LONGEST_OPTION for option in options):
            raise AgentError("The agent asked a question with options of a wrong form.", error_type="invalid_question")
        fields = {"kind": "question", "question": question, "options": list(options)}
        return (await self.link.ask(Ask(fields, tuple(options), expires))).decision

    @property
    def step_key(self) -> str:
        """The identity of the running step, the same in every attempt: an idempotency key for what it does outside.

        Raises:
            RuntimeError: when no step runs.
        """
        return _this_step().key

    @property
    def step_began_before(self) -> bool:
        """True when an earlier attempt began the running step and was lost before its end.

        Then nobody knows whether its effect has happened: look, or send it again under the same `step_key`.

        Raises:
            RuntimeError: when no step runs.
        """
        return _this_step().began_before


@contextmanager
def _running(step: Step) -> Iterator[None]:
    token = _STEP.set(step)
    try:
        yield
    finally:
        _STEP.reset(token)


def _this_step() -> Step:
    step = _STEP.get(None)
    if step is None:
        raise RuntimeError("expected to be called inside a step, got none; use turn.step(name, fn)")
    return step


Agent = Callable[[Turn], AsyncIterator[str | AgentEvent]]
