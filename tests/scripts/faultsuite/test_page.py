"""The figures of a run, on their way into the page."""

from __future__ import annotations

from pathlib import Path

from scripts.faultsuite import page, record
from scripts.faultsuite.case import Case, Settled
from scripts.faultsuite.mutants import MUTANTS
from scripts.faultsuite.suite import CASES, Result
from scripts.faultsuite.table import lines
from tests.fleet.fleet import Fleet

MARKS = "\n".join(f"<!-- {mark} -->\n<!-- /{mark} -->" for mark in ("machine", "rows", "mutants", "random"))


async def run(fleet: Fleet) -> list[Settled]:
    raise AssertionError("nothing is run here")


def result(*settled: Settled, wrong: str = "", skipped: str = "") -> Result:
    return Result(Case("9a", "something breaks", run), 1.0, settled, wrong, skipped)


def test_each_measure_is_a_line_and_only_the_first_names_the_row() -> None:
    shown = list(lines([result(Settled("one", 0.5, 1), Settled("two", 3, 2))]))
    assert shown == [
        ("9a", "something breaks", "one", "0.50", "1", "holds"),
        ("", "", "two", "3.00", "2", "late"),
    ]


def test_a_row_that_broke_or_was_skipped_says_so() -> None:
    assert next(lines([result(wrong="a hole")]))[-1] == "broken"
    assert next(lines([result(Settled("one", 0.5, 1), wrong="a leak")]))[-1] == "broken"
    assert next(lines([result(skipped="no library")]))[2:] == ("no library", "", "", "skipped")


def test_the_page_gets_what_was_run_and_keeps_the_rest(tmp_path: Path) -> None:
    path, kept = tmp_path / "page.md", tmp_path / "kept.json"
    path.write_text(f"before\n{MARKS}\nbehind\n")
    record.write(record.kept([result(Settled("one", 0.5, 1))]), kept)
    record.write(record.kept(mutants=[("no fence", "4", "two | words\nsaid"), ("no poll", "10a", "")]), kept)
    page.write(record.read(kept), path)
    text = path.read_text()
    assert "| 9a | something breaks | one | 0.50 | 1 | holds |" in text
    assert "| no fence | 4 | red | two / words said |" in text
    assert "| no poll | 10a | GREEN |  |" in text
    assert text.startswith("before\n")
    assert text.endswith("<!-- random -->\n<!-- /random -->\nbehind\n")


def test_the_page_has_every_row_and_every_mutant() -> None:
    text = page.PAGE.read_text()
    assert [case.name for case in CASES if f"\n| {case.name} |" not in text] == []
    assert [mutant.name for mutant in MUTANTS if f"\n| {mutant.name} |" not in text] == []
