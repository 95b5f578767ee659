"""Manager: python-socketio's own features on two nodes, each emit and each command through either of them.

The servers are python-socketio's own, without Threadline's guard: the manager takes the place of `AsyncRedisManager`.
"""

from __future__ import annotations

import asyncio
import pickle
import re
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import socketio  # type: ignore[import-untyped]  # the library has no types
import uvicorn
from redis.asyncio import Redis
from socketio.base_manager import BaseManager  # type: ignore[import-untyped]  # likewise
from socketio.exceptions import TimeoutError as NotAnswered  # type: ignore[import-untyped]

from backplane.connection import Backplane
from backplane.errors import Unavailable
from backplane.ids import new_id
from backplane.live import LiveChannels
from backplane.publisher import Publisher
from backplane.settings import Settings
from gateway import manager as manager_module
from gateway import relay
from gateway.manager import RoomChannelManager, node_of
from gateway.relay import Emit
from gateway.server import Uvicorn
from tests.gateway.conftest import Client, Clients
from tests.gateway.conftest import serving as serving_gateway
from tests.support.waiting import wait_until

NAMESPACES = ["/", "/chat"]


@dataclass
class Node:
    """A plain python-socketio server with the manager."""

    io: Any
    manager: RoomChannelManager
    live: LiveChannels | None
    url: str


