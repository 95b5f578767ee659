"""The demo agent: no key, no network, and a phrase for every path that a turn can take.

The words of an answer depend on the message and the history alone (only the clock reads anything else), so
that a transcript can be compared with another run. The pace depends on `slowly` or `fast` in the message,
or on `metadata.delay_ms`. docs/agents.md lists the phrases; so does the answer to `help`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from worker.agents.calculator import CalculationError, calculate
from worker.agents.tools import CALCULATOR, CLOCK, ToolFailure, read_clock
from worker.turn import (
    AgentError,
    AgentEvent,
    Iteration,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolResult,
    Turn,
    Usage,
)

DELAY_MS = 30
"""Between two words: about as fast as people read, so that the answer looks typed and does not drag."""
SLOW_DELAY_MS = 400
"""Counting to 30 takes some 12 seconds: time enough to find a process and end it."""
MAX_DELAY_MS = 10_000
MAX_COUNT = 10_000
MAX_WORDS = 20_000
MAX_SLEEP = 600
MAX_PHRASE = 500
"""Characters. A longer message is no phrase, and is not searched for one."""

HELP = """\
I am Threadline's demo agent. I need no key, and I remember our conversation. Try:

- `count to 30 slowly`, or `count to 300 fast`
- `say 200 words`: numbered, so that a lost or doubled one is seen
- `tell me a story`, or `tell me a long story slowly`: time to pull a plug
- `what is 12 * (3 + 4)?`: the calculator
- `what time is it in Europe/Berlin?`: the clock
- `my name is Ada`, and some time later `what is my name?`
- `what did I say first?`, `what did you say last?`, `how many messages?`
- `think about rivers`: thinking before the answer
- `sleep 10`: a tool that is silent for ten seconds
- `order three cups of tea`: steps, and a question before it orders; say more while it waits
- `ask me about rivers`: a question with answers to choose from
- `fail please`, or `fail after 5 words`

Put `slowly` or `fast` into any of them."""

_COUNTED = ("river", "stone", "cloud", "maple", "ember", "harbor", "willow", "comet", "lantern", "meadow")
_CHAPTERS = (
    "A keeper lived in a lighthouse and wrote down each ship that passed.",
    "One night the lamp went out, and the pen stopped in the middle of a word.",
    "The neighbour on the next cliff saw the dark, lit a lamp, and took up the book.",
    "The last line had an end and a number, so the neighbour knew where to go on.",
    "No ship was written twice, and none was left out.",
    "When the keeper came back there was only one thing to say: go on, you hold the pen now.",
)
_LONG_STORY_NIGHTS = 12


@dataclass(frozen=True, slots=True)
class Pause:
    """A silence of some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Do:
    """Something to wait for; its result goes back into the script."""

    what: Callable[[], Awaitable[Any]]


Step = str | AgentEvent | Pause | Do
Script = Callable[[Turn, re.Match[str]], Iterator[Step]]


async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
    """Answer by the first phrase that fits, in word pieces, at the pace that was asked for.

    Raises:
        AgentError: `demo_failure` when asked to fail; `invalid_metadata` for a `delay_ms` that is no pace.
    """
    delay = _delay_ms(turn) / 1000
    round_, words = 1, 0
    script, result = _script(turn), None
    while (step := _next(script, result)) is not None:
        result = None
        if isinstance(step, Do):
            result = await step.what()
        elif isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
        elif isinstance(step, str | Thinking):
            text = step if isinstance(step, str) else step.delta
            for piece in re.findall(r"\s*\S+\s*", text):
                words += 1
                yield Text(piece, round_) if isinstance(step, str) else Thinking(piece, round_)
                await asyncio.sleep(delay)
        else:
            round_ = step.round if isinstance(step, Iteration) else round_
            yield step
    heard = sum(len(message.content.split()) for message in turn.history) + len(turn.message.split())
    yield Usage(input_tokens=heard, output_tokens=words, model="demo")


def _next(script: Iterator[Step], result: Any) -> Step | None:
    """Return the script's next step; it gets the result of the last one."""
    try:
        return script.send(result) if isinstance(script, Generator) else next(script)
    except StopIteration:
        return None


def _delay_ms(turn: Turn) -> float:
    """Return the milliseconds between two words; `metadata.delay_ms` wins over the message."""
    if "delay_ms" in turn.metadata:
        delay = turn.metadata["delay_ms"]
        if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay <= MAX_DELAY_MS:
            raise AgentError(
                f"metadata.delay_ms: expected a number from 0 to {MAX_DELAY_MS}; send that, or leave it out",
                error_type="invalid_metadata",
            )
        return delay
    asked = turn.message[:MAX_PHRASE]
    if re.search(r"\b(slow|slowly)\b", asked, re.IGNORECASE):
        return SLOW_DELAY_MS
    return 0 if re.search(r"\b(fast|quickly)\b", asked, re.IGNORECASE) else DELAY_MS


_MANNERS = re.compile(
    r"\b(?:please|slowly|slow|fast|quickly|(?:can|could|would|will) you|thanks|thank you)\b[,!]?",
    re.IGNORECASE,
)


