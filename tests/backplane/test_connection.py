"""Opening a backplane, and what errors of Redis become."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from backplane.connection import Backplane, opened_when_reachable, redis_errors
from backplane.errors import Internal, Misconfigured, Unavailable
from backplane.ids import thread_ref
from backplane.settings import Settings
from backplane.turns import Start


async def test_a_process_with_another_number_of_partitions_refuses_to_start(open_backplane: Any) -> None:
    """It would look for threads in the wrong place."""
    async with open_backplane(partitions=4):
        pass
    with pytest.raises(Misconfigured, match="partitions=4"):
        async with open_backplane(partitions=8):
            pass


async def test_a_process_without_a_number_of_its_own_takes_the_recorded_one(
    open_backplane: Any, redis_url: str, prefix: str
) -> None:
    """A deployment of 64 partitions goes on when the default changes, also after all of its processes were renewed."""
    async with open_backplane(partitions=64) as first:
        ref = thread_ref("kept")
        await first.turns.start(ref, Start("q", "ann", "sid"))
    async with Backplane.open(Settings(redis_url=redis_url, key_prefix=prefix)) as later:
        assert later.settings.partitions == later.keys.partitions == 64
        assert (await later.turns.start(ref, Start("again", "ann", "sid"))).offset > 1


async def test_the_first_process_without_a_number_records_the_default(redis_url: str, prefix: str) -> None:
    async with Backplane.open(Settings(redis_url=redis_url, key_prefix=prefix)) as backplane:
        default = Settings.model_fields["partitions"].default
        assert await backplane.redis.hget(backplane.keys.meta, "partitions") == str(default).encode()


async def test_a_number_from_the_environment_is_configured(
    open_backplane: Any, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_backplane(partitions=4):
        pass
    monkeypatch.setenv("THREADLINE_PARTITIONS", "256")
    with pytest.raises(Misconfigured, match="set THREADLINE_PARTITIONS=4"):
        async with Backplane.open(Settings(redis_url=redis_url, key_prefix=prefix)):
            pass


async def test_data_of_another_format_is_refused_with_what_can_be_done_about_it(open_backplane: Any) -> None:
    """No setting chooses a format: one that was named here would stop the next start as an unknown variable."""
    async with open_backplane() as backplane:
        await backplane.redis.hset(backplane.keys.meta, "format", "0")
    with pytest.raises(Misconfigured, match=r"format=0, .*run a release") as refused:
        async with open_backplane():
            pass
    assert "THREADLINE_FORMAT" not in str(refused.value)


async def test_two_deployments_on_one_redis_do_not_meet(open_backplane: Any, prefix: str) -> None:
    ref = thread_ref("same")
    async with open_backplane() as one, open_backplane(key_prefix=f"{prefix}:b".replace(":", "-")) as two:
        await one.turns.start(ref, Start("q", "ann", "sid"))
        assert (await two.turns.start(ref, Start("q", "bob", "sid"))).offset == 1
        await two.redis.delete(*[key async for key in two.redis.scan_iter(match=f"{two.keys.prefix}:*")])


@pytest.mark.parametrize("error", [RedisConnectionError("x"), RedisTimeoutError("x"), ConnectionResetError()])
def test_no_answer_is_unavailable_and_may_be_tried_again(error: Exception) -> None:
    with pytest.raises(Unavailable) as caught, redis_errors():
        raise error
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", Unavailable),
        ("LOADING Redis is loading", Unavailable),
        ("READONLY You can't write", Unavailable),
        ("ERR wrong number of arguments", Internal),
    ],
)
def test_what_redis_refuses_is_told_from_our_own_defects(text: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught, redis_errors():
        raise ResponseError(text)
    assert text not in str(caught.value)


async def test_waiting_for_redis_ends_when_the_process_is_told_to_stop() -> None:
    stop = asyncio.Event()
    settings = Settings(redis_url="redis://127.0.0.1:1/0", redis_timeout=0.1)

    async def wait() -> Backplane | None:
        async with opened_when_reachable(settings, stop) as backplane:
            return backplane

    waiting = asyncio.create_task(wait())
    stop.set()
    assert await waiting is None
