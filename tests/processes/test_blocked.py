"""An agent that blocks its worker's event loop: the turn goes on elsewhere, and everybody learns at which line."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from backplane.embedded import free_port
from backplane.ids import new_id
from backplane.settings import ENV_PREFIX
from tests.fleet.conditions import eventually
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet
from tests.processes import blocking

pytestmark = [pytest.mark.processes]


async def test_a_blocked_worker_loses_its_turn_is_unhealthy_and_names_the_line(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet", 1, 2, {"agent": "tests.processes.blocking:agent"})
    ports = {}
    for worker in fleet.workers:
        ports[worker.name] = free_port()
        worker.environment[f"{ENV_PREFIX}METRICS_PORT"] = str(ports[worker.name])
    until = tmp_path / "go-on"
    async with fleet, Conversation(fleet, f"t-{new_id()}") as thread:
        turn = await thread.say(str(until))
        blocked = await fleet.owner(thread.thread_id, turn)
        health = f"http://127.0.0.1:{ports[blocked.name]}/healthz"

        async def unhealthy() -> httpx.Response | None:
            answer = await fleet.http.get(health)
            return answer if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else None

        answer = await eventually(unhealthy, "its /healthz to say that it is blocked")
        assert f"{blocking.__file__}:" in answer.text
        line = await blocked.says("the event loop is blocked", turn)
        assert thread.thread_id in line
        assert "asyncio.to_thread" in line
        assert (await thread.ended(turn))["full_response"] == "Well, I answer in attempt 2."
        until.touch()
        await blocked.says("the event loop goes on", "blocking.py")
        await blocked.says("turn lost to another owner", turn)

        async def healthy() -> bool:
            return (await fleet.http.get(health)).status_code == httpx.codes.OK

        await eventually(healthy, "it to be healthy again")