def _phrase(message: str) -> str:
    """Return the message without manners, pace and closing marks: what the phrases below are matched with."""
    if len(message) > MAX_PHRASE:
        return ""
    return " ".join(_MANNERS.sub(" ", message).split()).rstrip(" ,;:?!.")


def _script(turn: Turn) -> Iterator[Step]:
    phrase = _phrase(turn.message)
    for pattern, script in _PHRASES:
        match = pattern.fullmatch(phrase)
        if match:
            return script(turn, match)
    return _echo(turn)


def _echo(turn: Turn) -> Iterator[Step]:
    said = _said(turn, "user")
    yield f"This is message {len(said) + 1} of our conversation. You said: {_quote(turn.message)}. "
    if said:
        yield f"Before that you said: {_quote(said[-1])}. "
    yield "Say `help` to see what I can do."


def _said(turn: Turn, role: str) -> list[str]:
    return [message.content for message in turn.history if message.role == role]


def _quote(text: str) -> str:
    line = " ".join(text[:MAX_PHRASE].split())
    return f'"{line}"' if len(line) <= 80 else f'"{line[:79]}…"'


def _help(turn: Turn, match: re.Match[str]) -> Iterator[Step]:
    yield HELP


def _greet(turn: Turn, match: re.Match[str]) -> Iterator[Step]:
    name = _name(turn)
    yield f"Hello{', ' + name if name else ''}! "
    yield "Good to see you again. " if turn.history else "I am the demo agent. "
    yield "Say `help` to see what I can do."


_NAME = re.compile(r"(?:(?:hello|hi|hey)[,.!]? )?(?:my name is|i am called|call me) (?P<name>.{1,60})", re.IGNORECASE)


def _name(turn: Turn) -> str | None:
    for said in reversed(_said(turn, "user")):
        match = _NAME.fullmatch(_phrase(said))
        if match:
            return match["name"]
    return None


def _meet(turn: Turn, match: re.Match[str]) -> Iterator[Step]:
    yield f"Nice to meet you, {match['name']}. I will remember your name in this conversation."


def _recall_name(turn: Turn, match: re.Match[str]) -> Iterator[Step]:
    name = _name(turn)
    yield f"Your name is {name}." if name else "You have not told me yet. Say `my name is …`."


def _recall_words(turn: Turn, match: re.Match[str]) -> Iterator[Step]:
    you = match["who"].lower() == "i"
    said = _said(turn, "user" if you else "assistant")
    who, place = ("You" if you else "I"), (match["place"] or "last").lower()
    if said:
        yield f"{who} said {place}: {_quote(said[0 if place == 'first' else -1])}."
    else:
        yield f"{who} said nothing before this message."


def _count_messages(turn: Turn, match: re.Match[str]) -> Iterator[Step]:
    yours, mine = len(_said(turn, "user")) + 1, len(_said(turn, "assistant"))
    yield f"This is your message number {yours}. I have answered {mine} so far."


def _count(turn: Turn, match: re.Match[str]) -> Iterator[Step]:
    last = _within(match["n"], MAX_COUNT)
    if last is None:
        yield f"I count from 1 to at most {MAX_COUNT}."
    else:
        yield ", ".join(map(str, range(1, last + 1))) + "."


def _say_words(turn: Turn, match: re.Match[str]) -> Iterator[Step]:
    wanted = _within(match["n"], MAX_WORDS)
    yield _numbered(wanted) if wanted else f"I say from 1 to at most {MAX_WORDS} words."


def _within(digits: str, most: int) -> int | None:
    """Return the number if it is from 1 to `most`; a thousand digits are not even converted."""
    number = int(digits) if len(digits) <= 9 else 0
    return number if 1 <= number <= most else None


def _numbered(words: int) -> str:
    return " ".join(f"{_COUNTED[index % len(_COUNTED)]}-{index + 1}" for index in range(words))


def _tell_story(turn: Turn, match: re.Match[str]) -> Iterator[Step]:
    if not match["long"]:
        yield " ".join(_CHAPTERS)
        return
    for night in range(1, _LONG_STORY_NIGHTS + 1):
        yield f"Night {night}. {' '.join(_CHAPTERS)}\n\n"
    yield "The end."


def _think(turn: Turn, match: re.Match[str]) -> Iterator[Step]:
    topic = match["topic"] or "your question"
    yield Thinking(f"The person wants me to think about {topic}. What do I know? ")
    yield Thinking(f"This is message {len(_said(turn, 'user')) + 1}. I should keep it short.")
    yield f"I thought about {topic}. My view: it is best taken one step at a time, in order."


