"""Only a good token opens the door, and each bad one is told why."""

from __future__ import annotations

import asyncio
import base64
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from backplane.errors import Misconfigured, Unauthorized, Unavailable
from backplane.settings import Settings
from gateway import auth

SECRET = "a secret of this test that is long enough"


def settings(**given: Any) -> Settings:
    return Settings(**{"jwt_secret": SECRET, **given})


def token(_key: Any = SECRET, _alg: str = "HS256", _headers: dict[str, Any] | None = None, **claims: Any) -> str:
    given = {"sub": "ann", "exp": int(time.time()) + 600, **claims}
    kept = {name: value for name, value in given.items() if value is not ...}
    return jwt.encode(kept, _key, algorithm=_alg, headers=_headers)


def forged(header: dict[str, Any], claims: object, signature: bytes = b"") -> str:
    def part(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    return ".".join((part(json.dumps(header).encode()), part(json.dumps(claims).encode()), part(signature)))


async def refusal(shown: object, **given: Any) -> str:
    with pytest.raises(Unauthorized) as caught:
        await auth.Authenticator(settings(**given)).authenticate(shown)
    assert "expected" in caught.value.message
    return str(caught.value.details["reason"])


# --- a shared secret --------------------------------------------------------------------------------------


async def test_a_good_token_is_its_subject() -> None:
    end = int(time.time()) + 600
    shown = token(exp=end, tenant="acme", jti="t-1")
    identity = await auth.Authenticator(settings()).authenticate(shown)
    assert identity == auth.Identity("ann", "acme", end, "t-1")


async def test_without_a_tenant_the_token_is_of_the_default_one() -> None:
    assert (await auth.Authenticator(settings()).authenticate(token())).tenant == "default"


async def test_the_tenant_claim_has_the_name_that_the_settings_give_it() -> None:
    identity = await auth.Authenticator(settings(jwt_tenant_claim="org")).authenticate(token(org="o:1"))
    assert identity.tenant == "o:1"


async def test_a_minted_token_is_good_for_the_gateway_that_has_the_same_settings() -> None:
    asked = settings(jwt_audience="chat", jwt_issuer="us", jwt_tenant_claim="org")
    shown = auth.mint(SECRET, "bob", 60, "acme", settings=asked)
    identity = await auth.Authenticator(asked).authenticate(shown)
    assert (identity.subject, identity.tenant) == ("bob", "acme")
    assert identity.expires_at is not None
    assert 50 < identity.expires_at - time.time() <= 60


@pytest.mark.parametrize(
    ("secret", "subject", "ttl", "tenant"),
    [
        ("short", "ann", 60, "default"),
        (SECRET, "", 60, "default"),
        (SECRET, "a\nb", 60, "default"),
        (SECRET, "ann", 0, "default"),
        (SECRET, "ann", auth.MAX_LIFETIME + 1, "default"),
        (SECRET, "ann", 60, "a/b"),
    ],
)
def test_a_token_that_would_be_refused_is_not_minted(secret: str, subject: str, ttl: int, tenant: str) -> None:
    with pytest.raises(Misconfigured):
        auth.mint(secret, subject, ttl, tenant)


@pytest.mark.parametrize("shown", [None, ""])
async def test_no_token_is_missing(shown: object) -> None:
    assert await refusal(shown) == "missing"


@pytest.mark.parametrize(
    "shown",
    [
        17,
        {"token": "x"},
        ["a"],
        True,
        "x",
        "a.b.c",
        "é" * 20,
        "\ud800",
        "a" * (auth.MAX_TOKEN + 1),
        "..",
        base64.urlsafe_b64encode(b"[" * 8000).decode() + ".e30.e30",
        forged({"alg": "HS256"}, {}).rpartition(".")[0],
    ],
)
async def test_what_is_not_a_token_is_malformed(shown: object) -> None:
    assert await refusal(shown) == "malformed"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None, 3, "HS384", "HS512", "RS256", "ES256"])
