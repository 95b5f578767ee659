"""The Lua scripts: loaded from lua/, called by name.

Each .lua file is one operation; its first lines name its slots. A line `--! include thread emit` puts files
of lua/lib in front of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from backplane.pipeline import Command, pipelined

_LUA = Path(__file__).parent / "lua"
_INCLUDE = "--! include "


@dataclass(frozen=True, slots=True)
class Script:
    """One operation: its whole text and the SHA-1 that Redis knows it by."""

    name: str
    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """Return the script of lua/`name`.lua with what it includes."""
    lines = (_LUA / f"{name}.lua").read_text().splitlines()
    parts = []
    if lines[0].startswith(_INCLUDE):
        parts = [(_LUA / "lib" / f"{part}.lua").read_text() for part in lines[0][len(_INCLUDE) :].split()]
    text = "\n".join([*parts, *lines])
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Call:
    """One script call that has not been sent yet."""

    name: str
    keys: Sequence[str]
    args: Sequence[str | int | bytes]


async def load_all(redis: Redis) -> None:
    """Make Redis know every script, in one round trip, so that the first calls find them."""
    pipeline = redis.pipeline(transaction=False)
    for path in sorted(_LUA.glob("*.lua")):
        pipeline.script_load(script(path.stem).text)
    await pipeline.execute()


async def run(redis: Redis, call: Call) -> Any:
    """Run one script; it is loaded when Redis does not know it (a new or restarted server)."""
    known = script(call.name)
    try:
        return await redis.evalsha(known.sha, len(call.keys), *call.keys, *call.args)
    except NoScriptError:
        return await redis.eval(known.text, len(call.keys), *call.keys, *call.args)


async def run_many(redis: Redis, calls: Sequence[Call]) -> list[Any]:
    """Run scripts in one round trip. Answers come in the order of the calls; an error stands in its place."""
    commands: list[Command] = [
        ("EVALSHA", script(call.name).sha, len(call.keys), *call.keys, *call.args) for call in calls
    ]
    answers = await pipelined(redis, commands, raises=False)
    for position, answer in enumerate(answers):
        if isinstance(answer, NoScriptError):
            answers[position] = await run(redis, calls[position])
    return answers
