"""A browser, and two gateways with two workers for it to speak to; each test begins with all of them well."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Error, Page, async_playwright, expect

from gateway.auth import mint
from tests.fleet.fleet import Fleet
from tests.support.skipping import unable

ROOT = Path(__file__).parents[2]
ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DEADLINE_MS = 20_000
"""Ends a hang; no step takes as long."""
expect.set_options(timeout=DEADLINE_MS)
SECRET = "a secret of these tests alone, 32 bytes or more"


class Tab:
    """A page in a browser, and what went wrong in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        page.set_default_timeout(DEADLINE_MS)
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.problems.append(str(error)))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    @property
    def defects(self) -> list[str]:
        """What went wrong, but for what the browser itself says of a gateway that is not there."""
        gone = (
            *("ERR_CONNECTION", "ERR_EMPTY_RESPONSE", "ERR_SOCKET", "WebSocket connection to", "ERR_INTERNET"),
            *("ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONTENT_LENGTH_MISMATCH"),  # in the middle of an answer
            "WebSocket is already in CLOSING or CLOSED state",  # the page has not been told yet
        )
        return [problem for problem in self.problems if not any(word in problem for word in gone)]

    async def open(self, url: str, thread_id: str | None = None) -> None:
        """Go to the page of a gateway, and wait until it is connected."""
        await self.page.goto(f"{url}/" + (f"#thread/{thread_id}" if thread_id else ""))
        await self.page.locator(".where.connected").wait_for(state="attached")

    async def say(self, text: str) -> None:
        """Write a message, and send it."""
        await self.page.get_by_role("textbox", name="Message").fill(text)
        await self.page.keyboard.press("Enter")

    async def thread_id(self) -> str:
        """Return the thread that is shown, as soon as a message of it was sent."""
        await self.page.wait_for_function("location.hash.startsWith('#thread/')")
        return str(await self.page.evaluate("location.hash")).partition("#thread/")[2]

    @property
    def node(self) -> str:
        """Selects the words that say which gateway is used."""
        return ".where"

    async def says(self, words: str) -> None:
        """Wait until the last answer is these words, and no more."""
        await expect(self.page.locator(".message.assistant .markdown").last).to_have_text(words)


async def _built() -> None:
    """Build the page, unless it is there; one test run at a time: several may run beside each other."""
    import fcntl  # not on Windows, where these tests are skipped

    with (ROOT / "page" / "package-lock.json").open() as one_at_a_time:
        await asyncio.to_thread(fcntl.flock, one_at_a_time, fcntl.LOCK_EX)
        process = await asyncio.create_subprocess_exec(
            ROOT / "scripts" / "page", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
    if process.returncode:
        unable(f"expected scripts/page to build the page, got:\n{output.decode(errors='replace')}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Start Chromium once for all tests of a file."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None or sys.platform == "win32":
        unable("expected chromium on the PATH, found none; install it (apt-get install chromium) to run these tests")
    await _built()
    async with async_playwright() as playwright:
        try:
            started = await playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        except Error as error:
            unable(f"expected {program} to start, got: {error.message}")
        yield started
        await started.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """Start two gateways and two workers once for all tests of a file."""
    # the grace of a cancel is longer than an agent takes to end by itself, as the page then says, on any machine; and
    # a browser takes so much of it that a worker may be late with its heartbeats
    settings = {"agent": "tests.page.agent:agent", "plugs": "1", "cancel_grace": 20, "lease": 3}
    async with Fleet(tmp_path_factory.mktemp("page"), gateways=2, workers=2, settings=settings) as fleet:
        yield fleet


@pytest_asyncio.fixture(loop_scope="module")
async def fleet(standing: Fleet) -> AsyncIterator[Fleet]:
    """Return the fleet; what a test has broken is whole again for the next one."""
    yield standing
    await standing.heal()


@pytest_asyncio.fixture(loop_scope="module")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """Return a browser without a past."""
    async with await browser.new_context(viewport={"width": 1200, "height": 800}) as fresh:
        yield fresh


@pytest_asyncio.fixture(loop_scope="module")
async def tab(context: BrowserContext) -> AsyncIterator[Tab]:
    """Return a tab; it must have no defect in the end."""
    opened = Tab(await context.new_page())
    yield opened
    assert opened.defects == []


@pytest_asyncio.fixture(loop_scope="module")
async def second(context: BrowserContext) -> AsyncIterator[Tab]:
    """Return another tab."""
    opened = Tab(await context.new_page())
    yield opened
    assert opened.defects == []


@asynccontextmanager
async def locked(browser: Browser, folder: Path) -> AsyncIterator[tuple[Fleet, Tab]]:
    """Run a gateway with a key, and a tab in which Ada's token is filled in and not sent yet."""
    async with (
        Fleet(folder, gateways=1, workers=1, settings={"jwt_secret": SECRET}) as fleet,
        await browser.new_context() as context,
    ):
        tab = Tab(await context.new_page())
        await tab.page.goto(fleet.urls[0])
        await tab.page.get_by_label("Token").fill(mint(SECRET, "ada", 600))
        yield fleet, tab