@asynccontextmanager
async def serving(manager: RoomChannelManager, live: LiveChannels | None = None) -> AsyncIterator[Node]:
    """Serve a node on a free port for the length of the block."""
    io = socketio.AsyncServer(async_mode="asgi", client_manager=manager, namespaces=NAMESPACES)
    for namespace in NAMESPACES:
        io.on("connect", lambda *_: None, namespace=namespace)
    app = socketio.ASGIApp(io)
    server = Uvicorn(uvicorn.Config(app, port=0, lifespan="off", log_config=None, ws="websockets-sansio"))
    task = asyncio.create_task(server.serve())
    await wait_until(lambda: server.started, "the web server listens")
    try:
        yield Node(io, manager, live, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    finally:
        await io.shutdown()
        server.leave()
        await task
        await manager.close()


@asynccontextmanager
async def node_on(redis_url: str, prefix: str) -> AsyncIterator[Node]:
    settings = Settings(redis_url=redis_url, key_prefix=prefix, node_id=new_id())
    async with Backplane.open(settings) as backplane:
        manager = RoomChannelManager(
            Publisher(backplane.redis, backplane.settings.redis_timeout), backplane.live, prefix=prefix
        )
        async with serving(manager, backplane.live) as node:
            yield node


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have who connects wait until its channels are there, however long a busy machine takes."""
    monkeypatch.setattr(manager_module, "CONNECT_PATIENCE", 10)


@pytest.fixture
def prefix() -> str:
    return f"test-{new_id()}"


@pytest.fixture
async def nodes(valkey: str, prefix: str) -> AsyncIterator[tuple[Node, Node]]:
    """Return two nodes of one deployment."""
    async with node_on(valkey, prefix) as one, node_on(valkey, prefix) as two:
        yield one, two


@pytest.fixture
async def redis(valkey: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(valkey, protocol=2) as client:
        yield client


Nodes = tuple[Node, Node]


async def fence(nodes: Nodes, *clients: Client, namespace: str = "/") -> None:
    """Return when whatever the nodes emitted before has come to these clients; a socket's events stay in order."""
    for node in nodes:
        mark = new_id()
        for client in clients:
            await node.io.emit("fence", mark, to=sid(client, namespace), namespace=namespace)
        for client in clients:
            await wait_until(lambda c=client, m=mark: ("fence", m) in c.events, "what came before is there")


def sid(client: Client, namespace: str = "/") -> str:
    found: str = client.io.get_sid(namespace)
    return found


def heard(client: Client) -> list[tuple[str, Any]]:
    """Return what a client heard, but for the fences: what one node emitted in its order, that of two in any."""
    return [event for event in client.events if event[0] != "fence"]


async def pair(nodes: Nodes, clients: Clients) -> tuple[Client, Client]:
    """Return a client of each node."""
    return await clients.connect(nodes[0].url), await clients.connect(nodes[1].url)


async def channels(redis: Redis, prefix: str) -> set[str]:
    """Return the channels of a deployment that somebody listens to, but for the canaries."""
    found: Any = await redis.execute_command("PUBSUB", "SHARDCHANNELS", f"{prefix}:*")  # type: ignore[no-untyped-call]
    return {name.decode() for name in found if b":canary:" not in name}


# --- emits -------------------------------------------------------------------------------------------------


async def test_an_emit_to_a_room_reaches_its_members_on_all_nodes_and_nobody_else(
    nodes: Nodes, clients: Clients
) -> None:
    """Mutant: a node that does not subscribe on the first member hears nothing of the others' emits."""
    inside = await pair(nodes, clients)
    outside = await pair(nodes, clients)
    for node, client in zip(nodes, inside, strict=True):
        await node.io.enter_room(sid(client), "lobby")
    for number, node in enumerate(nodes):
        await node.io.emit("news", number, room="lobby")
    await fence(nodes, *inside, *outside)
    assert [sorted(heard(client)) for client in inside] == [[("news", 0), ("news", 1)]] * 2
    assert [heard(client) for client in outside] == [[], []]


@pytest.mark.parametrize("room", [7, 0, 'a "quoted" {tag} and a \n', "\ud800", "é" * 300, "*"])
async def test_a_room_may_have_any_text_or_number_as_its_name(nodes: Nodes, clients: Clients, room: str | int) -> None:
    here, _ = await pair(nodes, clients)
    await nodes[0].io.enter_room(sid(here), room)
    await nodes[1].manager.emit("x", 1, "/", room=room)
    await nodes[1].manager.emit("x", 2, "/", room=str(room) + "?")
    await fence(nodes, here)
    assert heard(here) == [("x", 1)]


async def test_a_number_and_its_digits_are_two_rooms(nodes: Nodes, clients: Clients) -> None:
    """Mutant: channels that are named by `str(room)` alone are one channel for both."""
    here, _ = await pair(nodes, clients)
    await nodes[0].io.enter_room(sid(here), 7)
    await nodes[1].io.emit("x", 1, room="7")
    await fence(nodes, here)
    assert heard(here) == []
    assert not {nodes[0].manager._names.room("/", 7)} & {nodes[0].manager._names.room("/", "7")}


@pytest.mark.parametrize("room", [1.5, True, b"bytes", None, ("a",)])
async def test_what_cannot_name_a_room_on_all_nodes_alike_is_refused(nodes: Nodes, clients: Clients, room: Any) -> None:
    here, _ = await pair(nodes, clients)
    with pytest.raises(ValueError, match="expected a str or an int"):
        await nodes[0].io.enter_room(sid(here), room)


async def test_an_emit_to_a_client_reaches_it_alone_whichever_node_it_is_on(nodes: Nodes, clients: Clients) -> None:
    """Mutant: an emit to an unknown name that goes to a room's channel never reaches another node's client."""
    pairs = await pair(nodes, clients), await pair(nodes, clients)
    for number, node in enumerate(nodes):
        for client in pairs[0]:
            await node.io.emit("direct", number, to=sid(client))
    await fence(nodes, *pairs[0], *pairs[1])
    assert [sorted(heard(client)) for client in pairs[0]] == [[("direct", 0), ("direct", 1)]] * 2
    assert [heard(client) for client in pairs[1]] == [[], []]


async def test_an_emit_to_several_rooms_and_clients_reaches_each_socket_once(nodes: Nodes, clients: Clients) -> None:
    """Mutant: without `Seen`, a node that listens to two of the channels delivers twice."""
    both = await pair(nodes, clients)
    other = await pair(nodes, clients)
    for node, client, second in zip(nodes, both, other, strict=True):
        await node.io.enter_room(sid(client), "a")
        await node.io.enter_room(sid(client), "b")
        await node.io.enter_room(sid(second), "b")
    for number, node in enumerate(nodes):
        await node.io.emit("news", number, to=["a", "b", *map(sid, both), "nobody's"])
    await fence(nodes, *both, *other)
    assert [sorted(heard(client)) for client in (*both, *other)] == [[("news", 0), ("news", 1)]] * 4


async def test_an_emit_to_no_room_at_all_reaches_nobody(nodes: Nodes, clients: Clients) -> None:
    """An empty list is not everybody. Mutant: `to or room` makes it so."""
    here, there = await pair(nodes, clients)
    await nodes[0].manager.emit("news", 1, "/", to=[])
    await fence(nodes, here, there)
    assert heard(here) == heard(there) == []


async def test_a_broadcast_reaches_everybody_in_its_namespace_only(nodes: Nodes, clients: Clients) -> None:
    """Mutant: one channel for all namespaces, heard by nodes whose clients are in another."""
    here, there = await pair(nodes, clients)
    chatting = await clients.connect(nodes[1].url, namespaces=["/chat"])
    chatting.io.on("*", lambda name, data=None: chatting.events.append((name, data)), namespace="/chat")
    assert [node.manager.channels for node in nodes] == [2, 3]
    await nodes[0].io.emit("news", 1)
    await nodes[0].io.emit("news", 2, namespace="/chat")
    await fence(nodes, here, there)
    await fence(nodes, chatting, namespace="/chat")
    assert heard(here) == heard(there) == [("news", 1)]
    assert heard(chatting) == [("news", 2)]


@pytest.mark.parametrize("as_list", [False, True])
async def test_whom_an_emit_skips_does_not_get_it_on_either_node(nodes: Nodes, clients: Clients, as_list: bool) -> None:
    """Mutant: a message without `skip`."""
    pairs = await pair(nodes, clients), await pair(nodes, clients)
    for number, node in enumerate(nodes):
        for skipped in map(sid, pairs[0]):
            await node.io.emit("news", number, skip_sid=[skipped] if as_list else skipped)
    await fence(nodes, *pairs[0], *pairs[1])
    assert [sorted(heard(client)) for client in pairs[0]] == [[("news", 0), ("news", 1)]] * 2
    assert [sorted(heard(client)) for client in pairs[1]] == [[("news", 0)] * 2 + [("news", 1)] * 2] * 2


async def test_several_arguments_bytes_and_any_json_arrive_on_both_nodes(nodes: Nodes, clients: Clients) -> None:
    """Mutant: attachments that are left behind, or queued apart from their packet."""
    received: dict[str, list[Any]] = {"here": [], "there": []}
    here, there = await pair(nodes, clients)
    here.io.on("rich", lambda *data: received["here"].append(data))
    there.io.on("rich", lambda *data: received["there"].append(data))
    big = 2**70
    values: tuple[Any, ...] = (b"\x00\xff", {"a": [b"deep", None, 1.5], "int": big}, "ü", [])
    await nodes[0].io.emit("rich", values)
    await nodes[0].io.emit("rich")
    await nodes[0].io.emit("rich", {1: "a number for a key"})
    await fence(nodes, here, there)
    assert received["here"] == received["there"] == [values, (), ({"1": "a number for a key"},)]


async def test_with_ignore_queue_an_emit_stays_on_its_node(nodes: Nodes, clients: Clients) -> None:
    here, there = await pair(nodes, clients)
    await nodes[0].io.emit("news", 1, ignore_queue=True)
    await fence(nodes, here, there)
    assert heard(here) == [("news", 1)]
    assert heard(there) == []


async def test_what_one_node_emits_arrives_in_order_however_it_is_addressed(nodes: Nodes, clients: Clients) -> None:
    """Mutant: to deliver on the own node by hearing lets emits to a client overtake those to its room."""
    here, there = await pair(nodes, clients)
    for node, client in zip(nodes, (here, there), strict=True):
        await node.io.enter_room(sid(client), "lobby")
    ways: list[dict[str, Any]] = [{"room": "lobby"}, {"to": [sid(here), sid(there)]}, {}]
    emits = (nodes[0].io.emit("n", number, **ways[number % 3]) for number in range(300))
    await asyncio.gather(*emits)
    await fence(nodes, here, there)
    assert heard(here) == heard(there) == [("n", number) for number in range(300)]


async def test_a_message_that_redis_was_given_twice_is_delivered_once(
    nodes: Nodes, clients: Clients, redis: Redis
) -> None:
    """A lost reply makes the publisher send again. Mutant: no numbers."""
    here, _ = await pair(nodes, clients)
    await nodes[0].io.enter_room(sid(here), "lobby")
    message = relay.encode("0" * 16, 1, Emit("/", ["lobby"], [], ['2["news",1]'], None))
    for _ in range(2):
        await redis.spublish(nodes[0].manager._names.room("/", "lobby"), message)
    await fence(nodes, here)
    assert heard(here) == [("news", 1)]


async def test_a_process_without_clients_emits_to_all_nodes(
    nodes: Nodes, clients: Clients, valkey: str, prefix: str
) -> None:
    here, there = await pair(nodes, clients)
    async with RoomChannelManager.from_url(valkey, prefix, write_only=True) as outside:
        await outside.emit("news", b"1")
        await outside.enter_room(sid(there), "/", "lobby")
        await wait_until(lambda: nodes[1].io.rooms(sid(there)) == [sid(there), "lobby"], "entered")
        await outside.emit("news", 2, room="lobby")
        await outside.emit("news", 3, to=sid(here))
        with pytest.raises(RuntimeError):
            await outside.emit("news", 4, to=sid(here), callback=print)
        await fence(nodes, here, there)
        await outside.leave_room(sid(there), "/", "lobby")
        await outside.disconnect(sid(there), "/")
        await wait_until(lambda: not there.io.connected, "disconnected")
    assert heard(here) == [("news", b"1"), ("news", 3)]
    assert heard(there) == [("news", b"1"), ("news", 2)]


# --- acknowledgements --------------------------------------------------------------------------------------


async def test_a_client_of_either_node_answers_a_call(nodes: Nodes, clients: Clients) -> None:
    """Mutant: an answer that stays on the client's node."""
    here, there = await pair(nodes, clients)
    for client in (here, there):
        client.io.on("add", lambda one, two: (one + two, b"bytes", 2**70))
    for node in nodes:
        for client in (here, there):
            assert await node.io.call("add", (1, 2), to=sid(client), timeout=5) == (3, b"bytes", 2**70)
    assert all(not node.manager._questions and not any(node.manager.callbacks.values()) for node in nodes)


async def test_a_callback_for_a_room_is_called_with_the_first_answer_only(nodes: Nodes, clients: Clients) -> None:
    members = await pair(nodes, clients)
    answers: list[Any] = []
    for node, client in zip(nodes, members, strict=True):
        client.io.on("who", lambda c=client: sid(c))
        await node.io.enter_room(sid(client), "lobby")
    await nodes[0].io.emit("who", room="lobby", callback=answers.append)
    await wait_until(lambda: answers != [], "answered")
    await wait_until(lambda: not any(nodes[0].manager.callbacks.values()), "the member here has answered")
    await wait_until(lambda: not any(nodes[1].manager.callbacks.values()), "the member there has answered")
    await fence(nodes, *members)
    assert len(answers) == 1
    assert answers[0] in map(sid, members)


def silent(client: Client) -> asyncio.Event:
    """Make a client answer `silent` only when the event is set; the library answers all others at once."""
    speak = asyncio.Event()

    async def wait(*_: Any) -> None:
        await speak.wait()

    client.io.on("silent", wait)
    return speak


async def test_an_answer_to_what_another_client_was_asked_is_ignored(nodes: Nodes, clients: Clients) -> None:
    """Mutant: questions by id alone. Id 0 breaks the counter that stock keeps there."""
    here, there = await pair(nodes, clients)
    spies = await pair(nodes, clients)
    answers: list[Any] = []
    speak = silent(there)
    await nodes[0].io.emit("silent", to=sid(there), callback=lambda *data: answers.append(data))
    await wait_until(lambda: any(nodes[1].manager.callbacks.values()), "asked")
    (question,) = nodes[1].manager.callbacks[sid(there)]
    for wrong in (0, question + 1):
        await nodes[1].manager.trigger_callback(sid(there), wrong, ["forged"])
    for node, spy in zip(nodes, spies, strict=True):
        await node.manager.trigger_callback(sid(spy), question, ["forged"])
    await fence(nodes, *spies, here, there)
    assert answers == []
    speak.set()
    await wait_until(lambda: answers == [()], "the one that was asked is heard")


async def test_a_client_that_has_gone_never_answers_and_nothing_is_kept_for_it(
    nodes: Nodes, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: stock keeps the callbacks of other nodes' clients for ever."""
    monkeypatch.setattr(manager_module, "MAX_QUESTIONS", 3)
    monkeypatch.setattr(manager_module, "MAX_QUESTIONS_PER_CLIENT", 2)
    here, there = await pair(nodes, clients)
    speak = [silent(client) for client in (here, there)]
    for number in range(5):
        await nodes[0].io.emit("silent", number, to=sid(there), callback=print)
        await nodes[0].io.emit("silent", number, to=sid(here), callback=print)
    await fence(nodes, here, there)
    assert len(nodes[0].manager._questions) == 3
    assert [len(owed) for node in nodes for owed in node.manager.callbacks.values()] == [2, 2]
    with pytest.raises(NotAnswered):
        await nodes[0].io.call("silent", to=sid(there), timeout=0.01)
    await here.io.disconnect()
    await wait_until(lambda: not nodes[0].manager.callbacks, "the node forgets what its client owed")
    for event in speak:
        event.set()


# --- commands ----------------------------------------------------------------------------------------------


async def test_a_client_is_disconnected_by_either_node(nodes: Nodes, clients: Clients) -> None:
    """Mutant: `can_disconnect` that knows its own clients only."""
    reasons: list[Any] = []
    nodes[1].io.on("disconnect", lambda gone, reason: reasons.append((gone, reason)))
    _, there = await pair(nodes, clients)
    _, bystander = await pair(nodes, clients)
    name = sid(there)
    await nodes[0].io.disconnect(name)
    await wait_until(lambda: not there.io.connected, "the client is told")
    await wait_until(lambda: reasons == [(name, nodes[1].io.reason.SERVER_DISCONNECT)], "its handler runs once")
    await nodes[0].manager.disconnect(sid(bystander), "/")
    await wait_until(lambda: not bystander.io.connected, "the client is told")
    await nodes[0].io.disconnect("nobody")


async def test_when_enter_room_returns_the_room_reaches_the_client_wherever_it_is(
    nodes: Nodes, clients: Clients
) -> None:
    """Mutant: to ask the other node without waiting for it loses the first emits."""
    _, there = await pair(nodes, clients)
    for number in range(20):
        await nodes[0].io.enter_room(sid(there), f"room {number}")
        await nodes[0].io.emit("news", number, room=f"room {number}")
    await fence(nodes, there)
    assert heard(there) == [("news", number) for number in range(20)]


async def test_when_leave_room_returns_the_room_is_left_wherever_the_client_is(nodes: Nodes, clients: Clients) -> None:
    _, there = await pair(nodes, clients)
    await nodes[1].io.enter_room(sid(there), "lobby")
    await nodes[0].io.leave_room(sid(there), "lobby")
    assert nodes[1].io.rooms(sid(there)) == [sid(there)]
    await nodes[1].io.enter_room(sid(there), "lobby")
    await nodes[1].io.leave_room(sid(there), "lobby")
    for node in nodes:
        await node.io.emit("news", 1, room="lobby")
    await fence(nodes, there)
    assert heard(there) == []


async def test_entering_a_room_that_is_entered_already_changes_nothing(nodes: Nodes, clients: Clients) -> None:
    here, _ = await pair(nodes, clients)
    for _ in range(2):
        await nodes[0].io.enter_room(sid(here), "lobby")
    await nodes[1].io.emit("news", 1, room="lobby")
    await fence(nodes, here)
    assert heard(here) == [("news", 1)]
    await nodes[0].io.leave_room(sid(here), "lobby")
    assert nodes[0].manager.channels == 2


async def test_a_closed_room_is_empty_on_all_nodes(nodes: Nodes, clients: Clients) -> None:
    """Mutant: `close_room` that is not published."""
    members = await pair(nodes, clients)
    for closer in nodes:
        for node, client in zip(nodes, members, strict=True):
            await node.io.enter_room(sid(client), "lobby")
            await node.io.enter_room(sid(client), "other")
        await closer.io.close_room("lobby")
        await fence(nodes, *members)  # the other node has heard of it
        for node in nodes:
            await node.io.emit("news", 1, room="lobby")
            await node.io.emit("more", 1, room="other")
        await fence(nodes, *members)
    assert [heard(client) for client in members] == [[("more", 1)] * 4] * 2


async def test_commands_for_clients_that_are_gone_do_nothing(nodes: Nodes, clients: Clients) -> None:
    """As with stock: a client may leave at any moment, and a node may be dead."""
    _, there = await pair(nodes, clients)
    gone = [sid(there), f"{'0' * 16}~of-a-dead-node"]
    await there.io.disconnect()
    await wait_until(lambda: not nodes[1].manager._places, "gone")
    for name in gone:
        for node in nodes:
            await node.io.enter_room(name, "lobby")
            await node.io.leave_room(name, "lobby")
            await node.io.emit("news", 1, to=name)
            await node.io.disconnect(name)
    assert [node.manager.channels for node in nodes] == [2, 1]
    assert not any(node.manager._asked for node in nodes)


async def test_a_node_that_does_not_answer_is_told_from_one_that_has_done_it(
    nodes: Nodes, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager_module, "ANSWER_TIMEOUT", 0.05)
    _, there = await pair(nodes, clients)
    monkeypatch.setattr(nodes[1].manager, "_hear", lambda data: None)
    channel = next(iter(nodes[1].manager._channels))
    monkeypatch.setattr(channel, "_hear", lambda data: None)
    with pytest.raises(Unavailable):
        await nodes[0].io.enter_room(sid(there), "lobby")


# --- what is not let in ------------------------------------------------------------------------------------


async def test_no_client_can_be_put_into_a_room_of_another_clients_name(nodes: Nodes, clients: Clients) -> None:
    """Threat 10. Mutant: stock asks the own node only, and lets a client read what is sent to one of another node."""
    here, there = await pair(nodes, clients)
    spy, _ = await pair(nodes, clients)
    for victim in (here, there):
        for node in nodes:
            for intruder in (spy, there if victim is here else here):
                with pytest.raises(ValueError, match="cannot enter a sid room"):
                    await node.io.enter_room(sid(intruder), sid(victim))
            with pytest.raises(ValueError, match="cannot close a sid room"):
                await node.io.close_room(sid(victim))
    await nodes[0].io.enter_room(sid(there), sid(there))
    await nodes[0].io.emit("secret", 1, to=sid(there))
    await fence(nodes, here, there, spy)
    assert heard(there) == [("secret", 1)]
    assert heard(spy) == heard(here) == []


async def test_room_and_client_in_the_wrong_order_are_noticed(nodes: Nodes) -> None:
    with pytest.raises(ValueError, match="expected the id of a client"):
        await nodes[0].io.enter_room("lobby", "room")


class Trap:
    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Trap, "sprung", True)


async def test_garbage_on_every_channel_is_ignored_and_counted(
    nodes: Nodes, clients: Clients, redis: Redis, prefix: str
) -> None:
    """Threat 13. Mutant: an error that leaves `heard` counts as a listener's; `pickle.loads` springs the trap."""
    here, there = await pair(nodes, clients)
    await nodes[0].io.enter_room(sid(here), "lobby")
    garbage = [b"", b"\xff", pickle.dumps(Trap()), b"R1" + b"0" * 16 + pickle.dumps(Trap()), b'{"method":"emit"}']
    names = await channels(redis, prefix)
    assert len(names) == 4  # two nodes, a namespace, a room
    for name in names:
        for data in garbage:
            await redis.spublish(name, data)
    await nodes[1].io.emit("news", 1, room="lobby")
    await fence(nodes, here, there)
    assert heard(here) == [("news", 1)]
    assert [node.manager.garbage for node in nodes] == [3 * len(garbage), 2 * len(garbage)]
    assert [node.live.listener_errors for node in nodes if node.live] == [0, 0]
    assert not Trap.sprung


async def test_more_requests_than_a_node_can_hold_are_refused(
    nodes: Nodes, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: a task for each without a bound."""
    monkeypatch.setattr(manager_module, "MAX_REQUESTS", 0)
    _, there = await pair(nodes, clients)
    await nodes[0].io.disconnect(sid(there))
    await fence(nodes, there)
    assert nodes[1].manager.refused == 1
    assert there.io.connected


# --- channels ----------------------------------------------------------------------------------------------


async def test_a_node_listens_only_to_rooms_in_which_it_has_a_member(
    nodes: Nodes, clients: Clients, redis: Redis, prefix: str
) -> None:
    """Mutant: a channel that is never left, or is left with the first member that goes."""
    names = nodes[0].manager._names
    own = {names.node(node.manager.host_id) for node in nodes}
    first, there = await pair(nodes, clients)
    second, _ = await pair(nodes, clients)
    assert await channels(redis, prefix) == own | {names.namespace("/")}
    for member in (first, second):
        await nodes[0].io.enter_room(sid(member), "lobby")
    assert await channels(redis, prefix) == own | {names.namespace("/"), names.room("/", "lobby")}
    assert (nodes[0].manager.channels, nodes[1].manager.channels) == (3, 2)
    await nodes[0].io.leave_room(sid(first), "lobby")
    assert nodes[0].manager.channels == 3
    await nodes[1].io.emit("news", 1, room="lobby")
    await fence(nodes, second)
    assert heard(second) == [("news", 1)]
    await second.io.disconnect()
    await wait_until(lambda: nodes[0].manager.channels == 2, "the last member has left")
    await first.io.disconnect()
    await wait_until(lambda: nodes[0].manager.channels == 1, "the last client has left")
    await there.io.disconnect()

    async def left() -> bool:
        return await channels(redis, prefix) == own | {names.namespace("/")}  # the fourth client is still there

    await wait_until(left, "Redis knows it too")


async def test_rooms_outlive_the_live_connection(nodes: Nodes, clients: Clients) -> None:
    """Mutant: channels that are subscribed once, on a connection that is gone."""
    members = await pair(nodes, clients)
    for node, client in zip(nodes, members, strict=True):
        await node.io.enter_room(sid(client), "lobby")
    for node in nodes:
        assert node.live is not None
        before = node.live.reconnects
        node.live.reconnect()
        await wait_until(lambda n=node, b=before: n.live.reconnects > b and not n.live.deaf, "hears again")
    for number, node in enumerate(nodes):
        await node.io.emit("news", number, room="lobby")
        await node.io.emit("news", number)
    await fence(nodes, *members)
    assert [sorted(heard(client)) for client in members] == [[("news", 0)] * 2 + [("news", 1)] * 2] * 2


async def test_many_entering_and_leaving_at_once_end_in_the_right_rooms(nodes: Nodes, clients: Clients) -> None:
    """Mutant: a leave that takes the channel away from whoever is entering just then."""
    one, _ = await pair(nodes, clients)
    two, _ = await pair(nodes, clients)
    io = nodes[0].io
    for _ in range(20):
        await io.enter_room(sid(one), "lobby")
        await asyncio.gather(io.leave_room(sid(one), "lobby"), io.enter_room(sid(two), "lobby"))
        await nodes[1].io.emit("news", 1, room="lobby")
        await fence(nodes, two)
        await asyncio.gather(io.enter_room(sid(one), "lobby"), io.leave_room(sid(two), "lobby"))
        await io.leave_room(sid(one), "lobby")
    assert heard(one) == []
    assert heard(two) == [("news", 1)] * 20
    assert nodes[0].manager.channels == 2


async def test_whoever_gives_up_entering_leaves_no_channel_behind(nodes: Nodes, clients: Clients) -> None:
    one, _ = await pair(nodes, clients)
    entering = asyncio.create_task(nodes[0].io.enter_room(sid(one), "lobby"))
    await wait_until(lambda: nodes[0].manager.channels == 3, "asked for")
    entering.cancel()
    await asyncio.gather(entering, return_exceptions=True)
    await nodes[0].io.leave_room(sid(one), "lobby")
    assert nodes[0].manager.channels == 2


async def test_a_client_that_leaves_while_it_enters_is_in_no_room(
    nodes: Nodes, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: to add a member without looking again after the confirmation makes a ghost."""
    one, _ = await pair(nodes, clients)
    node, name = nodes[0], sid(one)
    asked, goes_on = asyncio.Event(), asyncio.Event()
    assert node.live is not None
    subscribe = node.live.subscribe

    async def slowly(*given: Any) -> None:
        asked.set()
        await goes_on.wait()
        await subscribe(*given)

    monkeypatch.setattr(node.live, "subscribe", slowly)
    entering = asyncio.create_task(node.io.enter_room(name, "lobby"))
    await asked.wait()
    await one.io.disconnect()
    await wait_until(lambda: not node.manager._places, "gone")
    goes_on.set()
    await entering
    assert node.manager.rooms == {}
    assert node.manager.channels == 1


# --- what a disconnect costs -------------------------------------------------------------------------------


class CountingRooms(dict[Any, Any]):
    """The rooms of a namespace, which counts how many of them were looked at."""

    looks = 0

    def __getitem__(self, room: Any) -> Any:
        CountingRooms.looks += 1
        return super().__getitem__(room)

    def __contains__(self, room: object) -> bool:
        CountingRooms.looks += 1
        return super().__contains__(room)

    def copy(self) -> CountingRooms:
        CountingRooms.looks += len(self)
        return self


async def looks_of_a_disconnect(manager: RoomChannelManager, others: int, leave: Callable[[str], None]) -> int:
    """Return how many rooms a client's disconnect looks at, beside so many of others, being in three itself."""
    manager.rooms = {"/": CountingRooms()}
    for number in range(others):
        other = f"{manager.host_id}~{number}"
        manager.basic_enter_room(other, "/", None, eio_sid=f"eio-{number}")
        manager.basic_enter_room(other, "/", other, eio_sid=f"eio-{number}")
        manager.basic_enter_room(other, "/", f"room {number}")
    name = f"{manager.host_id}~leaving"
    manager.basic_enter_room(name, "/", None, eio_sid="eio")
    for room in ("a", "b", "c"):
        manager.basic_enter_room(name, "/", room)
    assert manager.get_rooms(name, "/") == ["a", "b", "c"]
    CountingRooms.looks = 0
    leave(name)
    assert name not in manager.rooms["/"][None]
    assert set(manager.rooms["/"]).isdisjoint({"a", "b", "c"})
    return CountingRooms.looks


async def test_a_disconnect_costs_its_own_rooms_only(nodes: Nodes) -> None:
    """Mutant: stock's own `basic_disconnect`, which is measured beside it."""
    manager = nodes[0].manager

    def own(name: str) -> None:
        manager.basic_disconnect(name, "/")

    def stock(name: str) -> None:
        BaseManager.basic_disconnect(manager, name, "/")

    few, many = [await looks_of_a_disconnect(manager, others, own) for others in (10, 1000)]
    assert few == many
    few, many = [await looks_of_a_disconnect(manager, others, stock) for others in (10, 1000)]
    assert many > few + 1000
    manager.rooms = {}
    manager._places.clear()


# --- Redis away --------------------------------------------------------------------------------------------


async def test_without_redis_clients_connect_and_hear_their_own_node_and_emits_say_so(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: stock gives an emit up in silence. To refuse clients would keep JavaScript's away for good."""
    monkeypatch.setattr(manager_module, "CONNECT_PATIENCE", 0.01)
    monkeypatch.setattr(manager_module, "ANSWER_TIMEOUT", 0.05)
    async with serving(RoomChannelManager.from_url("redis://127.0.0.1:1/0")) as node:
        client = await clients.connect(node.url)
        with pytest.raises(Unavailable):
            await node.io.emit("news", 1)
        with pytest.raises(Unavailable):
            await node.io.emit("news", 2, to=f"{'0' * 16}~x", callback=print)
        await node.io.emit("news", 3, to=sid(client))
        await wait_until(lambda: len(client.events) == 2, "both are there")
        assert client.events == [("news", 1), ("news", 3)]


async def test_what_was_not_confirmed_is_asked_for_until_it_is(
    valkey: str, clients: Clients, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: a namespace whose first client came while Redis was away stays deaf."""
    monkeypatch.setattr(manager_module, "CONNECT_PATIENCE", 0.01)
    subscribe, failures = LiveChannels.subscribe, 0

    async def fails_at_first(self: LiveChannels, *given: Any) -> None:
        nonlocal failures
        failures += 1
        if failures <= 4:
            raise Unavailable("not now")
        await subscribe(self, *given)

    monkeypatch.setattr(LiveChannels, "subscribe", fails_at_first)
    async with node_on(valkey, prefix) as node, RoomChannelManager.from_url(valkey, prefix, True) as outside:
        client = await clients.connect(node.url)
        await wait_until(lambda: all(channel.opening.done() for channel in node.manager._channels), "open")
        await outside.emit("news", 1)
        await wait_until(lambda: client.events == [("news", 1)], "heard")


async def test_a_room_whose_channel_is_not_confirmed_is_not_entered(
    nodes: Nodes, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await pair(nodes, clients)

    async def fails(*_: Any) -> None:
        raise Unavailable("not now")

    for node in nodes:
        monkeypatch.setattr(node.live, "subscribe", fails)
    for client in (here, there):
        with pytest.raises(Unavailable):
            await nodes[0].io.enter_room(sid(client), "lobby")
    assert [node.io.rooms(sid(client)) for node, client in zip(nodes, (here, there), strict=True)] == [
        [sid(here)],
        [sid(there)],
    ]
    assert [node.manager.channels for node in nodes] == [2, 2]


async def test_a_client_that_is_gone_before_its_channel_is_there_is_not_registered(nodes: Nodes) -> None:
    """Mutant: without a second look it stays for ever, since its disconnect has been."""
    assert await nodes[0].manager.pre_connect("gone", "/") is None
    assert nodes[0].manager.rooms == {}
    assert nodes[0].manager._places == {}


# --- as a drop-in ------------------------------------------------------------------------------------------


async def test_what_the_page_shows_works_as_it_stands(valkey: str, clients: Clients) -> None:
    """docs/manager.md: a server in five lines, and a process that only emits."""
    page = (Path(__file__).parents[2] / "docs/manager.md").read_text().replace("redis://127.0.0.1:6379/0", valkey)
    server_block, emitter_block = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shown: dict[str, Any] = {}
    exec(server_block, shown)
    server = Uvicorn(uvicorn.Config(shown["app"], port=0, log_config=None, ws="websockets-sansio"))
    task = asyncio.create_task(server.serve())
    await wait_until(lambda: server.started, "the web server listens")
    shown["sio"].on("connect", lambda *_: None)
    client = await clients.connect(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    await shown["sio"].enter_room(sid(client), "lobby")
    emitter = emitter_block.replace("the id of a client", sid(client))
    exec("async def emits():\n" + textwrap.indent(emitter, "    "), shown)
    await shown["emits"]()
    await wait_until(lambda: client.events == [("news", {"n": 1}), ("hello", None)], "both came")
    await shown["sio"].shutdown()
    server.leave()
    await task
    assert not shown["manager"].channels, "the page's on_shutdown closes the manager"


async def test_it_takes_the_place_of_the_redis_manager_by_its_address_alone(
    valkey: str, clients: Clients, prefix: str
) -> None:
    async with (
        serving(RoomChannelManager.from_url(valkey, prefix)) as one,
        serving(RoomChannelManager.from_url(valkey, prefix)) as two,
    ):
        here, there = await pair((one, two), clients)
        await one.io.enter_room(sid(there), "lobby")
        await one.io.emit("news", 1, room="lobby")
        there.io.on("who", lambda: "me")
        assert await one.io.call("who", to=sid(there), timeout=5) == "me"
        await fence((one, two), here, there)
        assert heard(there) == [("news", 1)]
        assert heard(here) == []
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith(("live", "open-", "publisher"))]


async def test_servers_that_speak_msgpack_are_carried_too(valkey: str, clients: Clients, prefix: str) -> None:
    """The packet goes to other nodes as its own server encoded it."""
    managers = [RoomChannelManager.from_url(valkey, prefix) for _ in range(2)]
    for manager in managers:
        manager.set_server(socketio.AsyncServer(async_mode="asgi", serializer="msgpack", client_manager=manager))
    encoded = managers[0]._encode(2, ["x", b"\x00"], "/", None)
    message = Emit("/", None, [], encoded, None)
    assert relay.decode(relay.encode("0" * 16, 1, message)) == ("0" * 16, 1, message)
    assert [type(frame) for frame in encoded] == [bytes]
    for manager in managers:
        await manager.close()


async def test_a_clients_id_names_its_node_and_nothing_of_the_machine(nodes: Nodes, clients: Clients) -> None:
    here, there = await pair(nodes, clients)
    assert [node_of(sid(client)) for client in (here, there)] == [node.manager.host_id for node in nodes]
    assert node_of("lobby") is node_of(7) is node_of("0" * 16) is node_of("x" * 16 + "~y") is None


async def test_the_gateway_reaches_the_sockets_of_its_other_nodes(
    gateway_settings: Callable[..., Settings], clients: Clients
) -> None:
    settings = gateway_settings()
    other = settings.model_copy(update={"node_id": new_id()})
    async with serving_gateway(settings) as one, serving_gateway(other) as two:
        here, there = await pair((one, two), clients)  # type: ignore[arg-type] # only the addresses count
        await one.gateway._server.enter_room(sid(there), "lobby")
        await one.gateway._server.emit("notice", {"n": 1}, to=["lobby", sid(here), sid(there)])
        await wait_until(lambda: here.named("notice") == there.named("notice") == [{"n": 1}], "both are told, once")
