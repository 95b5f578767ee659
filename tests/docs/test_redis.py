"""docs/redis.md says what is in Redis: keys, kinds, fields, lifetimes, and who writes them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from backplane.allowances import Spent
from backplane.approvals import Question
from backplane.connection import Backplane
from backplane.doorbell import Ring
from backplane.ids import DEFAULT_TENANT, ThreadRef
from backplane.keys import Keys, PartitionKeys, ThreadKeys
from backplane.scripts import Call
from backplane.settings import Settings
from backplane.traces import received, within
from backplane.turns import Batch, Claim, Edit, Ending, Start
from tests.support.lapsing import lapse
from tests.support.spans import CALLER
from tests.support.waiting import wait_until

BACKPLANE = Path(__file__).parents[2] / "backplane"
PAGE = "redis.md"
PARTS = {
    "PREFIX": "(?P<prefix>[A-Za-z0-9_.-]+)",
    "{N}": r"\{[0-9]+\}",
    "TENANT/THREAD": "[A-Za-z0-9._:-]+/[A-Za-z0-9._:-]+",
    "REQUEST": "[A-Za-z0-9_-]+",
    "LANE": "(?:followup|steer|collect|parallel)",
    "TENANT/DIGEST": "[A-Za-z0-9._:-]+/[0-9a-f]{64}",
    "{TENANT}": r"\{[A-Za-z0-9._:-]+\}",
    "TENANT": "[A-Za-z0-9._:-]+",
    "DIGEST": "[0-9a-f]{64}",
    "CALL": "[A-Za-z0-9_-]+",
    "WAITER": "[A-Za-z0-9_-]+",
    "ADDRESS": "[0-9a-f.:/]+",
    "NODE": "[^:]+",
}
SETTINGS = {"lease": 300.0, "cancel_grace": 0.1, "turn_timeout": 600.0}
"""No lease lapses before the story says so, and yet each before the deadline: the earlier one is what `due` holds."""
GONE = -2
"""What Redis says for the lifetime of a key that has ended since it was found."""
WRITERS = {
    "meta": ("connection.py", "hsetnx(self.keys.meta"),
    "doorbell": ("doorbell.py", "keys.doorbell"),
    "leaving": ("doorbell.py", "keys.leaving"),
    "line": ("doorbell.py", "keys.line"),
    "line_tenants": ("doorbell.py", "keys.line_tenants"),
    "line_users": ("doorbell.py", "keys.line_users"),
    "line_turns": ("doorbell.py", "keys.line_turns"),
    "recoverer": ("recoverer.py", "keys.recoverer"),
    "members": ("members.py", "keys.members"),
    "revocations": ("revocations.py", "keys.revocations"),
    "tenant": ("admission.py", "keys.tenant("),
    "user": ("admission.py", "keys.user("),
}
"""Keys that no script of a thread changes: the one file that does, and where one sees it."""


def code(cell: str) -> list[str]:
    """Return what a cell of a table shows as code."""
    return re.findall(r"`([^`]+)`", cell)


def pattern(name: str) -> re.Pattern[str]:
    """Return what the names of such keys look like."""
    parts = re.split(f"({'|'.join(map(re.escape, PARTS))})", name)
    return re.compile("".join(PARTS.get(part, re.escape(part)) for part in parts))


def seconds(lifetime: str, settings: Settings) -> list[float]:
    """Return the lifetimes that a cell names, such as `turn_timeout + turn_ttl` and `4 * recover_interval`."""

    def value(word: str) -> float:
        return float(word) if word.isdecimal() else float(getattr(settings, word))

    found = []
    for expression in code(lifetime):
        total = 0.0
        for term in expression.split(" + "):
            product = 1.0
            for word in term.split(" * "):
                product *= value(word)
            total += product
        found.append(total)
    return found


class Documented:
    """The tables of the page, by a key's name in keys.py."""

    def __init__(self, table: Any) -> None:
        self.keys: dict[str, Mapping[str, str]] = {
            code(row["in keys.py"])[0]: row for row in table(PAGE, "in keys.py", "key")
        }
        self.patterns = {name: pattern(code(row["key"])[0]) for name, row in self.keys.items()}
        channels = table(PAGE, "in keys.py", "channel")
        self.channels = {code(row["in keys.py"])[0]: pattern(code(row["channel"])[0]) for row in channels}
        self.fields: dict[str, set[str]] = {}
        for row in table(PAGE, "key", "field"):
            self.fields.setdefault(code(row["key"])[0], set()).update(code(row["field"]))

    def named(self, key: str) -> str:
        """Return the one row that a real key belongs to."""
        names = [name for name, form in self.patterns.items() if form.fullmatch(key)]
        assert len(names) == 1, f"{key} belongs to {names or 'no row'} of {PAGE}"
        return names[0]


