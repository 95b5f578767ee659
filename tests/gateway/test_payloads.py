"""What fits is taken, what does not is named, and nothing of it is repeated."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backplane.errors import InvalidPayload, InvalidThreadId, ThreadlineError, TooLarge, UnknownEvent
from backplane.settings import Settings
from backplane.threads import MAX_TITLE
from gateway import payloads
from gateway.auth import MAX_TOKEN

SETTINGS = Settings(max_message_bytes=1000)
NEEDED: dict[str, dict[str, Any]] = {
    "chat:start": {"thread_id": "t1", "message": "hello"},
    "chat:cancel": {"thread_id": "t1"},
    "thread:subscribe": {"thread_id": "t1"},
    "thread:unsubscribe": {"thread_id": "t1"},
    "thread:history": {"thread_id": "t1"},
    "thread:list": {},
    "thread:rename": {"thread_id": "t1", "title": "Tea"},
    "thread:delete": {"thread_id": "t1"},
    "thread:edit": {"thread_id": "t1"},
    "thread:presence": {"thread_id": "t1"},
    "queue:status": {"thread_id": "t1"},
    "queue:clear": {"thread_id": "t1"},
    "queue:remove": {"thread_id": "t1", "item_id": "i1"},
    "approval:decide": {"thread_id": "t1", "approval_id": "a1", "decision": "approve"},
    "auth:refresh": {"token": "x.y.z"},
}
SECRET = "do-not-repeat-me"


def start(**fields: Any) -> payloads.ChatStart:
    return payloads.read(payloads.ChatStart, {**NEEDED["chat:start"], **fields}, SETTINGS)


def refusal(verb: str, payload: object) -> InvalidPayload:
    with pytest.raises(InvalidPayload) as caught:
        payloads.parse(verb, payload, SETTINGS)
    assert "expected" in caught.value.message
    assert SECRET not in caught.value.message
    assert len(caught.value.message) < 400
    return caught.value


def test_every_verb_of_the_protocol_has_a_model() -> None:
    assert set(payloads.VERBS) == set(NEEDED)


@pytest.mark.parametrize("verb", NEEDED)
def test_the_needed_fields_are_enough(verb: str) -> None:
    assert type(payloads.parse(verb, NEEDED[verb], SETTINGS)) is payloads.VERBS[verb]


@pytest.mark.parametrize(("verb", "field"), [(verb, field) for verb in NEEDED for field in NEEDED[verb]])
@pytest.mark.parametrize("how", ["absent", "null", "number", "list", "empty"])
def test_without_a_needed_field_the_error_names_it(verb: str, field: str, how: str) -> None:
    payload = dict(NEEDED[verb])
    if how == "absent":
        del payload[field]
    else:
        payload[field] = {"null": None, "number": 7, "list": [SECRET], "empty": ""}[how]
    error = refusal(verb, payload)
    assert error.message.startswith(f"{field}: ")
    assert isinstance(error, InvalidThreadId) == (field == "thread_id")


@pytest.mark.parametrize("verb", NEEDED)
@pytest.mark.parametrize("payload", [None, [], [{"thread_id": "t1"}], SECRET, 7, True, 1.5, b"x", object()])
def test_what_is_not_an_object_is_refused(verb: str, payload: object) -> None:
    assert refusal(verb, payload).message.startswith("payload: expected an object, got ")


@pytest.mark.parametrize("verb", ["", "connect", "chat:Start", "chat:start\n", SECRET, "*"])
def test_an_unknown_verb_is_not_repeated(verb: str) -> None:
    with pytest.raises(UnknownEvent) as caught:
        payloads.parse(verb, {}, SETTINGS)
    assert SECRET not in caught.value.message


@pytest.mark.parametrize("verb", NEEDED)
def test_a_field_that_the_protocol_does_not_name_is_ignored(verb: str) -> None:
    assert payloads.parse(verb, {**NEEDED[verb], "newer": {"a": [1]}}, SETTINGS) == payloads.parse(
        verb, NEEDED[verb], SETTINGS
    )


def test_the_thread_id_is_trimmed() -> None:
    assert start(thread_id="  t1\n").thread_id == "t1"


@pytest.mark.parametrize(
    "thread_id",
    ["", " ", "a" * 1_000_000, "}", "{", "*", "a\nb", "x/meta", "\U0001f600", "é", 5, None, ["t"], {}, True],
)
def test_a_thread_id_of_another_form_is_refused(thread_id: object) -> None:
    assert isinstance(refusal("chat:start", {"thread_id": thread_id, "message": "x"}), InvalidThreadId)


# --- chat:start -------------------------------------------------------------------------------------------


def test_a_start_carries_what_was_asked_for() -> None:
    asked = start(
        client_message_id="c 1",
        model="small",
        temperature=1,
        locale="de-CH",
        queue_mode="followup",
        metadata={"a": [1, None]},
    )
    assert asked.client_message_id == "c 1"
    assert asked.temperature == 1
    assert (asked.model, asked.locale, asked.queue_mode) == ("small", "de-CH", "followup")
    assert asked.metadata == {"a": [1, None]}


def test_model_override_wins_over_model() -> None:
    assert start(model="small").model == "small"
    assert start(model="small", model_override="large").model == "large"
    assert start(model="small", model_override="").model == "small"
    assert start(model="small", model_override=None).model == "small"
    assert start().model is None


@pytest.mark.parametrize("message", ["", " ", "\n\t", "\u3000"])
def test_a_blank_message_is_refused(message: str) -> None:
    assert refusal("chat:start", {"thread_id": "t", "message": message}).details["field"] == "message"


def test_the_limit_of_a_message_counts_bytes() -> None:
    assert start(message="a" * 1000).message == "a" * 1000
    start(message="é" * 500)
    for message in ("a" * 1001, "é" * 500 + "a"):
        with pytest.raises(TooLarge) as caught:
            start(message=message)
        assert caught.value.code == "too_large"
        assert caught.value.details == {"field": "message", "limit": 1000}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("message", ["hello"]),
        ("message", {"text": "hello"}),
        ("message", 7),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "1"),
        ("temperature", True),
        ("temperature", [1]),
        ("client_message_id", ""),
        ("client_message_id", "a" * 129),
        ("client_message_id", "a\x00"),
        ("client_message_id", SECRET + "\n"),
        ("client_message_id", 5),
        ("queue_mode", SECRET),
        ("queue_mode", "Interrupt"),
        ("queue_mode", ""),
        ("queue_mode", 1),
        ("model", "a" * 129),
        ("model", "a\nb"),
        ("model", 1),
        ("model_override", {"name": "x"}),
        ("locale", 1),
        ("metadata", [1]),
        ("metadata", SECRET),
        ("metadata", {"a": "x" * payloads.MAX_METADATA_BYTES}),
        ("metadata", {"é" * 8192: 1}),
    ],
)
def test_a_field_of_a_start_that_does_not_fit_is_named(field: str, value: object) -> None:
    error = refusal("chat:start", {**NEEDED["chat:start"], field: value})
    assert error.message.startswith(f"{field}: expected ")
    assert error.details["field"] == field


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def test_metadata_may_be_deep_but_not_too_deep() -> None:
    assert start(metadata=nested(payloads.MAX_METADATA_DEPTH)).metadata
    assert refusal(
        "chat:start", {**NEEDED["chat:start"], "metadata": nested(payloads.MAX_METADATA_DEPTH + 1)}
    ).message.startswith("metadata: ")


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), -float("inf"), "\ud800", "a\udfff", ["\ud83d"], {"\ud800": 1}, nested(5000), b"x"],
)
@pytest.mark.parametrize("field", ["message", "temperature", "metadata", "client_message_id", "unknown"])
def test_what_would_poison_the_log_is_refused_wherever_it_stands(field: str, value: object) -> None:
    error = refusal("chat:start", {**NEEDED["chat:start"], field: value})
    assert error.message.startswith("payload: ")


# --- the others -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verb", "field"), [("thread:history", "limit"), ("thread:subscribe", "history")])
def test_a_wish_for_too_many_messages_is_cut_not_refused(verb: str, field: str) -> None:
    def asked(**fields: Any) -> Any:
        return getattr(payloads.parse(verb, {"thread_id": "t", **fields}, SETTINGS), field)

    assert asked() == 50
    assert asked(**{field: 10**9}) == payloads.MAX_MESSAGES
    assert asked(**{field: 7}) == 7
    assert asked(**{field: 0}) == 0
    for value in (-1, 1.5, "7", True, [7]):
        assert refusal(verb, {"thread_id": "t", field: value}).details["field"] == field


def test_a_cursor_is_an_epoch_and_an_offset() -> None:
    def asked(**fields: Any) -> tuple[str, int] | None:
        return payloads.read(payloads.ThreadSubscribe, {"thread_id": "t", **fields}, SETTINGS).cursor

    assert asked() is None
    assert asked(epoch="e1") is None
    assert asked(epoch="e1", after=0) == ("e1", 0)
    assert asked(epoch=None, after=None) is None


@pytest.mark.parametrize(
    ("cursor", "field"),
    [
        ({"after": 5}, "epoch"),
        ({"after": 5, "epoch": None}, "epoch"),
        ({"after": -1, "epoch": "e"}, "after"),
        ({"after": True, "epoch": "e"}, "after"),
        ({"after": "5", "epoch": "e"}, "after"),
        ({"after": 1.5, "epoch": "e"}, "after"),
        ({"after": 5, "epoch": ""}, "epoch"),
        ({"after": 5, "epoch": "e" * 65}, "epoch"),
        ({"after": 5, "epoch": 7}, "epoch"),
    ],
)
def test_half_a_cursor_is_refused(cursor: dict[str, Any], field: str) -> None:
    assert refusal("thread:subscribe", {"thread_id": "t", **cursor}).details["field"] == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("message", ""), ("message", " "), ("message", 7), ("message", ["x"]), ("message_id", 0), ("message_id", "1"),
        ("message_id", True), ("message_id", 1.5), ("newest_id", -1), ("newest_id", "9"), ("client_message_id", ""),
        ("temperature", 3), ("metadata", []), ("policy", "whatever"),
    ],
)  # fmt: skip
def test_a_field_of_an_edit_that_does_not_fit_is_named(field: str, value: object) -> None:
    assert refusal("thread:edit", {"thread_id": "t", field: value}).details["field"] == field


def test_an_edited_message_has_the_same_limit() -> None:
    with pytest.raises(TooLarge):
        payloads.parse("thread:edit", {"thread_id": "t", "message": "a" * 1001}, SETTINGS)


@pytest.mark.parametrize("branch", ["", "a b", "a/b", "a" * 129, 7, ["a"]])
def test_a_branch_of_another_form_is_refused(branch: object) -> None:
    assert refusal("thread:history", {"thread_id": "t", "branch": branch}).details["field"] == "branch"


@pytest.mark.parametrize("title", ["a", "Tea for two", "x" * MAX_TITLE, "茶", " spaces around "])
def test_a_title_is_trimmed(title: str) -> None:
    asked = payloads.read(payloads.ThreadRename, {"thread_id": "t", "title": title}, SETTINGS)
    assert asked.title == title.strip()


@pytest.mark.parametrize("title", ["", "  ", "a\nb", "a\x00", "x" * (MAX_TITLE + 1), 7, ["a"], {}])
def test_a_title_of_another_form_is_refused(title: object) -> None:
    assert refusal("thread:rename", {"thread_id": "t", "title": title}).details["field"] == "title"


@pytest.mark.parametrize("before", ["", "x", "-1", "1.5", "1\n", "1" * 16, "٣", 7, ["1"]])
def test_a_place_in_a_list_of_another_form_is_refused(before: object) -> None:
    assert refusal("thread:list", {"before": before}).details["field"] == "before"


def test_a_wish_for_too_many_threads_is_cut() -> None:
    assert payloads.read(payloads.ThreadList, {"limit": 10**9}, SETTINGS).limit == payloads.MAX_THREADS
    assert refusal("thread:list", {"limit": -1}).details["field"] == "limit"


@pytest.mark.parametrize(
    ("verb", "field"),
    [
        ("chat:cancel", "request_id"),
        ("queue:remove", "item_id"),
        ("approval:decide", "approval_id"),
    ],
)
@pytest.mark.parametrize("value", ["", "a" * 129, "a b", "a\n", "*", "a/b", "é", 7, ["a"], {"a": 1}, False])
def test_an_id_of_another_form_is_refused(verb: str, field: str, value: object) -> None:
    assert refusal(verb, {**NEEDED[verb], field: value}).details["field"] == field


def test_a_cancel_may_name_its_turn() -> None:
    cancel = payloads.read(payloads.ChatCancel, {"thread_id": "t", "request_id": "r-1.x:y_z"}, SETTINGS)
    assert cancel.request_id == "r-1.x:y_z"
    assert payloads.read(payloads.ChatCancel, {"thread_id": "t", "request_id": None}, SETTINGS).request_id is None


def test_a_token_has_a_limit() -> None:
    assert refusal("auth:refresh", {"token": "a" * (MAX_TOKEN + 1)}).details["field"] == "token"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["thread_id", "message", "temperature", "metadata", "after", "epoch", "history", "limit", "item_id", "token"]
)


@given(
    st.sampled_from(sorted(NEEDED)),
    ANYTHING | st.builds(lambda fields: {"thread_id": "t", **fields}, st.dictionaries(FIELDS, ANYTHING)),
)
def test_whatever_is_sent_there_is_a_model_or_a_clear_error(verb: str, payload: object) -> None:
    refused: ThreadlineError | None = None
    try:
        assert isinstance(payloads.parse(verb, payload, SETTINGS), payloads.Payload)
    except ThreadlineError as error:
        refused = error
    if refused is not None:
        assert refused.code in {"invalid_payload", "invalid_thread_id", "too_large"}
        assert "expected" in refused.message
