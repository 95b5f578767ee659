"""What a worker of these tests runs: the demo agent, and one that says what nobody should believe, or can draw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace

from worker.agents import demo
from worker.turn import AgentEvent, Text, Thinking, ToolCall, ToolResult, Turn

HOSTILE = """\
<script>window.pwned = "script"</script>
<img src="x" onerror="window.pwned = 'onerror'"> and <svg onload="window.pwned = 'svg'"></svg>

<iframe srcdoc="<script>parent.pwned = 'srcdoc'</script>"></iframe>

[a link](javascript:window.pwned='link') [another](JaVa\tScRiPt:window.pwned='tab')
[data](data:text/html,<script>1</script>)
[a true one](https://example.com/?a=1&b=2) <https://example.org/> ![a picture](https://tracker.example/pixel.png)

| table | <b onclick="window.pwned='cell'">bold</b> |
|---|---|
| `a` | ![p](data:image/svg+xml,<svg/onload=1>) |

````html
<script>window.pwned = "fence"</script>
``` not the end
````

&lt;script&gt;window.pwned = "entity"&lt;/script&gt; turned: \u202egnp.exe\u202c end of it
"""
"""Markdown and HTML that would run, load or deceive if it were believed."""


HELD = "until your worker is lost: "
"""What a message begins with whose answer stops in the middle, and goes on in the next attempt alone."""

NESTED: dict[str, Callable[[int], str]] = {
    "quotes": lambda levels: f"{'> ' * levels}the bottom",
    "lists": lambda levels: f"{'- ' * levels}the bottom",
    "words": lambda levels: f"{'*a _b ' * (levels // 2)}the bottom{' b_ a*' * (levels // 2)}",
}
"""Markdown of so many levels, by the words of a message: `nested quotes 600`."""


async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
    """Answer `hostile` with all of it, everywhere; `nested` with that; everything else as the demo agent does."""
    if turn.message.startswith("nested"):
        _, what, levels = turn.message.split()
        yield "**The top.**\n\n"
        yield NESTED[what](int(levels))
        yield "\n\nThe end."
        return
    if not turn.message.startswith("hostile"):
        async with aclosing(_held(turn)) as said:  # type: ignore[type-var]  # async generators have aclose
            async for event in said:
                yield event
        return
    yield Thinking(HOSTILE)
    yield ToolCall("<img src=x onerror=window.pwned=1>", {"<b>": HOSTILE}, "call-1")
    yield ToolResult("<img src=x onerror=window.pwned=1>", HOSTILE, "call-1")
    for start in range(0, len(HOSTILE), 7):  # cut everywhere, as a model's tokens do
        yield HOSTILE[start : start + 7]


async def _held(turn: Turn) -> AsyncIterator[str | AgentEvent]:
    words = 0
    async with aclosing(demo.agent(replace(turn, message=turn.message.removeprefix(HELD)))) as said:  # type: ignore[type-var]
        async for event in said:
            yield event
            words += isinstance(event, Text)
            if turn.message.startswith(HELD) and turn.attempt == 1 and words == 20:
                await asyncio.Event().wait()
