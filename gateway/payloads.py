"""What a client may say: one model for each verb of the protocol.

A field that the protocol does not name is ignored, not refused: the web client that this protocol comes from
sends more than we read, and a newer client must be able to talk to an older node. A field that the protocol
does name must fit exactly: a number in quotes is not a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from backplane import events
from backplane.errors import InvalidPayload, TooLarge, UnknownEvent
from backplane.ids import thread_ref
from backplane.settings import Policy, Settings
from backplane.threads import MAX_TITLE
from backplane.turns import QueueMode
from gateway.auth import MAX_TOKEN

MAX_MESSAGES = 200
"""Messages of history in one answer; who asks for more gets this many and may ask again."""
DEFAULT_MESSAGES = 50
MAX_THREADS = 100
"""Threads in one page of a list."""
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 32
MAX_DECISION = 4000


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError
    return text


def _at_most(text: str, characters: int) -> str:
    if len(text) > characters:
        raise ValueError
    return text


def _blank_is_none(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


def _text_or_none(value: object) -> object:
    return value if isinstance(value, str) else None


def _small(metadata: dict[str, Any]) -> dict[str, Any]:
    # parse() has written the whole payload as JSON before, so this cannot fail on what it holds.
    too_deep = _depth_over(metadata, MAX_METADATA_DEPTH)
    if too_deep or len(events.dumps(metadata).encode()) > MAX_METADATA_BYTES:
        raise ValueError
    return metadata


def _depth_over(value: object, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


_COUNT = f"a whole number of messages; more than {MAX_MESSAGES} are cut to {MAX_MESSAGES}"

# Each description is the "expected …" of an error, and the field's line in docs/protocol.md.
_Thread = Annotated[str, Field(description="1 to 128 letters, digits, or . _ : -")]
_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}\z", description="1 to 128 letters, digits, or . _ : -")]
_Name = Annotated[
    str,
    Field(min_length=1, max_length=128, description="1 to 128 printable characters"),
    AfterValidator(_printable),
]
_OptionalName = Annotated[
    _Name | None, BeforeValidator(_blank_is_none), Field(description="at most 128 printable characters, or null")
]
_Count = Annotated[int, Field(ge=0, description=_COUNT), AfterValidator(lambda count: min(count, MAX_MESSAGES))]


_Title = Annotated[
    str,
    AfterValidator(lambda title: title.strip()),
    Field(max_length=4 * MAX_TITLE, description=f"1 to {MAX_TITLE} printable characters"),
    AfterValidator(_printable),
    AfterValidator(_not_blank),
    AfterValidator(lambda title: _at_most(title, MAX_TITLE)),
]


class Payload(BaseModel):
    """What every verb's payload has in common: which verb it belongs to."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    verb: ClassVar[str]


class ThreadPayload(Payload):
    """A payload that names a thread; `thread_id` is trimmed and valid."""

    thread_id: _Thread


_Text = Annotated[str, AfterValidator(_not_blank)]
_Trace = Annotated[
    str | None, BeforeValidator(_text_or_none), Field(description="of W3C Trace Context; another form is ignored")
]


class Act(ThreadPayload):
    """A payload that may name the trace which its call belongs to."""

    traceparent: _Trace = None
    tracestate: _Trace = None


class Ask(Act):
    """What an agent is told, beside the message itself."""

    client_message_id: Annotated[_Name | None, Field(description="1 to 128 printable characters")] = None
    model_override: _OptionalName = None
    requested_model: Annotated[_OptionalName, Field(alias="model")] = None
    temperature: Annotated[float | None, Field(ge=0, le=2, allow_inf_nan=False, description="a number from 0 to 2")] = (
        None
    )
    locale: _OptionalName = None
    policy: Annotated[Policy | None, Field(description="one of retry, resume, fail")] = None
    metadata: Annotated[
        Annotated[dict[str, Any], AfterValidator(_small)] | None,
        Field(
            description=f"an object of at most {MAX_METADATA_BYTES} bytes as JSON, "
            f"at most {MAX_METADATA_DEPTH} levels deep"
        ),
    ] = None

    @property
    def model(self) -> str | None:
        """The model that was asked for: `model_override` wins over `model`."""
        return self.model_override or self.requested_model