async def test_only_the_configured_algorithm_counts(algorithm: object) -> None:
    shown = forged({"alg": algorithm, "typ": "JWT"}, {"sub": "ann", "exp": time.time() + 60})
    assert await refusal(shown) in {"algorithm", "malformed"}


async def test_a_token_of_another_key_or_with_changed_claims_has_a_wrong_signature() -> None:
    assert await refusal(token(_key="another secret, which is long enough too")) == "signature"
    head, _, signature = token().split(".")
    claims = forged({}, {"sub": "root", "exp": time.time() + 60}).split(".")[1]
    assert await refusal(f"{head}.{claims}.{signature}") == "signature"


@pytest.mark.parametrize(
    ("claims", "given", "reason"),
    [
        ({"exp": time.time() - 3600}, {}, "expired"),
        ({"exp": ...}, {}, "claims"),
        ({"exp": time.time() + auth.MAX_LIFETIME + 3600}, {}, "lifetime"),
        ({"exp": 10**17}, {}, "lifetime"),
        ({"exp": float("inf")}, {}, "malformed"),
        ({"exp": float("nan")}, {}, "malformed"),
        ({"exp": str(int(time.time()) + 3600)}, {}, "claims"),
        ({"exp": True}, {}, "expired"),
        ({"exp": [1]}, {}, "malformed"),
        ({"nbf": time.time() + 3600}, {}, "not_yet_valid"),
        ({"iat": time.time() + 3600}, {}, "not_yet_valid"),
        ({}, {"jwt_audience": "chat"}, "audience"),
        ({"aud": "mail"}, {"jwt_audience": "chat"}, "audience"),
        ({"aud": "mail"}, {}, "audience"),
        ({}, {"jwt_issuer": "us"}, "issuer"),
        ({"iss": "them"}, {"jwt_issuer": "us"}, "issuer"),
        ({"sub": ...}, {}, "subject"),
        ({"sub": ""}, {}, "subject"),
        ({"sub": "  "}, {}, "subject"),
        ({"sub": "a\nCRITICAL"}, {}, "subject"),
        ({"sub": "a\u202eb"}, {}, "subject"),
        ({"sub": "a" * (auth.MAX_SUBJECT + 1)}, {}, "subject"),
        ({"tenant": ""}, {}, "tenant"),
        ({"tenant": None}, {}, "tenant"),
        ({"tenant": "a/b"}, {}, "tenant"),
        ({"tenant": "{1}"}, {}, "tenant"),
        ({"tenant": ["acme"]}, {}, "tenant"),
        ({"tenant": "a" * 129}, {}, "tenant"),
    ],
)
async def test_claims_that_do_not_fit_are_refused_with_their_reason(
    claims: dict[str, Any], given: dict[str, Any], reason: str
) -> None:
    assert await refusal(token(**claims), **given) == reason


async def test_a_subject_that_is_not_a_string_is_refused() -> None:
    head, claims = forged({"alg": "HS256"}, {"sub": 7, "exp": time.time() + 60}).split(".")[:2]
    signer = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = signer.sign(f"{head}.{claims}".encode(), SECRET.encode())
    shown = f"{head}.{claims}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert await refusal(shown) == "subject"


async def test_two_clocks_may_differ_a_little() -> None:
    door = auth.Authenticator(settings())
    await door.authenticate(token(exp=time.time() - auth.LEEWAY / 2))
    await door.authenticate(token(nbf=time.time() + auth.LEEWAY / 2))


async def test_a_refusal_repeats_nothing_of_the_token() -> None:
    shown = token(iss="<script>", tenant="who\nknows")
    for given in ({}, {"jwt_issuer": "us"}):
        with pytest.raises(Unauthorized) as caught:
            await auth.Authenticator(settings(**given)).authenticate(shown)
        assert "<script>" not in caught.value.message
        assert "knows" not in caught.value.message


# --- a newer token ----------------------------------------------------------------------------------------


