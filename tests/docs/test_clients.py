"""The pages of the clients: the Python examples run as they stand, and both clients have what the table promises."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import threadline_client
from tests.docs.conftest import Opener, TableOf

ROOT = Path(__file__).parents[2]
PAGES = ("docs/clients.md", "clients/python/README.md")


def example(page: str) -> str:
    """Return the one example in Python of a page."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return str(code)


@pytest.mark.parametrize("page", PAGES)
async def test_the_example_in_python_runs(page: str, product: Opener, capsys: pytest.CaptureFixture[str]) -> None:
    code = example(page)
    assert code.endswith("\n\nasyncio.run(main())\n")
    async with product() as running:
        await running.worker()
        names: dict[str, Any] = {}
        exec(compile(code.removesuffix("asyncio.run(main())\n"), page, "exec"), names)
        names["URLS"] = [running.url]
        await names["main"]()
    said = "1, 2, 3, 4, 5." if page == "docs/clients.md" else "How long for green tea?"
    assert said in capsys.readouterr().out


async def test_the_example_of_a_state_ends_though_the_answer_was_there_at_once(
    product: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = threadline_client.Thread.send

    async def answered(thread: threadline_client.Thread, text: str) -> threadline_client.Turn:
        turn = await send(thread, text)
        await turn.wait()
        return turn

    monkeypatch.setattr(threadline_client.Thread, "send", answered)
    async with product() as running, asyncio.timeout(20):
        await running.worker()
        names: dict[str, Any] = {}
        exec(
            compile(example("docs/clients.md").removesuffix("asyncio.run(main())\n"), "docs/clients.md", "exec"), names
        )
        names["URLS"] = [running.url]
        await names["main"]()


def test_what_the_table_names_is_there(table: TableOf) -> None:
    kinds = {
        "client": threadline_client.Client,
        "thread": threadline_client.Thread,
        "turn": threadline_client.Turn,
        "state": threadline_client.ThreadState,
    }
    sources = {"client": "client.ts", "thread": "thread.ts", "turn": "turn.ts"}
    for row in table("clients.md", "to", "TypeScript", "Python"):
        python = row["TypeScript"] if row["Python"] == "the same" else row["Python"]
        for owner, name in re.findall(r"\b(client|thread|turn|state)\.(\w+)", python):
            assert hasattr(kinds[owner], name), f"Python: {owner}.{name}"
        for owner, name in re.findall(r"\b(client|thread|turn)\.(\w+)", row["TypeScript"]):
            source = (ROOT / "clients/typescript/src" / sources[owner]).read_text()
            assert re.search(rf"^  (?:readonly |async |get )*{name}\b", source, re.MULTILINE), f"TS: {owner}.{name}"


# what each call of the protocol is named in the clients: a method in Python, the options of one in TypeScript
CALLS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "chat:start": (threadline_client.Thread.send, ("SendOptions", "MessageOptions", "TraceOptions")),
    "thread:edit": (threadline_client.Thread.edit, ("EditOptions", "MessageOptions", "TraceOptions")),
    "thread:history": (threadline_client.Thread.history, ("HistoryOptions",)),
    "thread:list": (threadline_client.Client.threads, ("PageOptions",)),
}


@pytest.mark.parametrize("call", CALLS)
def test_both_clients_take_every_field_of_the_protocol(call: str, table: TableOf) -> None:
    fields = {row["field"].strip("`") for row in table("protocol.md", "call", "field") if row["call"] == f"`{call}`"}
    options = fields - {"thread_id", "message"}
    method, interfaces = CALLS[call]
    assert options
    assert options <= set(inspect.signature(method).parameters), "Python"
    source = (ROOT / "clients/typescript/src/calls.ts").read_text()
    told = [re.findall(rf"interface {name} .*?\n}}", source, re.DOTALL)[0] for name in interfaces]
    assert options <= set(re.findall(r"^  readonly (\w+)\?:", "\n".join(told), re.MULTILINE)), "TypeScript"


def test_both_states_have_the_fields_of_the_table(table: TableOf) -> None:
    state = threadline_client.ThreadState()
    source = (ROOT / "clients/typescript/src/state.ts").read_text()
    (interface,) = re.findall(r"export interface ThreadState \{(.*?)\n\}", source, re.DOTALL)
    for row in table("clients.md", "field", "what it is"):
        for name in re.findall(r"`(\w+)`", row["field"]):
            assert hasattr(state, name), f"Python: {name}"
            assert re.search(rf"readonly {name}\b", interface), f"TypeScript: {name}"
