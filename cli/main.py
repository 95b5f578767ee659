"""The `threadline` command line: every command, its options, and what its exit code means."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from backplane.errors import Internal, Misconfigured, ThreadlineError
from cli import gateway_url, stdio
from cli.exits import Exit
from cli.screen import printable

if TYPE_CHECKING:
    from backplane.settings import Settings


class Commands(TyperGroup):
    """The commands; a fault of the user or of the deployment ends in one plain line, never in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            typer.Exit: with 2 for usage and configuration, 1 for anything else that went wrong.
        """
        try:
            return super().invoke(ctx)
        except Misconfigured as error:
            _complain(error)
            raise typer.Exit(Exit.USAGE) from None
        except _expected() as error:
            _complain(error)
            raise typer.Exit(Exit.FAILED) from None
        except KeyboardInterrupt:
            raise typer.Exit(Exit.INTERRUPTED) from None


def _expected() -> tuple[type[Exception], ...]:
    # a gateway and a worker never load the client, which brings aiohttp: half of a worker's start
    client = sys.modules.get("threadline_client")
    return (ThreadlineError,) if client is None else (ThreadlineError, client.ClientError)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Conversations between people and AI agents that survive whatever breaks.\n\n"
    "Every setting is also an environment variable, THREADLINE_ and its name in capitals (docs/settings.md).\n\n"
    "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration; those of send, tail and cancel stand in "
    "their help.",
)

Host = Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]", show_default=False)]
Port = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one. [default: 8080]", show_default=False),
]
RedisUrl = Annotated[
    str | None,
    typer.Option(
        help="Where Redis or Valkey is, such as redis://127.0.0.1:6379/0; one with a password is better given as "
        "THREADLINE_REDIS_URL, which no process list shows.",
        show_default=False,
    ),
]
Agent = Annotated[
    str | None,
    typer.Option(help="The agent, as module:attribute. [default: worker.agents.demo:agent]", show_default=False),
]
Slots = Annotated[
    int | None, typer.Option(min=1, help="Turns that a worker runs at once. [default: 16]", show_default=False)
]
Urls = Annotated[
    list[str] | None,
    typer.Option(
        "--url",
        help="A gateway; give it again for each further one to move to. [default: http://127.0.0.1:8080]",
        show_default=False,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(help="The token to show; better given as THREADLINE_TOKEN, which no process list shows."),
]
ThreadId = Annotated[str, typer.Argument(metavar="THREAD", help="The thread's id.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


@app.command()
def serve(
    gateways: Annotated[int, typer.Option(min=1, help="Gateways, on ports that follow each other.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Workers.")] = 1,
    host: Host = None,
    port: Port = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Where the embedded store keeps its data. [default: .threadline]", show_default=False),
    ] = None,
    redis_url: RedisUrl = None,
    agent: Agent = None,
    slots: Slots = None,
) -> None:
    """Run the whole product on this machine: a store, gateways and workers, until Ctrl-C.

    Without --redis-url (or THREADLINE_REDIS_URL) it brings its own store, and keeps what is said in --data-dir.
    """
    settings = _settings(host=host, port=port, data_dir=data_dir, redis_url=redis_url, agent=agent, slots=slots)
    from cli.process import run_until_stopped
    from cli.serve import serve as run

    own_store = "redis_url" not in settings.model_fields_set
    url = None if own_store else settings.redis_url
    run_until_stopped(lambda stop: run(settings, gateways, workers, url, stop=stop))


@app.command()
def gateway(host: Host = None, port: Port = None, redis_url: RedisUrl = None) -> None:
    """Run one gateway: clients connect to it. SIGTERM or Ctrl-C drains it."""
    settings = _settings(host=host, port=port, redis_url=redis_url)
    from gateway.server import run

    _run_member(settings, "threadline-gateway", run)


@app.command()
def worker(
    agent: Agent = None,
    slots: Slots = None,
    max_turns: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Take so many turns, end them, and stop with exit code 0: for agents that leak. [default: no limit]",
            show_default=False,
        ),
    ] = None,
    redis_url: RedisUrl = None,
) -> None:
    """Run one worker: it answers with an agent. SIGTERM or Ctrl-C drains it."""
    settings = _settings(agent=agent, slots=slots, max_turns=max_turns, redis_url=redis_url)
    from worker.runtime import run

    _run_member(settings, "threadline-worker", run)


@app.command()
def chat(
    url: Urls = None,
    thread: Annotated[
        str | None, typer.Option(metavar="ID", help="The thread to go on with; a new one otherwise.")
    ] = None,
    token: Token = None,
) -> None:
    """Talk with the agent. Ctrl-C cancels its answer, Ctrl-C again leaves; /help lists the commands.

    With several --url it moves to another gateway when its own dies, and goes on in the middle of the word.
    Lines from a pipe are sent one after the other, each when the one before is answered; the answers alone go
    to the output. Exit code 1 when one of them had no answer.
    """
    settings = _client_settings(url, token)
    from cli.chat import chat as run
    from cli.invocation import console_script
    from cli.keyboard import Keyboard
    from cli.screen import Screen

    async def talk() -> int:
        screen, lines = Screen(sys.stdout, sys.stderr), Keyboard(sys.stdin)
        command = " ".join([f"{console_script()} chat", *(f"--url {given}" for given in url or ())])
        return await run(settings.url, settings.token, thread, screen, lines, command=command)

    raise typer.Exit(asyncio.run(talk()))


@app.command()
def send(
    thread: ThreadId,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say; - reads it from the input.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the answer and print it.")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="Give up after this; the turn goes on.")
    ] = None,
    queue_mode: Annotated[
        str | None,
        typer.Option(
            help="When a turn runs: interrupt it, followup (wait for its end), steer (add to it), collect (context for "
            "the next one), parallel (run beside it) or reject. [default: interrupt]"
        ),
    ] = None,
    url: Urls = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Send one message; it is sent again, without doubling, until a gateway has taken it.

    Prints the request id, or with --wait the answer. Exit codes: 0 taken (with --wait: answered), 1 refused or
    failed, 2 wrong usage, 3 the turn was cancelled, 4 no answer within --timeout.
    """
    settings = _client_settings(url, token)
    from cli import scripting

    said = sys.stdin.read() if text == "-" else text
    output = scripting.Output(sys.stdout, sys.stderr, as_json=json)
    _finish(
        scripting.send(
            settings.url,
            settings.token,
            thread,
            said,
            output,
            wait=wait,
            within=timeout,
            queue_mode=queue_mode,
        )
    )