class Seen:
    """What was found in Redis, gathered over several looks, because keys come and go."""

    def __init__(self) -> None:
        self.kinds: dict[str, set[str]] = {}
        self.fields: dict[str, set[str]] = {}
        self.lifetimes: dict[str, set[float]] = {}

    async def look(self, redis: Any, prefix: str, documented: Documented) -> None:
        """Take down every key under a prefix as it is now."""
        async for raw in redis.scan_iter(match=f"{prefix}:*", count=1000):
            name = documented.named(raw.decode())
            kind, lifetime = (await redis.type(raw)).decode(), await redis.pttl(raw)
            if lifetime == GONE:
                continue
            self.kinds.setdefault(name, set()).add(kind)
            self.lifetimes.setdefault(name, set()).add(lifetime / 1000)
            found: list[Any] = []
            if kind == "hash":
                found = await redis.hkeys(raw)
            elif kind == "stream":
                found = [field for _, entry in await redis.xrange(raw) for field in entry]
            if found:
                self.fields.setdefault(name, set()).update(field.decode() for field in found)


class Story:
    """Turns that are started, queued, claimed, lost, handed back, cancelled, superseded and finished."""

    def __init__(self, backplane: Backplane) -> None:
        self.backplane = backplane
        self.ref = ThreadRef(DEFAULT_TENANT, "story")

    async def start(self, message: str, **fields: Any) -> str:
        """Start a turn, or queue it."""
        asked = Start(message=message, subject="ada", client_id="test", **fields)
        return (await self.backplane.turns.start(self.ref, asked)).request_id

    async def claim(self, request_id: str) -> Claim:
        """Take a turn as a worker does."""
        member = self.backplane.keys.thread(self.ref).member(request_id)
        claim = await self.backplane.turns.claim(member, "worker")
        assert claim is not None
        return claim

    async def say(self, claim: Claim, text: str) -> None:
        """Append a piece of an answer."""
        batch = Batch(1, [("text_delta", f'"delta":"{text}","round":1')], text)
        await self.backplane.turns.append(claim, batch)

    async def tell(self, look: Any) -> None:
        """Let everything happen, and look in between."""
        turns = self.backplane.turns
        await self.backplane.members.report("worker", {})
        await self.backplane.revocations.revoke("default", subject="mallory")
        await self._counted()
        await turns.cancel(self.ref, "ada", await self.start("zero"))
        await self.start("context", queue_mode="collect")
        with within(received(CALLER)):
            first = await self.start("one", client_message_id="key", metadata={"a": 1})
        await look()
        await self.say(await self.claim(first), "Once ")
        waiting = [await self.start(text, queue_mode="followup") for text in ("two", "three", "four")]
        await look()
        # as if a failover had come in between
        await self.backplane.redis.hset(self.backplane.keys.thread(self.ref).thread, "lineage", "0" * 40)
        await turns.unqueue(self.ref, "ada", waiting[2])
        again = await self._taken_over(first)
        await turns.heartbeat([again])
        await self.start("left", queue_mode="steer")
        await turns.steers(again, 0)
        await turns.cancel(self.ref, "ada", await self.start("aside", queue_mode="parallel"))
        await self._asked(look)
        await self.say(again, "Twice ")
        await look()
        await self.backplane.steps.begin(again, "order")
        await self.backplane.steps.end(again, "order", "1")
        await look()
        await turns.finish(again, Batch(2, []), Ending("done", "chat_done", '"full_response":"Twice "', "Twice "))
        second = await self.claim(waiting[0])
        await self.say(second, "Half ")
        await self.start("right", queue_mode="steer")
        await look()
        await turns.release(second)
        second = await self.claim(waiting[0])
        await self.say(second, "Half ")
        await turns.cancel(self.ref, "ada", waiting[0])
        await look()
        await turns.heartbeat([second])
        await self._until_recovered(waiting[0])
        await turns.cancel(self.ref, "ada", (await turns.lanes(self.ref, "ada"))[0])
        third = await self.claim(waiting[1])
        await self.say(third, "Part ")
        last = await self.start("five", queue_mode="interrupt")
        await self.say(await self.claim(last), "And ")
        await lapse(self.backplane, self.ref, last)
        await self.start("six", queue_mode="followup")
        await turns.cancel(self.ref, "ada")
        await look()
        await self._deleted(look)

    async def _counted(self) -> None:
        """Let calls of each kind be counted."""
        keys = self.backplane.keys
        counted = (
            keys.user_calls(DEFAULT_TENANT, "ada"),
            keys.tenant_calls(DEFAULT_TENANT),
            keys.address_connects("203.0.113.7"),
            keys.address_calls("2001:db8::/64"),
        )
        await self.backplane.allowances.settle([Spent(key, 1, 0.5, 10, 50) for key in counted])

    async def _deleted(self, look: Any) -> None:
        """Let the owner list and rename the thread, and erase it while turns run, wait and are ready."""
        claim = await self.claim(await self.start("seven"))
        await self.say(claim, "So ")
        await self.backplane.steps.begin(claim, "order")
        await self.start("beside", queue_mode="parallel")
        await self.start("eight", queue_mode="followup")
        threads = self.backplane.threads
        await threads.touch(self.ref, "ada")
        await threads.rename(self.ref, "ada", "Tea")
        await self.backplane.presence.say([(self.ref, {"ada": 2})])
        await look()
        await self.start("seven and a half", edit=Edit())
        claim = await self.claim(await self.start("eight and a half", edit=Edit()))
        await self.say(claim, "So ")
        await self.backplane.steps.begin(claim, "order")
        await self.start("nine", queue_mode="followup")
        await look()
        await threads.delete(self.ref, "ada")
        await look()

    async def _asked(self, look: Any) -> None:
        """Let a turn beside ask, be parked and decided, ask again, and be withdrawn."""
        approvals = self.backplane.approvals
        request_id = await self.start("may I", queue_mode="parallel", policy="resume")
        claim = await self.claim(request_id)
        await self.say(claim, "May I? ")
        await self.backplane.steps.begin(claim, "look")
        await self.backplane.steps.end(claim, "look", "1")
        await approvals.ask(claim, Question("a", {"kind": "question"}))
        await approvals.park(claim)
        await look()
        await approvals.decide(self.ref, "ada", f"{request_id}.a", "yes")
        claim = await self.claim(request_id)
        await approvals.ask(claim, Question("b", {"kind": "question"}, expires=0.0))
        await approvals.ask(claim, Question("c", {"kind": "question"}))
        await self.backplane.turns.cancel(self.ref, "ada", request_id)

    async def _taken_over(self, request_id: str) -> Claim:
        await lapse(self.backplane, self.ref, request_id)
        member = self.backplane.keys.thread(self.ref).member(request_id)
        assert await self.backplane.turns.recover(member) == "taken_over"
        return await self.claim(request_id)

    async def _until_recovered(self, request_id: str) -> None:
        member = self.backplane.keys.thread(self.ref).member(request_id)

        async def ended() -> bool:
            return await self.backplane.turns.recover(member) == "cancelled"

        await wait_until(ended, "the cancelled turn of a silent worker is ended for it")


