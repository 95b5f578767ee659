"""Rows 13, 15 and 19: clients that come back all at once, that read nothing, and whose token ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import jwt

from backplane.ids import new_id
from scripts.faultsuite.case import PATIENCE, Case, Settled, now, thread
from scripts.faultsuite.prober import probing
from scripts.faultsuite.vitals import memory
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet
from tests.fleet.proxy import Proxy
from tests.fleet.watcher import Watcher
from threadline_client.link import Link

_CLIENTS = 200
_STORMS = 4
_LAG = 0.25
"""Seconds for which the loop of a gateway may do one thing."""


async def storms(fleet: Fleet) -> list[Settled]:
    """Have 200 clients, who follow a running answer, lose their sockets at once and come back, four times."""
    async with thread(fleet) as talk, probing(fleet.urls) as prober:
        # slowly: what the clients read must leave them time to come back
        turn = await talk.say("say 2000 words", pace=200)
        while len(talk.watchers) < _CLIENTS:
            await asyncio.gather(*(talk.watch(node) for node in range(len(fleet.urls))))
        await prober.ask("slowest")
        lag = took = 0.0
        for storm in range(1, _STORMS + 1):
            begun = now()
            for watcher in talk.watchers:
                watcher.move()
            await asyncio.gather(*(watcher.arrived(storm + 1) for watcher in talk.watchers))
            took = max(took, now() - begun)
            lag = max(lag, (await prober.ask("slowest"))["seconds"])
        assert len(talk.watchers) == _CLIENTS
        await talk.cancel(turn)
        await talk.ended(turn, PATIENCE)
    return [
        Settled(f"lag of a gateway's loop, slowest of {_STORMS} storms", lag, _LAG),
        Settled("all subscribed again", took, 10.0),
    ]


# --- row 15 ----------------------------------------------------------------------------------------------------

_FLOOD = 100
"""Outputs of 200 KB, which are 20 MB: more than the kernel keeps for both ends."""
_DEAF = 20.0
"""Seconds for which the client reads nothing."""
_GROWS = 5_000_000
"""Bytes by which a gateway may grow for it."""


class _Patient(Watcher):
    """A client that does not notice how long nothing comes, and so leaves that to its gateway."""

    def _link_to(self, url: str, session: object) -> Link:
        link = super()._link_to(url, session)  # type: ignore[arg-type]
        link._sio.eio.websocket_extra_options.pop("heartbeat")
        return link


async def stopped_reading(fleet: Fleet) -> list[Settled]:
    """Stop reading for 20 s while 20 MB stream; then read, and have everything."""
    node = fleet.gateways[0]
    async with thread(fleet) as talk:
        # once with everybody reading: what such a stream costs a gateway for ever is not what is asked here
        await talk.ended(await talk.say(f"flood {_FLOOD}"), PATIENCE)
        top = (await talk.log())[-1]
        async with Proxy(int(str(node.url).rsplit(":", 1)[1])) as way:
            slow = _Patient(
                [f"http://127.0.0.1:{way.port}"],
                talk.thread_id,
                top.fields["epoch"],
                "the client that stops reading",
                after=top.offset,
            )
            async with slow:
                talk.watchers.append(slow)
                before = most = memory(node.pid)
                begun = now()
                way.hole("from")
                turn = await talk.say(f"flood {_FLOOD}")
                while now() < begun + _DEAF:
                    most = max(most, memory(node.pid))
                    await asyncio.sleep(0.05)
                assert talk.watchers[1].terminal(turn), "the others were to have everything meanwhile"
                assert slow.terminal(turn) is None, "it was to have read nothing"
                back = now()
                way.close_hole()
                await slow.ended(turn, PATIENCE)
                settled = now() - back
                await talk.settle()
    return [
        Settled("everything at the client, from its reading again", settled, 5.0),
        Settled(f"memory of its gateway meanwhile, MB above {before / 1e6:.0f}", (most - before) / 1e6, _GROWS / 1e6),
    ]


# --- row 19 ----------------------------------------------------------------------------------------------------

_SECRET = new_id() + new_id()
_LASTS = 3
"""Seconds for which a token counts."""
_GRACE = 1.0
"""Seconds that a socket stays behind the end of its token."""


def _token() -> str:
    moment = int(time.time())
    return jwt.encode({"sub": "ada", "iat": moment, "exp": moment + _LASTS}, _SECRET, algorithm="HS256")


@asynccontextmanager
async def _keyed(fleet: Fleet) -> AsyncIterator[Fleet]:
    """Start a fleet of the same code and settings that asks for tokens."""
    given = fleet.given | {"jwt_secret": _SECRET, "expiry_grace": _GRACE}
    with TemporaryDirectory(prefix="faults-keyed-") as folder:
        async with Fleet(Path(folder), workers=1, settings=given, code=fleet.code, base={}) as keyed:
            yield keyed


async def expired(fleet: Fleet) -> list[Settled]:
    """Let the tokens of all clients end in mid-turn; they come back with new ones, again and again."""
    async with (
        _keyed(fleet) as keyed,
        Conversation(keyed, f"t-{new_id()}", patience=PATIENCE, token=_token) as talk,
    ):
        turn = await talk.say("say 1500 words")
        await talk.words(turn, 20)
        begun = now()
        assert (await talk.ended(turn, PATIENCE))["event"] == "chat_done"
        silence = max(watcher.silence(begun) for watcher in talk.watchers)
        for watcher in talk.watchers:
            assert len(watcher.arrivals) > 2, f"its token was to end more than once: {watcher.arrivals}"
            assert "auth_expired" in watcher.others, "it was to be told that its token has ended"
        assert "turn_restarted" not in await talk.events(turn), "the turn was to go on"
    return [Settled("longest silence at a client, coming back with a new token", silence, 2.0)]


CASES = (
    Case("13", "200 clients lose their sockets and come back at once, four times", storms),
    Case("15", "a client that stops reading for 20 s while 20 MB stream at it", stopped_reading),
    Case("19", "the tokens of all clients end in mid-turn", expired),
)
