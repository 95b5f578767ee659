"""Measures the page in Chromium, on this machine, with real gateways and workers.

first paint     `first-contentful-paint` of the browser's own paint timing, for a page that was never loaded before,
                from the start of the navigation
frames          the times between two calls of requestAnimationFrame while an answer of 5,000 words comes, in one
                paragraph, some 200 words a second; and the tasks that the browser reports as long (PerformanceObserver,
                `longtask`: 50 ms and more)
reconnect       a transport is dropped in mid-answer (the plug); from the moment at which the page is connected again,
                and from that at which it lost the connection, to the first frame that shows more of the answer. The
                answer goes on meanwhile
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from playwright.async_api import Browser, Page, expect

from scripts.browser.stage import stage

WORDS = 5_000
PACE_MS = 4
LOADS = 15
CUTS = 60
STEADY = 1.3
"""Seconds between two cuts: a connection that lasted for one counts as well, and the next attempt comes at once."""

WATCH_FRAMES = """() => {
  const seen = { frames: [], tasks: [], on: true };
  window.seen = seen;
  let before = performance.now();
  const frame = (now) => { seen.frames.push(now - before); before = now; if (seen.on) requestAnimationFrame(frame); };
  requestAnimationFrame((now) => { before = now; requestAnimationFrame(frame); });
  new PerformanceObserver((list) => seen.tasks.push(...list.getEntries().map((one) => one.duration)))
    .observe({ type: "longtask" });
}"""
RECONNECT = """() => new Promise((resolve) => {
  const answer = () => document.querySelector(".message.running .markdown")?.textContent.length ?? 0;
  let lost = null, connected = null, length = 0;
  const watch = new MutationObserver(() => {
    if (document.documentElement.dataset.connection === "connected") connected ??= performance.now();
    else { lost ??= performance.now(); length = answer(); }
  });
  watch.observe(document.documentElement, { attributes: true });
  const look = (now) => {
    if (lost === null || connected === null || answer() <= length) { requestAnimationFrame(look); return; }
    watch.disconnect();
    resolve({ connected: now - connected, lost: now - lost });
  };
  requestAnimationFrame(look);
})"""


def percentile(values: list[float], part: float) -> float:
    """Return the smallest value that at least this part of all does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(part * 100) * len(ordered) // 100) - 1)]


async def say(page: Page, text: str) -> None:
    """Send a message."""
    await page.get_by_role("textbox", name="Message").fill(text)
    await page.keyboard.press("Enter")


async def first_paint(browser: Browser, url: str) -> list[float]:
    """Return the milliseconds to the first contentful paint of fresh browsers."""
    paints = []
    for _ in range(LOADS):
        async with await browser.new_context() as context:
            page = await context.new_page()
            await page.goto(url)
            await page.get_by_role("textbox", name="Message").wait_for()
            script = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
            await page.wait_for_function(script)
            paints.append(float(await page.evaluate(script)))
    return paints


async def long_answer(browser: Browser, url: str) -> dict[str, Any]:
    """Return every frame and every long task of an answer."""
    async with await browser.new_context(viewport={"width": 1200, "height": 800}) as context:
        page = await context.new_page()
        await page.goto(url)
        await say(page, "hello")
        await page.wait_for_function("location.hash.startsWith('#thread/')")
        await expect(page.get_by_label("Stop the answer")).to_have_count(0)
        await page.evaluate(WATCH_FRAMES)
        body = {"message": f"say {WORDS} words", "metadata": {"delay_ms": PACE_MS}}
        thread_id = page.url.partition("#thread/")[2]
        await page.request.post(f"{url}/v1/threads/{thread_id}/turns", data=body)
        await expect(page.locator(".message.assistant .markdown").last).to_contain_text(f"-{WORDS}", timeout=120_000)
        await expect(page.get_by_label("Stop the answer")).to_have_count(0, timeout=60_000)
        await page.evaluate("window.seen.on = false")
        found: dict[str, Any] = await page.evaluate("window.seen")
        return found


async def reconnects(browser: Browser, url: str) -> list[dict[str, float]]:
    """Return the milliseconds to the first missed word on screen, from each reconnect and from each loss."""
    async with await browser.new_context() as context:
        page = await context.new_page()
        await page.goto(url)
        await say(page, "say 20000 words")
        await page.get_by_role("button", name="Pull a plug", exact=True).click()
        took = []
        for _ in range(CUTS):
            measured = asyncio.create_task(page.evaluate(RECONNECT))
            await page.get_by_role("button", name="Drop my socket").click()
            took.append(await measured)
            await asyncio.sleep(STEADY)
        await page.get_by_label("Stop the answer").click()
        return took


def told(name: str, values: list[float]) -> None:
    """Print what was measured."""
    middle, high, most = percentile(values, 0.5), percentile(values, 0.99), max(values)
    print(f"{name:<40} n {len(values):>5}   p50 {middle:7.1f}   p99 {high:7.1f}   most {most:7.1f} ms")


async def main() -> None:
    """Measure, and print."""
    async with stage(gateways=2, workers=1) as (fleet, browser):
        print(f"Chromium {browser.version}, {sys.platform}")
        told("first contentful paint", await first_paint(browser, fleet.urls[0]))
        seen = await long_answer(browser, fleet.urls[0])
        told(f"frames of an answer of {WORDS} words", seen["frames"])
        over = [frame for frame in seen["frames"] if frame > 50]
        print(f"{'frames over 50 ms':<40} {len(over)}; long tasks {[round(one) for one in seen['tasks']]}")
        took = await reconnects(browser, fleet.urls[0])
        told("connected to the first missed word", [max(0.0, one["connected"]) for one in took])
        told("connection lost to the first missed word", [one["lost"] for one in took])


if __name__ == "__main__":
    asyncio.run(main())