async def test_every_key_is_documented_as_it_is_found_in_redis(open_backplane: Any, table: Any) -> None:
    """Kinds, fields and lifetimes: what is there is on the page, and what is on the page was there."""
    documented, seen = Documented(table), Seen()
    async with open_backplane(**SETTINGS, max_turns_per_tenant=9) as backplane:

        async def look() -> None:
            await seen.look(backplane.redis, backplane.keys.prefix, documented)

        await backplane.admission.admit(ThreadRef(DEFAULT_TENANT, "admitted"), "ann", "request")
        for number in range(3):
            await backplane.doorbell.ring(Ring(f"{DEFAULT_TENANT}/line/{number}", "ann"))
        assert [await backplane.doorbell.wait() for _ in range(2)] == [f"{DEFAULT_TENANT}/line/{n}" for n in range(2)]
        await backplane.doorbell.leave()
        await Story(backplane).tell(look)
        settings = backplane.settings
    without_roles = set(documented.keys) - {"recoverer"}
    assert seen.kinds == {name: {documented.keys[name]["kind"]} for name in without_roles}
    assert seen.fields.pop("steps") == {"order", "look"}, "its fields are the names that the agent gave"
    del seen.fields["members"]  # likewise named by its processes
    # an approval's fields are named by its id, those of every other hash are on the page
    assert {name.partition(":")[2] for name in seen.fields.pop("approvals") - {"order"}} == {
        "state", "fields", "options", "expires", "decision", "by", "call",
    }  # fmt: skip
    seen.fields["line"] = {name.replace(f":{DEFAULT_TENANT}", ":TENANT") for name in seen.fields["line"]}
    nodes = {name for name in seen.fields["watchers"] if name.startswith("node:")}
    seen.fields["watchers"] = seen.fields["watchers"] - nodes | {"node:NODE"}
    assert seen.fields == documented.fields
    for name, lifetimes in seen.lifetimes.items():
        told = documented.keys[name]["lifetime"]
        if told == "permanent":
            assert lifetimes == {-0.001}, name
            continue
        allowed = seconds(told, settings)
        # a minute's grain: the test is short, and every lifetime but the recoverer's is a day or more
        wrong = [found for found in lifetimes if not any(full - 60 < found <= full for full in allowed)]
        assert wrong == [], f"{name} lives otherwise than {told}"


