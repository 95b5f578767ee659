"""A state machine of Hypothesis drives the scripts of a thread, in orders that nobody thought of, on both backends.

The model is what a reader of docs/protocol.md would expect, in a few lines, without a log, an offset or a lease. Each
script may be sent twice, as when its reply was lost: the second call must answer as the first and change nothing more.
After each step the store is compared with the model; at the end everything is brought to rest, and the log and the
session are held up to every invariant of tests/fleet/invariants.py.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from backplane.approvals import Question
from backplane.connection import RETRIES, Backplane, open_servers
from backplane.errors import NotFound, QueueFull, TurnRunning
from backplane.events import body
from backplane.ids import new_id, thread_ref
from backplane.scripts import Call
from backplane.servers import Servers
from backplane.settings import Policy, Settings
from backplane.turns import Batch, Claim, Ending, QueueMode, Start, Started
from tests.fleet.invariants import TERMINAL, Acknowledged, Entry, violations

REF = thread_ref("machine")
MODES: tuple[QueueMode, ...] = ("interrupt", "reject", "followup", "steer", "collect", "parallel")
POLICIES: tuple[Policy, ...] = ("retry", "resume", "fail")
_ANSWERS_OTHERWISE = frozenset({"recover", "release", "park"})
"""Scripts whose second call finds the work done and says so; their callers do not need the first answer again."""
_Value = TypeVar("_Value")


class Repeating(Backplane):
    """A backplane that loses replies: while `twice` is set, each call is sent again."""

    twice = False

    async def run(self, call: Call) -> Any:
        """Run a script, and perhaps once more."""
        first = await super().run(call)
        if self.twice:
            again = await super().run(call)
            assert call.name in _ANSWERS_OTHERWISE or again == first, f"{call.name}: {first} and then {again}"
        return first


@dataclass(slots=True)
class Model:
    """A thread as its protocol describes it."""

    state: dict[str, str] = field(default_factory=dict)
    """Of each request: queued, ready, running, waiting, ended, removed, delivered."""
    lane: dict[str, str] = field(default_factory=dict)
    message: dict[str, str] = field(default_factory=dict)
    policy: dict[str, Policy] = field(default_factory=dict)
    attempt: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    lost: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    text: dict[str, str] = field(default_factory=lambda: defaultdict(str))
    asked: dict[str, dict[str, str | None]] = field(default_factory=lambda: defaultdict(dict))
    """Of each turn, its questions: None while nobody has decided."""
    cancelled: set[str] = field(default_factory=set)
    lanes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    primary: str | None = None
    session: list[tuple[str, str]] = field(default_factory=list)

    def waiting(self, lane: str) -> list[str]:
        """Return what nobody has taken."""
        return [request for request in self.lanes[lane] if self.state[request] == "queued"]

    def of(self, *states: str) -> list[str]:
        """Return the requests in these states."""
        return [request for request, state in self.state.items() if state in states]

    def begin(self, request: str) -> None:
        """Let a turn begin: what was collected goes in front of it."""
        self.state[request] = "ready"
        if self.lane[request] == "parallel":
            return
        for item in self.waiting("collect"):
            self.state[item] = "delivered"
            self.session.append(("user", self.message[item]))
        self.lanes["collect"].clear()
        self.session.append(("user", self.message[request]))
        self.primary = request

    def end(self, request: str, *, hand_over: bool = True) -> None:
        """Let a turn end; what was said is remembered, and the next one begins."""
        self.state[request] = "ended"
        if self.lane[request] == "parallel":
            self.lanes["parallel"].remove(request)
            return
        if self.text[request]:
            self.session.append(("assistant", self.text[request]))
        self.primary = None
        unused = self.waiting("steer")
        self.lanes["steer"].clear()
        self.lanes["followup"][:0] = unused
        self.lane.update(dict.fromkeys(unused, "followup"))
        if hand_over and self.lanes["followup"]:
            self.begin(self.lanes["followup"].pop(0))

    def drop(self, request: str) -> None:
        """Take a waiting message out of its lane."""
        self.lanes[self.lane[request]].remove(request)
        self.state[request] = "removed"

    def verdict(self, request: str, fence: int) -> str:
        """Return what an owner is told."""
        if self.state[request] != "running" or self.attempt[request] != fence:
            return "fenced"
        return "cancelled" if request in self.cancelled else "ok"

    def undecided(self, request: str) -> list[str]:
        """Return the questions of a turn that nobody has decided."""
        return [question for question, decision in self.asked[request].items() if decision is None]


class ThreadMachine(RuleBasedStateMachine):
    """One thread, one person, and workers that may lose their leases at any moment."""

    url = ""
    prefix = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.settings = Settings(
            redis_url=self.url,
            key_prefix=f"{self.prefix}-{new_id()}",
            partitions=1,
            lease=600.0,
            max_followups=3,
            max_parallel=2,
            max_attempts=3,
        )
        servers = open_servers(self.settings.redis_url)
        redis = self.do(self._opened(servers))
        self.backplane = Repeating(self.settings, servers, redis, redis)
        self.model = Model()
        self.claims: list[Claim] = []
        self.batches: dict[int, int] = defaultdict(int)
        self.starts: list[tuple[Start, Started]] = []

    async def _opened(self, servers: Servers) -> Any:
        return servers.client(RETRIES)

    def do(self, work: Coroutine[Any, Any, _Value]) -> _Value:
        """Wait for the answer of the store."""
        return self.runner.run(work)

    # --- people ----------------------------------------------------------------------------------------

    @initialize(policy=st.sampled_from(POLICIES))
    def first(self, policy: Policy) -> None:
        """Begin where most can happen: in the middle of a turn."""
        self._start("interrupt", policy, twice=False)
        self._claim(self.starts[0][1].request_id)

    @rule(mode=st.sampled_from(MODES), policy=st.sampled_from(POLICIES), twice=st.booleans())
    def start(self, mode: QueueMode, policy: Policy, twice: bool) -> None:
        self._start(mode, policy, twice=twice)

    def _start(self, mode: QueueMode, policy: Policy, *, twice: bool) -> None:
        model = self.model
        number = len(model.state)
        start = Start(f"message {number}", "ann", "sid", mode, f"key {number}", policy=policy)
        lane = mode if mode in ("collect", "parallel") or (model.primary and mode in ("followup", "steer")) else ""
        full = bool(lane) and len(model.lanes[lane]) >= (2 if lane == "parallel" else 3)
        self.backplane.twice = twice
        try:
            started = self.do(self.backplane.turns.start(REF, start))
        except TurnRunning:
            assert model.primary is not None
            assert mode == "reject"
            return
        except QueueFull:
            assert full, f"{lane} was not full: {model.lanes[lane]}"
            return
        assert not full
        assert not (mode == "reject" and model.primary)
        self.starts.append((start, started))
        request = started.request_id
        model.state[request], model.lane[request], model.policy[request] = "queued", lane, policy
        model.message[request] = start.message
        assert started.state == ("queued" if lane not in ("", "parallel") else "accepted")
        if lane:
            model.lanes[lane].append(request)
        if started.state == "accepted":
            if lane == "" and model.primary:
                model.end(model.primary, hand_over=False)
            model.begin(request)

    @precondition(lambda self: self.starts)
    @rule(data=st.data(), other_request=st.booleans())
    def start_again(self, data: st.DataObject, other_request: bool) -> None:
        """Another call with the same key, much later, gets the first answer."""
        start, started = data.draw(st.sampled_from(self.starts))
        if other_request:
            start = Start(start.message, "ann", "sid-2", start.queue_mode, start.client_message_id, policy=start.policy)
        assert self.do(self.backplane.turns.start(REF, start)) == started

    @precondition(lambda self: self.model.state)
    @rule(data=st.data(), twice=st.booleans())
    def cancel(self, data: st.DataObject, twice: bool) -> None:
        model = self.model
        asked = data.draw(st.sampled_from([None, *model.state]))
        dropped = [request for lane in ("followup", "steer", "collect") for request in model.waiting(lane)]
        request = asked or model.primary
        was = model.state[request] if request else "idle"
        self.backplane.twice = twice
        answer = self.do(self.backplane.turns.cancel(REF, "ann", asked))
        assert answer.dropped == (() if asked else tuple(dropped))
        assert answer.request_id == request
        assert answer.cancelled == (was in ("queued", "ready", "running", "waiting"))
        for item in () if asked else dropped:
            model.drop(item)
        if request is None:
            return
        if was == "queued":
            model.drop(request)
        elif was in ("ready", "waiting"):
            model.end(request)
        elif was == "running":
            model.cancelled.add(request)

    @precondition(lambda self: self.model.state)
    @rule(data=st.data(), twice=st.booleans())
    def unqueue(self, data: st.DataObject, twice: bool) -> None:
        model = self.model
        asked = data.draw(st.sampled_from([None, *model.state]))
        waiting = [request for lane in ("followup", "steer", "collect") for request in model.waiting(lane)]
        self.backplane.twice = twice
        removed = self.do(self.backplane.turns.unqueue(REF, "ann", asked))
        assert removed == [request for request in waiting if asked in (None, request)]
        for request in removed:
            model.drop(request)

    @precondition(lambda self: any(self.model.asked.values()))
    @rule(data=st.data(), decision=st.sampled_from(["approved", "denied"]), twice=st.booleans())
    def decide(self, data: st.DataObject, decision: str, twice: bool) -> None:
        model = self.model
        asked = [(request, question) for request in list(model.asked) for question in model.asked[request]]
        request, question = data.draw(st.sampled_from(asked))
        self.backplane.twice = twice
        before = model.asked[request][question]
        withdrawn = before is None and model.state[request] == "ended"
        answer = self.do(self.backplane.approvals.decide(REF, "ann", f"{request}.{question}", decision))
        assert answer.decided == (before is None and not withdrawn)
        if withdrawn:
            assert answer.answer.state == "withdrawn"
            return
        model.asked[request][question] = before or decision
        assert answer.answer.decision == (before or decision), "the first decision stands"
        if answer.decided and model.state[request] == "waiting":
            model.state[request] = "ready"

    # --- workers ---------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.state)
    @rule(data=st.data(), twice=st.booleans())
    def claim(self, data: st.DataObject, twice: bool) -> None:
        ready = self.model.of("ready")
        self._claim(data.draw(st.sampled_from(ready or list(self.model.state))), twice=twice)

    def _claim(self, request: str, *, twice: bool = False) -> None:
        model = self.model
        self.do(self._let_time_pass(request, ready_at=1))
        self.backplane.twice = twice
        claim = self.do(self.backplane.turns.claim(self.backplane.keys.thread(REF).member(request), "worker"))
        assert (claim is not None) == (model.state[request] == "ready")
        if claim is None:
            return
        model.attempt[request] += 1
        model.state[request] = "running"
        assert claim.fence == model.attempt[request], "the fence rises with each claim"
        assert claim.message == model.message[request]
        assert model.text[request].startswith(claim.text)
        model.text[request] = claim.text
        self.claims.append(claim)
        if claim.lane != "parallel":
            self._knows_what_came_before(claim)

    def _knows_what_came_before(self, claim: Claim) -> None:
        self.backplane.twice = False
        _, messages = self.do(self.backplane.sessions.history(REF, before=claim.message_id, most=1000))
        told = [(message["role"], message["content"]) for message in messages]
        own = self.model.session.index(("user", claim.message))
        assert told == self.model.session[:own], "the history at a turn's start holds every earlier turn"

    def _owner(self, data: st.DataObject) -> int:
        """Return the place of a claim, an old one too: what it tries then is refused. The newest comes most often."""
        return len(self.claims) - 1 - min(data.draw(st.sampled_from([0, 0, 0, 1, 2, 3])), len(self.claims) - 1)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), twice=st.booleans(), words=st.integers(1, 3))
    def append(self, data: st.DataObject, twice: bool, words: int) -> None:
        place = self._owner(data)
        claim = self.claims[place]
        self.batches[place] += 1
        pieces = [f"{place}.{self.batches[place]}.{word} " for word in range(words)]
        events = [("text_delta", body({"delta": piece, "round": 1})) for piece in pieces]
        self.backplane.twice = twice
        batch = Batch(self.batches[place], events, "".join(pieces))
        verdict, _ = self.do(self.backplane.turns.append(claim, batch))
        assert verdict == self.model.verdict(claim.request_id, claim.fence)
        if verdict != "fenced":
            self.model.text[claim.request_id] += "".join(pieces)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), state=st.sampled_from(["done", "failed"]), twice=st.booleans())
    def finish(self, data: st.DataObject, state: str, twice: bool) -> None:
        place = self._owner(data)
        claim = self.claims[place]
        # the owner of an ended turn would be given its first answer again; no slot asks
        if self.model.state[claim.request_id] != "ended":
            self._finish(place, state, twice=twice)

    def _finish(self, place: int, state: str, *, twice: bool = False) -> None:
        claim, model = self.claims[place], self.model
        verdict = model.verdict(claim.request_id, claim.fence)
        self.batches[place] += 1
        last = f"end of {place}"
        batch = Batch(self.batches[place], [("text_delta", body({"delta": last, "round": 1}))], last)
        whole = model.text[claim.request_id] + last
        ending = Ending("failed", "chat_error", body({"error_type": "agent_error"}))
        if state == "done":
            ending = Ending("done", "chat_done", body({"full_response": whole}), whole)
        self.backplane.twice = twice
        finished = self.do(self.backplane.turns.finish(claim, batch, ending))
        assert finished.state == {"ok": state, "cancelled": "cancelled", "fenced": "fenced"}[verdict]
        if verdict != "fenced":
            model.text[claim.request_id] = whole
            model.end(claim.request_id)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        claim = self.claims[self._owner(data)]
        verdicts = self.do(self.backplane.turns.heartbeat([claim]))
        assert verdicts == [self.model.verdict(claim.request_id, claim.fence)]

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), twice=st.booleans())
    def steers(self, data: st.DataObject, twice: bool) -> None:
        model = self.model
        claim = self.claims[self._owner(data)]
        expected = model.verdict(claim.request_id, claim.fence)
        self.backplane.twice = twice
        verdict, found = self.do(self.backplane.turns.steers(claim, 0))
        assert verdict == expected
        if verdict != "ok" or claim.lane == "parallel":
            assert found == []
            return
        assert [item.item_id for item in found] == model.lanes["steer"], "every attempt gets them all, in their order"
        for item in found:
            if model.state[item.item_id] == "queued":
                model.state[item.item_id] = "delivered"
                model.session.append(("user", item.message))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), name=st.sampled_from(["a", "b"]), twice=st.booleans())
    def step(self, data: st.DataObject, name: str, twice: bool) -> None:
        claim = self.claims[self._owner(data)]
        expected = self.model.verdict(claim.request_id, claim.fence)
        if expected == "ok" and name in claim.steps:
            assert json.loads(claim.steps[name])["step"] == name
            return
        self.backplane.twice = twice
        if expected == "ok":
            begun, before = self.do(self.backplane.steps.begin(claim, f"{name}-{claim.fence}"))
            assert (begun, before) == ("ok", False)
        result = json.dumps({"step": name, "attempt": claim.fence})
        assert self.do(self.backplane.steps.end(claim, name, result)) == expected

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), question=st.sampled_from(["q1", "q2"]), twice=st.booleans())
    def ask(self, data: st.DataObject, question: str, twice: bool) -> None:
        claim, model = self.claims[self._owner(data)], self.model
        expected = model.verdict(claim.request_id, claim.fence)
        self.backplane.twice = twice
        asked = Question(question, {"kind": "question"}, ("approved", "denied"))
        verdict, answer = self.do(self.backplane.approvals.ask(claim, asked))
        assert verdict == expected
        if verdict == "ok":
            decision = model.asked[claim.request_id].setdefault(question, None)
            assert (answer.state, answer.decision) == ("decided" if decision else "pending", decision)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), how=st.sampled_from(["park", "release"]), twice=st.booleans())
    def let_go(self, data: st.DataObject, how: str, twice: bool) -> None:
        claim, model = self.claims[self._owner(data)], self.model
        request = claim.request_id
        verdict = model.verdict(request, claim.fence)
        # a turn that parks has asked, and said nothing since; its link sees to that
        if how == "park" and not model.asked[request]:
            return
        self.backplane.twice = twice
        self.do(self._let_go(how, claim))
        if verdict == "cancelled":
            model.end(request)
        elif verdict == "ok":
            model.state[request] = "waiting" if how == "park" and model.undecided(request) else "ready"

    async def _let_go(self, how: str, claim: Claim) -> None:
        if how == "park":
            await self.backplane.approvals.park(claim)
        else:
            await self.backplane.turns.release(claim)

    # --- time ------------------------------------------------------------------------------------------

    async def _let_time_pass(self, request: str, **fields: int) -> None:
        """Make a turn's times look as old as they would be later."""
        key = self.backplane.keys.thread(REF).turn(request)
        if self.model.state[request] in ("ready", "running", "waiting"):
            older: Any = fields  # redis-py types a mapping by its invariant keys
            await self.backplane.redis.hset(key, mapping=older)

    @precondition(lambda self: self.model.of("running"))
    @rule(data=st.data(), twice=st.booleans())
    def lose_a_worker(self, data: st.DataObject, twice: bool) -> None:
        model = self.model
        request = data.draw(st.sampled_from(model.of("running")))
        self.do(self._let_time_pass(request, lease_until=1))
        self.backplane.twice = twice
        what = self.do(self.backplane.turns.recover(self.backplane.keys.thread(REF).member(request)))
        if request in model.cancelled:
            assert what == "cancelled"
            model.end(request)
            return
        model.lost[request] += 1
        given_up = model.policy[request] == "fail" or model.lost[request] >= self.settings.max_attempts
        assert what == ("worker_lost" if given_up else "taken_over")
        if given_up:
            model.end(request)
        else:
            model.state[request] = "ready"

    @precondition(lambda self: self.model.of("ready", "running"))
    @rule(data=st.data())
    def pass_a_deadline(self, data: st.DataObject) -> None:
        model = self.model
        request = data.draw(st.sampled_from(model.of("ready", "running")))
        if model.undecided(request):
            return  # its clock stands still
        self.do(self._let_time_pass(request, deadline=1))
        self.backplane.twice = False
        assert self.do(self.backplane.turns.recover(self.backplane.keys.thread(REF).member(request))) == "turn_timeout"
        model.end(request)

    @precondition(lambda self: self.model.state)
    @rule(data=st.data())
    def look_for_nothing(self, data: st.DataObject) -> None:
        """A recoverer that comes too early, or too late, changes nothing."""
        request = data.draw(st.sampled_from(list(self.model.state)))
        self.backplane.twice = True
        if self.model.state[request] == "running" and request in self.model.cancelled:
            return
        assert self.do(self.backplane.turns.recover(self.backplane.keys.thread(REF).member(request))) in {
            "none",
            "rung",
        }

    # --- what must hold --------------------------------------------------------------------------------

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        self.backplane.twice = False
        if not self.model.state:
            return
        model = self.model
        running, _, items = self.do(self.backplane.turns.lanes(REF, "ann"))
        assert running == model.primary
        shown: dict[str, list[str]] = defaultdict(list)
        for item in items:
            shown[item.lane].append(item.item_id)
        for lane in ("followup", "steer", "collect"):
            assert shown[lane] == model.waiting(lane), lane
        assert shown["parallel"] == model.lanes["parallel"]

    @invariant()
    def the_log_has_no_hole_and_one_end_for_each_that_has_ended(self) -> None:
        log = self.do(self._log())
        assert [entry.offset for entry in log] == list(range(1, len(log) + 1))
        ended = sorted(entry.request_id for entry in log if entry.name in TERMINAL)
        assert ended == sorted(self.model.of("ended"))

    @invariant()
    def the_session_is_what_was_said(self) -> None:
        try:
            _, messages = self.do(self.backplane.sessions.history(REF))
        except NotFound:
            messages = []
        assert [(message["role"], message["content"]) for message in messages] == self.model.session

    async def _log(self) -> list[Entry]:
        entries: Any = await self.backplane.redis.xrange(self.backplane.keys.thread(REF).log)
        return [
            Entry(int(at.split(b"-")[0]), fields[b"n"].decode(), json.loads(fields[b"d"])) for at, fields in entries
        ]

    # --- its end ---------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Bring everything to rest, and hold the whole up to every invariant."""
        try:
            if self.model.state:
                self._come_to_rest()
                self._start("followup", "retry", twice=False)  # it takes the context that waits
                self._come_to_rest()
                acks = [
                    Acknowledged(start.message, started.request_id, started.epoch, started.offset, started.state)
                    for start, started in self.starts
                ]
                log, session = self.do(self._log()), self.do(self._session())
                assert violations(log, [], acks, session) == []
        finally:
            self.do(self._forget())
            self.runner.close()

    async def _session(self) -> list[dict[str, Any]]:
        entries: Any = await self.backplane.redis.xrange(self.backplane.keys.thread(REF).session)
        return [json.loads(fields[b"m"]) for _, fields in entries]

    def _come_to_rest(self) -> None:
        model = self.model
        while open_turns := model.of("ready", "running", "waiting"):
            request = open_turns[0]
            for question in model.undecided(request):
                self.do(self.backplane.approvals.decide(REF, "ann", f"{request}.{question}", "denied"))
                model.asked[request][question] = "denied"
                model.state[request] = "ready" if model.state[request] == "waiting" else model.state[request]
            if model.state[request] == "ready":
                self._claim(request)
            newest = max(n for n, claim in enumerate(self.claims) if claim.request_id == request)
            self._finish(newest, "done")

    async def _forget(self) -> None:
        keys = [key async for key in self.backplane.redis.scan_iter(match=f"{self.settings.key_prefix}:*")]
        if keys:
            await self.backplane.redis.delete(*keys)
        await self.backplane.redis.aclose()


@pytest.mark.timeout(300)  # a failure is made small before it is shown
def test_no_order_of_calls_breaks_a_promise(redis_url: str, prefix: str, request: pytest.FixtureRequest) -> None:
    # fakeredis answers from a thread of this process, ten times slower
    examples = 50 if request.node.callspec.params["redis_url"] == "valkey" else 8
    machine = type("Machine", (ThreadMachine,), {"url": redis_url, "prefix": prefix})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