async def test_a_newer_token_of_the_same_person_moves_the_end() -> None:
    door = auth.Authenticator(settings())
    first = await door.authenticate(token(exp=int(time.time()) + 60))
    later = int(time.time()) + 900
    assert (await door.refresh(first, token(exp=later))).expires_at == later


@pytest.mark.parametrize("claims", [{"sub": "eve"}, {"tenant": "other"}])
async def test_another_persons_token_does_not_refresh(claims: dict[str, Any]) -> None:
    door = auth.Authenticator(settings())
    with pytest.raises(Unauthorized) as caught:
        await door.refresh(await door.authenticate(token()), token(**claims))
    assert caught.value.details["reason"] == "changed"


# --- without a key ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "LOCALHOST", "::1", "[::1]"])
async def test_without_a_key_everyone_on_this_machine_is_anonymous(host: str) -> None:
    door = auth.Authenticator(Settings(host=host))
    assert door.open
    assert await door.authenticate("whatever") == auth.Identity("anonymous", "default", None)
    assert await door.refresh(auth.ANONYMOUS, None) == auth.ANONYMOUS


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example.org", "localhost.example.org"])
def test_without_a_key_nobody_else_may_reach_the_gateway(host: str) -> None:
    with pytest.raises(Misconfigured, match="THREADLINE_JWT_SECRET"):
        auth.Authenticator(Settings(host=host))


def test_with_a_key_the_gateway_may_listen_everywhere() -> None:
    assert not auth.Authenticator(settings(host="0.0.0.0")).open


@pytest.mark.parametrize(
    "given",
    [
        {"jwt_secret": "x" * 31},
        {"jwt_secret": ""},
        {"jwt_secret": SECRET, "jwks_url": "https://id.example/keys"},
        {"jwt_secret": None, "jwks_url": "file:///etc/passwd"},
        {"jwt_secret": None, "jwks_url": ""},
    ],
)
def test_keys_that_protect_nothing_stop_the_start(given: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured) as caught:
        auth.Authenticator(Settings(**given))
    assert "expected" in caught.value.message
    assert "passwd" not in caught.value.message


# --- where a token is looked for --------------------------------------------------------------------------