async def test_the_lifetime_of_a_turn_follows_its_state(open_backplane: Any, table: Any) -> None:
    async with open_backplane(**SETTINGS) as backplane:
        waits, runs, _, ended = seconds(Documented(table).keys["turns"]["lifetime"], backplane.settings)
        story = Story(backplane)
        keys = backplane.keys.thread(story.ref)

        async def lifetime(request_id: str) -> float:
            return float(await backplane.redis.pttl(keys.turn(request_id))) / 1000

        first = await story.start("one")
        second = await story.start("two", queue_mode="followup")
        assert runs - 60 < await lifetime(first) <= runs
        assert waits - 60 < await lifetime(second) <= waits
        await backplane.turns.cancel(story.ref, "ada", first)
        assert ended - 60 < await lifetime(first) <= ended
        assert runs - 60 < await lifetime(second) <= runs


async def test_the_keys_of_processes_are_documented_too(product: Any, table: Any) -> None:
    """A gateway writes what no script of a turn does: who recovers."""
    documented, seen = Documented(table), Seen()
    async with product() as running:
        client: Redis = Redis.from_url(running.settings.redis_url, protocol=2)
        async with client:

            async def elected() -> bool:
                await seen.look(client, running.settings.key_prefix, documented)
                return "recoverer" in seen.kinds

            await wait_until(elected, "somebody recovers")
        longest = seconds(documented.keys["recoverer"]["lifetime"], running.settings)[0]
    assert seen.kinds["recoverer"] == {documented.keys["recoverer"]["kind"]}
    assert all(0 < found <= longest for found in seen.lifetimes["recoverer"])


