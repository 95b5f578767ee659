"""The fleet on a terminal."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from rich.console import Console

from backplane.errors import Unavailable
from cli.top import screen, top

LATE = {"events": 10, "p50": 0.0021, "p99": 0.0123}
GATEWAY = {
    "node_id": "g1", "kind": "gateway", "silent": 0.2, "ready": True, "deaf": False, "sockets": 12, "rooms": 3,
    "sent_per_second": 1234.5, "gaps_filled": 0, "slow_clients": 1, "append_to_socket": LATE,
}  # fmt: skip
RUNNING = {
    "tenant": "default", "thread_id": "tea", "request_id": "r1", "attempt": 2, "began": 95.0, "claimed": 96.0,
}  # fmt: skip
ENDED = RUNNING | {"request_id": "r2", "attempt": 1, "ended": 98.5, "outcome": "cancelled"}
WORKER = {
    "node_id": "w1", "kind": "worker", "silent": 0.3, "slots": 16, "running": 4, "agent": "demo",
    "claims": {"tried": 9, "won": 9}, "turns": [ENDED, RUNNING],
}  # fmt: skip


def seen(**changed: Any) -> dict[str, Any]:
    return {
        "now": 100.0, "members": [GATEWAY, WORKER], "waiting": 0, "longest_waiting": [], "under_way": 1,
        "due": [{"request_id": "r1", "seconds": 0.7}], "lease": 2.5,
    } | changed  # fmt: skip


def shown(answer: dict[str, Any]) -> list[str]:
    console = Console(file=io.StringIO(), width=140)
    console.print(screen(answer))
    text = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO above
    return [" ".join(line.split()) for line in text.splitlines()]


def test_it_shows_gateways_workers_and_turns() -> None:
    lines = shown(seen())
    assert "threadline 12 sockets 1,234 events/s 4 of 16 slots 0 waiting" in lines
    assert "g1 ready 12 3 1,234 2.1 12.3 0 1" in lines
    assert "w1 ready 4/16 ██████░░░░░░░░░░░░░░░░░░ 9/9 demo" in lines
    assert "r1 tea w1 running 4.0 2 0.7" in lines
    assert "r2 tea w1 cancelled 2.5 1" in lines


def test_running_turns_stand_above_those_that_ended() -> None:
    lines = shown(seen())
    assert next(i for i, line in enumerate(lines) if line.startswith("r1")) < next(
        i for i, line in enumerate(lines) if line.startswith("r2")
    )


@pytest.mark.parametrize(
    ("changed", "word"),
    [({"deaf": True}, "deaf"), ({"ready": False}, "unready"), ({"silent": 12.0}, "silent 12 s")],
)
def test_a_gateway_that_is_not_well_says_why(changed: dict[str, Any], word: str) -> None:
    assert any(line.startswith(f"g1 {word}") for line in shown(seen(members=[GATEWAY | changed])))


def test_the_queue_says_how_long_the_oldest_waits() -> None:
    assert "2 waiting (longest 3.5 s)" in shown(seen(waiting=2, longest_waiting=[{"seconds": 3.5}]))[0]


def test_an_empty_fleet_can_be_shown() -> None:
    assert "0 of 0 slots" in shown(seen(members=[], due=[]))[0]


def test_no_name_steers_the_terminal() -> None:
    turn = RUNNING | {"thread_id": "\x1b[2Jevil"}
    assert not any("\x1b" in line for line in shown(seen(members=[WORKER | {"turns": [turn]}])))


async def test_no_gateway_at_all_is_said_with_the_next_step() -> None:
    with pytest.raises(Unavailable, match="--url"):
        await top(("http://127.0.0.1:1",), None, Console(file=io.StringIO()), once=True)


@asynccontextmanager
async def answering(body: str) -> AsyncIterator[str]:
    """Answer every request with this body; yield the URL."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("body", ["{}", "[1]", "no JSON", '{"members": [{}]}', '{"members": 7}'])
async def test_another_program_is_no_fleet(body: str) -> None:
    async with answering(body) as url:
        with pytest.raises(Unavailable, match="is not of a gateway of this version"):
            await top([url], None, Console(file=io.StringIO()), once=True)


async def test_what_is_no_terminal_gets_it_once() -> None:
    """It could not be drawn anew there: nothing was printed, for ever."""
    out = io.StringIO()
    async with answering(json.dumps(seen())) as url, asyncio.timeout(10):
        await top([url], None, Console(file=out, width=140), once=False)
    assert "threadline" in out.getvalue()
