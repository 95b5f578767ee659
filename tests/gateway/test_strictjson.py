"""Text that would poison a log is refused before anything is made of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import strictjson

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_what_is_written_is_read_again(value: object) -> None:
    assert strictjson.loads(strictjson.dumps(value)) == value


@given(JSON)
def test_what_other_writers_write_is_read(value: object) -> None:
    assert strictjson.loads(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        '{"temperature":NaN}',
        "[Infinity]",
        "[-Infinity]",
        "1e999",
        "[-1e999]",
        "1" * 5000,
        "-" + "1" * 20,
        '"\\ud800"',
        '{"\\uDFFF":1}',
        '["\\ude00\\ud83d"]',
        "[" * 20_000 + "]" * 20_000,
        '{"a":' * 20_000 + "1" + "}" * 20_000,
        "[" * 1_000_000,
        "[" + "[]," * 20_000 + "[]]",
        "",
        "{",
        "secret-word",
        "'single'",
        "[1,]",
        b"\xff\xfe",
        '"\ud800"',
    ],
)
def test_what_a_reader_could_not_hold_is_refused_without_being_repeated(text: str | bytes) -> None:
    with pytest.raises(strictjson.MalformedJson) as caught:
        strictjson.loads(text)
    assert "expected" in str(caught.value)
    assert "secret-word" not in str(caught.value)
    assert len(str(caught.value)) < 120


def test_brackets_in_a_string_are_text() -> None:
    code = "[[{" * 100_000
    assert strictjson.loads(json.dumps({"message": code})) == {"message": code}
    quoted = '\\"[' * 1000
    assert strictjson.loads(json.dumps([quoted])) == [quoted]


def test_a_character_written_as_a_pair_of_escapes_is_whole() -> None:
    assert strictjson.loads('"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {"a": ["\udfff"]}])
def test_nothing_of_the_kind_is_written_either(value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        strictjson.dumps(value)
