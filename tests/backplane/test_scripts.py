"""The Lua scripts as files."""

from __future__ import annotations

from pathlib import Path

import pytest

import backplane
from backplane.connection import Backplane
from backplane.ids import thread_ref
from backplane.scripts import Call, run_many, script

LUA = Path(backplane.__file__).parent / "lua"
NAMES = sorted(path.stem for path in LUA.glob("*.lua"))


@pytest.mark.parametrize("name", NAMES)
def test_a_script_names_its_slots_in_its_first_lines(name: str) -> None:
    """What it does, its ARGV and what it returns stand before its first line of code."""
    head = []
    for line in (LUA / f"{name}.lua").read_text().splitlines():
        if not line.startswith("--"):
            break
        head.append(line)
    text = "\n".join(head)
    # a script of a thread has that thread's slots; any other names its own
    assert head[0].startswith("--! include ") or "KEYS 1 " in text
    assert "ARGV" in text
    assert "Returns" in text


@pytest.fixture
def redis_url(valkey: str) -> str:
    """Return Valkey's: fakeredis' TCP server closes the connection at the first error of a pipeline."""
    return valkey


@pytest.mark.parametrize("name", NAMES)
async def test_a_script_is_loaded_when_redis_does_not_know_it(backplane: Backplane, name: str) -> None:
    """After SCRIPT FLUSH, as after a restart, the first call loads it; this also compiles every script."""
    await backplane.redis.script_flush()
    assert await backplane.redis.script_load(script(name).text)
    await backplane.redis.script_flush()
    calls = [Call("read", *_slots(backplane)), Call("read", *_slots(backplane))]
    assert [answer[0] for answer in await run_many(backplane.redis, calls)] == [b"not_found", b"not_found"]


def _slots(backplane: Backplane) -> tuple[list[str], list[str | int | bytes]]:
    call = backplane.call("read", thread_ref("nowhere"), "", "", 0, 1)
    return list(call.keys), list(call.args)
