"""Takes the pictures of docs/images: chat and operations, light and dark, wide and on a phone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import httpx
from playwright.async_api import Page, ViewportSize, expect

from scripts.browser.stage import stage
from tests.fleet.fleet import Fleet

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDE: ViewportSize = {"width": 1280, "height": 800}
TALL: ViewportSize = {"width": 1280, "height": 960}
PHONE: ViewportSize = {"width": 390, "height": 780}
LAST = ".message.assistant .markdown"
Scheme = Literal["light", "dark"]


async def say(page: Page, text: str) -> None:
    """Send a message."""
    await page.get_by_role("textbox", name="Message").fill(text)
    await page.keyboard.press("Enter")


async def done(page: Page) -> None:
    """Wait until nothing runs."""
    await expect(page.get_by_label("Stop the answer")).to_have_count(0, timeout=60_000)


async def earlier(url: str) -> None:
    """Leave some threads behind, so that the list is one."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        for name, title, message in (
            ("rivers", "Rivers, and how they find the sea", "think about rivers"),
            ("reckoning", "What the tea will cost", "what is 12 * (3 + 4)?"),
            ("berlin", "Calling Berlin", "what time is it in Europe/Berlin?"),
            ("lighthouse", "The keeper of the light", "tell me a story fast"),
        ):
            await http.post(f"/v1/threads/{name}/turns", json={"message": message})
            await http.patch(f"/v1/threads/{name}", json={"title": title})


async def talk(page: Page, url: str) -> None:
    """Have a conversation that shows thinking, a tool, a question before an act, and what waits."""
    await page.goto(url)
    await say(page, "think about tea for three")
    await done(page)
    await say(page, "what is 3 * 17 / 2?")
    await done(page)
    await say(page, "order three cups of tea")
    await expect(page.get_by_role("button", name="Approve")).to_be_visible()
    await say(page, "what did I say first?")
    await page.get_by_role("radio", name="Steer").click()
    await say(page, "make one of them green")
    await expect(page.locator(".pill")).to_have_count(2)
    await page.get_by_role("radio", name="Next").click()
    await expect(page.locator(".thread.chosen")).to_be_visible()


async def pull(page: Page, url: str) -> None:
    """Ask for a long answer and pull every plug."""
    await page.goto(f"{url}/#")
    await page.get_by_role("button", name="New thread").click()
    await say(page, "tell me a long story")
    await page.get_by_role("button", name="Pull a plug", exact=True).click()
    for plug, told in (
        ("Drop my socket", "nothing missing"),
        ("Move me to another node", "nothing missing"),
        ("Kill this turn", "another took the turn over"),
        ("Kill my node", "nothing missing"),
    ):
        before = await page.locator(".diary").get_by_text(told).count()
        await page.get_by_role("button", name=plug).click()
        await expect(page.locator(".diary").get_by_text(told)).to_have_count(before + 1, timeout=20_000)


async def busy(fleet: Fleet) -> None:
    """Give the fleet something to do, some of it stopped, some of it taken over."""
    async with httpx.AsyncClient(base_url=fleet.urls[1], trust_env=False) as http:
        for number in range(14):
            pace = {"delay_ms": 60 + 25 * (number % 5)}
            body = {"message": f"say {50 + 45 * number} words", "metadata": pace}
            await http.post(f"/v1/threads/load-{number}/turns", json=body)
            await asyncio.sleep(0.4)
        await fleet.workers[0].kill()
        await asyncio.sleep(2)
        for number in (5, 9):
            await http.post(f"/v1/threads/load-{number}/cancel", json={})
        await http.post("/v1/threads/load-bad/turns", json={"message": "fail after 9 words"})


async def taken(page: Page, name: str) -> None:
    """Take a picture."""
    await page.mouse.move(0, 0)
    await page.evaluate("document.activeElement.blur()")
    await page.screenshot(path=IMAGES / f"{name}.png", animations="disabled")


async def main() -> None:
    """Take all pictures."""
    IMAGES.mkdir(exist_ok=True)
    async with stage(gateways=3, workers=3) as (fleet, browser):
        await earlier(fleet.urls[1])

        async def seen(scheme: Scheme, size: ViewportSize = WIDE) -> Page:
            context = await browser.new_context(viewport=size, color_scheme=scheme, locale="en-GB")
            return await context.new_page()

        light = await seen("light")
        await talk(light, fleet.urls[1])
        await taken(light, "chat-light")
        for name, page in (("chat-dark", await seen("dark")), ("chat-phone", await seen("dark", PHONE))):
            await page.goto(light.url)
            await expect(page.get_by_role("button", name="Approve")).to_be_visible()
            await expect(page.locator(".pill")).to_have_count(2)
            await taken(page, name)
        await pull(light, fleet.urls[1])
        await taken(light, "plugs-light")
        await fleet.heal()
        views = [("operations-light", await seen("light", TALL)), ("operations-dark", await seen("dark", TALL))]
        views.append(("operations-phone", await seen("light", PHONE)))
        for _, page in views:
            await page.goto(f"{fleet.urls[1]}/#operations")
        await busy(fleet)
        await views[0][1].locator("path.over").first.wait_for(timeout=20_000)
        await asyncio.sleep(4)  # some more points for the curves
        for name, page in views:
            await taken(page, name)


if __name__ == "__main__":
    asyncio.run(main())