def _calculate(turn: Turn, match: re.Match[str]) -> Iterator[Step]:
    expression = match["expression"].strip()
    call_id = f"{turn.request_id}-calculator"
    args = {"expression": expression}
    yield Iteration(1)
    yield ToolArgs(json.dumps(args, ensure_ascii=False), call_id, CALCULATOR.name)
    yield ToolCall(CALCULATOR.name, args, call_id)
    try:
        output, success = calculate(expression), True
    except CalculationError as error:
        output, success = str(error), False
    yield ToolResult(CALCULATOR.name, output, call_id, success)
    yield Iteration(2)
    yield f"{expression} = {output}" if success else f"I cannot calculate that: {output}."


def _tell_time(turn: Turn, match: re.Match[str]) -> Iterator[Step]:
    zone = match["zone"] or "UTC"
    call_id = f"{turn.request_id}-clock"
    yield Iteration(1)
    yield ToolCall(CLOCK.name, {"timezone": zone}, call_id)
    try:
        output, success = read_clock(zone), True
    except ToolFailure as error:
        output, success = str(error), False
    yield ToolResult(CLOCK.name, output, call_id, success)
    yield Iteration(2)
    yield f"It is {output}." if success else f"I cannot tell the time there: {output}."


def _sleep(turn: Turn, match: re.Match[str]) -> Iterator[Step]:
    seconds = float(match["seconds"][:9])
    if seconds > MAX_SLEEP:
        yield f"I sleep at most {MAX_SLEEP} seconds."
        return
    call_id = f"{turn.request_id}-sleep"
    yield Iteration(1)
    yield ToolCall("sleep", {"seconds": seconds}, call_id)
    yield Pause(seconds)
    yield ToolResult("sleep", f"slept for {seconds:g} seconds", call_id)
    yield Iteration(2)
    yield f"I slept for {seconds:g} seconds, and I am awake again."


def _order(turn: Turn, match: re.Match[str]) -> Generator[Step, Any, None]:
    what = match["what"]
    price = yield Do(lambda: turn.step("price", len, what))
    yield f"That would be {price} coins. May I? "
    decision = yield Do(lambda: turn.approve("order", {"what": what, "price": price}))
    wishes = yield Do(turn.steers)
    for wish in wishes:
        yield f"You added: {_quote(wish)}. "
    if decision.approved:
        number = yield Do(lambda: turn.step("order", lambda: turn.step_key))
        yield f"I have ordered {what}; the order is {number}."
    else:
        yield f"Then I do not order {what}."


def _ask(turn: Turn, match: re.Match[str]) -> Generator[Step, Any, None]:
    topic = match["topic"] or "anything"
    answer = yield Do(lambda: turn.ask(f"Do you like to talk about {topic}?", ("yes", "no")))
    yield f"You said {answer}." if answer else "You did not say."


def _fail(turn: Turn, match: re.Match[str]) -> Iterator[Step]:
    if match["n"]:
        yield _numbered(_within(match["n"], MAX_WORDS) or MAX_WORDS)
    raise AgentError("The demo agent failed, as you asked it to.", error_type="demo_failure")


# The signs are those that people type and paste: \u00d7 \u00f7 \u2212 \u00b7 are times, divided, minus, dot.
_CALCULATION = r"(?P<expression>(?=.*\d)(?:[\d.,\s+*/%^()\u00d7\u00f7\u2212\u00b7-]|pi|tau|e|[a-z]+(?=\())+)=?"
_WHAT_IS = r"what(?:[\'\u2019]s| is)"
_PHRASES: tuple[tuple[re.Pattern[str], Script], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), script)
    for pattern, script in (
        (r"help(?: me)?|what do(?: you do)?", _help),  # "what can you do", its manners taken off
        (r"(?:hello|hi|hey|good (?:morning|evening|day))(?: there)?", _greet),
        (_NAME.pattern, _meet),
        (rf"{_WHAT_IS} my name|who am i|do you (?:know|remember) my name", _recall_name),
        (r"what did (?P<who>i|you) (?:just )?say(?: (?P<place>first|last))?(?: before)?", _recall_words),
        (r"how many messages(?: .*)?", _count_messages),
        (r"count (?:up )?to (?P<n>\d+)", _count),
        (r"(?:(?:say|write|tell)(?: me)? )?(?P<n>\d+) words?", _say_words),
        (r"tell (?:me |us )?(?:a |another )?(?P<long>long )?story(?: .*)?", _tell_story),
        (r"think(?: hard)?(?: about (?P<topic>.+))?", _think),
        (r"sleep(?: for)? (?P<seconds>\d+(?:\.\d+)?)(?: ?s| seconds?)?", _sleep),
        (r"order (?P<what>.+)", _order),
        (r"ask me(?: something)?(?: about (?P<topic>.+))?", _ask),
        (r"fail(?: after (?P<n>\d+) words?)?", _fail),
        (rf"(?:{_WHAT_IS} the time|what time is it|time|clock)(?: in (?P<zone>\S+))?", _tell_time),
        (r"(?:calculate|compute|calc|=) ?(?P<expression>.+)", _calculate),
        (rf"(?:{_WHAT_IS}|how much is) {_CALCULATION}", _calculate),
        (rf"(?=.*\d.*[-+*/%^(\u00d7\u00f7\u2212]){_CALCULATION}", _calculate),
    )
)
