"""Events as text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backplane.events import Event, body, decode_live, dumps, merge, standing


def delta(offset: int, text: str, *, name: str = "text_delta", request: str = "r", turn_round: int = 1) -> Event:
    fields = {"event": name, "request_id": request, "offset": offset, "seq": offset, "delta": text, "round": turn_round}
    return Event(offset, name, json.dumps(fields).encode())


def other(offset: int, name: str = "tool_call") -> Event:
    return Event(offset, name, json.dumps({"event": name, "request_id": "r", "offset": offset, "seq": offset}).encode())


def test_neighbouring_deltas_become_one_that_says_which_offsets_it_covers() -> None:
    merged = list(merge([delta(4, "he"), delta(5, "ll"), delta(6, "o")]))
    assert len(merged) == 1
    fields = json.loads(merged[0].text)
    assert (merged[0].offset, fields["offset"], fields["first_offset"], fields["delta"]) == (6, 6, 4, "hello")


def test_what_differs_is_not_joined() -> None:
    events = [delta(1, "a"), other(2), delta(3, "b"), delta(4, "c", turn_round=2), delta(5, "d", request="s"),
              delta(6, "e", name="thinking_delta", request="s")]  # fmt: skip
    assert list(merge(events)) == events


@pytest.mark.parametrize(
    ("restart", "left"), [({}, [5, 6]), ({"kept_offset": 2}, [1, 2, 5, 6]), ({"kept_offset": 9}, [1, 2, 4, 5, 6])]
)
def test_what_a_restart_made_void_does_not_stand(restart: dict[str, int], left: list[int]) -> None:
    """Of this turn alone; what the thread says of no turn is passed over."""
    fields = {"event": "turn_restarted", "request_id": "r", **restart}
    nobodys = Event(7, "thread_renamed", json.dumps({"event": "thread_renamed"}).encode())
    events = [other(1), delta(2, "a"), delta(3, "b", request="s"), delta(4, "c"),
              Event(5, "turn_restarted", json.dumps(fields).encode()), delta(6, "d"), nobodys]  # fmt: skip
    assert [event.offset for event in standing(events, "r")] == left


@given(st.lists(st.tuples(st.booleans(), st.text(max_size=5)), max_size=40))
def test_merging_loses_and_doubles_nothing(parts: list[tuple[bool, str]]) -> None:
    """Every offset is covered once and in order, and the text is the same, whatever comes."""
    events = [delta(n, text) if is_delta else other(n) for n, (is_delta, text) in enumerate(parts, start=1)]
    covered: list[int] = []
    for event in merge(events, limit=8):
        fields = json.loads(event.text)
        covered += range(fields.get("first_offset", event.offset), event.offset + 1)
    assert covered == list(range(1, len(events) + 1))
    assert "".join(json.loads(e.text).get("delta", "") for e in merge(events)) == "".join(t for d, t in parts if d)


def test_a_joined_delta_ends_near_its_limit() -> None:
    assert len(list(merge([delta(n, "x" * 100) for n in range(1, 101)], limit=2_000))) == 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {"a": "\udfff"}])
def test_text_that_some_reader_could_not_read_is_never_made(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - UnicodeEncodeError and ValueError share no message
        dumps(value)


def test_a_body_is_the_inside_of_an_object() -> None:
    assert body({"a": 1, "b": "x"}) == '"a":1,"b":"x"'
    assert body({}) == ""


def test_a_live_message_is_read_back() -> None:
    epoch, events = decode_live('ep 7\nchat_accepted {"a":1}\ntext_delta {"b":"ü"}'.encode())
    assert epoch == "ep"
    assert [(e.offset, e.name, e.text) for e in events] == [
        (7, "chat_accepted", '{"a":1}'),
        (8, "text_delta", '{"b":"ü"}'),
    ]


@pytest.mark.parametrize(
    "garbage", [b"", b"\x80\x04pickle.", b"ep", b"ep 1", b"ep x\nname {}", b"ep 1\nname", b" 1\nname {}", b"\xff\xfe"]
)
def test_garbage_on_a_channel_is_refused(garbage: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - several kinds, all of them ValueError
        decode_live(garbage)
