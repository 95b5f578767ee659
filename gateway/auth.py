"""Who is calling: from a token to an identity, or to the one reason why not.

Tokens are JSON Web Tokens (RFC 7519), read as RFC 8725 advises: the algorithms are fixed by the
configuration and never taken from the token; a token without an end, or with one too far away, is refused.
Without a key the gateway is open, and then it may listen on loopback only.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import jwt

from backplane.errors import Misconfigured, Unauthorized, Unavailable
from backplane.ids import DEFAULT_TENANT
from backplane.settings import Settings

MIN_SECRET_BYTES = 32
"""A key as long as its hash, which RFC 7518, section 3.2, demands of HS256."""
MAX_LIFETIME = 30 * 24 * 3600
"""Seconds that a token may still be valid. A stolen token that never ends cannot be taken back."""
LEEWAY = 10
"""Seconds that two clocks may differ."""
MAX_TOKEN = 16 * 1024
"""Characters of a token; larger ones do not pass the header limits of common proxies either."""
MAX_SUBJECT = 256
KEY_SET_FRESH = 300.0
"""Seconds for which a fetched key set is used without asking again."""
KEY_SET_STALE = 3600.0
"""Seconds for which the last key set is used while the provider does not answer."""
KEY_SET_RETRY = 15.0
"""Seconds between two requests to the provider, whatever the tokens say and however it answers."""
KEY_SET_TIMEOUT = 5.0
"""Seconds that the provider has to answer; a connect waits for it."""
MAX_KEYS = 100

OPEN_NOTICE = (
    "no key is configured: everyone who reaches this port may read and write every thread; "
    "set THREADLINE_JWT_SECRET or THREADLINE_JWKS_URL to ask for tokens"
)

_TENANT = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_PUBLIC_KEY_ALGORITHMS = ("RS256", "ES256", "EdDSA")


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose calls these are."""

    subject: str
    """The token's `sub`; owner of the threads that it starts."""
    tenant: str
    """Threads of two tenants never meet."""
    expires_at: int | None
    """Unix seconds; None when it never does (open mode)."""
    token_id: str | None = None
    """The token's `jti`, for logs, and by which it can be taken back."""
    issued_at: int | None = None
    """The token's `iat`, Unix seconds."""


ANONYMOUS = Identity("anonymous", DEFAULT_TENANT, None)


def is_open(settings: Settings) -> bool:
    """Tell whether no key is configured, so that everyone is `ANONYMOUS`."""
    return settings.jwt_secret is None and settings.jwks_url is None


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address can be reached from this machine alone."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check(settings: Settings) -> None:
    """Refuse settings under which nobody could be told from anybody.

    Raises:
        Misconfigured: for a short secret, a secret and a key set at once, an address that is not one of a
            key set, or an open gateway that others can reach.
    """
    if is_open(settings):
        if not is_loopback(settings.host):
            raise Misconfigured(
                f"THREADLINE_HOST: expected 127.0.0.1, ::1 or localhost while no key is configured, got "
                f"{settings.host!r}; set THREADLINE_JWT_SECRET or THREADLINE_JWKS_URL, or listen on 127.0.0.1"
            )
        return
    if settings.jwt_secret is not None and settings.jwks_url is not None:
        raise Misconfigured(
            "expected one of THREADLINE_JWT_SECRET and THREADLINE_JWKS_URL, got both; unset one of them"
        )
    if settings.jwt_secret is not None:
        _secret(settings.jwt_secret)
    elif not str(settings.jwks_url).startswith(("https://", "http://")):
        raise Misconfigured(
            "THREADLINE_JWKS_URL: expected an address that begins with https://, got another; "
            "give the address of the provider's key set"
        )


def mint(
    secret: str,
    subject: str,
    ttl: int,
    tenant: str = DEFAULT_TENANT,
    *,
    settings: Settings | None = None,
) -> str:
    """Return a token for `subject` that is valid for `ttl` seconds from now.

    With `settings`, it carries the audience and issuer that they ask for, under their name for the tenant.

    Raises:
        Misconfigured: when the gateway would refuse it: a short secret, a lifetime over 30 days, a subject
            or a tenant of other characters.
    """
    if not 0 < ttl <= MAX_LIFETIME:
        raise Misconfigured(
            f"lifetime of a token: expected 1 to {MAX_LIFETIME} seconds (30 days), got {ttl}; ask for less"
        )
    if _subject(subject) is None or not _TENANT.fullmatch(tenant):
        raise Misconfigured(
            f"expected a subject of 1 to {MAX_SUBJECT} printable characters and a tenant of 1 to 128 letters, "
            "digits, or . _ : - , got others; choose other names"
        )
    now = int(time.time())
    claims: dict[str, Any] = {"sub": subject, "iat": now, "exp": now + ttl}
    claims[settings.jwt_tenant_claim if settings else "tenant"] = tenant
    if settings and settings.jwt_audience:
        claims["aud"] = settings.jwt_audience
    if settings and settings.jwt_issuer:
        claims["iss"] = settings.jwt_issuer
    return jwt.encode(claims, _secret(secret), algorithm="HS256")


