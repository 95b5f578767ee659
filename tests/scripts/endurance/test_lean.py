"""The link that costs little tells what the product's link tells."""

from __future__ import annotations

import asyncio

import pytest

from scripts.endurance.lean import LeanLink, LeanWatcher
from tests.clients.python.scripted_gateway import gateways
from tests.fleet.invariants import Segment
from threadline_client.link import LinkLost


async def test_a_watcher_over_it_keeps_every_word_over_a_lost_connection() -> None:
    async with gateways(1) as (deployment, (node,)):
        await deployment.emit("tea", "r1", "chat_accepted", message="How long?")
        async with LeanWatcher([node.url], "tea", "e1") as watcher:
            await deployment.say("tea", "r1", "Three ", "minu")
            node.cut()
            await deployment.say("tea", "r1", "tes, ", "it says.")
            await watcher.arrived(2)
            await watcher.reached(5)
            assert watcher.text("r1") == "Three minutes, it says."
            assert [type(segment) for segment in watcher.transcript.segments] == [Segment]
            assert watcher.transcript.broken == []
            done = await deployment.emit("tea", "r1", "chat_done", full_response="Three minutes, it says.")
            assert (await watcher.ended("r1"))["offset"] == done["offset"]


async def test_a_call_whose_connection_ends_is_lost() -> None:
    async with gateways(1) as (_, (node,)):
        link = LeanLink(node.url, lambda name, data: None)
        await link.open(None)
        node.deaf_to.add("thread:unsubscribe")
        with pytest.raises(LinkLost):
            await link.call("thread:unsubscribe", {"thread_id": "tea"})
        assert link.gone.is_set()
        with pytest.raises(LinkLost):
            await link.call("thread:unsubscribe", {"thread_id": "tea"})


async def test_a_call_that_is_answered_after_it_was_given_up_does_no_harm() -> None:
    async with gateways(1) as (_, (node,)):
        link = LeanLink(node.url, lambda name, data: None)
        await link.open(None)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await link.call("thread:unsubscribe", {"thread_id": "tea"})
        assert (await link.call("thread:unsubscribe", {"thread_id": "tea"}))["ok"]
        assert node.calls["thread:unsubscribe"] == 2
        assert not link.gone.is_set()
        await link.close()


async def test_a_call_that_was_given_up_does_not_keep_its_connection_from_ending() -> None:
    async with gateways(1) as (_, (node,)):
        link = LeanLink(node.url, lambda name, data: None)
        await link.open(None)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await link.call("thread:unsubscribe", {"thread_id": "tea"})
        await link.close()
        assert link.gone.is_set()


async def test_a_gateway_that_is_not_there_is_a_lost_link() -> None:
    async with await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(LinkLost):
            await LeanLink(f"http://127.0.0.1:{port}", lambda name, data: None).open(None)
    with pytest.raises(LinkLost):
        await LeanLink(f"http://127.0.0.1:{port}", lambda name, data: None).open(None)