@app.command()
def tail(
    thread: ThreadId,
    after: Annotated[
        str | None,
        typer.Option(metavar="EPOCH:OFFSET", help="Begin behind this place; 0 is the beginning of the log."),
    ] = None,
    until_done: Annotated[bool, typer.Option("--until-done", help="Stop when a turn has ended.")] = False,
    url: Urls = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Print a thread's events: those after a place, then what happens, until Ctrl-C or --until-done.

    Without --after it begins now, with a snapshot of the thread (a line of its own in JSON). Exit codes: 0 the
    turn was answered, 1 it failed, 2 wrong usage, 3 it was cancelled, 130 Ctrl-C.
    """
    from cli import scripting

    try:
        cursor = scripting.parse_after(after)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--after") from None
    settings = _client_settings(url, token)
    output = scripting.Output(sys.stdout, sys.stderr, as_json=json)
    _finish(scripting.tail(settings.url, settings.token, thread, output, after=cursor, until_done=until_done))


@app.command()
def cancel(
    thread: ThreadId,
    request_id: Annotated[
        str | None, typer.Option(help="Cancel this turn only; otherwise the one that runs.", show_default=False)
    ] = None,
    url: Urls = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Cancel a thread's turn, from any gateway, also while it waits or its worker is dead.

    Exit codes: 0 cancelled, 1 refused or failed, 2 wrong usage, 5 nothing to cancel.
    """
    settings = _client_settings(url, token)
    from cli import scripting

    output = scripting.Output(sys.stdout, sys.stderr, as_json=json)
    _finish(scripting.cancel(settings.url, settings.token, thread, request_id, output))


@app.command()
def threads(
    limit: Annotated[int, typer.Option(min=1, help="How many to print at most.")] = 50,
    url: Urls = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """List your threads, the one started last first: id, state and title."""
    settings = _client_settings(url, token)
    from cli import scripting

    output = scripting.Output(sys.stdout, sys.stderr, as_json=json)
    _finish(scripting.threads(settings.url, settings.token, output, most=limit))


@app.command()
def rename(
    thread: ThreadId,
    title: Annotated[str, typer.Argument(metavar="TITLE", help="Of at most 120 characters.", show_default=False)],
    url: Urls = None,
    token: Token = None,
) -> None:
    """Give a thread another title."""
    settings = _client_settings(url, token)
    from cli import scripting

    output = scripting.Output(sys.stdout, sys.stderr)
    _finish(scripting.rename(settings.url, settings.token, thread, title, output))


@app.command()
def delete(thread: ThreadId, url: Urls = None, token: Token = None) -> None:
    """Erase a thread everywhere, and stop what runs in it. Exit code 0 also when there is none."""
    settings = _client_settings(url, token)
    from cli import scripting

    output = scripting.Output(sys.stdout, sys.stderr)
    _finish(scripting.delete(settings.url, settings.token, thread, output))


@app.command()
def token(
    subject: Annotated[str, typer.Argument(help="Whom the token names (`sub`).")] = "me",
    ttl: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="How long it is valid.")] = 24 * 3600,
    tenant: Annotated[str, typer.Option(help="The tenant it belongs to.")] = "default",
) -> None:
    """Print a token signed with THREADLINE_JWT_SECRET, for trying things and for scripts."""
    settings = _settings()
    from gateway.auth import mint

    if settings.jwt_secret is None:
        raise Misconfigured(
            "expected THREADLINE_JWT_SECRET, with at least 32 bytes, got none; set the secret that the gateways "
            "have (without one they are open, and need no token)"
        )
    typer.echo(mint(settings.jwt_secret, subject, ttl, tenant, settings=settings))


