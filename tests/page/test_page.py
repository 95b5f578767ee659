"""The page in a real browser, with real gateways, and with what breaks under it."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.fleet.fleet import Fleet
from tests.page.agent import HELD
from tests.page.conftest import Tab, locked

COUNTED = ("river", "stone", "cloud", "maple", "ember", "harbor", "willow", "comet", "lantern", "meadow")
LAST = ".message.assistant .markdown"
STOP = "Stop the answer"

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]


def counted(number: int) -> str:
    return " ".join(f"{COUNTED[n % len(COUNTED)]}-{n + 1}" for n in range(number))


async def test_an_answer_whose_gateway_is_killed_is_complete_and_not_doubled(tab: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    await tab.say("say 120 words")
    await expect(tab.page.locator(LAST).last).to_contain_text("willow-27")
    await fleet.gateways[0].kill()
    await expect(tab.page.locator(tab.node)).to_have_text(fleet.urls[1].removeprefix("http://"))
    await expect(tab.page.get_by_label(STOP)).to_have_count(0)
    await tab.says(counted(120))
    await expect(tab.page.locator(".message.user")).to_have_count(1)


async def test_a_killed_worker_is_told_and_the_answer_is_whole(tab: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    await tab.say(f"{HELD}say 60 words")
    await expect(tab.page.locator(LAST).last).to_contain_text("willow-7")
    thread_id = await tab.thread_id()
    request_id = await fleet.running(thread_id)
    assert request_id is not None
    await (await fleet.owner(thread_id, request_id)).kill()
    await expect(tab.page.get_by_text("Another took the answer over")).to_be_visible()
    await expect(tab.page.get_by_label(STOP)).to_have_count(0)
    await tab.says(counted(60))


async def test_another_tab_at_another_gateway_stops_the_answer(tab: Tab, second: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    await tab.say("say 500 words slowly")
    await expect(tab.page.locator(LAST).last).to_contain_text("stone-2")
    await second.open(fleet.urls[1], await tab.thread_id())
    await expect(second.page.locator(LAST).last).to_contain_text("stone-2")
    await expect(second.page.locator(".here")).to_contain_text(re.compile("1 other here.*worker-"))
    await second.page.keyboard.press("Escape")
    await expect(
        second.page.get_by_text(re.compile("Stopped .* after you asked: the agent ended by itself"))
    ).to_be_visible()
    for one in (tab, second):
        await expect(one.page.locator(".message.interrupted .why")).to_have_text("Stopped")
        await expect(one.page.get_by_label(STOP)).to_have_count(0)
    assert tab.problems == second.problems == []


async def test_another_tab_approves_what_the_agent_asks(tab: Tab, second: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    await tab.say("order three cups of tea")
    await expect(tab.page.get_by_role("group", name="The agent wants to run order")).to_contain_text(
        "three cups of tea"
    )
    await second.open(fleet.urls[1], await tab.thread_id())
    await second.page.get_by_role("button", name="Approve").click()
    for one in (tab, second):
        await expect(one.page.locator(LAST).last).to_contain_text("I have ordered three cups of tea")
        await expect(one.page.get_by_role("button", name="Approve")).to_have_count(0)
    assert tab.problems == second.problems == []


async def test_a_question_is_answered_by_its_options(tab: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    await tab.say("ask me about rivers")
    await tab.page.get_by_role("button", name="yes", exact=True).click()
    await expect(tab.page.locator(LAST).last).to_have_text("You said yes.")
    assert tab.problems == []


async def test_a_page_that_is_reloaded_in_mid_turn_goes_on(tab: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    await tab.say("say 80 words")
    await expect(tab.page.locator(LAST).last).to_contain_text("willow-17")
    await tab.page.reload()
    await expect(tab.page.locator(LAST).last).to_contain_text("willow-17")
    await expect(tab.page.get_by_label(STOP)).to_have_count(0)
    await tab.says(counted(80))
    assert tab.problems == []


async def test_what_is_written_without_a_gateway_is_sent_once_when_one_is_back(tab: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    await tab.say("my name is Ada")
    await expect(tab.page.locator(LAST).last).to_contain_text("Nice to meet you")
    for gateway in fleet.gateways:
        await gateway.kill()
    await expect(tab.page.get_by_text("No gateway can be reached")).to_be_visible()
    await tab.say("what is my name?")
    await expect(tab.page.get_by_text("Waits for a gateway")).to_be_visible()
    await fleet.heal()
    await expect(tab.page.locator(LAST).last).to_have_text("Your name is Ada.")
    await expect(tab.page.locator(".message.user")).to_have_count(2)
    await expect(tab.page.get_by_text("No gateway can be reached")).to_have_count(0)


async def test_each_of_two_messages_that_are_written_without_a_gateway_is_answered(tab: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    await tab.say("count to 2")
    await expect(tab.page.locator(LAST).last).to_have_text("1, 2.")
    for gateway in fleet.gateways:
        await gateway.kill()
    await expect(tab.page.get_by_text("No gateway can be reached")).to_be_visible()
    await tab.say("count to 3")
    await tab.say("count to 4")
    await expect(tab.page.get_by_text("Waits for a gateway")).to_have_count(2)
    await fleet.heal()
    await expect(tab.page.locator(LAST)).to_have_text(["1, 2.", "1, 2, 3.", "1, 2, 3, 4."])


async def test_a_message_to_a_thread_that_only_seems_idle_does_not_end_what_runs(tab: Tab, fleet: Fleet) -> None:
    """Another device has begun a turn while this one heard of nothing."""
    await tab.open(fleet.urls[0])
    await tab.say("count to 2")
    await expect(tab.page.locator(LAST).last).to_have_text("1, 2.")
    thread_id = await tab.thread_id()
    fleet.gateways[0].signal(signal.SIGSTOP)
    turns = f"{fleet.urls[1]}/v1/threads/{thread_id}/turns"
    assert (await tab.page.request.post(turns, data={"message": "sleep 60"})).ok
    await tab.say("count to 3")
    await expect(tab.page.get_by_text("Sending…")).to_be_visible()
    fleet.gateways[0].signal(signal.SIGCONT)
    await expect(tab.page.locator(".pill")).to_have_text(["Nextcount to 3"])
    await expect(tab.page.locator(".tool.running")).to_be_visible()
    await tab.page.get_by_label(STOP).click()
    await expect(tab.page.locator(LAST).last).to_have_text("1, 2, 3.")


async def test_hostile_markup_is_shown_as_text_and_never_runs(tab: Tab, fleet: Fleet) -> None:
    """In what a model, a tool and a person say, in titles and previews; nothing is loaded from elsewhere."""
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    await tab.open(fleet.urls[0])
    await tab.say('hostile <img src=x onerror="window.pwned=2"> <b>bold</b>')
    answer = tab.page.locator(LAST).last
    await expect(answer).to_contain_text("end of it")
    await expect(tab.page.get_by_label(STOP)).to_have_count(0)
    for place in (0, 1):
        await tab.page.locator(".card .head").nth(place).click()
    await expect(tab.page.locator(".card .body")).to_have_count(2)

    await expect(answer).to_contain_text("""<script>window.pwned = "script"</script>""")
    await expect(answer).to_contain_text("<iframe srcdoc=")
    await expect(answer).to_contain_text("[U+202E]gnp.exe[U+202C]")
    await expect(answer.locator("pre")).to_contain_text('<script>window.pwned = "fence"</script>\n``` not the end')
    links = await answer.locator("a").evaluate_all("links => links.map(link => link.href)")
    assert links == ["https://example.com/?a=1&b=2", "https://example.org/", "https://tracker.example/pixel.png"]
    inside = tab.page.locator(".column, .threads")
    await expect(inside.locator("script, img, iframe, svg:not(.icon), b[onclick]")).to_have_count(0)
    await expect(tab.page.locator(".thread .title")).to_contain_text(["hostile <img src=x"])
    await expect(tab.page.locator(".message.user .bubble")).to_contain_text("<b>bold</b>")
    assert await tab.page.evaluate("window.pwned") is None
    assert all(url.startswith(tuple(fleet.urls)) for url in asked), asked
    assert tab.problems == []


@pytest.mark.parametrize("what", ["quotes 600", "quotes 6000", "lists 600", "words 600"])
async def test_an_answer_that_is_nested_too_deep_is_shown_as_it_stands(tab: Tab, fleet: Fleet, what: str) -> None:
    """Whether reading it, or drawing it, would need more than the stack; also when the page is loaded anew."""
    await tab.open(fleet.urls[0])
    await tab.say("count to 3")
    await expect(tab.page.locator(LAST).last).to_have_text("1, 2, 3.")
    await tab.say(f"nested {what}")
    await expect(tab.page.locator(LAST)).to_have_count(2)
    for _ in range(2):
        await expect(tab.page.get_by_label(STOP)).to_have_count(0)
        for words in ("The top.", "the bottom", "The end."):
            await expect(tab.page.locator(LAST).last).to_contain_text(words)
        await tab.page.reload()
    await tab.page.set_viewport_size({"width": 375, "height": 800})
    await expect(tab.page.locator(LAST).last).to_contain_text("The end.")
    deepest = await tab.page.locator(LAST).last.get_by_text("the bottom").bounding_box()
    assert deepest is not None
    assert deepest["width"] > 80, "there is no room for a word"
    assert deepest["x"] + deepest["width"] <= 375, "it is out of sight"
    assert tab.problems == []


async def test_messages_wait_as_pills_and_can_be_removed(tab: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    await tab.say("sleep 60")
    await expect(tab.page.locator(".tool.running")).to_be_visible()
    await tab.say("count to 3")
    await tab.page.get_by_role("radio", name="Context").click()
    await tab.say("it is raining")
    await expect(tab.page.locator(".pill")).to_have_text(["Nextcount to 3", "Contextit is raining"])
    await tab.page.get_by_label("Remove: it is raining").click()
    await expect(tab.page.locator(".pill")).to_have_text(["Nextcount to 3"])
    await tab.page.get_by_label(STOP).click()
    await expect(tab.page.locator(LAST).last).to_have_text("1, 2, 3.")
    await expect(tab.page.locator(".pill")).to_have_count(0)
    assert tab.problems == []


async def test_a_message_is_edited_and_an_answer_asked_for_again(tab: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    await tab.say("my name is Ada")
    await expect(tab.page.locator(LAST).last).to_contain_text("Nice to meet you, Ada")
    await tab.say("count to 3")
    await expect(tab.page.locator(LAST).last).to_have_text("1, 2, 3.")
    await tab.page.get_by_label("Edit", exact=True).first.click()
    await tab.page.get_by_role("textbox", name="The message").fill("my name is Eve")
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.locator(LAST)).to_have_text(
        ["Nice to meet you, Eve. I will remember your name in this conversation."]
    )
    await expect(tab.page.locator(".message.user")).to_have_count(1)
    await tab.page.get_by_label("Answer again").click()
    await expect(tab.page.locator(".message.user")).to_have_count(1)
    await expect(tab.page.locator(LAST)).to_have_count(1)
    assert tab.problems == []


async def test_an_edit_means_the_message_that_was_edited_however_many_came_behind_it(tab: Tab, fleet: Fleet) -> None:
    """What came while the tab watched has no number there; the history gives 200 messages at a time."""
    await tab.open(fleet.urls[0])
    await tab.say("my name is Ada")
    await expect(tab.page.locator(LAST).last).to_contain_text("Nice to meet you, Ada")
    turns = f"{fleet.urls[0]}/v1/threads/{await tab.thread_id()}/turns"
    for number in range(201):
        started = await tab.page.request.post(turns, data={"message": f"sleep {number}"})
        assert started.ok
    said = tab.page.locator(".message.user .bubble")
    await expect(said.last).to_have_text("sleep 200")
    await expect(said).to_have_count(202)
    await tab.page.get_by_label("Edit", exact=True).first.click()
    await tab.page.get_by_role("textbox", name="The message").fill("my name is Eve")
    await tab.page.keyboard.press("Enter")
    await expect(said).to_have_text(["my name is Eve"])
    await expect(tab.page.locator(LAST).last).to_contain_text("Nice to meet you, Eve")
    assert tab.problems == []


async def test_a_message_that_the_history_does_not_have_any_more_is_not_edited(tab: Tab, fleet: Fleet) -> None:
    """A session keeps a number of messages alone, and a tab may show more: no other message is meant then."""
    await tab.open(fleet.urls[0])
    await tab.say("my name is Ada")
    await expect(tab.page.locator(LAST).last).to_contain_text("Nice to meet you, Ada")
    await tab.say("count to 3")
    await expect(tab.page.locator(LAST).last).to_have_text("1, 2, 3.")
    session = fleet.keys(await tab.thread_id()).session
    await fleet.redis.xtrim(session, maxlen=2, approximate=False)
    await tab.page.get_by_label("Answer again").first.click()
    await expect(tab.page.get_by_text("The conversation has gone on meanwhile")).to_be_visible()
    await tab.page.get_by_label("Edit", exact=True).first.click()
    await tab.page.get_by_role("textbox", name="The message").fill("my name is Eve")
    await tab.page.keyboard.press("Enter")
    # what was written is not lost with it
    await expect(tab.page.get_by_role("textbox", name="Message", exact=True)).to_have_value("my name is Eve")
    await expect(tab.page.locator(".message.user .bubble")).to_have_text(["my name is Ada", "count to 3"])
    await expect(tab.page.locator(LAST).last).to_have_text("1, 2, 3.")
    assert tab.problems == []


async def test_threads_are_found_renamed_and_deleted(tab: Tab, second: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    await tab.say("count to 2")
    await expect(tab.page.locator(LAST).last).to_have_text("1, 2.")
    mine = tab.page.locator(".thread.chosen")
    await mine.hover()
    await mine.get_by_label("Rename").click()
    await tab.page.get_by_label("Title of the thread").fill("Small numbers")
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.get_by_role("heading", name="Small numbers")).to_be_visible()

    await second.open(fleet.urls[1])
    await second.page.locator(".thread", has_text="Small numbers").wait_for()
    await second.page.keyboard.press("Control+k")
    await second.page.get_by_role("combobox").fill("small numb")
    await second.page.keyboard.press("Enter")
    await expect(second.page.locator(LAST).last).to_have_text("1, 2.")

    await mine.hover()
    await mine.get_by_label("Delete").click()
    await tab.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(tab.page.get_by_text("What is on your mind?")).to_be_visible()
    await expect(second.page.get_by_text("What is on your mind?")).to_be_visible()  # it watched
    await expect(tab.page.locator(".thread", has_text="Small numbers")).to_have_count(0)
    assert tab.problems == second.problems == []


async def test_a_title_that_is_being_typed_outlives_whatever_the_page_hears_meanwhile(tab: Tab, fleet: Fleet) -> None:
    """Its thread is begun elsewhere, so that it moves to the top of the list, and another gets another title."""
    await tab.open(fleet.urls[0])
    rows = []
    for message in ("count to 2", "count to 3", "count to 4"):
        await tab.page.get_by_role("button", name="New thread").click()
        await tab.say(message)
        await expect(tab.page.locator(LAST)).to_have_count(1)
        await expect(tab.page.locator(".thread.chosen .title")).to_have_text(message)
        rows.append(await tab.thread_id())
    mine = tab.page.locator(".thread", has=tab.page.locator(f'[href="#thread/{rows[0]}"]'))
    await mine.hover()
    await mine.get_by_label("Rename").click()
    title = tab.page.get_by_label("Title of the thread")
    await title.fill("Half a ti")
    first, _, last = (f"{fleet.urls[1]}/v1/threads/{one}" for one in rows)
    assert (await tab.page.request.post(f"{first}/turns", data={"message": "count to 5"})).ok
    assert (await tab.page.request.patch(last, data={"title": "Four"})).ok
    await expect(tab.page.get_by_role("heading", name="Four")).to_be_visible()
    await expect(title).to_have_value("Half a ti")
    await expect(title).to_be_focused()
    await title.press("Escape")
    await expect(tab.page.locator(".thread .title").first).to_have_text("count to 2")
    await expect(title).to_have_count(0)
    assert tab.problems == []


async def test_the_enter_of_an_input_method_neither_renames_nor_chooses(tab: Tab, fleet: Fleet) -> None:
    """It takes the word that the input method offers; the next one is the person's own."""
    await tab.open(fleet.urls[0])
    await tab.say("count to 2")
    await expect(tab.page.locator(LAST).last).to_have_text("1, 2.")
    method = await tab.page.context.new_cdp_session(tab.page)
    offered = {"text": "日", "selectionStart": 1, "selectionEnd": 1}
    mine = tab.page.locator(".thread.chosen")
    await mine.hover()
    await mine.get_by_label("Rename").click()
    title = tab.page.get_by_label("Title of the thread")
    await title.fill("")
    await method.send("Input.imeSetComposition", offered)
    await tab.page.keyboard.press("Enter")
    await expect(title).to_have_value("日")
    await method.send("Input.insertText", {"text": "日本"})
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.get_by_role("heading", name="日本")).to_be_visible()

    await tab.page.keyboard.press("Control+k")
    words = tab.page.get_by_role("combobox")
    await expect(words).to_be_focused()
    await method.send("Input.imeSetComposition", offered)
    await expect(tab.page.get_by_role("option")).to_have_text([re.compile("日本")])
    await tab.page.keyboard.press("Enter")
    await expect(words).to_have_value("日")
    await method.send("Input.insertText", {"text": "日本"})
    await expect(words).to_have_value("日本")
    await expect(tab.page.get_by_role("option")).to_have_text([re.compile("日本")])
    await tab.page.keyboard.press("Enter")
    await expect(words).to_have_count(0)
    await expect(tab.page.locator(LAST).last).to_have_text("1, 2.")
    assert tab.problems == []


