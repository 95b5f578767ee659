"""One probe for each row of the threats: it plays the attacker, and fails when the server lets happen what must not.

A probe knows nothing of the server but its address, its process and its store, so that it can be pointed at another.
Rows 11, 12, 15 and 17 to 22 are about what Threadline promises beyond the protocol; their tests stand beside the code.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from redis.asyncio import Redis
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.threats.target import Raw, Target, address, joined, opened
from tests.threats.torrent import FLOOD

Probe = Callable[[Target], Awaitable[None]]

NOISE_SEED = 20261122
MEGABYTE = 1_000_000
_LOOKS = 20
"""Attempts to reach a node that may be connecting to its store anew just now."""


async def converse(raw: Raw, thread_id: str, message: str = "hello", number: int = 900) -> None:
    """Start a turn and read its answer: how a client sees that a server is well."""
    raw.events.clear()
    raw.answers.pop(number, None)
    answer = await raw.call(number, "chat:start", {"thread_id": thread_id, "message": message})
    assert answer["ok"] is True, answer
    assert (await raw.event("chat_done"))["full_response"] == message


# --- 1: names that the library gives a meaning ------------------------------------------------------------


async def reserved_names(target: Target) -> None:
    """1. An event named like the library's own runs no handler, and ends its connection."""
    for name in ("connect", "disconnect", "connect_error"):
        async with joined(target.urls[0]) as raw:
            with suppress(ConnectionClosed):
                await raw.send(f'42["{name}",{{"REMOTE_ADDR":"10.0.0.1"}},{{"token":"mallory"}}]')
            assert await raw.is_closed(), f"an event named {name} was taken"


# --- 2: names that mean nothing ---------------------------------------------------------------------------


async def unknown_names(target: Target) -> None:
    """2. An unknown event is answered as such, and its name reaches no log line."""
    async with joined(target.urls[0]) as raw:
        await raw.send('421["no such\\nCRITICAL forged",{}]')
        assert (await raw.call(2, "thread:subscribe", {"thread_id": "none"})) is not None
        assert raw.answers.get(1, {}).get("error", {}).get("code") == "unknown_event"
    for name in ("5", "null", '{"a":1}', '["connect"]'):
        async with joined(target.urls[0]) as raw:
            with suppress(ConnectionClosed):
                await raw.send(f"421[{name},{{}}]")
                await raw.answer(1)
            refused = raw.answers[1]["error"]["code"] if 1 in raw.answers else "closed"
            assert refused in ("unknown_event", "closed"), refused
    assert "CRITICAL forged" not in target.said()


# --- 3: attachments that are announced --------------------------------------------------------------------


async def attachments(target: Target) -> None:
    """3. A packet that announces 10^10 attachments ends its connection, and nothing is kept of what follows."""
    async with joined(target.urls[0]) as raw:
        with suppress(ConnectionClosed):
            await raw.send('4510000000000-["chat:start",{"_placeholder":true,"num":0}]')
            for _ in range(64):
                await raw.send(bytes(65_536))
        assert await raw.is_closed(), "it waits for ten thousand million attachments"


# --- 4: what is not JSON, or only just --------------------------------------------------------------------

BAD_VALUES = {
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "a lone surrogate": '"\\ud800"',
    "an integer of 5,000 digits": "9" * 5_000,
    "20,000 lists in each other": "[" * 20_000 + "]" * 20_000,
}


async def bad_json(target: Target) -> None:
    """4. What is not strict JSON is refused with an error, stored nowhere, and disturbs no other member."""
    async with joined(target.urls[1]) as member:
        await converse(member, "bad-json")
        await member.call(1, "thread:subscribe", {"thread_id": "bad-json"})
        for what, text in BAD_VALUES.items():
            async with joined(target.urls[0]) as raw:
                start = '421["chat:start",{"thread_id":"bad-json","message":"x","metadata":{"value":'
                await raw.send(f"{start}{text}}}}}]")
                try:
                    answer = await raw.answer(1)
                except ConnectionClosed:
                    raise AssertionError(f"{what} ended the connection in place of an error") from None
                assert answer["ok"] is False, f"{what} was taken"
        await converse(member, "bad-json", "well")
        assert [data["message"] for name, data in member.events if name == "chat_accepted"] == ["well"]


# --- 5: who opens a connection and says nothing -----------------------------------------------------------


async def never_connects(target: Target) -> None:
    """5. A socket that answers pings and never connects is closed."""
    pings = 0

    def answered() -> bool:
        nonlocal pings
        pings += 1
        return pings > 15  # five times as long as a client is given

    async with opened(target.hurried) as raw:
        with suppress(ConnectionClosed):
            await raw.read(answered)
        assert await raw.is_closed(), "it may stay for ever"


