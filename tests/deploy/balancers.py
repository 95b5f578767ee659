"""The load balancers of deploy/, as real programs in front of a fleet."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from backplane.embedded import free_port, start_child
from tests.fleet.conditions import eventually
from tests.fleet.fleet import Fleet

DEPLOY = Path(__file__).parents[2] / "deploy"
_NGINX_FRAME = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/threadline.conf;
}}
"""
"""What a distribution's nginx.conf has around a site, for one that needs no rights."""


@dataclass(frozen=True)
class Balancer:
    """A program, and how it is started.

    Args:
        name: of its folder in deploy/.
        program: what must be on the PATH.
        command: makes the arguments from a scratch folder and the variables of its configuration.
        check: the same, to have it judge its configuration.
        active: whether it asks /readyz.
    """

    name: str
    program: str
    command: Callable[[Path, Mapping[str, str]], Sequence[str]]
    check: Callable[[Path, Mapping[str, str]], Sequence[str]]
    active: bool = True

    @property
    def path(self) -> str | None:
        """Where the program is; None where it is not installed."""
        return shutil.which(
            self.program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
        )


def _haproxy(*options: str) -> Callable[[Path, Mapping[str, str]], Sequence[str]]:
    return lambda folder, variables: (*options, "-f", str(DEPLOY / "haproxy" / "haproxy.cfg"))


def _caddy(*words: str) -> Callable[[Path, Mapping[str, str]], Sequence[str]]:
    return lambda folder, variables: (*words, "--adapter", "caddyfile", "--config", str(DEPLOY / "caddy" / "Caddyfile"))


def _nginx(*options: str) -> Callable[[Path, Mapping[str, str]], Sequence[str]]:
    def command(folder: Path, variables: Mapping[str, str]) -> Sequence[str]:
        template = (DEPLOY / "nginx" / "threadline.conf.template").read_text()
        # as `envsubst` does it with the names of these variables: nginx' own are left alone
        site = re.sub(r"\$\{(THREADLINE_\w+)\}", lambda found: variables[found[1]], template)
        (folder / "threadline.conf").write_text(site)
        (folder / "nginx.conf").write_text(_NGINX_FRAME.format(folder=folder))
        return ("-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf"), *options)

    return command


BALANCERS = (
    Balancer("haproxy", "haproxy", _haproxy("-db"), _haproxy("-c")),
    Balancer("nginx", "nginx", _nginx(), _nginx("-t"), active=False),
    Balancer("caddy", "caddy", _caddy("run"), _caddy("validate")),
)


def variables(balancer: Balancer, port: int, gateways: Sequence[str]) -> dict[str, str]:
    """Return what the configuration asks for: where to listen on loopback, and three gateways."""
    at = {"nginx": f"127.0.0.1:{port}", "haproxy": f"127.0.0.1:{port}", "caddy": f"http://127.0.0.1:{port}"}
    given = {"THREADLINE_BIND": at[balancer.name], "THREADLINE_SITE": at[balancer.name]}
    return given | {f"THREADLINE_GATEWAY_{n}": url.partition("//")[2] for n, url in enumerate(gateways, start=1)}


class Balanced:
    """A fleet as it looks from in front of its load balancer: one address."""

    def __init__(self, fleet: Fleet, url: str) -> None:
        self._fleet = fleet
        self.urls = [url]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fleet, name)


@asynccontextmanager
async def balanced(balancer: Balancer, fleet: Fleet, folder: Path) -> AsyncIterator[Balanced]:
    """Run a load balancer in front of a fleet, for the length of this block."""
    port = free_port()
    given = variables(balancer, port, fleet.urls)
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    url = f"http://127.0.0.1:{port}"
    with (folder / f"{balancer.name}.log").open("wb") as output:
        process = await start_child(
            (str(balancer.path), *balancer.command(folder, given)),
            env=os.environ | home | given,
            cwd=folder,
            output=output,
        )
    try:
        async with httpx.AsyncClient(trust_env=False) as http:

            async def serves() -> bool:
                assert process.returncode is None, (folder / f"{balancer.name}.log").read_text()
                with suppress(httpx.HTTPError):
                    return (await http.get(f"{url}/readyz")).status_code == httpx.codes.OK
                return False

            await eventually(serves, f"{balancer.name} to serve")
        yield Balanced(fleet, url)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