async def _state(redis: Any, prefix: str) -> dict[str, tuple[bytes, int]]:
    """Return the value and the end of life of every key under a prefix."""
    keys = [key async for key in redis.scan_iter(match=f"{prefix}:*", count=1000)]
    pipeline: Any = redis.pipeline(transaction=True)
    for key in keys:
        pipeline.dump(key)
        pipeline.pexpiretime(key)
    found = iter(await pipeline.execute())
    state = {key.decode(): (next(found), next(found)) for key in keys}
    return {key: (value, until) for key, (value, until) in state.items() if until != GONE}


async def test_every_script_changes_the_keys_that_are_documented_and_no_others(
    open_backplane: Any, table: Any, monkeypatch: Any
) -> None:
    documented = Documented(table)
    changed: dict[str, set[str]] = {}
    async with open_backplane(**SETTINGS) as backplane:
        redis, run = backplane.redis, backplane.run

        async def watched(call: Call) -> Any:
            now = await redis.time()

            async def later() -> bool:
                return bool(await redis.time() > (now[0], now[1] + 2000))

            # so that a lifetime which is renewed shows: it ends at another millisecond
            await wait_until(later, "Redis' clock goes on")
            before = await _state(redis, backplane.keys.prefix)
            answer = await run(call)
            after = await _state(redis, backplane.keys.prefix)
            seconds, micros = await redis.time()
            for key in before | after:
                _, until = before.get(key, (b"", 0))
                by_itself = key not in after and 0 < until <= seconds * 1000 + micros // 1000
                if before.get(key) != after.get(key) and not by_itself:
                    changed.setdefault(documented.named(key), set()).add(call.name)
            return answer

        async def watched_many(calls: list[Call]) -> list[Any]:
            return [await watched(call) for call in calls]

        monkeypatch.setattr(backplane, "run", watched)
        monkeypatch.setattr(backplane, "run_many", watched_many)
        await Story(backplane).tell(_nothing)
    told = {name: set(code(row["changed by"])) for name, row in documented.keys.items()}
    wrong = {n: (told[n] - changed[n], changed[n] - told[n]) for n in changed if told[n] != changed[n]}
    assert wrong == {}, "named but not seen, seen but not named"
    assert set(changed) == set(told) - set(WRITERS)


async def _nothing() -> None:
    """Look at nothing."""


def test_every_name_of_keys_is_documented(table: Any) -> None:
    documented = Documented(table)
    keys = Keys("threadline", 64)
    ref = ThreadRef(DEFAULT_TENANT, "tea")
    thread = keys.thread(ref)
    ends = {
        "turns": "request",
        "texts": "request",
        "lanes": "steer",
        "steps": "request",
        "approvals": "request",
        "idempotency": "0" * 64,
        "calls": "call",
        "leaving": "waiter",
        "line_users": DEFAULT_TENANT,
        "line_turns": f"{DEFAULT_TENANT}/{'0' * 64}",
        "branch": "request",
    }
    names = {field.name: getattr(thread, field.name) for field in dataclasses.fields(ThreadKeys)}
    names |= {field.name: getattr(thread.partition, field.name) for field in dataclasses.fields(PartitionKeys)}
    names |= {name: value for name, value in vars(keys).items() if isinstance(value, str) and name != "prefix"}
    names["canary"] = keys.canary("node")
    names["tenant"] = keys.tenant(DEFAULT_TENANT)
    names["user"] = keys.user(DEFAULT_TENANT, "ann")
    names["user_calls"] = keys.user_calls(DEFAULT_TENANT, "ann")
    names["tenant_calls"] = keys.tenant_calls(DEFAULT_TENANT)
    names["address_connects"] = keys.address_connects("203.0.113.7")
    names["address_calls"] = keys.address_calls("2001:db8::/64")
    names["threads"] = keys.threads(DEFAULT_TENANT, "ann")
    rows = documented.patterns | documented.channels
    assert set(rows) == set(names) - {"ref", "partition"}
    for name, form in rows.items():
        assert form.fullmatch(names[name] + ends.get(name, "")), name


def test_what_writes_outside_of_scripts_is_documented(table: Any) -> None:
    documented = Documented(table)
    for name, (file, place) in WRITERS.items():
        assert code(documented.keys[name]["changed by"]) == [file]
        assert place in (BACKPLANE / file).read_text()
