"""The password of the store is seen by nobody, whatever happens to the store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast
from urllib.parse import quote

import pytest

from backplane.embedded import HOST, start_child
from tests.fleet.conditions import eventually
from tests.fleet.conversation import Conversation
from tests.fleet.failovers import ReplicatedFleet
from tests.fleet.fleet import Fleet
from tests.servers.deployments import Deployment, Node, Watched

pytestmark = pytest.mark.processes
USER, WORD = "us:er", "pa@ss/wo?rd#50%&é"
NEVER = (WORD, quote(WORD, safe=""), quote(WORD), "wo?rd", "another-word")


class Guarded(Deployment):
    """One server, whose user and password have every character that means something in a URL."""

    def __init__(self, folder: Path) -> None:
        users = f"user {USER} on >{WORD} ~* &* +@all\nuser default on >secret ~* &* +@all\n"
        self.node = Node(folder, users=users)
        super().__init__([self.node])

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://{quote(USER, safe='')}:{quote(WORD, safe='')}@{HOST}:{self.node.port}/0"


async def told(fleet: Fleet, *words: str, url: str) -> str:
    """Run a command of the product, and return everything that it prints."""
    output = fleet.folder / "command.log"
    environment = fleet.environment | {
        "THREADLINE_REDIS_URL": url, "THREADLINE_URL": fleet.urls[0], "THREADLINE_LOG_LEVEL": "debug"
    }  # fmt: skip
    with output.open("wb") as file:
        process = await start_child((sys.executable, "-m", "cli.main", *words), env=environment, output=file)
    await process.wait()
    return output.read_text()


def command_line(pid: int) -> str:
    """Return what a list of processes shows."""
    return Path(f"/proc/{pid}/cmdline").read_text()


async def test_no_password_of_redis_is_shown_by_any_process(tmp_path: Path) -> None:
    """Not in logs, at the level debug, nor by the doctor, in answers, metrics or process lists."""
    deployment = Guarded(tmp_path / "server")
    settings = {"log_level": "debug", "log_format": "json"}
    seen = []
    async with ReplicatedFleet(
        tmp_path / "fleet", cast(Watched, deployment), gateways=1, workers=1, settings=settings
    ) as fleet:
        async with Conversation(fleet, "t") as talk:
            await talk.ended(await talk.say("say 5 words"))
        gateway = fleet.gateways[0]
        routes = ("/metrics", "/readyz", "/v1/operations", "/openapi.json")
        seen += [(await fleet.http.get(f"{gateway.url}{route}")).text for route in routes]
        seen.append(await told(fleet, "doctor", url=deployment.url))
        assert f"the user is {USER}" in seen[-1]
        seen.append(
            await told(fleet, "doctor", "--json", url=deployment.url.replace(quote(WORD, safe=""), "another-word"))
        )
        assert "does not take this user and password" in seen[-1]
        seen.append(await told(fleet, "gateway", url=deployment.url.replace("/0", "/x")))
        assert "a number of a database" in seen[-1]
        seen += [command_line(member.pid) for member in fleet.members]
        await deployment.node.kill()
        await eventually(gateway.says_unready, "the gateway to notice the loss")
        seen.append((await fleet.http.get(f"{gateway.url}/readyz")).text)
        worker = fleet.workers[0]
        await worker.kill()
        await worker.start()
        line = await worker.says("waiting for Redis", "nothing listens")
        assert f"redis://{USER}:***@{HOST}:{deployment.node.port}/0" in line
        seen += [member.said for member in fleet.members]
    for text in seen:
        assert not any(word in text for word in NEVER)