class ChatStart(Ask):
    """A message for the agent."""

    verb = "chat:start"

    message: Annotated[_Text, Field(description="text that is not blank")]
    queue_mode: Annotated[
        QueueMode | None,
        Field(description="one of interrupt, reject, followup, steer, collect, parallel"),
    ] = None


class ThreadEdit(Ask):
    """Another text in the place of an earlier message, or the same once more."""

    verb = "thread:edit"

    message: Annotated[_Text | None, Field(description="text that is not blank; without it, the same text again")] = (
        None
    )
    message_id: Annotated[
        int | None, Field(ge=1, description="the `id` of a message in the history; without it, the newest one")
    ] = None
    newest_id: Annotated[
        int | None, Field(ge=1, description="the `id` of the newest message that is shown: refuse if there are newer")
    ] = None


class ChatCancel(Act):
    """A wish to stop a turn: that of `request_id`, or whichever runs."""

    verb = "chat:cancel"

    request_id: Annotated[_Id | None, Field(description="1 to 128 letters, digits, or . _ : -")] = None


class ThreadSubscribe(ThreadPayload):
    """A wish to see a thread, from the place that the cursor names."""

    verb = "thread:subscribe"

    epoch: Annotated[
        str | None, Field(min_length=1, max_length=64, description="1 to 64 characters, as an event carried it")
    ] = None
    after: Annotated[int | None, Field(ge=0, description="a whole offset from 0, together with `epoch`")] = None
    history: _Count = DEFAULT_MESSAGES

    @model_validator(mode="after")
    def _whole_cursor(self) -> ThreadSubscribe:
        # An offset means nothing without the log that it counts in: guessing would skip or repeat events.
        if self.after is not None and self.epoch is None:
            raise ValueError
        return self

    @property
    def cursor(self) -> tuple[str, int] | None:
        """The epoch and the offset of the last event that the client has, None without either."""
        return None if self.epoch is None or self.after is None else (self.epoch, self.after)


class ThreadUnsubscribe(ThreadPayload):
    """A wish to see no more of a thread."""

    verb = "thread:unsubscribe"


class ThreadHistory(ThreadPayload):
    """A question for older messages."""

    verb = "thread:history"

    before: Annotated[int | None, Field(ge=0, description="a whole message number from 0")] = None
    limit: _Count = DEFAULT_MESSAGES
    branch: Annotated[_Id | None, Field(description="the `branch` of an edit: the messages as they were before it")] = (
        None
    )


class ThreadList(Payload):
    """A question for the threads of whoever asks."""

    verb = "thread:list"

    before: Annotated[
        str | None, Field(pattern=r"^[0-9]{1,15}\z", description="the `next` of the page before, as text")
    ] = None
    limit: Annotated[
        int,
        Field(ge=0, description=f"a whole number of threads; more than {MAX_THREADS} are cut to {MAX_THREADS}"),
        AfterValidator(lambda count: min(count, MAX_THREADS)),
    ] = DEFAULT_MESSAGES


class ThreadRename(ThreadPayload):
    """Another title for a thread."""

    verb = "thread:rename"

    title: _Title


class ThreadDelete(ThreadPayload):
    """A wish that nothing be left of a thread."""

    verb = "thread:delete"


class ThreadPresence(ThreadPayload):
    """A question for who watches a thread, and which worker answers."""

    verb = "thread:presence"


class QueueStatus(ThreadPayload):
    """A question for what waits behind the running turn."""

    verb = "queue:status"


class QueueClear(ThreadPayload):
    """A wish to remove everything that waits."""

    verb = "queue:clear"


class QueueRemove(ThreadPayload):
    """A wish to remove one item that waits."""

    verb = "queue:remove"

    item_id: _Id