def test_a_token_comes_in_the_authorization_header() -> None:
    assert auth.bearer({"authorization": "Bearer abc"}) == "abc"
    assert auth.bearer({"authorization": "bearer  abc "}) == "abc"
    assert auth.bearer({}) is None


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "Bearer ", "abc", ""])
def test_another_form_of_the_header_is_malformed(header: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        auth.bearer({"authorization": header})
    assert caught.value.details["reason"] == "malformed"


def test_a_stream_of_events_may_carry_its_token_in_the_query() -> None:
    assert auth.stream_token({}, {"access_token": "abc"}) == "abc"
    assert auth.stream_token({"authorization": "Bearer xyz"}, {"access_token": "abc"}) == "xyz"
    assert auth.stream_token({}, {}) is None


# --- an identity provider ---------------------------------------------------------------------------------


class Provider:
    """An identity provider on loopback: it publishes `keys`, and counts who asks."""

    def __init__(self) -> None:
        self.requests = 0
        self.keys: list[dict[str, Any]] = []
        self.broken = False
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.requests += 1
                body = b"<html>" if owner.broken else json.dumps({"keys": owner.keys}).encode()
                self.send_response(503 if owner.broken else 200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name for it
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"

    def publish(self, key_id: str, algorithm: str, key: Any) -> None:
        kind: Any = {"RS256": jwt.algorithms.RSAAlgorithm, "ES256": jwt.algorithms.ECAlgorithm}.get(
            algorithm, jwt.algorithms.OKPAlgorithm
        )
        public = kind.to_jwk(key.public_key(), as_dict=True)
        self.keys.append({**public, "kid": key_id, "alg": algorithm, "use": "sig"})


class Clock:
    """Seconds that move when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    started = Provider()
    thread = threading.Thread(target=started.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield started
    finally:
        started.server.shutdown()
        started.server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def by_provider(provider: Provider, clock: Clock | None = None) -> auth.Authenticator:
    return auth.Authenticator(Settings(jwks_url=provider.url, host="0.0.0.0"), clock or Clock())


async def reason_of(door: auth.Authenticator, shown: str) -> str:
    with pytest.raises(Unauthorized) as caught:
        await door.authenticate(shown)
    return str(caught.value.details["reason"])


@pytest.mark.parametrize(
    ("algorithm", "make"),
    [
        ("RS256", lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        ("ES256", lambda: ec.generate_private_key(ec.SECP256R1())),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate),
    ],
)
async def test_a_token_of_the_providers_key_is_good(
    provider: Provider, algorithm: str, make: Callable[[], Any]
) -> None:
    key = make()
    provider.publish("k1", algorithm, key)
    async with by_provider(provider) as door:
        shown = token(_key=key, _alg=algorithm, _headers={"kid": "k1"})
        assert (await door.authenticate(shown)).subject == "ann"
        other = token(_key=make(), _alg=algorithm, _headers={"kid": "k1"})
        assert await reason_of(door, other) == "signature"


async def test_the_public_key_is_no_shared_secret(provider: Provider, rsa_key: rsa.RSAPrivateKey) -> None:
    """HS/RS confusion: the public key, which everyone has, taken for the secret of an HS256 token."""
    provider.publish("k1", "RS256", rsa_key)
    public = rsa_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    head, claims = forged({"alg": "HS256", "kid": "k1"}, {"sub": "a", "exp": time.time() + 60}).split(".")[:2]
    signer = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = base64.urlsafe_b64encode(signer.sign(f"{head}.{claims}".encode(), public)).rstrip(b"=")
    async with by_provider(provider) as door:
        assert await reason_of(door, f"{head}.{claims}.{signature.decode()}") == "algorithm"
        assert provider.requests == 0


async def test_a_shared_secret_in_the_key_set_is_not_used(provider: Provider) -> None:
    secret = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
    provider.keys.append({"kty": "oct", "kid": "k1", "k": secret, "alg": "HS256"})
    async with by_provider(provider) as door:
        assert await reason_of(door, token(_headers={"kid": "k1"})) == "algorithm"


async def test_a_key_is_used_with_its_own_algorithm_only(provider: Provider, rsa_key: rsa.RSAPrivateKey) -> None:
    provider.publish("k1", "RS256", rsa_key)
    key = ec.generate_private_key(ec.SECP256R1())
    async with by_provider(provider) as door:
        assert await reason_of(door, token(_key=key, _alg="ES256", _headers={"kid": "k1"})) == "algorithm"


async def test_a_key_that_the_token_brings_or_points_to_is_not_used(
    provider: Provider, rsa_key: rsa.RSAPrivateKey
) -> None:
    provider.publish("k1", "RS256", rsa_key)
    own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(own.public_key(), as_dict=True)
    headers = {"kid": "k1", "jwk": jwk, "jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/x"}
    async with by_provider(provider) as door:
        assert await reason_of(door, token(_key=own, _alg="RS256", _headers=headers)) == "signature"


@pytest.mark.parametrize("key_id", ["../../etc/passwd", "' OR 1=1 --", "k" * 10_000, "", "unknown"])
async def test_a_key_id_finds_a_published_key_or_nothing(
    provider: Provider, rsa_key: rsa.RSAPrivateKey, key_id: str
) -> None:
    provider.publish("k1", "RS256", rsa_key)
    async with by_provider(provider) as door:
        assert await reason_of(door, token(_key=rsa_key, _alg="RS256", _headers={"kid": key_id})) == "key"
        assert await reason_of(door, token(_key=rsa_key, _alg="RS256")) == "key"


async def test_unknown_key_ids_do_not_hammer_the_provider(provider: Provider, rsa_key: rsa.RSAPrivateKey) -> None:
    provider.publish("k1", "RS256", rsa_key)
    clock = Clock()
    async with by_provider(provider, clock) as door:
        for number in range(50):
            shown = token(_key=rsa_key, _alg="RS256", _headers={"kid": f"guess-{number}"})
            assert await reason_of(door, shown) == "key"
        await door.authenticate(token(_key=rsa_key, _alg="RS256", _headers={"kid": "k1"}))
        assert provider.requests == 1


async def test_a_key_that_was_published_later_is_found(provider: Provider, rsa_key: rsa.RSAPrivateKey) -> None:
    provider.publish("k1", "RS256", rsa_key)
    clock = Clock()
    async with by_provider(provider, clock) as door:
        shown = token(_key=rsa_key, _alg="RS256", _headers={"kid": "k2"})
        assert await reason_of(door, shown) == "key"
        provider.publish("k2", "RS256", rsa_key)
        clock.now += auth.KEY_SET_RETRY
        assert (await door.authenticate(shown)).subject == "ann"
        assert provider.requests == 2


async def test_a_hundred_connects_at_once_ask_the_provider_once(provider: Provider, rsa_key: rsa.RSAPrivateKey) -> None:
    provider.publish("k1", "RS256", rsa_key)
    shown = token(_key=rsa_key, _alg="RS256", _headers={"kid": "k1"})
    async with by_provider(provider) as door:
        found = await asyncio.gather(*(door.authenticate(shown) for _ in range(100)))
        assert {identity.subject for identity in found} == {"ann"}
        assert provider.requests == 1


async def test_a_client_that_leaves_while_it_waits_takes_the_answer_from_nobody(
    provider: Provider, rsa_key: rsa.RSAPrivateKey
) -> None:
    provider.publish("k1", "RS256", rsa_key)
    shown = token(_key=rsa_key, _alg="RS256", _headers={"kid": "k1"})
    async with by_provider(provider) as door:
        first = asyncio.create_task(door.authenticate(shown))
        await asyncio.sleep(0)  # the request is under way
        first.cancel()
        assert (await door.authenticate(shown)).subject == "ann"
        assert provider.requests == 1


async def test_without_the_provider_nobody_can_be_told_and_it_is_not_asked_again_at_once(
    provider: Provider, rsa_key: rsa.RSAPrivateKey
) -> None:
    provider.publish("k1", "RS256", rsa_key)
    provider.broken = True
    clock = Clock()
    shown = token(_key=rsa_key, _alg="RS256", _headers={"kid": "k1"})
    async with by_provider(provider, clock) as door:
        for _ in range(20):
            with pytest.raises(Unavailable):
                await door.authenticate(shown)
        assert provider.requests == 1
        provider.broken = False
        clock.now += auth.KEY_SET_RETRY
        assert (await door.authenticate(shown)).subject == "ann"


async def test_known_keys_outlive_a_short_absence_of_the_provider_but_not_a_long_one(
    provider: Provider, rsa_key: rsa.RSAPrivateKey
) -> None:
    provider.publish("k1", "RS256", rsa_key)
    clock = Clock()
    shown = token(_key=rsa_key, _alg="RS256", _headers={"kid": "k1"})
    async with by_provider(provider, clock) as door:
        await door.authenticate(shown)
        provider.broken = True
        clock.now += auth.KEY_SET_FRESH + 1
        assert (await door.authenticate(shown)).subject == "ann"
        assert provider.requests == 2
        clock.now += auth.KEY_SET_STALE
        with pytest.raises(Unavailable):
            await door.authenticate(shown)


async def test_a_withdrawn_key_is_forgotten_when_the_key_set_is_fetched_again(
    provider: Provider, rsa_key: rsa.RSAPrivateKey
) -> None:
    provider.publish("k1", "RS256", rsa_key)
    clock = Clock()
    shown = token(_key=rsa_key, _alg="RS256", _headers={"kid": "k1"})
    async with by_provider(provider, clock) as door:
        await door.authenticate(shown)
        provider.keys.clear()
        provider.publish("k2", "RS256", rsa_key)
        clock.now += auth.KEY_SET_FRESH + 1
        assert await reason_of(door, shown) == "key"
