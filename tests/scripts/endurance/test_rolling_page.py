"""The figures of a rolling restart, on their way into the page."""

from __future__ import annotations

from pathlib import Path

from scripts.endurance.load import Noticed, Shape
from scripts.endurance.restarts import Outcome, Restart
from scripts.endurance.rolling_page import kept, write
from scripts.faultsuite.page import PAGE

RESTARTS = [
    Restart("gateway-0", 1, ended=4.0, ready=1.5, reconnects=6, silence=0.25, start=0.0, p99=0.02),
    Restart("gateway-1", 1, ended=3.0, ready=2.5, reconnects=6, silence=0.15, start=0.0),
    Restart("worker-0", 1, ended=9.0, ready=1.0, reconnects=0, silence=0.0, start=0.3, handed_back=2, p99=0.081),
]


def test_the_page_has_the_worst_of_each_and_what_was_lost(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- rolling -->\nold\n<!-- /rolling -->\nbehind\n")
    outcome = Outcome(RESTARTS, Noticed(turns=1234), p99=0.012, seconds=600, clients=1000)
    write(kept(outcome, Shape(200)), page)
    said = page.read_text()
    assert "| had ended behind its SIGTERM | 4.00 s | 9.00 s |" in said
    assert "| append to socket, p99 of that time | 20 ms | 81 ms |" in said
    assert "| longest silence in an answer | 0.25 s | below 0.1 s |" in said
    assert "| turns handed back | - | 2 |" in said
    assert "1,000 clients, 200 turns at once" in said
    assert "Nothing lost, doubled or refused." in said
    assert "old" not in said


def test_what_does_not_hold_is_counted() -> None:
    outcome = Outcome([], Noticed(wrong=["t1: a start was refused"]), p99=float("nan"))
    assert kept(outcome, Shape())["noticed"]["wrong"] == ["t1: a start was refused"]
    assert kept(outcome, Shape())["p99"] is None


def test_the_page_has_a_place_for_it() -> None:
    assert "<!-- rolling -->" in PAGE.read_text()
