"""Every setting, its default, and its environment variable (`THREADLINE_` and the name in capitals)."""

from __future__ import annotations

import difflib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from backplane.errors import Misconfigured

ENV_PREFIX = "THREADLINE_"


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _pairs(value: object) -> object:
    """Return `acme=3,free=1` as a mapping."""
    if isinstance(value, str):
        return dict(part.partition("=")[::2] for part in _split(value))  # type: ignore[attr-defined]
    return value


Policy = Literal["retry", "resume", "fail"]
"""What becomes of a turn whose worker is lost: it begins again, goes on behind its last finished step, or ends."""
_Commas = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
_Positive = Annotated[int, Field(gt=0)]
_OfTenants = Annotated[Mapping[str, _Positive], NoDecode, BeforeValidator(_pairs)]
_Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """What a gateway or a worker is told. Times are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    # --- Redis -----------------------------------------------------------------------------------------
    redis_url: str = Field(default="redis://127.0.0.1:6379/0", repr=False)
    """Where Redis or Valkey is: one server, Sentinel or Cluster (docs/redis.md)."""
    key_prefix: str = Field(default="threadline", pattern=r"^[A-Za-z0-9_.-]+$")
    """Keeps two deployments on one Redis apart."""
    partitions: int = Field(default=256, ge=1, le=16384)
    """How many partitions threads are spread over; recorded at the first start, and taken from there when unset."""
    redis_timeout: _Seconds = 5.0
    """How long one command may take before the call is answered `unavailable`."""

    # --- how long things are kept ----------------------------------------------------------------------
    thread_ttl: _Positive = 30 * 24 * 3600
    """Idle threads and their sessions are forgotten after this."""
    replay_window: _Positive = 24 * 3600
    """The log is kept for this long after the last turn."""
    turn_ttl: _Positive = 24 * 3600
    """Finished turns, and idempotency keys, are remembered for this long."""
    log_max_entries: _Positive = 20_000
    """The newest entries of a log that are kept for replay."""
    session_max_messages: _Positive = 2_000
    """The newest messages of a session that are kept."""

    # --- limits ----------------------------------------------------------------------------------------
    max_message_bytes: _Positive = 256 * 1024
    """A user's message may be this long (UTF-8)."""
    max_tool_output_bytes: _Positive = 256 * 1024
    """A tool's output is cut to this, with a marker."""
    max_answer_bytes: _Positive = 4 * 1024 * 1024
    """An answer that grows over this ends the turn with `answer_too_large`."""
    max_thinking_bytes: _Positive = 4 * 1024 * 1024
    """What an agent thinks and the arguments of its calls, in one attempt; over this the turn ends likewise."""
    max_followups: _Positive = 100
    """Messages that may wait in one lane of a thread: follow-ups, steers, collected context."""
    max_branches: _Positive = 50
    """Old branches of a thread that stay readable; one more edit, and the oldest is forgotten."""
    max_parallel: _Positive = 4
    """Turns of one thread that may run beside its primary turn (`queue_mode` parallel)."""
    max_turns_per_user: _Positive = 50
    """Turns that one user may have under way at once, over all threads; not counted while no key is configured."""
    max_turns_per_tenant: int = Field(default=0, ge=0)
    """Turns that one tenant may have under way at once, over all its users; 0 for no limit."""
    tenant_max_turns: _OfTenants = Field(default={})
    """The same for single tenants, such as `acme=500,free=20`."""
    tenant_weights: _OfTenants = Field(default={})
    """How large a share of the workers a tenant gets when turns wait, such as `acme=3`; 1 for those not named."""
    calls_per_second: float = Field(default=20.0, gt=0)
    """Calls a second that one socket may make for long; bursts of `calls_burst` pass."""
    calls_burst: _Positive = 60
    """Calls that one socket may make at once."""
    user_calls_per_second: float = Field(default=50.0, ge=0)
    """Calls a second that one user may make over all gateways; bursts of 5 seconds' worth pass; 0 for no limit."""
    tenant_calls_per_second: float = Field(default=0.0, ge=0)
    """The same for all users of one tenant together."""
    max_connections_per_user: int = Field(default=100, ge=0)
    """Sockets and streams of events that one user may have open at one gateway; 0 for no limit."""
    connects_per_second: float = Field(default=100.0, ge=0)
    """New connections a second that one address may make over all gateways; bursts as above; 0 for no limit."""
    http_calls_per_second: float = Field(default=100.0, ge=0)
    """The same for other HTTP requests of one address."""

    # --- turns -----------------------------------------------------------------------------------------
    turn_timeout: _Seconds = 1800.0
    """A turn that has not ended by then ends with `turn_timeout`, whoever owns it."""
    lease: _Seconds = 2.5
    """How long a worker may be silent before another takes its turn over."""
    heartbeat: _Seconds = 0.7
    """How often a worker renews its leases."""
    cancel_grace: _Seconds = 2.0
    """A cancelled turn whose worker has not ended it by then is ended for it."""
    recover_interval: _Seconds = 0.25
    """How often lapsed leases, deadlines and lost wake-ups are looked for."""
    max_attempts: _Positive = 3
    """A turn that lost this many workers ends with `worker_lost`."""
    turn_policy: Policy = "retry"
    """What becomes of a turn whose worker is lost, unless its start says otherwise: `retry`, `resume` or `fail`."""
    retry_backoff: _Seconds = 1.0
    """A turn that lost two workers waits this long for the next attempt, then twice as long each time."""
    approval_timeout: _Seconds = 3600.0
    """How long a person has to decide what an agent asks, unless the agent says otherwise; then it is refused."""
    max_steps_bytes: _Positive = 4 * 1024 * 1024
    """The recorded results of a turn's steps may take this much together."""
    inference_heartbeat: _Seconds = 20.0
    """How often a silent turn tells its clients that its worker is alive."""
    coalesce: float = Field(default=0.02, ge=0)
    """Deltas are gathered so long before they are appended, 2.5 times that while many talk; the first goes at once."""

    # --- gateway ---------------------------------------------------------------------------------------
    host: str = "127.0.0.1"
    """Where the gateway listens."""
    port: int = Field(default=8080, ge=0, le=65535)
    """The gateway's port; 0 takes a free one."""
    node_id: str = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    """The name of this process in logs and leases."""
    cors_origins: _Commas = ()
    """Origins that browsers may connect from, separated by commas; empty means the gateway's own origin."""
    trusted_proxies: _Commas = ()
    """Addresses and networks of proxies whose `X-Forwarded-For` is believed, such as `10.0.0.0/8,::1`."""
    page: bool = True
    """Serve the page (a chat, and a view of the fleet) at `/` to browsers; without it, `/` is a text for everybody."""
    page_gateways: _Commas = ()
    """The gateways that the page may use beside its own, as browsers reach them; their pages may use this one."""
    aliases: bool = True
    """Send each event but the deltas also under its alias (`chat:done` for `chat_done`)."""
    presence_interval: _Seconds = 10.0
    """How often a node says who watches its threads; it is believed for three times as long."""
    polling: bool = True
    """Serve clients that have no WebSocket by HTTP polls, which all have to reach the node that holds the session."""
    max_threads_per_socket: _Positive = 5000
    """Threads that one socket may watch at once."""
    max_frame_bytes: _Positive = 1_000_000
    """A frame from a client over this closes its connection."""
    canary_interval: _Seconds = 0.5
    """How often a node checks that it hears its own pub/sub path; a worker does a tenth as often."""
    poll_interval: _Seconds = 1.0
    """How often a node reads the log of a watched thread whose turn runs, in case every wake-up is lost."""
    drain_grace: _Seconds = 10.0
    """How long a stopping process waits for what it holds."""

    # --- who may ---------------------------------------------------------------------------------------
    jwt_secret: str | None = Field(default=None, repr=False)
    """Shared secret for HS256 tokens, at least 32 bytes."""
    jwks_url: str | None = None
    """Where the identity provider publishes its keys (RS256, ES256, EdDSA)."""
    jwt_audience: str | None = None
    """The `aud` that a token must carry."""
    jwt_issuer: str | None = None
    """The `iss` that a token must carry."""
    jwt_tenant_claim: str = "tenant"
    """The claim that names the tenant; threads of two tenants never meet."""

    expiry_grace: _Seconds = 30.0
    """How long a socket whose token has ended may take to refresh it, and a stream of events goes on."""
    operators: _Commas = ()
    """Who may see the whole fleet and take tokens back: subjects of the tenant `default`, or `TENANT/SUBJECT`."""
    plugs: bool = False
    """Let operators cut sockets and kill nodes and workers of this machine. Never in production."""

    # --- worker ----------------------------------------------------------------------------------------
    agent: str = "worker.agents.demo:agent"
    """The agent, as `module:attribute`."""
    slots: _Positive = 16
    """Turns that one worker runs at once."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Where a worker serves `/metrics` and `/healthz`, on `host`; 0 does not. A gateway has both on its own port."""
    max_turns: int = Field(default=0, ge=0)
    """A worker that has taken this many turns takes no more, ends them and stops; 0 for no limit."""

    # --- this machine ----------------------------------------------------------------------------------
    data_dir: Path = Path(".threadline")
    """Where the embedded server of `threadline serve` keeps its data."""
    log_level: str = Field(default="info", pattern=r"^(debug|info|warning|error)$")
    """The least severe log lines to print."""
    log_format: str = Field(default="text", pattern=r"^(text|json)$")
    """`json` for machines, `text` for people."""
    traces: Literal["off", "otlp"] = "off"
    """`otlp` sends OpenTelemetry traces to a collector; the variables `OTEL_…` say where. Needs the extra `otel`."""
    url: _Commas = ("http://127.0.0.1:8080",)
    """Gateways that the command-line client talks to, separated by commas."""
    token: str | None = Field(default=None, repr=False)
    """The token that the command-line client shows."""

    @classmethod
    def settings_names(cls) -> tuple[str, ...]:
        """Return every environment variable that is understood."""
        return tuple(ENV_PREFIX + name.upper() for name in cls.model_fields)


def check_environment(environ: Mapping[str, str]) -> None:
    """Refuse a variable that begins with `THREADLINE_` and means nothing.

    Raises:
        Misconfigured: naming the variable, and the one that was probably meant.
    """
    known = Settings.settings_names()
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "docs/settings.md lists every variable"
            raise Misconfigured(f"environment variable {name} is not a setting of Threadline; {hint}")


def load(**overrides: object) -> Settings:
    """Return the settings of this process: defaults, the environment, what is not None in `overrides`.

    Raises:
        Misconfigured: for an unknown variable or a value that does not fit.
    """
    check_environment(os.environ)
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = "; ".join(
            f"{ENV_PREFIX}{'.'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}, "
            f"got {problem['input']!r}"
            for problem in error.errors()
        )
        raise Misconfigured(f"{problems}; docs/settings.md says what each setting takes") from None
