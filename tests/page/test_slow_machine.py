"""What a person meets on a slow machine, or on a bad line: they act before the page has caught up with itself.

No hand is as quick as these tests, but a busy browser is as slow: an act comes in the same moment as what was drawn
for the one before it, and before anything that the page does later (`drawn`).
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from gateway.auth import mint
from tests.fleet.fleet import Fleet
from tests.page.conftest import SECRET, Tab, locked

LAST = ".message.assistant .markdown"
STOP = "Stop the answer"
HANDS = """
(() => {
  window.drawn = async () => { for (let n = 0; n < 5; n += 1) await null };
  window.frames = async () => { for (let n = 0; n < 3; n += 1) await new Promise(requestAnimationFrame) };
  window.press = (key, more = {}) => {
    const pressed = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more });
    document.activeElement.dispatchEvent(pressed);
  };
})();
"""
"""`drawn`: what the last event changed is drawn, and no more. `frames`: and so is what frames and effects bring."""

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]


async def opened(tab: Tab, url: str) -> None:
    await tab.page.add_init_script(HANDS)
    await tab.open(url)


async def counted(tab: Tab) -> None:
    """Have a thread with an answer, and its row in the list."""
    await tab.say("count to 2")
    await expect(tab.page.locator(LAST)).to_have_text(["1, 2."])
    await expect(tab.page.locator(".thread.chosen")).to_be_visible()


async def left(tab: Tab) -> None:
    """Look at a new thread, with the other one in the list."""
    await tab.page.get_by_role("button", name="New thread").click()
    await expect(tab.page.locator(".thread.chosen")).to_have_count(0)


async def test_a_tap_on_what_is_shown_already_closes_the_list_of_threads(tab: Tab, fleet: Fleet) -> None:
    """On a phone the list lies over the conversation, and leads back to it as it leads elsewhere."""
    await opened(tab, fleet.urls[0])
    await counted(tab)
    await tab.page.set_viewport_size({"width": 360, "height": 740})
    listed = tab.page.locator(".with-drawer")
    menu = tab.page.locator("button.menu")
    await menu.click()
    await expect(listed).to_have_count(1)
    await tab.page.locator(".thread.chosen a").click()
    await expect(listed).to_have_count(0)
    for _ in range(2):
        await menu.click()
        await tab.page.get_by_role("link", name="Operations").click()
        await expect(tab.page.get_by_role("heading", name="Operations")).to_be_visible()
        await expect(listed).to_have_count(0)
    await menu.click()
    await tab.page.locator(".thread a").first.click()
    await expect(listed).to_have_count(0)
    await menu.click()
    await tab.page.get_by_role("button", name="Find a thread").click()
    await tab.page.get_by_role("option", name="count to 2").first.click()
    await expect(listed).to_have_count(0)
    assert tab.problems == []


async def test_a_list_that_is_opened_as_soon_as_a_thread_is_drawn_stays_open(tab: Tab, fleet: Fleet) -> None:
    await opened(tab, fleet.urls[0])
    await counted(tab)
    await left(tab)
    stays = await tab.page.evaluate(
        """async () => {
          document.querySelector(".thread a").click();
          await drawn();
          document.querySelector("button.menu").click();
          await frames();
          return document.querySelector(".with-drawer") !== null;
        }"""
    )
    assert stays


async def test_keys_go_to_what_was_opened_as_soon_as_it_is_drawn(tab: Tab, fleet: Fleet) -> None:
    """Else a title that is looked for would be sent as a message."""
    await opened(tab, fleet.urls[0])
    await counted(tab)
    await left(tab)
    focused = await tab.page.evaluate(
        """async () => {
          const said = [];
          document.querySelector(".thread a").click();
          document.activeElement.blur();
          await drawn();
          said.push(document.activeElement.ariaLabel);
          press("k", { ctrlKey: true });
          await drawn();
          said.push(document.activeElement.role);
          return said;
        }"""
    )
    assert focused == ["Message", "combobox"]
    await tab.page.get_by_role("combobox").fill("count to 2")
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.get_by_role("dialog")).to_have_count(0)
    await expect(tab.page.get_by_role("textbox", name="Message")).to_be_focused()
    await expect(tab.page.get_by_role("textbox", name="Message")).to_have_value("")  # nor is the Enter written there


async def test_escape_stops_the_answer_whose_stop_is_drawn(tab: Tab, fleet: Fleet) -> None:
    await opened(tab, fleet.urls[0])
    await counted(tab)
    await tab.page.evaluate(
        """() => new MutationObserver((_, watch) => {
          if (!document.querySelector(".stop")) return;
          watch.disconnect();
          press("Escape");
        }).observe(document.body, { childList: true, subtree: true })"""
    )
    await tab.say("sleep 60")
    await expect(tab.page.locator(".notice")).to_contain_text("Stopped")
    await expect(tab.page.get_by_label(STOP)).to_have_count(0)


async def test_two_taps_on_a_suggestion_say_it_once(tab: Tab, fleet: Fleet) -> None:
    await opened(tab, fleet.urls[0])
    said = await tab.page.evaluate(
        """async () => {
          const suggestion = document.querySelectorAll(".welcome li button")[2];
          suggestion.click();
          await drawn();
          suggestion.click();
          await frames();
          return document.querySelectorAll(".message.user").length;
        }"""
    )
    assert said == 1
    await expect(tab.page.locator(LAST).last).to_contain_text("84")
    await expect(tab.page.locator(".message.user")).to_have_count(1)


async def test_a_second_enter_deletes_no_thread(tab: Tab, fleet: Fleet) -> None:
    """A key that is held repeats itself, and nothing brings a thread back."""
    await opened(tab, fleet.urls[0])
    await counted(tab)
    await tab.page.locator(".thread.chosen").get_by_label("Delete").focus()
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.get_by_role("dialog")).to_be_visible()
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.get_by_role("dialog")).to_have_count(0)
    await tab.page.get_by_role("textbox", name="Message").focus()
    await tab.say("count to 3")
    await expect(tab.page.locator(LAST)).to_have_text(["1, 2.", "1, 2, 3."])


async def test_what_is_given_back_stands_before_what_was_written_meanwhile(tab: Tab, fleet: Fleet) -> None:
    await opened(tab, fleet.urls[0])
    for gateway in fleet.gateways:
        await gateway.kill()
    await expect(tab.page.get_by_text("No gateway can be reached")).to_be_visible()
    await tab.say("the first one")
    await tab.say("the second one")
    written = tab.page.get_by_role("textbox", name="Message")
    await written.fill("half a")
    back = tab.page.get_by_role("button", name="Take back")
    await back.first.click()
    await expect(written).to_have_value("the first one\n\nhalf a")
    await expect(back).to_have_count(1)
    await back.click()
    await expect(written).to_have_value("the first one\n\nthe second one\n\nhalf a")
    await expect(back).to_have_count(0)


async def test_try_now_leaves_no_gateway_that_was_reached_meanwhile(tab: Tab, fleet: Fleet) -> None:
    await opened(tab, fleet.urls[0])
    for gateway in fleet.gateways:
        await gateway.kill()
    await expect(tab.page.get_by_role("button", name="Try now")).to_be_visible()
    await tab.page.evaluate(
        """() => {
          window.went = [];
          new MutationObserver(() => {
            const { connection } = document.documentElement.dataset;
            if (went.length > 0 || connection === "connected") went.push(connection);
            if (went.length === 1) document.querySelector(".banner button").click();
          }).observe(document.documentElement, { attributeFilter: ["data-connection"] });
        }"""
    )
    await fleet.heal()
    await counted(tab)
    assert set(await tab.page.evaluate("went")) == {"connected"}


async def test_only_a_person_who_scrolls_back_is_not_taken_to_the_newest(tab: Tab, fleet: Fleet) -> None:
    """The page tells of its own scrolling a frame later: by then there may be more to see, or less room for it."""
    await tab.page.set_viewport_size({"width": 700, "height": 500})
    await opened(tab, fleet.urls[0])
    await tab.say("say 300 words fast")
    await expect(tab.page.locator(LAST)).to_contain_text("meadow-300")
    await expect(tab.page.get_by_label(STOP)).to_have_count(0)
    await tab.page.evaluate("frames()")
    behind = await tab.page.evaluate(
        """async () => {
          const frame = document.querySelector(".scroll");
          document.querySelector(".composer textarea").style.height = "220px";
          frame.dispatchEvent(new Event("scroll")); // of the scrolling that came before
          await frames();
          return frame.scrollHeight - frame.scrollTop - frame.clientHeight;
        }"""
    )
    assert behind < 2
    newest = tab.page.get_by_label("Go to the newest")
    await expect(newest).to_have_count(0)
    await tab.page.locator(".scroll").hover()
    await tab.page.mouse.wheel(0, -400)
    await expect(newest).to_be_visible()
    await newest.click()
    await expect(newest).to_have_count(0)


def ended(token: str) -> str:
    """Return such a token as it was long ago: of the same person, and refused."""
    head, body, proof = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    aged = base64.urlsafe_b64encode(json.dumps(claims | {"exp": 1, "iat": 0}).encode()).decode().rstrip("=")
    return f"{head}.{aged}.{proof}"


async def test_a_token_that_ends_while_somebody_writes_takes_nothing_away(browser: Browser, tmp_path: Path) -> None:
    """Nor does the next person see what they wrote."""
    async with locked(browser, tmp_path) as (fleet, tab):
        given = tab.page.get_by_label("Token")
        written = tab.page.get_by_role("textbox", name="Message")
        await tab.page.keyboard.press("Enter")
        await counted(tab)
        for person, kept in (("ada", "half a"), ("bob", "")):
            await written.fill("half a")
            await tab.page.evaluate(
                "(token) => sessionStorage.setItem('threadline.token', token)", ended(mint(SECRET, "ada", 600))
            )
            await fleet.gateways[0].kill()
            await fleet.heal()
            await expect(given).to_be_visible()
            await given.fill(mint(SECRET, person, 600))
            await tab.page.keyboard.press("Enter")
            await expect(tab.page.locator(".where.connected")).to_be_attached()
            await expect(written).to_have_value(kept)
            await expect(tab.page.locator(LAST)).to_have_count(1 if kept else 0)
        await tab.say("count to 3")
        await expect(tab.page.locator(".notice")).to_contain_text("no longer there")  # the thread is Ada's
