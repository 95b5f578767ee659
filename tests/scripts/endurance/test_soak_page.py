"""The figures of a soak, on their way into the page."""

from __future__ import annotations

from pathlib import Path

from scripts.endurance.soak import verdicts
from scripts.endurance.soak_page import write
from scripts.faultsuite.page import PAGE
from tests.scripts.endurance.leaks import kept, leaking


def test_the_page_gets_a_line_for_each_process_and_the_plot(tmp_path: Path) -> None:
    copy, plot = tmp_path / "page.md", tmp_path / "soak.svg"
    copy.write_text("before\n<!-- soak -->\n<!-- /soak -->\nbehind\n")
    samples = leaking(50_000)
    write(kept(samples), samples, verdicts(samples), copy, plot)
    text = copy.read_text()
    assert "| gateway-0 | 130 MB | 19.8 MB of 6.0 | 40 | 0.0 of 8 | 0.20 | grows |" in text
    assert "| store |" in text
    assert "not judged" in text
    assert "1,200 threads" in text
    assert "](soak.svg)" in text
    assert "20 talkers" in plot.read_text()


def test_the_page_in_the_repository_has_the_marks(tmp_path: Path) -> None:
    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text())
    samples = leaking(0)
    write(kept(samples), samples, verdicts(samples), copy, tmp_path / "soak.svg")
    assert "Run on 2026-01-02" in copy.read_text()
