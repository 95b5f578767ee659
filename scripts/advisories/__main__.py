"""`scripts/audit`: looks whether any pinned package has a known vulnerability.

Exit codes: 0 every package was looked up, and nothing is known; 1 something is known; 3 nothing is known, but some or
all could not be looked up, for the advisories cannot be reached. The last is no success.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.advisories.reports import Report, of_npm, of_pip

ROOT = Path(__file__).parents[2]
PYTHON = (
    "requirements.lock", "requirements-embedded.lock", "requirements-dev.lock", "requirements-node.lock",
    "requirements-audit.lock",
)  # fmt: skip
JAVASCRIPT = ("clients/typescript", "page", "tests/javascript")
FOUND, UNAUDITED = 1, 3
PATIENCE = 600.0
"""Seconds for one lock file: one question for each of some hundred packages."""


def audit(service: str, npm: str) -> Iterator[Report]:
    """Yield what is known of each lock file."""
    for file in PYTHON:
        asked = [sys.executable, "-m", "pip_audit", "--requirement", file, "--vulnerability-service", service]
        asked += ["--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off"]
        out, complaint = _said(asked, ROOT)
        yield of_pip(file, out, complaint)
    for folder in JAVASCRIPT:
        out, _ = _said([npm, "audit", "--package-lock-only", "--json"], ROOT / folder)
        yield of_npm(f"{folder}/package-lock.json", out)


def _said(asked: Sequence[str], folder: Path) -> tuple[str, str]:
    # exit codes say nothing here: both end with 1 for a vulnerability as for an error
    try:
        done = subprocess.run(asked, cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    return done.stdout, done.stderr


def verdict(reports: Sequence[Report]) -> tuple[str, int]:
    """Return what to print last, and the exit code."""
    found = sum(len(report.found) for report in reports)
    missing = [report.file for report in reports if report.unaudited]
    gaps = f"could not be audited, in whole or in part: {', '.join(missing)}" if missing else ""
    if found:
        return f"FAIL  {found} known vulnerabilities{gaps and f'; {gaps}'}; renew with scripts/lock --upgrade", FOUND
    if missing:
        return f"NOT AUDITED  {gaps}; ask again where the advisories of PyPI and npm can be reached", UNAUDITED
    return f"ok    {sum(report.audited for report in reports)} packages, no known vulnerability", 0


def main() -> None:
    """Audit, print, and end with the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--service", choices=("pypi", "osv"), default="pypi", help="for Python [%(default)s]")
    parser.add_argument("--npm", default="npm", help="the npm to ask with [%(default)s]")
    given = parser.parse_args()
    reports = []
    for report in audit(given.service, given.npm):
        reports.append(report)
        state = "FAIL" if report.found else "----" if report.unaudited else "ok"
        print(f"{state:<4}  {report.file}: {report.audited} packages looked up", flush=True)
        for line in report.found:
            print(f"      -> {line}")
        if report.unaudited:
            print(f"      could not be audited: {report.unaudited}")
    text, code = verdict(reports)
    print(text)
    sys.exit(code)


if __name__ == "__main__":
    main()
