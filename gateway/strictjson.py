"""JSON that every reader of a log accepts: decided from the text alone, without I/O.

Python's own reader takes more than JSON has: NaN, infinities, integers of any length, and text that no UTF-8
reader can hold. One of these, stored, would drop every browser that reads the thread, for ever.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Never

from backplane import events

MAX_DEPTH = 64
"""Objects within objects. Metadata may have 32 levels (payloads.py) and stands a few levels down."""
MAX_CONTAINERS = 10_000
"""Objects and lists in one text. 16 KiB of metadata cannot hold more; it bounds the cost of one frame."""
MAX_DIGITS = 19
"""Digits of an integer: what 64 bits hold."""

# Possessive, so that no text makes the search go back: its cost grows with the length alone.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class MalformedJson(ValueError):
    """The text is not JSON, or is more than this protocol takes. The message holds none of the text."""


def dumps(value: Any, **_: Any) -> str:
    """Return compact JSON that every reader accepts; options of the standard library's writer are ignored.

    Raises:
        ValueError: for NaN, infinities, and text with lone surrogates.
    """
    return events.dumps(value)


def loads(text: str | bytes, **_: Any) -> Any:
    """Return what a JSON text says; options of the standard library's reader are ignored.

    Raises:
        MalformedJson: saying what was expected, without repeating any of the text.
    """
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        decoded.encode()
    except UnicodeError:
        raise MalformedJson("expected UTF-8 text, got bytes or characters that are not") from None
    _check_shape(decoded)
    try:
        value = json.loads(decoded, parse_constant=_no_constant, parse_float=_number, parse_int=_integer)
    except MalformedJson:
        raise
    except (ValueError, RecursionError):
        raise MalformedJson("expected JSON, got text that is not") from None
    if _SURROGATE_ESCAPE.search(decoded):
        try:
            events.dumps(value)
        except ValueError:
            raise MalformedJson("expected text, got half of a character (a lone surrogate)") from None
    return value


def _check_shape(text: str) -> None:
    # Brackets inside strings are counted too: too many here only means that the exact count below is made.
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = containers = 0
    for token in _TOKEN.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            containers += 1
        elif first in "]}":
            depth -= 1
        if depth > MAX_DEPTH:
            raise MalformedJson(f"expected at most {MAX_DEPTH} objects or lists within each other, got more")
        if containers > MAX_CONTAINERS:
            raise MalformedJson(f"expected at most {MAX_CONTAINERS} objects and lists, got more")


def _no_constant(_: str) -> Never:
    raise MalformedJson("expected finite numbers, got NaN or an infinity, which JSON does not have")


def _number(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise MalformedJson("expected finite numbers, got one that is too large")
    return number


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise MalformedJson(f"expected integers of at most {MAX_DIGITS} digits, got a longer one")
    return int(digits)