# --- 6: who does not read ---------------------------------------------------------------------------------


async def stopped_reader(target: Target) -> None:
    """6. 50 MB for a client that does not read cost the node under 5 MB, and nobody else anything."""
    async with joined(target.urls[0]) as member:
        await converse(member, "flood", FLOOD)  # what the node needs for such a stream at all, it has now
        before = target.memory
        async with joined(target.urls[0], max_queue=1, compression=None) as stopped:
            await stopped.call(1, "thread:subscribe", {"thread_id": "flood"})
            for _ in range(1_000):
                await stopped.connection.pong(b"nobody asked")
            await converse(member, "flood", FLOOD)
            grown = target.memory - before
            assert grown < 5 * MEGABYTE, f"the node grew by {grown / MEGABYTE:.0f} MB"


# --- 7: frames that are too large -------------------------------------------------------------------------


async def large_frame(target: Target) -> None:
    """7. A frame of 12 MB closes its connection as too big, and compression is not negotiated."""
    async with joined(target.urls[0], compression="deflate") as raw:
        assert "permessage-deflate" not in (raw.connection.response.headers.get("Sec-WebSocket-Extensions") or "")  # type: ignore[union-attr]
        with suppress(ConnectionClosed):
            await raw.send('421["chat:start",{"message":"' + "x" * 12 * MEGABYTE + '"}]')
        assert await raw.is_closed(), "a frame of 12 MB was taken"
        assert raw.connection.close_code in (1006, 1009)


# --- 8: what would forge a log ----------------------------------------------------------------------------


async def forged_log(target: Target) -> None:
    """8. A line feed in a query forges no log line, and malformed packets cost few lines and no traceback."""
    before = len(target.said())
    async with httpx.AsyncClient(trust_env=False) as http:
        await http.get(f"{target.urls[0]}/socket.io/?EIO=4&transport=polling&sid=x%0a%0aCRITICAL%20forged")
    for number in range(1_000):
        async with joined(target.urls[0]) if number % 50 == 0 else opened(target.urls[0]) as raw:
            with suppress(ConnectionClosed):
                await raw.send(f'42{number}["connect"' if number % 2 else "4\x00[{")
                await (await raw.connection.ping())
    said = target.said()[before:]
    assert not any(line.startswith("CRITICAL") for line in said.splitlines()), "a line was forged"
    assert "Traceback" not in said
    assert said.count("\n") < 400, f"1,000 packets wrote {said.count(chr(10))} lines"


# --- 9: other people's pages ------------------------------------------------------------------------------