def bearer(headers: Mapping[str, str]) -> str | None:
    """Return the token of an `Authorization: Bearer` header, None without such a header.

    `headers` is looked into by the lower-case name, as ASGI has it.

    Raises:
        Unauthorized: when the header is there and of another form.
    """
    header = headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise _refused("malformed", "expected `Authorization: Bearer <token>`, got another form")
    return token.strip()


def stream_token(headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
    """Return the token of a request for a stream of events: the header's, or else `?access_token=`.

    Only for the SSE route: a browser's EventSource cannot set a header. Elsewhere a token in an address would
    end in histories and proxies' logs (RFC 6750, section 5.3). Never log the address of such a request.

    Raises:
        Unauthorized: when there is a header of another form.
    """
    return bearer(headers) or query.get("access_token")


class Authenticator:
    """Turns tokens into identities, by the keys that the settings name.

    Use it as an async context manager: it owns the request for the provider's keys that may be under way.

    Args:
        settings: `jwt_*`, `jwks_url` and `host` are read.
        clock: seconds that never go back; decides how old a key set is.

    Raises:
        Misconfigured: as `check` does.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        check(settings)
        self._settings = settings
        self._keys = _KeySet(settings.jwks_url, clock) if settings.jwks_url is not None else None
        self.revoked: Callable[[Identity], bool] | None = None
        """Tells whether a token was taken back; whoever knows sets it."""
        self.open = is_open(settings)
        """True when everyone is `ANONYMOUS`; log `OPEN_NOTICE` then."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keys is not None:
            await self._keys.aclose()

    async def authenticate(self, token: object) -> Identity:
        """Return whose token this is. In open mode the token is not looked at.

        Args:
            token: what the client sent in the place of a token, whatever it is.

        Raises:
            Unauthorized: with `reason`: `missing`, `malformed`, `algorithm`, `key`, `signature`, `expired`,
                `not_yet_valid`, `lifetime`, `audience`, `issuer`, `subject`, `tenant`, `claims`, or `revoked`.
            Unavailable: when the provider's keys are needed and cannot be had, or what was taken back is not known yet.
        """
        if self.open:
            return ANONYMOUS
        if token is None or token == "":  # an empty string is what a form without a token sends
            raise _refused("missing", "expected a token, got none")
        if not isinstance(token, str) or len(token) > MAX_TOKEN or not token.isascii():
            raise _refused("malformed", f"expected a token of at most {MAX_TOKEN} ASCII characters, got other")
        key, algorithm = await self._key_of(token)
        identity = self._identity(_verified(token, key, algorithm, self._settings))
        if self.revoked is not None and self.revoked(identity):
            raise _refused("revoked", "expected a valid token, got one that was taken back")
        return identity

    async def refresh(self, current: Identity, token: object) -> Identity:
        """Return the identity of a newer token of the same subject and tenant.

        Raises:
            Unauthorized: as `authenticate`; with the reason `changed` when the token is somebody else's.
            Unavailable: as `authenticate`.
        """
        fresh = await self.authenticate(token)
        if (fresh.subject, fresh.tenant) != (current.subject, current.tenant):
            raise _refused("changed", "expected a token of the same subject and tenant, got another's")
        return fresh

    async def _key_of(self, token: str) -> tuple[Any, str]:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise _refused("malformed", "expected a JSON Web Token, got text that is not one") from None
        algorithm = header.get("alg")
        expected = ("HS256",) if self._keys is None else _PUBLIC_KEY_ALGORITHMS
        if algorithm not in expected:
            raise _refused("algorithm", f"expected a token signed with {' or '.join(expected)}, got another")
        if self._keys is None:
            return self._settings.jwt_secret, str(algorithm)
        key = await self._keys.find(header.get("kid"))
        if key.algorithm_name != algorithm:
            raise _refused("algorithm", "expected the algorithm that the key is for, got another")
        return key, str(algorithm)

    def _identity(self, claims: dict[str, Any]) -> Identity:
        expires_at = _end(claims["exp"])
        subject = _subject(claims["sub"])
        if subject is None:
            raise _refused("subject", f"expected `sub` to be 1 to {MAX_SUBJECT} printable characters")
        tenant = claims.get(self._settings.jwt_tenant_claim, DEFAULT_TENANT)
        if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
            raise _refused("tenant", "expected a tenant of 1 to 128 letters, digits, or . _ : -")
        token_id = claims.get("jti")
        known = isinstance(token_id, str) and len(token_id) <= MAX_SUBJECT and token_id.isprintable()
        issued_at = claims.get("iat")
        return Identity(
            subject, tenant, expires_at, token_id if known else None, None if issued_at is None else int(issued_at)
        )


class _KeySet:
    """The provider's public keys by their ids, fetched seldom and by one request at a time."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self._client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=KEY_SET_TIMEOUT)
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._request: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """End the request that may be under way."""
        if self._request is not None:
            self._request.cancel()
            await asyncio.gather(self._request, return_exceptions=True)

    async def find(self, key_id: object) -> jwt.PyJWK:
        """Return the key of that id; an unknown one is asked for, but not more often than `KEY_SET_RETRY`.

        Raises:
            Unauthorized: when the provider has no such key.
            Unavailable: when it could not be asked, or not yet again, and no usable key set is known.
        """
        if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_SUBJECT:
            raise _refused("key", "expected a key id (`kid`) in the token's header, got none or a wrong one")
        if self._age() > KEY_SET_FRESH or key_id not in self._keys:
            await self._ask()
        if self._age() > KEY_SET_STALE:
            raise Unavailable(
                "expected the identity provider to publish its keys, got no answer; try again in a moment"
            )
        key = self._keys.get(key_id)
        if key is None:
            raise _refused("key", "expected a token signed with a key that the provider publishes, got another")
        return key

    def _age(self) -> float:
        return self._clock() - self._fetched_at

    async def _ask(self) -> None:
        if self._request is None:
            if self._clock() - self._tried_at < KEY_SET_RETRY:
                return
            self._tried_at = self._clock()
            self._request = asyncio.create_task(self._fetch(), name="jwks")
        # A client that leaves while it waits must not end the request for the others.
        await asyncio.shield(self._request)

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(2 * KEY_SET_TIMEOUT):  # the client's own limit is one per read
                found = await asyncio.to_thread(self._client.get_signing_keys)
        except (jwt.PyJWTError, OSError, ValueError, RecursionError):
            return
        else:
            self._keys = {str(key.key_id): key for key in found[:MAX_KEYS]}
            self._fetched_at = self._clock()
        finally:
            self._request = None


def _secret(secret: str) -> str:
    size = len(secret.encode())
    if size < MIN_SECRET_BYTES:
        raise Misconfigured(
            f"THREADLINE_JWT_SECRET: expected at least {MIN_SECRET_BYTES} bytes, got {size}; "
            "make one with `openssl rand -base64 48`"
        )
    return secret


def _subject(subject: object) -> str | None:
    fits = isinstance(subject, str) and 0 < len(subject) <= MAX_SUBJECT and subject.isprintable()
    return subject if isinstance(subject, str) and fits and subject.strip() else None


def _end(exp: object) -> int:
    # PyJWT takes `"123"` for a number; RFC 7519 does not.
    if isinstance(exp, bool) or not isinstance(exp, int | float):
        raise _refused("claims", "expected `exp` to be a number, got another type")
    if exp - time.time() > MAX_LIFETIME:
        raise _refused("lifetime", "expected a token that ends within 30 days, got one that ends later")
    return int(exp)


_REASONS: tuple[tuple[type[jwt.PyJWTError], str, str], ...] = (
    (jwt.ExpiredSignatureError, "expired", "expected a valid token, got an expired one"),
    (jwt.ImmatureSignatureError, "not_yet_valid", "expected a valid token, got one that is not valid yet"),
    (jwt.InvalidAudienceError, "audience", "expected a token for this gateway, got one for another audience"),
    (jwt.InvalidIssuerError, "issuer", "expected a token of the configured issuer, got another's"),
    (jwt.exceptions.InvalidSubjectError, "subject", "expected `sub` to be a string, got another type"),
    (jwt.InvalidSignatureError, "signature", "expected a token signed with the configured key, got another"),
    (jwt.InvalidAlgorithmError, "algorithm", "expected the configured algorithm, got another"),
    (jwt.PyJWTError, "malformed", "expected a token whose claims have the types of RFC 7519, got others"),
)
"""PyJWT's errors, the special ones first, with our reasons: its own words can repeat parts of the token."""


def _verified(token: str, key: Any, algorithm: str, settings: Settings) -> dict[str, Any]:
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            leeway=LEEWAY,
            options={"require": ["exp", "sub"]},
        )
    except jwt.MissingRequiredClaimError as error:
        reason = {"aud": "audience", "iss": "issuer", "sub": "subject"}.get(error.claim, "claims")
        raise _refused(reason, f"expected the claim `{error.claim}` in the token, got none") from None
    except jwt.PyJWTError as error:
        reason, message = next(row[1:] for row in _REASONS if isinstance(error, row[0]))
        raise _refused(reason, message) from None
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise _refused("claims", "expected claims of the types that RFC 7519 names, got others") from None
    return claims


def _refused(reason: str, message: str) -> Unauthorized:
    return Unauthorized(f"{message}; sign in again for a new token", reason=reason)
