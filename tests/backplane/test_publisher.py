"""Publisher: in the order of the calls, together in few round trips, and never without a bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from backplane.addresses import parse
from backplane.connection import Backplane, open_redis
from backplane.errors import Unavailable
from backplane.ids import new_id
from backplane.publisher import OwnChannels, Publisher
from backplane.settings import Settings
from tests.fleet.proxy import Proxy
from tests.support.ear import Ear
from tests.support.waiting import wait_until


@pytest.fixture
async def publisher(backplane: Backplane) -> AsyncIterator[Publisher]:
    made = Publisher(backplane.redis, backplane.settings.redis_timeout, most_waiting=1000)
    yield made
    await made.close()


async def test_messages_arrive_in_the_order_of_the_calls(backplane: Backplane, publisher: Publisher) -> None:
    """Mutant: a connection of the pool for each call lets them overtake each other."""
    ear = Ear()
    await backplane.live.subscribe("one", ear)
    await backplane.live.subscribe("two", ear)
    await asyncio.gather(*(publisher.publish((("one", "two")[n % 2],), b"%d" % n) for n in range(600)))
    await wait_until(lambda: len(ear.messages) == 600, "all are heard")
    assert ear.messages == [b"%d" % n for n in range(600)]


async def test_one_message_on_several_channels_says_how_many_heard_it(
    backplane: Backplane, publisher: Publisher
) -> None:
    ear = Ear()
    one, two, nobodys = new_id(), new_id(), new_id()
    await backplane.live.subscribe(one, ear)
    await backplane.live.subscribe(two, ear)
    assert await publisher.publish((one, two, nobodys), b"x") == 2
    assert await publisher.publish((nobodys,), b"x") == 0
    await wait_until(lambda: ear.messages == [b"x", b"x"], "heard on both")


async def test_whatever_came_meanwhile_shares_a_round_trip(
    backplane: Backplane, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: a round trip for each message makes 200 of them."""
    trips = 0
    pipeline = backplane.redis.pipeline

    def counted(**options: Any) -> Any:
        nonlocal trips
        trips += 1
        return pipeline(**options)

    monkeypatch.setattr(backplane.redis, "pipeline", counted)
    await asyncio.gather(*(publisher.publish_one("c", b"x") for _ in range(200)))
    assert trips == 1


async def test_more_than_may_wait_is_refused_at_once(backplane: Backplane) -> None:
    """Mutant: without a bound a hung Redis fills the memory with what is emitted."""
    publisher = Publisher(backplane.redis, backplane.settings.redis_timeout, most_waiting=2)
    answers = await asyncio.gather(*(publisher.publish_one("c", b"x") for _ in range(3)), return_exceptions=True)
    assert answers[:2] == [None, None]
    assert isinstance(answers[2], Unavailable)
    await publisher.publish_one("c", b"afterwards there is room again")


async def test_more_bytes_than_may_wait_are_refused_but_a_single_message_is_not(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backplane.publisher.MOST_WAITING_BYTES", 100)
    publisher = Publisher(backplane.redis, backplane.settings.redis_timeout)
    answers = await asyncio.gather(*(publisher.publish_one("c", b"x" * 101) for _ in range(2)), return_exceptions=True)
    assert answers[0] is None
    assert isinstance(answers[1], Unavailable)


async def test_whoever_gives_up_waiting_disturbs_nobody(backplane: Backplane, publisher: Publisher) -> None:
    ear = Ear()
    await backplane.live.subscribe("c", ear)
    first = asyncio.create_task(publisher.publish_one("c", b"first"))
    second = asyncio.create_task(publisher.publish_one("c", b"second"))
    await wait_until(lambda: publisher._sending is not None, "it is on its way")
    first.cancel()
    await second
    await wait_until(lambda: ear.messages == [b"first", b"second"], "both were on their way")


async def test_without_redis_the_call_says_so() -> None:
    settings = Settings(redis_url="redis://127.0.0.1:1/0")
    redis: Redis = open_redis(settings, retries=0)
    publisher = Publisher(redis, settings.redis_timeout)
    answers = await asyncio.gather(*(publisher.publish_one("c", b"x") for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable] * 3
    await redis.aclose()


async def _is_published(publisher: Publisher) -> bool:
    try:
        await publisher.publish_one("c", b"x")
    except Unavailable:
        return False
    return True


async def test_a_connection_that_has_fallen_silent_holds_up_nothing_for_longer_than_redis_may_take(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: without a bound, whatever is published waits until TCP gives up."""
    async with Proxy(parse(redis_url).servers[0].port) as proxy:
        monkeypatch.setenv("THREADLINE_REDIS_TIMEOUT", "0.2")
        own = OwnChannels(f"redis://127.0.0.1:{proxy.port}/0", f"test-{new_id()}", "node")
        await wait_until(lambda: _is_published(own.publisher), "the connection is made")
        proxy.hole()
        calls = [asyncio.create_task(own.publisher.publish_one("c", b"x")) for _ in range(2)]
        await wait_until(lambda: all(call.done() for call in calls), "both are answered")
        assert [type(call.exception()) for call in calls] == [Unavailable] * 2
        proxy.close_hole()
        await wait_until(lambda: _is_published(own.publisher), "it goes on")
        await own.close()


async def test_closing_tells_whoever_waits(backplane: Backplane) -> None:
    publisher = Publisher(backplane.redis, backplane.settings.redis_timeout)
    calls = (publisher.publish_one("c", b"x") for _ in range(3))
    *answers, _ = await asyncio.gather(*calls, publisher.close(), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable] * 3


async def test_own_channels_hear_what_they_publish_and_close_what_they_opened(redis_url: str) -> None:
    own = OwnChannels(redis_url, f"test-{new_id()}", "node")
    ear = Ear()
    await own.listen()
    await own.live.subscribe("c", ear)
    await own.publisher.publish_one("c", b"x")
    await wait_until(lambda: ear.messages == [b"x"], "heard")
    await own.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith(("live", "publisher"))]


async def test_own_channels_may_be_asked_to_listen_again_when_redis_was_away(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backplane.live._CONFIRM_TIMEOUT", 0.05)
    own = OwnChannels("redis://127.0.0.1:1/0", "test", "node")
    with pytest.raises(Unavailable):
        await own.listen()
    await own.close()
