"""What a worker shows of the turns that it runs."""

from __future__ import annotations

from typing import Any

from backplane.ids import thread_ref
from backplane.turns import Claim
from worker.ledger import KEPT_SECONDS, KEPT_TURNS, Ledger
from worker.metrics import Metrics


class Hand:
    now = 100.0


def claim(request_id: str, thread: str = "t") -> Claim:
    return Claim(thread_ref(thread), request_id, 2, 1, "e", "hello", {}, "ann", 0, 1, 90_000, "")


def outcomes(ledger: Ledger) -> list[tuple[str, Any]]:
    return [(turn["request_id"], turn.get("outcome")) for turn in ledger.turns()]


def test_a_turn_is_shown_while_it_runs_and_for_a_while_behind_its_end() -> None:
    ledger = Ledger(lambda: Hand.now, Metrics())
    ledger.begun(claim("r"))
    (turn,) = ledger.turns()
    assert (turn["began"], turn["claimed"], turn["attempt"]) == (90.0, 100.0, 2)
    Hand.now = 101.5
    ledger.ended(claim("r"), "done")
    assert ledger.turns() == [turn | {"ended": 101.5, "outcome": "done"}]
    Hand.now += KEPT_SECONDS + 1
    assert ledger.turns() == []


def test_it_keeps_the_newest_ended_turns_and_every_running_one() -> None:
    ledger = Ledger(lambda: Hand.now, Metrics())
    for number in range(KEPT_TURNS + 1):
        ledger.begun(claim(str(number)))
        ledger.ended(claim(str(number)), "done")
    ledger.begun(claim("runs"))
    assert outcomes(ledger)[0] == ("1", "done")
    assert outcomes(ledger)[-1] == ("runs", None)


def test_a_thread_that_was_deleted_is_forgotten() -> None:
    ledger = Ledger(lambda: Hand.now, Metrics())
    for thread in ("kept", "deleted"):
        ledger.begun(claim(thread, thread))
        ledger.ended(claim(thread, thread), "cancelled")
    ledger.forget(thread_ref("deleted"))
    assert outcomes(ledger) == [("kept", "cancelled")]


def test_takeovers_ends_and_waiting_are_counted() -> None:
    metrics = Metrics()
    ledger = Ledger(lambda: 100.0, metrics)
    ledger.begun(claim("taken-over"))
    ledger.ended(claim("taken-over"), "fenced")
    text = metrics.text().decode()
    for line in (
        "threadline_turn_takeovers_total 1.0",
        "threadline_leases_lapsed_total 0.0",
        'threadline_turns_ended_total{outcome="fenced"} 1.0',
        "threadline_turns_running 0.0",
        "threadline_turn_seconds_count 1.0",
        "threadline_turn_wait_seconds_count 0.0",
    ):
        assert line in text
