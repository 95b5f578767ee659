"""docs/protocol.md says what the code does: calls, acknowledgements, events, errors and routes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from backplane import events, notices
from backplane.connection import Backplane
from backplane.errors import ThreadlineError
from gateway import auth
from gateway.auth import Authenticator, mint
from gateway.payloads import VERBS
from gateway.server import Gateway
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
PAGE = "protocol.md"
SECRET = "0123456789abcdef" * 2
QUICK = {
    "heartbeat": 0.05,
    "inference_heartbeat": 0.1,
    "recover_interval": 0.1,
    "cancel_grace": 0.5,
    "calls_burst": 1000,
}
AT_ONCE = {"delay_ms": 0}
NEVER_SEEN = {
    "chat_error.error_retry_after_ms",
    "tool_args_delta.first_offset",
    "turn_restarted.kept_offset",
    "turn_restarted.kept_text",
    "thread:edit.position",
}
"""Fields that need a provider behind the agent: its pauses, and arguments that come in pieces; and those of a worker
that is lost behind a finished step (tests/worker/test_steps.py)."""

Fields = Mapping[str, bool]
"""Name of a field -> whether it may be absent."""


def names(cell: str) -> dict[str, bool]:
    """Return the fields that a cell of a table names."""
    return {name: mark == "?" for name, mark in re.findall(r"`([^`]+)`(\??)", cell)}


def documented(rows: Iterable[Mapping[str, str]], key: str, value: str) -> dict[str, dict[str, bool]]:
    """Return a table of names and fields."""
    return {name: names(row[value]) for row in rows for name in names(row[key])}


def assert_carried(what: str, expected: Fields, seen: Iterable[Mapping[str, Any]]) -> None:
    """Fail unless the objects carry the documented fields, all of them, and no others."""
    carried = [set(fields) for fields in seen]
    assert carried, f"{what} was never seen"
    for fields in carried:
        assert fields <= set(expected), f"{what} carries what {PAGE} does not name"
        assert {name for name, optional in expected.items() if not optional} <= fields, f"{what} lacks a field"
    never = {f"{what}.{name}" for name in set(expected) - {name for fields in carried for name in fields}}
    assert never <= NEVER_SEEN, f"{PAGE} names fields that nobody sends"


# --- what can be read from the code --------------------------------------------------------------------


def test_every_field_of_every_call_is_documented_with_what_is_expected(table: Any) -> None:
    rows = {(row["call"], row["field"]): (row["needed"], row["expected"]) for row in table(PAGE, "call", "field")}
    calls = {call.strip("`") for call, _ in rows}
    in_code = {
        (f"`{verb}`", f"`{field.alias or name}`"): ("yes" if field.is_required() else "", field.description)
        for verb, model in VERBS.items()
        if verb in calls
        for name, field in model.model_fields.items()
    }
    assert rows == in_code


def test_every_event_is_documented(table: Any) -> None:
    named = {value for name, value in vars(events).items() if name.isupper() and isinstance(value, str)}
    emitted = set()
    for script in (ROOT / "backplane" / "lua").rglob("*.lua"):
        emitted |= set(re.findall(r"""\{'([a-z_]+)', '\"""", script.read_text()))
    assert emitted <= named, "a script emits what backplane/events.py does not name"
    assert set(documented(table(PAGE, "event"), "event", "further fields")) == named


def test_every_notice_is_documented(table: Any) -> None:
    named = {value for name, value in vars(notices).items() if name.isupper() and isinstance(value, str)}
    told = set()
    for script in (ROOT / "backplane" / "lua").rglob("*.lua"):
        told |= set(re.findall(r"notify\('([a-z_]+)'", script.read_text()))
    assert told == named == set(documented(table(PAGE, "notice"), "notice", "further fields"))


def test_every_error_is_documented_with_its_status_and_whether_to_retry(table: Any) -> None:
    def tree(kind: type[ThreadlineError]) -> set[type[ThreadlineError]]:
        return {kind}.union(*(tree(child) for child in kind.__subclasses__()))

    in_code = {
        f"`{kind.code}`": (str(kind.http_status), "yes" if kind.retryable else "no")
        for kind in tree(ThreadlineError) - {ThreadlineError}
        if kind.__module__ == ThreadlineError.__module__
    }
    assert {row["code"]: (row["HTTP"], row["retryable"]) for row in table(PAGE, "code", "HTTP")} == in_code


def test_every_reason_for_a_refused_token_is_documented() -> None:
    code = Path(auth.__file__).read_text()
    reasons = set(re.findall(r"_refused\(\s*\"(\w+)\"", code)) | {reason for _, reason, _ in auth._REASONS}
    paragraph = re.search(r"Its `reason`\s(.*?)\n\n", (ROOT / "docs" / PAGE).read_text(), re.DOTALL)
    assert paragraph is not None
    assert set(re.findall(r"`(\w+)`", paragraph[1])) == reasons


def test_every_way_a_turn_fails_is_documented(table: Any) -> None:
    code = (ROOT / "backplane/lua/lib/turn.lua").read_text() + (ROOT / "worker/slot.py").read_text()
    kinds = set(re.findall(r'error_type(?:":|=)"(\w+)"', code))
    assert set(documented(table(PAGE, "`error_type`"), "`error_type`", "`error_source`")) == kinds


async def test_every_route_is_documented(table: Any, backplane: Backplane) -> None:
    async with Authenticator(backplane.settings) as authenticator:
        app = Gateway(backplane.settings, backplane, authenticator)
        routes = {
            (method, f"`{route.path}`")
            for route in app.routes
            if isinstance(route, Route)
            for method in (route.methods or set()) - {"HEAD"}
        }
    assert {(row["method"], row["route"]) for row in table(PAGE, "method", "route")} == routes


# --- what a real conversation carries ------------------------------------------------------------------


class Conversation:
    """Everything that two clients heard while every kind of event and acknowledgement came up."""

    def __init__(self) -> None:
        self.frames: list[tuple[str, dict[str, Any]]] = []

    @property
    def acks(self) -> dict[str, list[dict[str, Any]]]:
        """The acknowledgements, by call."""
        found: dict[str, list[dict[str, Any]]] = {}
        for name, fields in self.frames:
            if name.startswith("ack "):
                found.setdefault(name[4:], []).append(fields)
        return found

    @property
    def events(self) -> dict[str, list[dict[str, Any]]]:
        """The events of threads, by name."""
        return self._by_name(lambda fields: "offset" in fields)

    @property
    def notices(self) -> dict[str, list[dict[str, Any]]]:
        """What is no part of a log, by name."""
        return self._by_name(lambda fields: "offset" not in fields)

    def _by_name(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for name, fields in self.frames:
            if fields.get("event") == name and wanted(fields):
                found.setdefault(name, []).append(fields)
        return found


async def _talk(client: Any) -> str:
    """Have a conversation in which turns are answered, fail, wait, are removed, cancelled and superseded.

    Returns the last one, which runs.
    """

    async def start(message: str, **fields: Any) -> str:
        payload = {"thread_id": "talk", "message": message, "metadata": AT_ONCE, **fields}
        return str((await client.call("chat:start", payload))["request_id"])

    async def edited(message: str) -> str:
        payload = {"thread_id": "talk", "message": message, "metadata": AT_ONCE}
        return str((await client.call("thread:edit", payload))["request_id"])

    await client.seen("chat_done", await start("calculate 2 + 3", client_message_id="a"))
    await client.seen("chat_done", await start("think about rivers", metadata=None))
    asleep = await start("sleep 600")
    await client.seen("inference_heartbeat", asleep)
    await start("the tea is green", queue_mode="collect", metadata=None)
    await start("and wake up", queue_mode="steer", metadata=None)
    waits = await start("fail please", queue_mode="followup", client_message_id="b")
    removed = await start("hello", queue_mode="followup", metadata=None)
    await client.call("queue:status", {"thread_id": "talk"})
    await client.call("queue:remove", {"thread_id": "talk", "item_id": removed})
    await client.call("chat:cancel", {"thread_id": "talk", "request_id": asleep})
    await client.seen("chat_error", waits)
    await client.call("thread:edit", {"thread_id": "talk", "metadata": AT_ONCE})
    await client.seen("chat_done", await edited("hello again"))
    order = await start("order tea", policy="resume")
    await client.seen("approval_request", order)
    await start("and milk", queue_mode="steer")
    await _decide(client, order, "approved")
    await _decide(client, await start("ask me", queue_mode="parallel", policy="resume"), "no")
    counts = await start("count to 100", metadata={"delay_ms": 1000})
    await client.seen("text_delta", counts)
    last = await start("sleep 600")
    await client.seen("chat_error", counts)
    await client.call("thread:history", {"thread_id": "talk"})
    await client.call("queue:clear", {"thread_id": "talk"})
    await client.call("auth:refresh", {"token": "any"})
    return last


async def _decide(client: Any, request_id: str, decision: str) -> None:
    """Answer what a turn asks."""
    asked = await client.seen("approval_request", request_id)
    await client.call("queue:status", {"thread_id": "talk"})
    await client.call("approval:decide", {**asked, "decision": decision})
    await client.seen("chat_done", request_id)


async def _look(client: Any) -> None:
    """Come with a cursor that reaches back to the first event, with none, and leave."""
    snapshot = await client.call("thread:subscribe", {"thread_id": "talk"})
    await client.call("thread:unsubscribe", {"thread_id": "talk"})
    await client.call("thread:subscribe", {"thread_id": "talk", "epoch": snapshot["epoch"], "after": 0})


@pytest.fixture
async def conversation(product: Any) -> AsyncIterator[Conversation]:
    """Return what was heard of a conversation in which everything happened."""
    heard = Conversation()
    async with product(**QUICK) as running:
        stop = await running.worker()
        first, second = await running.client(), await running.client()
        last = await _talk(first)
        await first.seen("tool_call", last)
        await stop()
        for verb in ("queue:status", "thread:subscribe"):
            await second.call(verb, {"thread_id": "talk"})  # while it waits for a worker
        await running.worker()
        await first.seen("turn_restarted", last)
        begun = ("tool_call", last)
        await wait_until(
            lambda: [(e["event"], e["request_id"]) for e in first.events].count(begun) > 1, "the tool runs again"
        )
        await _look(second)
        await first.call("chat:cancel", {"thread_id": "talk"})
        await first.seen("chat_error", last)
        await first.call("thread:list", {})
        await wait_until(lambda: "thread_presence" in dict(first.frames), "who watches is told")
        await first.call("thread:presence", {"thread_id": "talk"})
        await second.call("thread:rename", {"thread_id": "talk", "title": "Tea"})
        await second.call("thread:delete", {"thread_id": "talk"})
        await wait_until(lambda: "thread_deleted" in dict(first.frames), "the end is told")
        heard.frames = first.frames + second.frames
        yield heard


async def test_a_real_conversation_carries_exactly_what_is_documented(conversation: Conversation, table: Any) -> None:
    """Every event, acknowledgement and object in them has the fields of the page, no more and no fewer."""
    envelope = dict.fromkeys(
        (name for row in table(PAGE, "field", "what it is") for name in names(row["field"])), False
    )
    expected = documented(table(PAGE, "event"), "event", "further fields")
    assert set(conversation.events) == set(expected)
    for name, seen in conversation.events.items():
        assert_carried(name, envelope | expected[name], seen)

    told = documented(table(PAGE, "notice"), "notice", "further fields")
    assert set(conversation.notices) == set(told)
    for name, seen in conversation.notices.items():
        assert_carried(name, dict.fromkeys(("event", "thread_id", "epoch", "ts"), False) | told[name], seen)

    acks = documented(table(PAGE, "call", "acknowledged with"), "call", "acknowledged with")
    assert set(conversation.acks) == set(acks)
    for verb, answers in conversation.acks.items():
        assert_carried(verb, acks[verb], answers)

    objects = documented(table(PAGE, "object"), "object", "fields")
    snapshots = [ack["snapshot"] for ack in conversation.acks["thread:subscribe"] if "snapshot" in ack]
    turns = [snapshot["turn"] for snapshot in snapshots if snapshot["turn"]]
    tools = [tool for turn in turns for tool in turn["tools"]]
    assert_carried("snapshot", objects["snapshot"], snapshots)
    assert_carried("turn", objects["turn"], turns)
    assert_carried("message", objects["message"], [m for snapshot in snapshots for m in snapshot["messages"]])
    assert_carried("tool", objects["tool"], [*tools, {**tools[0], "output": "", "success": True}])
    assert_carried("branch", objects["branch"], conversation.acks["thread:history"][0]["branches"])
    watchers = [watcher for ack in conversation.acks["thread:presence"] for watcher in ack["watchers"]]
    assert_carried("watcher", objects["watcher"], watchers)
    assert_carried("thread", objects["thread"], conversation.acks["thread:list"][0]["threads"])
    items = [item for ack in conversation.acks["queue:status"] for lane in ack["lanes"].values() for item in lane]
    assert_carried("item", objects["item"], items)


async def test_events_but_the_deltas_come_a_second_time_under_their_alias(conversation: Conversation) -> None:
    aliases = {name for name, fields in conversation.frames if ":" in name and not name.startswith("ack ")}
    expected = {name.replace("_", ":") for name in conversation.events | conversation.notices}
    assert aliases == expected - {"text:delta", "thinking:delta", "tool:args:delta"}


async def test_calls_that_are_documented_are_handled_and_no_others(product: Any, table: Any) -> None:
    named = {call.strip("`") for call in (row["call"] for row in table(PAGE, "call", "field"))}
    async with product(**QUICK) as running:
        client = await running.client()
        codes = {verb: (await client.call(verb, {})).get("error", {}).get("code") for verb in VERBS}
    assert {verb for verb, code in codes.items() if code != "unknown_event"} == named


# --- order ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_cursor", [True, False])
async def test_what_was_missed_comes_before_the_acknowledgement_and_what_happens_after_it(
    product: Any, has_cursor: bool
) -> None:
    async with product(**QUICK) as running:
        await running.worker()
        speaker, comer = await running.client(), await running.client()
        asked = {"thread_id": "t", "message": "count to 1000", "metadata": {"delay_ms": 5}}
        started = await speaker.call("chat:start", asked)
        await speaker.seen("text_delta", started["request_id"])
        cursor = {"epoch": started["epoch"], "after": 1} if has_cursor else {}
        ack = await comer.call("thread:subscribe", {"thread_id": "t", **cursor})
        await wait_until(lambda: any(event["offset"] > ack["offset"] for event in comer.events), "live events")
        place = comer.frames.index(("ack thread:subscribe", ack))
        before = [fields for name, fields in comer.frames[:place] if fields.get("event") == name]
        after = [fields for name, fields in comer.frames[place:] if fields.get("event") == name]
    assert ack["recovered"] is (True if has_cursor else None)
    at = 1
    for event in before:
        assert event.get("first_offset", event["offset"]) == at + 1
        at = event["offset"]
    assert at == (ack["offset"] if has_cursor else 1)
    assert after[0]["offset"] == ack["offset"] + 1


async def test_a_cursor_that_the_log_never_had_is_answered_with_a_snapshot(product: Any) -> None:
    async with product(**QUICK) as running:
        await running.worker()
        client, comer = await running.client(), await running.client()
        started = await client.call("chat:start", {"thread_id": "t", "message": "hello", "metadata": AT_ONCE})
        await client.seen("chat_done", started["request_id"])
        ack = await comer.call("thread:subscribe", {"thread_id": "t", "epoch": started["epoch"], "after": 10**6})
        assert (ack["recovered"], "snapshot" in ack, comer.events) == (False, True, [])


# --- tokens --------------------------------------------------------------------------------------------


async def test_the_messages_of_a_socket_carry_exactly_what_is_documented(product: Any, table: Any) -> None:
    expected = documented(table(PAGE, "message of the gateway"), "message of the gateway", "fields")
    async with product(jwt_secret=SECRET) as running:
        client = await running.client(mint(SECRET, "ada", 1))
        await wait_until(lambda: "auth_expired" in dict(client.frames), "the token ends")
        for name, fields in client.frames:
            assert_carried(name, expected[name], [fields])
        # the third needs a Redis that goes away: tests/gateway/test_degraded.py, tests/processes/test_store.py
        assert {name for name, _ in client.frames} == set(expected) - {"degraded", "auth_revoked"}
        assert set(expected["degraded"]) == {"active", "since"}
        # likewise: tests/gateway/test_revoker.py
        assert set(expected["auth_revoked"]) == {"message"}
        refused = await client.call("auth:refresh", {"token": mint(SECRET, "grace", 60)})
        assert refused["error"]["reason"] == "changed"


async def test_a_refused_connection_is_told_the_code_and_the_error(product: Any) -> None:
    async with product(jwt_secret=SECRET) as running:
        told = await running.refusal(None)
    assert (told["message"], told["data"]["code"], told["data"]["reason"]) == (
        "unauthorized",
        "unauthorized",
        "missing",
    )
