"""Frames, judged from their bytes alone."""

from __future__ import annotations

import pytest
from engineio import packet as wire  # type: ignore[import-untyped] # the library has no types

from gateway import frames
from gateway.frames import Breach, read_frame, read_payload, write_frame, write_payload

LIMIT = 20


@pytest.mark.parametrize(
    ("frame", "read"), [("4hello", ("4", "hello")), ("4", ("4", "")), ("3", ("3", "")), ("1", ("1", ""))]
)
def test_a_frame_is_its_type_and_what_is_in_it(frame: str, read: tuple[str, str]) -> None:
    assert read_frame(frame, LIMIT) == read


@pytest.mark.parametrize(
    "frame", ["", "0", "0{}", "2", "2probe", "3probe", "31", "11", "5", "6", "7", "x", "b", "\u00b2"]
)
def test_a_frame_that_no_client_library_sends_is_a_breach(frame: str) -> None:
    with pytest.raises(Breach) as breach:
        read_frame(frame, LIMIT)
    assert breach.value.code == frames.PROTOCOL_ERROR


def test_bytes_are_taken_where_they_are_allowed() -> None:
    assert read_frame(b"\x01", LIMIT, binary=True) == ("4", b"\x01")
    with pytest.raises(Breach) as breach:
        read_frame(b"\x01", LIMIT)
    assert breach.value.code == frames.UNSUPPORTED_DATA


@pytest.mark.parametrize("longest", ["4" + "x" * (LIMIT - 1), "4x" + "\U0001f600" * 4 + "\u00e9", b"\x00" * LIMIT])
def test_the_limit_counts_bytes(longest: str | bytes) -> None:
    assert read_frame(longest, LIMIT, binary=True)
    too_long = longest + ("x" if isinstance(longest, str) else b"x")  # type: ignore[operator] # one kind or the other
    with pytest.raises(Breach) as breach:
        read_frame(too_long, LIMIT, binary=True)
    assert breach.value.code == frames.MESSAGE_TOO_BIG


def test_a_post_holds_several_packets() -> None:
    assert read_payload(b"4a\x1e3\x1ebAQI=", LIMIT, binary=True) == [("4", "a"), ("3", ""), ("4", b"\x01\x02")]
    most = b"\x1e".join([b"3"] * frames.MAX_POLL_PACKETS)
    assert len(read_payload(most, 1000)) == frames.MAX_POLL_PACKETS


@pytest.mark.parametrize(
    "body", [b"", b"\x1e", b"4a\x1e", b"\x1e4a", b"\xff", b"b*", b"bAQI", b"b\xc3\xa9", b"4" + b"x" * LIMIT]
)
def test_a_post_with_one_wrong_packet_is_a_breach(body: bytes) -> None:
    with pytest.raises(Breach):
        read_payload(body, LIMIT, binary=True)


def test_a_post_of_too_many_packets_is_a_breach() -> None:
    with pytest.raises(Breach):
        read_payload(b"\x1e".join([b"3"] * (frames.MAX_POLL_PACKETS + 1)), 1000)


def test_bytes_in_a_post_are_refused_where_they_are_not_allowed() -> None:
    with pytest.raises(Breach) as breach:
        read_payload(b"bAQI=", LIMIT)
    assert breach.value.code == frames.UNSUPPORTED_DATA


def test_one_packet_goes_to_sockets_and_polls_alike() -> None:
    text, content = wire.Packet(wire.MESSAGE, "hello"), wire.Packet(wire.MESSAGE, b"\x01\x02")
    for _ in range(2):  # the library would keep the first form, and give it to the second reader
        assert (write_frame(text), write_frame(content)) == ("4hello", b"\x01\x02")
        assert write_payload([text, content]) == "4hello\x1ebAQI="
