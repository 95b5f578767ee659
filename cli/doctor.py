"""`threadline doctor`: looks at everything a deployment stands on, and says what to change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import TextIO

import httpx

from backplane.doctor.checks import check_redis
from backplane.doctor.findings import Finding
from backplane.errors import Misconfigured
from backplane.settings import Settings
from cli import gateway_url
from cli.screen import printable
from cli.serve import EXTERNAL
from gateway import auth

READY_TIMEOUT = 5.0
"""Seconds for a gateway to say whether it is ready; its own look at Redis takes no longer."""


def with_local_store(settings: Settings) -> Settings:
    """Return settings that look at the embedded store of a fleet that runs here, when no Redis was named."""
    if "redis_url" in settings.model_fields_set:
        return settings
    try:
        store = json.loads((settings.data_dir / "fleet.json").read_text())["store"]
        url = store["url"]
        if store.get("kind") == EXTERNAL:  # its address stands there without the password
            return settings
    except (OSError, ValueError, KeyError, TypeError):
        return settings
    return settings.model_copy(update={"redis_url": url})


async def examine(settings: Settings) -> list[Finding]:
    """Return everything that was found: the settings, Redis, and each gateway of `THREADLINE_URL`."""
    redis = await check_redis(settings)
    gateways = await asyncio.gather(*(check_gateway(url) for url in settings.url))
    return [*check_settings(settings), *redis, *gateways]


def check_settings(settings: Settings) -> list[Finding]:
    """Judge the settings by themselves."""
    timing = _timing(settings)
    try:
        auth.check(settings)
    except Misconfigured as error:
        return [Finding("who may", False, str(error), "see docs/settings.md"), timing]
    if auth.is_open(settings):
        return [Finding("who may", True, "open: no key is configured, so only this machine may connect"), timing]
    return [Finding("who may", True, "tokens are checked"), timing]


def _timing(settings: Settings) -> Finding:
    # Two heartbeats may be lost or late before a living worker's turn is taken from it.
    ok = settings.heartbeat * 3 <= settings.lease
    return Finding(
        "lease",
        ok,
        f"a worker is given up after {settings.lease:g} s, and reports every {settings.heartbeat:g} s",
        "" if ok else "set THREADLINE_LEASE to at least three times THREADLINE_HEARTBEAT",
    )


async def check_gateway(url: str) -> Finding:
    """Ask a gateway whether it is ready."""
    name = f"gateway {url}"
    try:
        gateway_url.check(url)
        async with httpx.AsyncClient(timeout=READY_TIMEOUT, trust_env=False) as client:
            answer = await client.get(f"{url.strip().rstrip('/')}/readyz")
    except Misconfigured as error:
        return Finding(name, False, error.message, "correct it, and ask again")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = str(error) or type(error).__name__
        return Finding(name, False, f"does not answer: {why}", "start it, or set THREADLINE_URL to where it is")
    if answer.status_code == httpx.codes.OK:
        return Finding(name, True, "is ready")
    return Finding(
        name,
        False,
        f"is not ready ({answer.status_code}): {answer.text[:200]}",
        "see its log; it takes no new clients until it hears Redis",
    )


def report(findings: Iterable[Finding], out: TextIO, *, as_json: bool = False) -> bool:
    """Print the findings, as lines for people or one JSON object each; return whether nothing has failed."""
    well = True
    for finding in findings:
        well = well and finding.ok
        if as_json:
            fields = {"name": finding.name, "level": finding.level.lower(), "text": finding.text}
            out.write(json.dumps(fields | {"advice": finding.advice}) + "\n")
            continue
        out.write(printable(f"{finding.level:<4}  {finding.name}: {finding.text}") + "\n")
        if finding.advice:
            out.write(printable(f"      -> {finding.advice}") + "\n")
    return well
