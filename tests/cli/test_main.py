"""The command as people type it: help, mistakes, exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import jwt
import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.clients.python.scripted_gateway import gateways

VERBS = (
    "serve",
    "gateway",
    "worker",
    "chat",
    "send",
    "tail",
    "cancel",
    "threads",
    "rename",
    "delete",
    "token",
    "revoke",
    "top",
    "doctor",
)
SECRET = "a secret of at least thirty-two bytes"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("THREADLINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")


def run(*args: str, stdin: str = "") -> tuple[int, str, str]:
    """Return the exit code, the output and the complaints of one command."""
    result = CliRunner().invoke(app, list(args), input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_and_each_of_its_options(verb: str) -> None:
    code, out, _ = run(verb, "--help")
    assert code == 0
    rows = [line for line in out.splitlines() if "--" in line and "│" in line]
    assert rows
    assert all(len(line.strip("│ ").split()) > 3 for line in rows), "an option without a word of help"


def test_the_help_names_every_verb() -> None:
    _, out, _ = run("--help")
    assert all(verb in out for verb in VERBS)


@pytest.mark.parametrize(
    "args",
    [
        ("no-such-verb",),
        ("gateway", "--port", "99999"),
        ("send", "tea"),
        ("tail", "tea", "--after", "yesterday"),
        ("send", "tea", "hi", "--url", "127.0.0.1:8080"),
        ("worker", "--slots", "0"),
    ],
)
def test_a_wrong_usage_is_one_plain_complaint_and_exit_code_2(args: tuple[str, ...]) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err
    assert "Traceback" not in err


def test_a_misspelt_variable_is_an_error_that_says_what_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADLINE_PROT", "1")
    code, _, err = run("gateway")
    assert code == 2
    assert err.startswith("threadline: ")
    assert "THREADLINE_PORT" in err


def test_a_token_can_be_read_with_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADLINE_JWT_SECRET", SECRET)
    code, out, _ = run("token", "ann", "--ttl", "60", "--tenant", "acme")
    claims = jwt.decode(out.strip(), SECRET, algorithms=["HS256"])
    assert code == 0
    assert (claims["sub"], claims["tenant"], claims["exp"] - claims["iat"]) == ("ann", "acme", 60)


def test_a_token_without_a_secret_is_refused_with_the_next_step() -> None:
    code, out, err = run("token")
    assert (code, out) == (2, "")
    assert "THREADLINE_JWT_SECRET" in err


async def test_send_tail_and_cancel_work_as_typed() -> None:
    async with gateways(1) as (deployment, (node,)):
        deployment.on_start = lambda thread, request_id, payload: (
            deployment.append(thread.id, request_id, "chat_done", full_response="a cup"),
            None,
        )[1]
        url = ("--url", node.url)
        sent = await asyncio.to_thread(run, "send", "tea", "-", "--wait", *url, stdin="how much?")
        tailed = await asyncio.to_thread(run, "tail", "tea", "--after", "0", "--until-done", "--json", *url)
        cancelled = await asyncio.to_thread(run, "cancel", "tea", *url)
        assert deployment.starts[0]["message"] == "how much?"
    assert (sent[0], sent[1]) == (0, "a cup\n")
    assert (tailed[0], tailed[1].count("\n")) == (0, 2)
    assert (cancelled[0], cancelled[1]) == (5, "")


async def test_chat_answers_a_pipe() -> None:
    async with gateways(1) as (deployment, (node,)):
        deployment.on_start = lambda thread, request_id, payload: (
            deployment.append(thread.id, request_id, "chat_done", full_response="tea"),
            None,
        )[1]
        node.on_deliver = lambda event: [*deployment.thread("t").log[:1], *deployment.thread("t").log[1:]]
        code, out, _ = await asyncio.to_thread(run, "chat", "--url", node.url, "--thread", "t", stdin="hi\n")
    assert code == 0
    assert out == "tea\n"


async def test_a_refused_token_is_one_line_and_exit_code_1() -> None:
    async with gateways(1) as (_, (node,)):
        node.refuse_connect = {"code": "unauthorized", "message": "the token has expired", "retryable": False}
        code, out, err = await asyncio.to_thread(run, "send", "tea", "hi", "--url", node.url)
    assert (code, out, err) == (1, "", "threadline: the token has expired\n")


async def test_ctrl_c_ends_a_tail_without_a_traceback() -> None:
    async with gateways(1) as (deployment, (node,)):
        deployment.append("tea", "r1", "chat_accepted", message="hi")
        # a shell has what it starts in the background ignore SIGINT, and so would the command here
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "cli.main", "tail", "tea", "--after", "0", "--url", node.url),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        finally:
            signal.signal(signal.SIGINT, before)
        assert process.stdout is not None
        await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in err


@pytest.mark.parametrize("token", ["hidden\n", "hidden ", "hidden\x7f", "hidd\u00fcn"])
@pytest.mark.parametrize("verb", [("top", "--once"), ("revoke", "x"), ("chat",), ("threads",)])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(verb: tuple[str, ...], token: str) -> None:
    code, out, complaint = run(*verb, "--token", token)
    assert code == 2
    assert "token: expected one word of ASCII" in complaint
    assert "hidd" not in out + complaint


@pytest.mark.parametrize("verb", [("top", "--once"), ("revoke", "x"), ("chat",), ("send", "t", "hi")])
def test_a_url_that_is_none_is_refused_by_every_verb(verb: tuple[str, ...]) -> None:
    code, _, complaint = run(*verb, "--url", "http://127.0.0.1:99999")
    assert code == 2
    assert complaint.startswith("threadline: gateway URL: expected one such as http://127.0.0.1:8080, got ")


def test_a_revocation_must_name_whose_tokens_or_which_one() -> None:
    for asked in ([], ["mallory", "--token-id", "a1"]):
        code, out, complaint = run("revoke", *asked)
        assert (code, out) == (2, "")
        assert "expected a subject or --token-id" in complaint


def test_a_worker_starts_without_what_only_clients_and_gateways_need() -> None:
    """A restart under load takes processor time from those who serve meanwhile; these were more than a third of it."""
    loaded = "import sys, cli.main, worker.runtime, worker.agents.demo; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, timeout=60).stdout
    assert not {"aiohttp", "socketio", "threadline_client", "starlette", "uvicorn", "openai"} & set(said.split())


async def test_an_error_of_the_client_is_one_plain_line_although_it_is_loaded_late() -> None:
    async with gateways(1) as (_, (node,)):
        node.refuse_connect = {"code": "unauthorized", "message": "the token has expired", "retryable": False}
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "cli.main", "threads", "--url", node.url],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, "threadline: the token has expired\n")


def test_a_start_that_redis_refuses_says_why(valkey: str) -> None:
    """It sent the reader to a log in which nothing stood."""
    url = f"{valkey.rpartition('/')[0]}/99999"
    ended = subprocess.run(
        [sys.executable, "-m", "cli.main", "worker", "--redis-url", url], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "DB index is out of range" in ended.stderr
