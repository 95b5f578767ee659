"""Three gateways behind each load balancer of deploy/: no stickiness, and nothing lost when one goes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import pytest_asyncio

from backplane.ids import new_id
from tests.deploy.balancers import BALANCERS, Balanced, Balancer, balanced, variables
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet
from tests.fleet.watcher import caller
from tests.support.skipping import unable
from tests.support.waiting import wait_until
from threadline_client import connect
from threadline_client.link import LinkLost

pytestmark = pytest.mark.processes
together = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(params=BALANCERS, ids=lambda balancer: balancer.name, scope="module")
def balancer(request: pytest.FixtureRequest) -> Balancer:
    """Return each load balancer in turn."""
    chosen: Balancer = request.param
    if chosen.path is None:
        unable(f"expected {chosen.program}, found none; install it (apt-get install haproxy nginx caddy)")
    return chosen


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """Return three gateways and a worker."""
    async with Fleet(tmp_path_factory.mktemp("fleet"), gateways=3, workers=1) as fleet:
        yield fleet


@pytest_asyncio.fixture(loop_scope="module")
async def front(shared: Fleet, balancer: Balancer, tmp_path: Path) -> AsyncIterator[Balanced]:
    """Return the fleet, whole, behind the load balancer."""
    await shared.heal()
    async with balanced(balancer, shared, tmp_path) as one:
        yield one


def talk(front: Balanced) -> Conversation:
    return Conversation(cast("Fleet", front), f"t-{new_id()}")


async def sockets(fleet: Fleet) -> list[int]:
    """Return how many sockets each gateway has."""
    counts = []
    for url in fleet.urls:
        text = (await fleet.http.get(f"{url}/metrics")).text
        (line,) = [line for line in text.splitlines() if line.startswith("threadline_sockets ")]
        counts.append(int(float(line.split()[1])))
    return counts


def test_the_program_takes_the_configuration(balancer: Balancer, tmp_path: Path) -> None:
    given = variables(balancer, 8080, ["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"])
    command = [str(balancer.path), *balancer.check(tmp_path, given)]
    judged = subprocess.run(
        command,
        env=os.environ | given | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert judged.returncode == 0, judged.stderr
    assert "[WARNING]" not in judged.stderr


def test_nginx_has_room_for_more_clients_than_a_distribution_gives_it(tmp_path: Path) -> None:
    """Debian's has 768 connections a process, two for each client; and the page's command must fit its file."""
    (nginx,) = (balancer for balancer in BALANCERS if balancer.name == "nginx")
    if nginx.path is None:
        unable("expected nginx, found none; install it (apt-get install nginx)")
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    (command,) = (line for line in page.splitlines() if line.endswith(" /etc/nginx/nginx.conf"))
    frame = (
        f"pid {tmp_path}/pid;\nerror_log stderr;\n\nevents {{\n\tworker_connections 768;\n\t# multi_accept on;\n}}\n"
    )
    (tmp_path / "nginx.conf").write_text(frame)
    subprocess.run(command.replace("/etc/nginx", str(tmp_path)), shell=True, check=True)
    judged = subprocess.run(
        [nginx.path, "-t", "-e", "stderr", "-c", str(tmp_path / "nginx.conf")],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert judged.returncode == 0, judged.stderr
    assert "worker_connections exceed" not in judged.stderr, "as many files as connections"
    (room,) = re.findall(r"worker_connections (\d+);", (tmp_path / "nginx.conf").read_text())
    assert int(room) >= 2 * 30_000


@together
async def test_clients_are_spread_and_share_their_threads(front: Balanced, shared: Fleet) -> None:
    async with talk(front) as thread:
        turn = await thread.say("say 60 words")
        for _ in range(5):
            await thread.watch(0)
        counts = await sockets(shared)
        assert sum(count > 0 for count in counts) == 3, f"expected clients on all three, got {counts}"
        assert (await thread.ended(turn))["event"] == "chat_done"


@together
async def test_a_gateway_that_is_told_to_stop_costs_no_client_a_word_and_no_start_is_refused(
    front: Balanced, shared: Fleet
) -> None:
    async with talk(front) as thread:
        turn = await thread.say("say 150 words")
        for _ in range(3):
            await thread.watch(0)
        await thread.words(turn, 20)
        shared.gateways[0].signal(signal.SIGTERM)
        ending = asyncio.create_task(shared.gateways[0].ended())
        starts = 0
        while not ending.done():
            await _start(front.urls[0])
            starts += 1
        assert starts > 0
        assert (await thread.ended(turn))["event"] == "chat_done"


async def _start(url: str) -> None:
    """Start a turn as the product's client does: it connects again when its transport is lost."""
    async with connect([url], within=None) as client:
        await client.thread(f"t-{new_id()}").send("say 1 word")


