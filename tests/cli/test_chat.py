"""A conversation in a terminal that is not there: what stands on the screen."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from cli.chat import Chat, Nodes, chat, node_name
from cli.screen import Screen
from tests.clients.python.scripted_gateway import Deployment, ScriptedGateway, ScriptedThread, gateways
from threadline_client import connect


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Typed:
    """Lines in a test's hand."""

    def __init__(self, *lines: str | None, interactive: bool = True) -> None:
        self.interactive = interactive
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        for line in lines:
            self.type(line)

    def type(self, line: str | None) -> None:
        self._lines.put_nowait(line)

    async def line(self) -> str | None:
        return await self._lines.get()


class Desk:
    """A chat at a terminal, its gateways, and what to wait for."""

    def __init__(self, deployment: Deployment, nodes: list[ScriptedGateway]) -> None:
        self.deployment, self.nodes = deployment, nodes
        self.terminal, self.typed = Terminal(), Typed()
        self.chat: Chat
        self.running: asyncio.Task[int]

    async def sees(self, text: str) -> str:
        """Wait until the terminal shows a text; return all that it shows."""
        while text not in self.terminal.getvalue():
            assert not self.running.done(), self.terminal.getvalue()
            await asyncio.sleep(0.01)
        return self.terminal.getvalue()

    async def started(self) -> str:
        """Wait for the first message to be taken; return its request id."""
        await self.deployment.taken.wait()
        return str(next(iter(self.deployment.answered.values()))["request_id"])


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """Return a chat in the thread `tea`, over two gateways."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    async with gateways(2) as (deployment, nodes):
        desk = Desk(deployment, nodes)
        screen = Screen(desk.terminal, io.StringIO())
        urls = [node.url for node in nodes]
        watcher = Nodes(screen, urls)
        async with connect(urls, on_change=watcher) as client:
            desk.chat = Chat(client.thread, screen, desk.typed)
            desk.running = asyncio.create_task(desk.chat.run("tea"))
            yield desk
            desk.typed.type(None)
            await desk.running
            watcher.close()


async def test_it_says_how_to_come_back_and_streams_the_answer(desk: Desk) -> None:
    desk.typed.type("hello")
    request_id = await desk.started()
    await desk.deployment.say("tea", request_id, "Good ", "day")
    await desk.deployment.emit("tea", request_id, "chat_done", full_response="Good day")
    shown = await desk.sees("Good day\n")
    assert "threadline chat --thread tea" in shown
    assert shown.count("Good day") == 1
    assert "you> hello" not in shown, "the person's own line stands there already"


async def test_it_says_when_the_gateway_has_lost_redis_and_when_it_has_it_again(desk: Desk) -> None:
    desk.typed.type("hello")
    request_id = await desk.started()
    for active in (True, False):
        await desk.deployment.gateways[0].tell_all("degraded", {"active": active, "since": 5})
    await desk.deployment.emit("tea", request_id, "chat_done", full_response="Good day")
    shown = await desk.sees("Good day\n")
    assert 0 < shown.index("[degraded: ") < shown.index("[Redis is back]")


async def test_it_shows_earlier_messages_and_joins_a_running_turn_in_the_middle() -> None:
    async with gateways(1) as (deployment, nodes):
        desk = Desk(deployment, nodes)
        deployment.append("tea", "r9", "text_delta", delta="The wa")
        thread = deployment.thread("tea")
        thread.messages = [{"id": "1", "role": "user", "content": "boil it", "request_id": "r9"}]
        thread.turn = {"request_id": "r9", "state": "running", "attempt": 1, "text": "The wa"}
        async with connect(nodes[0].url) as client:
            chat_ = Chat(client.thread, Screen(desk.terminal, io.StringIO()), desk.typed)
            desk.running = asyncio.create_task(chat_.run("tea"))
            await desk.sees("The wa")
            await deployment.say("tea", "r9", "ter boils")
            shown = await desk.sees("ter boils")
            desk.typed.type("/quit")
            assert await desk.running == 0
    assert "you> boil it\nThe water boils" in shown


async def test_it_moves_to_another_node_in_the_middle_of_the_word(desk: Desk) -> None:
    desk.typed.type("hello")
    request_id = await desk.started()
    await desk.deployment.say("tea", request_id, "the wa")
    await desk.sees("the wa")
    desk.deployment.append("tea", request_id, "text_delta", delta="ter is hot")
    await desk.nodes[0].kill()
    shown = await desk.sees("ter is hot")
    one, two = (node.url.rsplit(":", 1)[1] for node in desk.nodes)
    notice = f"\r\x1b[J\x1b[2m[node {one} is gone; went on at {two}]\x1b[22m\nthe wa"
    assert notice in shown, "the notice goes above the line, and the line is whole below it"
    assert shown.endswith("the water is hot")


async def test_tools_and_thinking_are_dimmed(desk: Desk) -> None:
    desk.typed.type("hello")
    request_id = await desk.started()
    emit = desk.deployment.emit
    await emit("tea", request_id, "thinking_delta", delta="let me see")
    await emit("tea", request_id, "tool_call", tool_name="sum", args={"a": 1}, tool_call_id="t")
    await emit("tea", request_id, "tool_result", tool_name="sum", output="1", tool_call_id="t", success=True)
    await desk.deployment.say("tea", request_id, "one")
    shown = await desk.sees("one")
    assert "\x1b[2mlet me see\x1b[22m\n" in shown
    assert '\x1b[2m[sum {"a": 1}]\x1b[22m\n\x1b[2m[sum -> 1]\x1b[22m\none' in shown


async def test_a_restarted_turn_is_said_and_begins_on_a_line_of_its_own(desk: Desk) -> None:
    desk.typed.type("hello")
    request_id = await desk.started()
    await desk.deployment.say("tea", request_id, "half an")
    await desk.deployment.emit("tea", request_id, "turn_restarted", attempt=2)
    await desk.deployment.say("tea", request_id, "a whole answer")
    shown = await desk.sees("a whole answer")
    assert "half an\n\x1b[2m[worker lost; the answer starts again]\x1b[22m\na whole answer" in shown


async def test_ctrl_c_cancels_the_turn_and_again_leaves(desk: Desk) -> None:
    desk.typed.type("hello")
    request_id = await desk.started()
    desk.deployment.thread("tea").turn = {"request_id": request_id, "state": "running"}
    await desk.deployment.say("tea", request_id, "one two")
    await desk.sees("one two")
    desk.chat.interrupt()
    await desk.sees("[cancelled]")
    assert desk.deployment.cancels == [{"thread_id": "tea", "request_id": request_id}]
    desk.chat.interrupt()
    assert await desk.running == 0


async def test_a_second_ctrl_c_leaves_although_the_cancel_has_no_answer_yet(desk: Desk) -> None:
    desk.typed.type("hello")
    request_id = await desk.started()
    await desk.deployment.say("tea", request_id, "one two")
    await desk.sees("one two")
    desk.chat.interrupt()
    desk.chat.interrupt()
    assert await desk.running == 0


async def test_lost_text_is_caught_up_from_the_snapshot_without_doubling(desk: Desk) -> None:
    desk.typed.type("hello")
    request_id = await desk.started()
    await desk.deployment.say("tea", request_id, "one ")
    await desk.sees("one ")
    desk.nodes[1].recovers = False
    desk.deployment.thread("tea").turn = {"request_id": request_id, "state": "running", "text": "one two "}
    desk.deployment.append("tea", request_id, "text_delta", delta="two ")
    await desk.nodes[0].kill()
    await desk.sees("two ")
    await desk.deployment.say("tea", request_id, "three")
    assert (await desk.sees("three")).endswith("one two three")


async def test_the_commands_do_what_help_says(desk: Desk) -> None:
    desk.deployment.thread("milk").messages = [{"id": "1", "role": "assistant", "content": "moo"}]
    for line in ("/help", "/status", "/history", "/cancel", "/nonsense", "/thread milk", "/history", "/new"):
        desk.typed.type(line)
    shown = await desk.sees("thread chat-")
    assert "/thread ID" in shown
    assert "thread tea does not exist yet; no turn runs" in shown
    assert "[no messages yet]" in shown
    assert "[nothing to cancel: none]" in shown
    assert "[no such command: /nonsense" in shown
    assert shown.count("assistant> moo") == 2, "once on entering the thread, once for /history"


async def test_a_thread_that_is_refused_is_not_gone_to(desk: Desk) -> None:
    """A slip of the fingers in /thread used to end the conversation."""
    refusal = {"code": "invalid", "message": "choose another id", "retryable": False}
    await desk.sees("you> ")
    desk.nodes[0].refusals["thread:subscribe"] = [refusal]
    desk.typed.type("/thread mi!k")
    await desk.sees("[choose another id]")
    desk.typed.type("/status")
    await desk.sees("thread tea does not exist yet; no turn runs")
    desk.typed.type("hello")
    await desk.started()


async def test_a_refused_message_is_said_so(desk: Desk) -> None:
    desk.nodes[0].refusals["chat:start"] = [{"code": "too_large", "message": "too long", "retryable": False}]
    desk.typed.type("hello")
    await desk.sees("[not sent: too long]")


async def test_control_characters_never_reach_the_terminal(desk: Desk) -> None:
    desk.typed.type("hello")
    request_id = await desk.started()
    await desk.deployment.say("tea", request_id, "safe\x1b]0;title\x07\x9b2J end")
    assert "safe]0;title2J end" in await desk.sees(" end")


def echo(deployment: Deployment) -> Callable[[ScriptedThread, str, dict[str, Any]], None]:
    """Return an agent that says each message back at once."""

    def write(thread: ScriptedThread, request_id: str, payload: dict[str, Any]) -> None:
        said = f"You said {payload['message']}"
        deployment.append(thread.id, request_id, "text_delta", delta=said)
        asyncio.get_running_loop().create_task(deployment.emit(thread.id, request_id, "chat_done", full_response=said))

    return write


async def test_a_pipe_gets_each_answer_in_turn_and_nothing_else() -> None:
    out, notes = io.StringIO(), io.StringIO()
    async with gateways(1) as (deployment, (node,)):
        deployment.on_start = echo(deployment)
        typed = Typed("one", "two", None, interactive=False)
        code = await chat([node.url], None, "tea", Screen(out, notes), typed)
    assert (code, out.getvalue()) == (0, "You said one\nYou said two\n")
    assert "threadline chat --thread tea" in notes.getvalue()


async def test_a_pipe_whose_message_failed_is_told_by_the_exit_code() -> None:
    out, notes = io.StringIO(), io.StringIO()
    async with gateways(1) as (deployment, (node,)):

        def fail(thread: ScriptedThread, request_id: str, payload: dict[str, Any]) -> None:
            deployment.append(thread.id, request_id, "text_delta", delta="x")
            asyncio.get_running_loop().create_task(
                deployment.emit(thread.id, request_id, "chat_error", error_type="worker_lost", message="gone")
            )

        deployment.on_start = fail
        code = await chat([node.url], None, "tea", Screen(out, notes), Typed("one", None, interactive=False))
    assert (code, out.getvalue()) == (1, "x\n")
    assert "[worker_lost: gone]" in notes.getvalue()


def test_a_node_is_called_by_its_port_where_that_tells_it_apart() -> None:
    near = ["http://127.0.0.1:8080", "http://127.0.0.1:8081"]
    far = ["https://a.example", "https://b.example"]
    assert node_name(near[1], near) == "8081"
    assert node_name(far[1], far) == "b.example"
