"""What the audit programs report, read strictly: what was not looked up is not taken for safe.

pip-audit ends with 0 and "No known vulnerabilities found" when its service knew none of the packages, and npm ends with
1 for a vulnerability as for a registry that has no advisories. So each package that is asked about must have an answer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of the packages of one lock file."""

    file: str
    audited: int
    """How many packages were looked up."""
    found: tuple[str, ...] = ()
    """Known vulnerabilities, a line each."""
    unaudited: str = ""
    """Why some or all could not be looked up; empty when all were."""


def of_pip(file: str, text: str, complaint: str) -> Report:
    """Read what `pip-audit --format json` printed; `complaint` is what it wrote to standard error."""
    try:
        packages: list[dict[str, Any]] = json.loads(text)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return Report(file, 0, unaudited=_last_line(complaint) or "pip-audit printed no report")
    known = [package for package in packages if "vulns" in package]
    found = tuple(
        f"{package['name']} {package['version']}: {vulnerability['id']}"
        f"{_aliases(vulnerability)}; fixed in {', '.join(vulnerability.get('fix_versions') or ()) or 'no version yet'}"
        for package in known
        for vulnerability in package["vulns"]
    )
    skipped = [package for package in packages if "vulns" not in package]
    why = ""
    if skipped:
        first = skipped[0].get("skip_reason") or f"no answer for {skipped[0].get('name')}"
        why = f"{len(skipped)} of {len(packages)} packages, first: {first}"
    return Report(file, len(known), found, why or ("" if packages else "pip-audit named no package"))


def of_npm(file: str, text: str) -> Report:
    """Read what `npm audit --json` printed."""
    try:
        told: dict[str, Any] = json.loads(text)
        count = told["metadata"]["dependencies"]["total"] if "error" not in told else 0
        vulnerabilities: dict[str, Any] = told["vulnerabilities"] if "error" not in told else {}
    except (ValueError, KeyError, TypeError):
        return Report(file, 0, unaudited="npm printed no report")
    if "error" in told:
        why = told.get("message") or told["error"].get("summary") or "npm says no more than that there was an error"
        return Report(file, 0, unaudited=str(why))
    found = tuple(
        f"{name} {entry.get('range', '')}: {entry['severity']}{_titles(entry)}; "
        f"{'fixed by a newer version' if entry.get('fixAvailable') else 'no fix yet'}"
        for name, entry in sorted(vulnerabilities.items())
    )
    return Report(file, int(count), found, "" if count else "npm named no package")


def _aliases(vulnerability: dict[str, Any]) -> str:
    aliases = vulnerability.get("aliases") or ()
    return f" ({', '.join(aliases)})" if aliases else ""


def _titles(entry: dict[str, Any]) -> str:
    titles = [via["title"] for via in entry.get("via", ()) if isinstance(via, dict) and "title" in via]
    return f" ({'; '.join(titles)})" if titles else ""


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
