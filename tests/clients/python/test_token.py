"""When a token ends, and when the next one is asked for."""

from __future__ import annotations

import jwt
import pytest

from threadline_client.token import due_in, end_of

SECRET = "a secret of this test alone, 32 bytes or more"


def token(**claims: object) -> str:
    return jwt.encode(dict(claims), SECRET, algorithm="HS256")


def test_a_token_says_when_it_ends() -> None:
    assert end_of(token(exp=5, sub="Zoë 😀")) == 5


@pytest.mark.parametrize("text", [None, "", "x", "a.b.c", "e30.e30.x", "e30.W10.x", token(sub="x")])
def test_what_does_not_say_when_it_ends_is_never_due(text: str | None) -> None:
    assert end_of(text) is None
    assert due_in(text) is None


@pytest.mark.parametrize(("seconds", "expected"), [(3600, 3540), (10, 8), (-5, 1)])
def test_another_is_due_a_minute_or_a_fifth_before_the_end(seconds: int, expected: int) -> None:
    assert due_in(token(exp=1000 + seconds), now=1000) == expected
