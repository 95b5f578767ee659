"""`threadline top`: the fleet on a terminal, drawn anew each second.

What it shows comes from `/v1/operations` of any gateway (docs/operations.md). What is on the screen is made by pure
functions from one such answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from backplane.errors import Misconfigured, ThreadlineError, Unavailable
from backplane.members import IDLE_INTERVAL
from cli.screen import printable

INTERVAL = 1.0
"""Seconds between two looks."""
_SILENT = IDLE_INTERVAL + 2 * INTERVAL
"""Seconds without a word from a member that are shown: it reports seldom while nobody looks, and was not looked at
until now."""
_TURNS = 12
"""Turns that are listed."""
_BAR = 24
"""Characters of a bar of slots."""

Seen = Mapping[str, Any]


async def top(urls: Sequence[str], token: str | None, console: Console, *, once: bool) -> None:
    """Show the fleet until cancelled, or once; once too where `console` is no terminal, and nothing can be drawn anew.

    Raises:
        Unavailable: when no gateway answers what can be shown, at the first look.
        Misconfigured: when the fleet is not shown to whoever holds this token.
    """
    async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
        seen = await _look(http, urls, token)
        if once or not console.is_terminal:
            console.print(seen)
            return
        with Live(seen, console=console, screen=True, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(INTERVAL)
                try:
                    live.update(await _look(http, urls, token), refresh=True)
                except ThreadlineError as error:
                    live.update(
                        Panel(Text(printable(error.message)), title="no gateway answers", border_style="red"),
                        refresh=True,
                    )


async def _look(http: httpx.AsyncClient, urls: Sequence[str], token: str | None) -> RenderableType:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    said = []
    for url in urls:
        try:
            answer = await http.get(f"{url.strip().rstrip('/')}/v1/operations", headers=headers)
            if answer.status_code in (401, 404):
                raise Misconfigured(
                    f"{url} does not show the fleet to you; give --token of a subject that THREADLINE_OPERATORS names"
                )
            return screen(answer.raise_for_status().json())
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            said.append(f"{url}: {str(error) or type(error).__name__}")
        except (ValueError, LookupError, TypeError, AttributeError):
            said.append(f"{url}: what it answers is not of a gateway of this version")
    raise Unavailable(f"no gateway answered ({'; '.join(said)}); see that one runs, or name it with --url")


def screen(seen: Seen) -> RenderableType:
    """Return everything that is shown of one answer."""
    gateways = [member for member in seen["members"] if member["kind"] == "gateway"]
    workers = [member for member in seen["members"] if member["kind"] == "worker"]
    return Group(_summary(seen, gateways, workers), _gateways(gateways), _workers(workers), _turns(seen, workers))


def _summary(seen: Seen, gateways: Sequence[Seen], workers: Sequence[Seen]) -> Text:
    events = sum(member["sent_per_second"] for member in gateways)
    sockets = sum(member["sockets"] for member in gateways)
    slots = sum(member["slots"] for member in workers)
    running = sum(member["running"] for member in workers)
    oldest = seen["longest_waiting"][0]["seconds"] if seen["longest_waiting"] else 0
    text = Text.assemble(
        ("threadline", "bold"), f"  {sockets} sockets   {events:,.0f} events/s   {running} of {slots} slots   ",
        (f"{seen['waiting']} waiting", "bold yellow" if seen["waiting"] else "dim"),
    )  # fmt: skip
    if oldest:
        text.append(f" (longest {oldest:.1f} s)", "yellow")
    return text


def _gateways(members: Iterable[Seen]) -> Table:
    table = _table("gateway", "state", "sockets", "threads", "events/s", "p50 ms", "p99 ms", "gaps", "slow")
    for member in members:
        late = member["append_to_socket"]
        table.add_row(
            printable(member["node_id"]), _state(member), str(member["sockets"]), str(member["rooms"]),
            f"{member['sent_per_second']:,.0f}", f"{late['p50'] * 1000:.1f}", f"{late['p99'] * 1000:.1f}",
            str(member["gaps_filled"]), str(member["slow_clients"]),
        )  # fmt: skip
    return table


def _state(member: Seen) -> Text:
    if member["silent"] > _SILENT:
        return Text(f"silent {member['silent']:.0f} s", "red")
    if member["kind"] == "gateway" and member["deaf"]:
        return Text("deaf", "bold red")
    if member["kind"] == "gateway" and not member["ready"]:
        return Text("unready", "yellow")
    return Text("ready", "green")


def _workers(members: Iterable[Seen]) -> Table:
    table = _table("worker", "state", "slots", "", "claims", "agent")
    for member in members:
        used = round(_BAR * member["running"] / max(member["slots"], 1))
        table.add_row(
            printable(member["node_id"]), _state(member), f"{member['running']}/{member['slots']}",
            Text.assemble(("█" * used, "cyan"), ("░" * (_BAR - used), "dim")),
            f"{member['claims']['won']}/{member['claims']['tried']}", printable(member["agent"]),
        )  # fmt: skip
    return table


def _turns(seen: Seen, workers: Iterable[Seen]) -> Table:
    table = _table("turn", "thread", "worker", "state", "seconds", "attempt", "lease s")
    left = {mark["request_id"]: mark["seconds"] for mark in seen["due"]}
    turns = [(worker["node_id"], turn) for worker in workers for turn in worker["turns"]]
    turns.sort(key=lambda pair: ("ended" in pair[1], -pair[1].get("ended", pair[1]["claimed"])))
    for node_id, turn in turns[:_TURNS]:
        outcome = turn.get("outcome")
        lease = left.get(turn["request_id"]) if outcome is None else None
        table.add_row(
            turn["request_id"], printable(turn["thread_id"]), printable(node_id), _outcome(outcome),
            f"{turn.get('ended', seen['now']) - turn['claimed']:.1f}",
            Text(str(turn["attempt"]), "yellow" if turn["attempt"] > 1 else ""),
            Text("" if lease is None else f"{lease:.1f}", "red" if lease is not None and lease < 1 else ""),
        )  # fmt: skip
    return table


def _outcome(outcome: str | None) -> Text:
    styles = {None: "cyan", "done": "green", "cancelled": "yellow", "parked": "blue"}
    return Text(outcome or "running", styles.get(outcome, "red"))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table