@app.command()
def revoke(
    subject: Annotated[
        str | None,
        typer.Argument(metavar="SUBJECT", help="Whose tokens: all that were issued until now.", show_default=False),
    ] = None,
    token_id: Annotated[
        str | None,
        typer.Option(metavar="JTI", help="The one token of this id (its `jti`) instead.", show_default=False),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="The tenant of the subject or the token. [default: yours]", show_default=False)
    ] = None,
    url: Urls = None,
    token: Token = None,
) -> None:
    """Take tokens back before their end, on all gateways; open sockets and streams of theirs are closed.

    It needs the token of an operator (THREADLINE_OPERATORS). Turns that run go on, until somebody cancels them.
    Exit codes: 0 taken back, 1 no gateway could, 2 wrong usage, or not an operator.
    """
    settings = _client_settings(url, token)
    from cli.revoke import revoke as run

    typer.echo(asyncio.run(run(settings.url, settings.token, subject=subject, token_id=token_id, tenant=tenant)))


@app.command()
def top(
    url: Urls = None,
    token: Token = None,
    once: Annotated[bool, typer.Option("--once", help="Print it once, for a pipe or a look.")] = False,
) -> None:
    """Watch the fleet: gateways, workers and their slots, turns, latency. Ctrl-C leaves."""
    settings = _client_settings(url, token)
    from rich.console import Console

    from cli.top import top as run

    asyncio.run(run(settings.url, settings.token, Console(), once=once))


@app.command()
def doctor(url: Urls = None, redis_url: RedisUrl = None, as_json: Json = False) -> None:
    """Look at the settings, Redis and the gateways, and say what to change.

    Exit code 1 when something is wrong (FAIL); 0 when all is well, or could be better (warn).
    """
    settings = _settings(url=_addresses(url), redis_url=redis_url)
    from backplane.logs import configure
    from cli.doctor import examine, report, with_local_store

    configure(settings)  # to standard error: on the other one, machines read the report
    if not report(asyncio.run(examine(with_local_store(settings))), sys.stdout, as_json=as_json):
        raise typer.Exit(Exit.FAILED)


def main() -> None:
    """Run the command that the process was called with; the console script."""
    stdio.prepare()
    try:
        app(prog_name="threadline")
    except SystemExit as ended:
        if threading.active_count() > 1:  # Python waits for it, and it may be in a call that never ends
            from cli.process import LAST, leave_within

            leave_within(LAST, ended.code if isinstance(ended.code, int) else Exit.FAILED)
        raise


def _run_member(settings: Settings, service: str, run: Callable[[Settings, asyncio.Event], Awaitable[None]]) -> None:
    from backplane import logs, traces
    from cli.process import run_until_stopped

    async def start(stop: asyncio.Event) -> None:
        # in here: the last spans are sent before what an agent leaves behind is waited for
        with traces.exporting(settings, service):
            await run(settings, stop)

    logs.configure(settings)
    run_until_stopped(start)


def _settings(**given: object) -> Settings:
    from backplane.settings import load

    return load(**given)


def _addresses(urls: list[str] | None) -> tuple[str, ...] | None:
    return tuple(urls) if urls else None


def _client_settings(urls: list[str] | None, token: str | None) -> Settings:
    settings = _settings(url=_addresses(urls), token=token)
    for url in settings.url:
        gateway_url.check(url)
    if settings.token is not None and not _is_token(settings.token):
        raise Misconfigured(
            "token: expected one word of ASCII, as `threadline token` prints it, got one with spaces, line ends or "
            "other characters (not shown: it is a secret); give it alone and whole, with THREADLINE_TOKEN or --token"
        )
    return settings


def _is_token(text: str) -> bool:
    # anything else cannot stand in a header, and the error of the library would show it
    return text.isascii() and text.isprintable() and " " not in text


def _finish(work: Coroutine[Any, Any, int]) -> None:
    raise typer.Exit(asyncio.run(work))


def _complain(error: Exception) -> None:
    line = " ".join(str(error).split())
    if isinstance(error, Internal) and error.__cause__ is not None:  # a process that could not start has logged nothing
        line += f" ({' '.join(str(error.__cause__).split())})"
    typer.echo(f"threadline: {printable(line)}", err=True)


if __name__ == "__main__":
    main()