class ApprovalDecide(Act):
    """An answer to an agent that asked for permission."""

    verb = "approval:decide"

    approval_id: _Id
    decision: Annotated[
        str,
        Field(max_length=MAX_DECISION, description=f"text of 1 to {MAX_DECISION} characters that is not blank"),
        AfterValidator(_not_blank),
    ]


class AuthRefresh(Payload):
    """A newer token for the same socket."""

    verb = "auth:refresh"

    token: Annotated[str, Field(min_length=1, max_length=MAX_TOKEN, description="a token, as text")]


VERBS: Mapping[str, type[Payload]] = {
    model.verb: model
    for model in (
        ChatStart,
        ChatCancel,
        ThreadSubscribe,
        ThreadUnsubscribe,
        ThreadHistory,
        ThreadList,
        ThreadRename,
        ThreadDelete,
        ThreadEdit,
        ThreadPresence,
        QueueStatus,
        QueueClear,
        QueueRemove,
        ApprovalDecide,
        AuthRefresh,
    )
}
"""Every verb, and the model of what it carries (docs/protocol.md, "Calls")."""

AnyPayload = TypeVar("AnyPayload", bound=Payload)


def parse(verb: str, payload: object, settings: Settings) -> Payload:
    """Return what a client said, checked.

    Raises:
        UnknownEvent: when there is no such verb.
        InvalidPayload: naming the field, what was expected and what type came; never the value itself.
        InvalidThreadId: when the thread's id is missing or of another form.
        TooLarge: when the message is over `max_message_bytes`.
    """
    model = VERBS.get(verb)
    if model is None:
        raise UnknownEvent(f"expected one of {', '.join(VERBS)}, got another event; check its spelling")
    return read(model, payload, settings)


def read(model: type[AnyPayload], payload: object, settings: Settings) -> AnyPayload:
    """Return what a client said, as the model of a known verb.

    Raises:
        InvalidPayload, InvalidThreadId, TooLarge: as `parse`.
    """
    if not isinstance(payload, dict):
        raise _invalid(model, "payload", "an object", payload)
    _check_text(model, payload)
    if issubclass(model, ThreadPayload):
        payload = {**payload, "thread_id": thread_ref(payload.get("thread_id")).thread_id}
    message = payload.get("message") if issubclass(model, Ask) else None
    if isinstance(message, str):
        size = len(message.encode())
        if size > settings.max_message_bytes:
            raise TooLarge(
                f"message: expected at most {settings.max_message_bytes} bytes of UTF-8, got {size}; shorten it",
                field="message",
                limit=settings.max_message_bytes,
            )
    # A client's null says the same as no field at all.
    given = {name: value for name, value in payload.items() if value is not None}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise _misfit(model, problem["loc"], given) from None


def _check_text(model: type[Payload], payload: dict[str, Any]) -> None:
    try:
        events.dumps(payload)
    except (ValueError, TypeError, RecursionError):
        raise InvalidPayload(
            "payload: expected JSON with finite numbers and whole characters, got NaN, an infinity, half of a "
            f"character, or objects too deep within each other; see {model.verb} in docs/protocol.md",
            field="payload",
        ) from None


def _misfit(model: type[Payload], place: tuple[int | str, ...], given: dict[str, Any]) -> InvalidPayload:
    if not place:  # the only rule about several fields at once
        return _invalid(model, "epoch", "the epoch that `after` counts in", None)
    name = str(place[0])
    fields = {field.alias or own: field for own, field in model.model_fields.items()}
    return _invalid(model, name, fields[name].description or "another value", given.get(name))


def _invalid(model: type[Payload], field: str, expected: str, got: object) -> InvalidPayload:
    return InvalidPayload(
        f"{field}: expected {expected}, got {_kind(got)}; see {model.verb} in docs/protocol.md", field=field
    )


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return f"a string of {len(value)} characters"
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, dict) else "something that is not JSON"