@asynccontextmanager
async def leaving() -> AsyncIterator[str]:
    """Serve what a gateway says that stops and that the balancer has not left out yet: ready, and no new client."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while request := await reader.readuntil(b"\r\n\r\n"):
                status = b"503 Service Unavailable" if b"/socket.io/" in request else b"200 OK"
                writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@together
async def test_a_handshake_that_a_gateway_sends_elsewhere_reaches_another_without_the_client(
    shared: Fleet, balancer: Balancer, tmp_path: Path
) -> None:
    if balancer.name == "caddy":
        pytest.skip("it repeats no request that was answered; there, clients come back by themselves")
    await shared.heal()
    async with leaving() as one, leaving() as other:
        gateways = SimpleNamespace(urls=[one, other, shared.urls[0]])
        async with balanced(balancer, cast("Fleet", gateways), tmp_path) as front:
            for _ in range(6):
                async with caller(front.urls[0]) as client:
                    await client.start(f"t-{new_id()}", "say 1 word")


@together
async def test_a_gateway_that_is_killed_costs_no_client_a_word(front: Balanced, shared: Fleet) -> None:
    async with talk(front) as thread:
        turn = await thread.say("say 120 words")
        for _ in range(3):
            await thread.watch(0)
        await thread.words(turn, 20)
        await shared.gateways[1].kill()
        assert (await thread.ended(turn))["event"] == "chat_done"


@together
async def test_nobody_is_sent_to_a_gateway_that_is_not_ready(
    front: Balanced, shared: Fleet, balancer: Balancer
) -> None:
    if not balancer.active:
        pytest.skip("it has no active health checks")
    shared.gateways[2].signal(signal.SIGSTOP)
    try:

        async def answered_by_others() -> bool:
            try:
                for _ in range(6):
                    async with asyncio.timeout(2), caller(front.urls[0]) as client:
                        await client.start(f"t-{new_id()}", "say 1 word")
            except (LinkLost, TimeoutError):
                return False
            return True

        await wait_until(answered_by_others, "every client gets a gateway that answers", seconds=50)
    finally:
        shared.gateways[2].signal(signal.SIGCONT)


INSIDE = ("/metrics", "/v1/operations", "/v1/plugs/node/x", "/v1/revocations")
WRITTEN_OTHERWISE = ("/%6detrics", "/v1/%6fperations", "/%76%31/operations", "/v1/plu%67s/node/x", "/v1/r%65vocations")
"""The same to a gateway, which decodes a path before it looks who answers."""


@pytest.mark.parametrize("path", [*INSIDE, *WRITTEN_OTHERWISE])
@together
async def test_what_is_for_operators_stays_inside(front: Balanced, path: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer: Any = await http.get(front.urls[0] + path)
    assert answer.status_code == 404
    assert b"ok" not in answer.content


@together
async def test_events_by_http_come_as_they_are_said(front: Balanced) -> None:
    """A load balancer that gathered them would hold the first word back until the last."""
    thread = f"t-{new_id()}"
    async with httpx.AsyncClient(trust_env=False, base_url=front.urls[0], timeout=20) as http:
        asked = {"message": "say 1000 words", "metadata": {"delay_ms": 15}}  # nobody waits for its end
        await http.post(f"/v1/threads/{thread}/turns", json=asked)
        async with http.stream("GET", f"/v1/threads/{thread}/events", headers={"Last-Event-ID": ""}) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("event: text_delta"):
                    break
            status = (await http.get(f"/v1/threads/{thread}")).json()
            assert status["turn"] is not None, "the first word came while the turn runs"
