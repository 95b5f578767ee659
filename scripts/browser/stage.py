"""A fleet on this machine and a Chromium that looks at it: what the pictures and the measurements share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from tests.fleet.fleet import Fleet


@asynccontextmanager
async def stage(gateways: int, workers: int) -> AsyncIterator[tuple[Fleet, Browser]]:
    """Start both, with the product's own settings, and end them."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("expected chromium on the PATH, found none; install it: apt-get install chromium")
    settings = {"plugs": "1", "lease": 2.5, "heartbeat": 0.7, "recover_interval": 0.25, "poll_interval": 1.0}
    with tempfile.TemporaryDirectory() as folder:
        async with (
            Fleet(Path(folder), gateways, workers, settings) as fleet,
            async_playwright() as playwright,
            await playwright.chromium.launch(executable_path=program, args=["--disable-gpu"]) as browser,
        ):
            yield fleet, browser