async def foreign_origin(target: Target) -> None:
    """9. A page of another origin does not connect, whatever it says the host is."""
    port = urlsplit(target.urls[0]).port
    evil = "http://evil.example"
    forged: list[dict[str, Any]] = [
        {"origin": evil},
        {"origin": "null"},
        {"origin": f"{evil}:{port}", "uri": address(f"{evil}:{port}"), "host": "127.0.0.1", "port": port},
        {"origin": evil, "additional_headers": {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"}},
    ]
    for options in forged:
        try:
            async with opened(target.urls[0], **options):
                raise AssertionError(f"let in: {options}")
        except InvalidStatus as refused:
            assert refused.response.status_code in (400, 403)  # noqa: PT017 - the other branch raises


# --- 10: rooms with other people's names ------------------------------------------------------------------


async def stolen_room(target: Target) -> None:
    """10. No name of a thread makes one client hear what is for another, on either node."""
    async with joined(target.urls[0]) as victim, joined(target.urls[1]) as thief:
        for number, name in enumerate((victim.sid, f"sid:{victim.sid}", f"thread:{victim.sid}")):
            await thief.call(number, "thread:subscribe", {"thread_id": name})
            await thief.call(number + 10, "chat:start", {"thread_id": name, "message": "mine"})
        await converse(victim, "private", "my secret")
        await converse(thief, "own")
        assert "my secret" not in json.dumps(thief.events), "it was heard"


# --- 13: garbage on the channels --------------------------------------------------------------------------


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


async def garbage(target: Target) -> None:
    """13. Garbage and pickles on the channels run nothing, are counted, and the listener lives."""
    sprung = target.folder / "sprung"
    bodies = [b"", b"\x00\xff" * 40, b"{}", b'{"method":"emit"}', b"[1,2", pickle.dumps(Trap(sprung)), b"9" * 5_000]
    async with joined(target.urls[0]) as member, Redis.from_url(target.redis_url, protocol=2) as redis:
        for _ in range(_LOOKS):
            await converse(member, "garbage")
            for listed, publish in (("CHANNELS", "PUBLISH"), ("SHARDCHANNELS", "SPUBLISH")):
                channels: Any = await redis.execute_command("PUBSUB", listed)  # type: ignore[no-untyped-call]  # so it is
                for channel in channels:
                    for body in bodies:
                        await redis.execute_command(publish, channel, body)  # type: ignore[no-untyped-call]  # likewise
            await converse(member, "garbage")
            if await _counted(target):
                break
        else:
            raise AssertionError("it is not counted")
    assert not sprung.exists(), "a pickle was read"


async def _counted(target: Target) -> bool:
    async with httpx.AsyncClient(trust_env=False) as http:
        metrics = (await http.get(f"{target.urls[0]}/metrics")).text
    found = [line for line in metrics.splitlines() if line.startswith("threadline_live_garbage_total")]
    assert found, "there is no metric of it"
    return float(found[0].split()[1]) > 0


# --- 14: a Redis client that is set wrongly ---------------------------------------------------------------


async def wrong_client(target: Target) -> None:
    """14. A node whose Redis client would give it text in place of bytes takes no clients."""
    node = await target.start(f"{target.redis_url}?decode_responses=True")
    try:
        assert not await node.serves(), "it takes clients"
        assert "decode_responses" in node.said(), f"it does not say why, but: {node.said()[-500:]}"
    finally:
        await node.end()


# --- 23: everything at once -------------------------------------------------------------------------------

ALPHABET = '0123456789[]{}",:-/chat:startNaN\\ud8\n\x00é\U0001f600'
STARTS = [
    "",
    "1",
    "4",
    "40",
    "42",
    "43",
    "5",
    "6",
    "421[",
    "451-",
    '42["chat:start",',
    '42["queue:clear",{"thread_id":',
]
HEADS = [b"", b"GET ", b"POST ", b"GET /socket.io/?EIO=4&transport=", b"GET /socket.io/?sid=", b"GET /v1/", b"\x16\x03"]
ENDS = [b"", b"\r\n", b"\r\n\r\n"]
FRAMES, REQUESTS, FRAMES_EACH = 8_000, 2_000, 16


async def noise(target: Target) -> None:
    """23. 10,000 random frames and HTTP heads: the process lives, memory is bounded, a bystander notices nothing."""
    source = random.Random(NOISE_SEED)
    async with joined(target.urls[0]) as bystander:
        await converse(bystander, "bystander")
        before, said = target.memory, len(target.said())
        for number in range(FRAMES // FRAMES_EACH):
            await _frames(target, source)
            await _heads(target, source, REQUESTS * FRAMES_EACH // FRAMES)
            if number % 100 == 0:
                await converse(bystander, "bystander", f"still here {number}")
        await converse(bystander, "bystander", "still here")
        assert target.lives
        assert target.memory - before < 20 * MEGABYTE
        assert "Traceback" not in target.said()[said:]


async def _frames(target: Target, source: random.Random) -> None:
    async with joined(target.urls[0]) as raw:
        with suppress(ConnectionClosed):
            for _ in range(FRAMES_EACH):
                text = source.choice(STARTS) + "".join(source.choices(ALPHABET, k=source.randrange(30)))
                await raw.send(text if source.random() < 0.9 else text.encode())


async def _heads(target: Target, source: random.Random, count: int) -> None:
    port = urlsplit(target.urls[0]).port
    for _ in range(count):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(source.choice(HEADS) + source.randbytes(source.randrange(60)) + source.choice(ENDS))
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


# --- 16: a storm of connections ---------------------------------------------------------------------------


async def storm(target: Target) -> None:
    """16. Of 300 connections at once from one address, those beyond a burst are refused, and nobody else notices."""
    refused = 0
    async with joined(target.urls[0], additional_headers={"X-Forwarded-For": "203.0.113.8"}) as bystander:
        for _ in range(300):
            try:
                async with opened(
                    target.urls[0], additional_headers={"X-Forwarded-For": "203.0.113.7"}, close_timeout=0
                ):
                    pass
            except InvalidStatus as refusal:
                refused += refusal.response.status_code == httpx.codes.TOO_MANY_REQUESTS
        assert refused > 0, "300 connections of one address were let in"
        await converse(bystander, "storm-bystander")


PROBES: dict[int, Probe] = {
    1: reserved_names,
    2: unknown_names,
    3: attachments,
    4: bad_json,
    5: never_connects,
    6: stopped_reader,
    7: large_frame,
    8: forged_log,
    9: foreign_origin,
    10: stolen_room,
    13: garbage,
    14: wrong_client,
    16: storm,
    23: noise,
}