async def test_a_late_acknowledgement_leaves_the_person_where_they_are(tab: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    await tab.say("count to 2")
    await expect(tab.page.locator(LAST).last).to_have_text("1, 2.")
    first = await tab.thread_id()
    await tab.page.get_by_role("button", name="New thread").click()
    for gateway in fleet.gateways:
        await gateway.kill()
    await expect(tab.page.get_by_text("No gateway can be reached")).to_be_visible()
    await tab.say("count to 3, please")
    await expect(tab.page.get_by_text("Waits for a gateway")).to_be_visible()
    await tab.page.locator(f'.thread [href="#thread/{first}"]').click()
    written = tab.page.get_by_role("textbox", name="Message")
    await expect(tab.page.locator(LAST).last).to_have_text("1, 2.")
    await written.fill("half a")
    await fleet.heal()
    answered = tab.page.locator(".thread", has_text="count to 3, please").get_by_role("link", name="1, 2, 3.")
    await expect(answered).to_be_visible()
    assert await tab.thread_id() == first
    await expect(written).to_have_value("half a")
    await answered.click()
    await expect(tab.page.locator(LAST)).to_have_text(["1, 2, 3."])
    await tab.page.go_back()
    await expect(tab.page.locator(LAST)).to_have_text(["1, 2."])


async def test_what_is_written_in_a_thread_stays_there_while_another_is_looked_at(tab: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    written = tab.page.get_by_role("textbox", name="Message")
    await tab.say("count to 2")
    await expect(tab.page.locator(LAST).last).to_have_text("1, 2.")
    first = tab.page.locator(f'.thread [href="#thread/{await tab.thread_id()}"]')
    await written.fill("half of the first")
    await tab.page.get_by_role("button", name="New thread").click()
    await expect(written).to_have_value("")
    await written.fill("half of a new one")
    await first.click()
    await expect(written).to_have_value("half of the first")
    await tab.page.get_by_role("link", name="Operations").click()
    await expect(tab.page.get_by_role("heading", name="Operations")).to_be_visible()
    await first.click()
    await expect(written).to_have_value("half of the first")
    await tab.page.get_by_role("button", name="New thread").click()
    await expect(written).to_have_value("half of a new one")
    assert tab.problems == []


async def test_a_message_that_is_refused_after_its_thread_was_left_is_written_there_still(
    tab: Tab, fleet: Fleet
) -> None:
    long = "long " * 60_000  # more than max_message_bytes
    await tab.open(fleet.urls[0])
    written = tab.page.get_by_role("textbox", name="Message")
    await tab.say("count to 2")
    await expect(tab.page.locator(LAST).last).to_have_text("1, 2.")
    first = tab.page.locator(f'.thread [href="#thread/{await tab.thread_id()}"]')
    for gateway in fleet.gateways:
        await gateway.kill()
    await tab.say(long)
    await expect(tab.page.get_by_text("Waits for a gateway")).to_be_visible()
    await tab.page.get_by_role("button", name="New thread").click()
    await expect(written).to_have_value("")
    await fleet.heal()
    await expect(tab.page.get_by_text("This message is too long.")).to_be_visible()
    await first.click()
    await expect(written).to_have_value(long.strip())


WRITE = """
async (text) => {
  await null, await null; // what the last event changed is drawn in between
  const written = document.querySelector('textarea[aria-label="Message"]');
  written.value = text;
  written.dispatchEvent(new InputEvent("input", { bubbles: true }));
}
"""
"""Writes a message in the same moment as what is done before it: no hand is as quick, but a busy browser is as slow."""


async def test_what_is_written_at_once_belongs_to_the_thread_that_was_chosen(tab: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    await tab.say("count to 2")
    await expect(tab.page.locator(LAST)).to_have_text(["1, 2."])
    await tab.thread_id()
    chosen = tab.page.locator(".thread.chosen")
    await expect(chosen).to_be_visible()
    await tab.page.get_by_role("button", name="New thread").click()
    await expect(chosen).to_have_count(0)
    await tab.page.evaluate(f"() => {{ document.querySelector('.thread a').click(); return ({WRITE})('half a') }}")
    await expect(chosen).to_have_count(1)
    await expect(tab.page.get_by_role("textbox", name="Message")).to_have_value("half a")
    await tab.page.get_by_role("button", name="New thread").click()
    await expect(tab.page.get_by_role("textbox", name="Message")).to_have_value("")


async def test_a_message_as_soon_as_the_page_is_drawn_leads_to_its_thread(browser: Browser, tmp_path: Path) -> None:
    async with locked(browser, tmp_path) as (_, tab):
        await tab.page.evaluate(
            f"""async () => {{
              document.querySelector("form").requestSubmit();
              await ({WRITE})("count to 2");
              document.querySelector(".composer").requestSubmit();
            }}"""
        )
        await expect(tab.page.locator(LAST)).to_have_text(["1, 2."])


async def test_a_thread_that_is_deleted_late_takes_nobody_out_of_another(tab: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    ids = []
    for message in ("count to 2", "count to 3"):
        await tab.page.get_by_role("button", name="New thread").click()
        await tab.say(message)
        await expect(tab.page.locator(LAST)).to_have_count(1)
        await expect(tab.page.get_by_label(STOP)).to_have_count(0)
        ids.append(await tab.thread_id())
        await expect(tab.page.locator(".thread.chosen")).to_be_visible()
    left, last = (tab.page.locator(".thread", has=tab.page.locator(f'[href="#thread/{one}"]')) for one in ids)
    await last.hover()
    await last.get_by_label("Delete").click()
    fleet.gateways[0].signal(signal.SIGSTOP)
    await tab.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await left.get_by_role("link").click()
    await tab.page.get_by_role("textbox", name="Message").fill("half a")
    fleet.gateways[0].signal(signal.SIGCONT)
    await expect(last).to_have_count(0)
    await expect(tab.page.locator(LAST)).to_have_text(["1, 2."])
    await expect(tab.page.get_by_role("textbox", name="Message")).to_have_value("half a")
    assert await tab.thread_id() == ids[0]


async def test_every_plug_may_be_pulled_and_the_answer_goes_on(tab: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    await tab.say(f"{HELD}say 100 words")
    await tab.page.get_by_role("button", name="Pull a plug", exact=True).click()
    diary = tab.page.locator(".diary")
    went_on = diary.get_by_text("nothing missing")
    for count, plug in enumerate(("Drop my socket", "Move me to another node"), 1):
        await tab.page.get_by_role("button", name=plug).click()
        await expect(went_on).to_have_count(count)
    await tab.page.get_by_role("button", name="Kill this turn").click()
    await expect(diary.get_by_text("another took the turn over")).to_be_visible()
    await tab.page.get_by_role("button", name="Kill my node").click()
    await expect(went_on).to_have_count(3)
    await expect(tab.page.get_by_label(STOP)).to_have_count(0)
    await tab.says(counted(100))


async def test_the_fleet_is_drawn_with_what_it_does(tab: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    await tab.say("say 400 words slowly")
    await expect(tab.page.locator(LAST).last).to_contain_text("stone-2")
    thread_id = await tab.thread_id()
    await tab.page.get_by_role("link", name="Operations").click()
    await expect(tab.page.get_by_role("img", name="2 gateways, 0 of them deaf")).to_be_visible()
    mine = f'[href="#thread/{thread_id}"]'
    await expect(tab.page.locator(".member .slot.taken").first).to_be_visible()
    await expect(tab.page.locator(f".bar.running{mine}")).to_have_count(1)
    await expect(tab.page.locator(f".fuse{mine}")).to_have_count(1)
    request_id = await fleet.running(thread_id)
    assert request_id is not None
    (await fleet.owner(thread_id, request_id)).signal(signal.SIGKILL)
    await expect(tab.page.locator(f".bar.lost{mine}")).to_have_count(1)
    await expect(tab.page.locator(f"g:has(> .bar{mine}) > path.over")).to_have_count(1)
    (await tab.page.request.post(f"{fleet.urls[0]}/v1/threads/{thread_id}/cancel")).ok  # noqa: B018  leaves nothing running
    assert tab.problems == []


async def test_enter_sends_what_was_typed_though_it_is_not_drawn_yet(tab: Tab, fleet: Fleet) -> None:
    await tab.open(fleet.urls[0])
    await tab.page.get_by_role("textbox", name="Message").evaluate(
        """(area) => {
            area.value = "count to 2";
            area.dispatchEvent(new Event("input", { bubbles: true }));
            area.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true }));
        }"""
    )
    await expect(tab.page.locator(LAST)).to_have_text("1, 2.")


async def test_a_gateway_with_a_key_asks_for_a_token_and_the_tab_forgets_it(browser: Browser, tmp_path: Path) -> None:
    async with locked(browser, tmp_path) as (fleet, tab):
        await tab.page.keyboard.press("Enter")
        await tab.say("count to 2")
        await expect(tab.page.locator(LAST).last).to_have_text("1, 2.")
        assert await tab.page.evaluate("localStorage.length") == 0
        other = await tab.page.context.new_page()
        await other.goto(fleet.urls[0])
        await expect(other.get_by_label("Token")).to_be_visible()
