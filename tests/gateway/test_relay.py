"""Relay: what nodes tell each other survives the way, and nothing else gets in."""

from __future__ import annotations

import json
import pickle
from contextlib import suppress
from typing import Any

import msgpack  # type: ignore[import-untyped]  # the library has no types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import relay
from gateway.relay import Answer, CloseRoom, Disconnect, Done, Emit, EnterRoom, Garbage, LeaveRoom, Message, Seen

ORIGIN = "0123456789abcdef"
MESSAGES: list[Message] = [
    Emit("/", None, [], ['2["x"]'], None),
    Emit(
        "/chat", ["lobby", 7, "\ud800"], ["somebody"], ['51-/chat,12["x",{"_placeholder":true,"num":0}]', b"\x00"], 12
    ),
    Emit("/", [], [], [b"\x84msgpack"], None),
    CloseRoom("/", 7),
    EnterRoom("/", "sid", "room"),
    LeaveRoom("/", "sid", 0),
    Disconnect("/", "sid"),
    Answer(2**52, ["3[1]"]),
    Done(9, False),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_comes_out_as_it_went_in(message: Message) -> None:
    assert relay.decode(relay.encode(ORIGIN, 3, message)) == (ORIGIN, 3, message)


def test_an_own_message_is_known_by_its_head() -> None:
    data = relay.encode(ORIGIN, 1, MESSAGES[0])
    assert data.startswith(relay.head(ORIGIN))
    assert not data.startswith(relay.head("f" * 16))


class Trap:
    """A pickle that does something when it is read."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Trap, "sprung", True)


def packed(*fields: object) -> bytes:
    packed_fields: bytes = msgpack.packb(list(fields))
    return relay.head(ORIGIN) + packed_fields


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\x00",
        pickle.dumps(Trap()),
        relay.head(ORIGIN),
        relay.head(ORIGIN) + pickle.dumps(Trap()),
        relay.head(ORIGIN) + b"\xdd\xff\xff\xff\xff",  # an array of 4 billion items that are not there
        relay.head(ORIGIN) + b"\x91" * 100_000 + b"\x01",  # nested as deep
        relay.head(ORIGIN) + b"\x81\x90\x01",  # a map whose key is an array
        b"R1" + "é".encode() * 8 + msgpack.packb([1, "Done", 1, True]),
        json.dumps({"method": "emit", "event": "x", "host_id": "y"}).encode(),  # AsyncRedisManager's
        packed(),
        packed("1", "Done", 1, True),
        packed(1, "Unknown", 1),
        packed(1, "Done", 1),
        packed(1, "Done", 1, "yes"),
        packed(1, "Emit", "/", None, [], [], None),
        packed(1, "Emit", "/", None, [], ["2[]", "2[]"], None),
        packed(1, "Emit", "/", None, [], [1], None),
        packed(1, "Emit", "/", "room", [], ["2[]"], None),
        packed(1, "Emit", "/", [None], [], ["2[]"], None),
        packed(1, "Emit", "/", None, [1], ["2[]"], None),
        packed(1, "Emit", None, None, [], ["2[]"], None),
        packed(1, "EnterRoom", "/", "sid", None),
        packed(1, "Disconnect", "/", b"sid"),
        packed(1, "Answer", 1, []),
    ],
)
def test_bytes_of_no_node_are_garbage_and_do_nothing(data: bytes) -> None:
    """Mutant: `pickle.loads` as a fallback springs the trap."""
    with pytest.raises(Garbage):
        relay.decode(data)
    assert not Trap.sprung


@given(st.binary(max_size=200))
def test_any_other_bytes_are_a_message_or_garbage(body: bytes) -> None:
    with suppress(Garbage):
        relay.decode(relay.head(ORIGIN) + body)


@given(st.lists(st.integers(1, 300), max_size=400))
def test_within_the_window_a_number_is_new_exactly_once(numbers: list[int]) -> None:
    """Mutant: to remember the highest number alone loses whatever was overtaken."""
    seen, before = Seen(), set[int]()
    for number in numbers:
        assert seen.first_time(ORIGIN, number) == (number not in before)
        before.add(number)


def test_numbers_of_two_origins_have_nothing_to_do_with_each_other() -> None:
    seen = Seen()
    assert seen.first_time("a", 1)
    assert seen.first_time("b", 1)
    assert not seen.first_time("a", 1)


def test_an_absurd_number_costs_no_memory_and_silences_nobody() -> None:
    """Mutant: shifting the window by 2^62 bits ends the process."""
    seen = Seen()
    assert seen.first_time(ORIGIN, 1)
    assert seen.first_time(ORIGIN, 2**62)
    assert seen.first_time(ORIGIN, 2)


def test_origins_are_forgotten_in_the_end() -> None:
    """Nodes get a new name at each start; the oldest of them go."""
    seen = Seen()
    seen.first_time("first", 1)
    for number in range(relay._MOST_ORIGINS):
        seen.first_time(str(number), 1)
    assert len(seen._windows) == relay._MOST_ORIGINS
    assert seen.first_time("first", 1)
