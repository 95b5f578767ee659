"""A package that could not be looked up is never taken for safe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts.advisories.__main__ import FOUND, JAVASCRIPT, PYTHON, UNAUDITED, verdict
from scripts.advisories.reports import Report, of_npm, of_pip

ROOT = Path(__file__).parents[3]
SAFE = {"name": "a", "version": "1", "vulns": []}
KNOWN = {
    "name": "b",
    "version": "2",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3"], "description": "bad"}],
}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (3)"}


def pip(*packages: dict[str, Any]) -> Report:
    return of_pip("r.lock", json.dumps({"dependencies": packages, "fixes": []}), "")


def npm(**told: Any) -> Report:
    return of_npm("p.json", json.dumps(told))


def test_what_was_looked_up_and_is_not_known_is_well() -> None:
    reports = [pip(SAFE), npm(vulnerabilities={}, metadata={"dependencies": {"total": 3}})]
    assert verdict(reports) == ("ok    4 packages, no known vulnerability", 0)


def test_a_package_that_was_skipped_is_not_audited() -> None:
    """pip-audit itself ends with 0 then, and says that nothing is known."""
    report = pip(SAFE, SKIPPED)
    assert (report.audited, report.found) == (1, ())
    assert report.unaudited.startswith("1 of 2 packages, first: Dependency not found")
    text, code = verdict([report])
    assert code == UNAUDITED
    assert "NOT AUDITED" in text
    assert "r.lock" in text


def test_a_program_that_broke_off_is_not_a_success() -> None:
    broken = of_pip("r.lock", "", "Traceback\n  File\nrequests.exceptions.ConnectionError: no such host\n\n")
    assert broken.unaudited == "requests.exceptions.ConnectionError: no such host"
    assert of_pip("r.lock", "{}", "").unaudited
    assert pip().unaudited
    assert of_npm("p.json", "").unaudited
    assert of_npm("p.json", "{}").unaudited
    assert npm(vulnerabilities={}, metadata={"dependencies": {"total": 0}}).unaudited


def test_a_registry_without_advisories_is_not_a_success() -> None:
    report = npm(message="405 Method Not Allowed", statusCode=405, error={"summary": "", "detail": ""})
    assert (report.audited, report.unaudited) == (0, "405 Method Not Allowed")
    assert verdict([pip(SAFE), report])[1] == UNAUDITED


def test_what_is_known_is_named_with_where_it_is_fixed() -> None:
    assert pip(SAFE, KNOWN).found == ("b 2: PYSEC-1 (CVE-1); fixed in 3",)
    entry = {"severity": "high", "range": "<2", "via": [{"title": "runs what it reads"}, "d"], "fixAvailable": True}
    report = npm(vulnerabilities={"e": entry}, metadata={"dependencies": {"total": 1}})
    assert report.found == ("e <2: high (runs what it reads); fixed by a newer version",)


def test_what_is_known_counts_more_than_what_is_not() -> None:
    text, code = verdict([pip(KNOWN), pip(SKIPPED)])
    assert code == FOUND
    assert "1 known" in text
    assert "could not be audited" in text


def test_every_lock_file_of_the_repository_is_audited() -> None:
    python = {path.name for path in ROOT.glob("requirements*.lock")}
    assert python == set(PYTHON)
    folders = ROOT.glob("**/package-lock.json")
    kept = {path.parent.relative_to(ROOT).as_posix() for path in folders if "node_modules" not in path.parts}
    assert {folder for folder in kept if not folder.startswith(".")} == set(JAVASCRIPT)
