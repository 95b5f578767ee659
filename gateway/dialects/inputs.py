"""What clients of a dialect send, as what Threadline is asked: checked as strictly as our own payloads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from backplane.errors import InvalidPayload
from gateway.dialects.view import Fields

_OPTIONS = ("model", "model_override", "temperature", "locale", "queue_mode", "policy", "metadata")
"""Fields of chat:start that a dialect's client may send too."""
_MOST_DECISIONS = 100
"""As many as a turn may ask."""


@dataclass(frozen=True, slots=True)
class Decided:
    """An answer to what an agent has asked."""

    approval_id: str
    decision: str


@dataclass(frozen=True, slots=True)
class Revision:
    """A message that is changed, or whose answer is wanted anew, by the ids that the client has."""

    message: str
    """The message's id; empty when it has none."""
    before: str
    """The id of what stands before it; empty for nothing."""
    answer: str = ""
    """The answer's id, when it is named by that."""
    anew: bool = False
    """Whether another answer is wanted though the text is the same."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client of a dialect asks for: a turn, or to go on behind its answers."""

    thread_id: Any
    run_id: str
    start: Fields
    """The payload of chat:start."""
    decided: list[Decided] = field(default_factory=list)
    messages: list[Fields] = field(default_factory=list)
    """The messages that the client has."""
    revision: Revision | None = None
    """None for a new message."""


def from_agui(body: Fields) -> Asked:
    """Read AG-UI's RunAgentInput. The last user message is the turn's, and `runId` its idempotency key.

    Raises:
        InvalidPayload: naming what was expected.
    """
    messages = _objects(body, "messages")
    run_id = body.get("runId")
    if not isinstance(run_id, str) or not run_id:
        raise InvalidPayload("runId: expected text, got none; name the run", field="runId")
    decided = [_interrupt(entry) for entry in _objects(body, "resume", most=_MOST_DECISIONS)]
    given = body.get("forwardedProps")
    start = _options(given if isinstance(given, dict) else {})
    start |= {"thread_id": body.get("threadId"), "client_message_id": run_id}
    if not decided:
        start["message"] = _text(_last(messages, "user"), "content", "messages")
    return Asked(body.get("threadId"), run_id, start, decided, messages)


def from_aisdk(body: Fields) -> Asked:
    """Read what `DefaultChatTransport` sends. The last message is the turn's, or holds answers to approvals.

    Raises:
        InvalidPayload: naming what was expected.
    """
    messages = _objects(body, "messages")
    start = _options(body) | {"thread_id": body.get("id")}
    if messages and messages[-1].get("role") == "assistant":
        decided = _approvals(messages[-1])
        if decided:
            return Asked(body.get("id"), "", start, decided)
    asked = _last(messages, "user")
    start["message"] = _text(asked, "parts", "messages")
    if _id(asked):
        start["client_message_id"] = _id(asked)
    return Asked(body.get("id"), "", start, revision=_revision(body, messages, asked))


def _revision(body: Fields, messages: list[Fields], asked: Fields) -> Revision | None:
    named = body.get("messageId")
    named = named if isinstance(named, str) else ""
    place = next(at for at, message in enumerate(messages) if message is asked)
    message, before = _id(asked), _id(messages[place - 1]) if place else ""
    if body.get("trigger") == "regenerate-message":
        return Revision(message, before, "" if named == message else named, anew=True)
    # behind the answer to an approval the id is that of the answer, with or without another question
    return Revision(message, before) if named and named == message else None


def _id(message: Fields) -> str:
    found = message.get("id")
    return found if isinstance(found, str) else ""


def _options(given: Fields) -> Fields:
    return {name: given[name] for name in _OPTIONS if name in given}


def _objects(body: Fields, name: str, most: int | None = None) -> list[Fields]:
    found = body.get(name)
    found = [] if found is None else found  # clients in Python send their empty fields as null
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InvalidPayload(f"{name}: expected a list of objects, got something else", field=name)
    if most is not None and len(found) > most:
        raise InvalidPayload(f"{name}: expected at most {most}, got {len(found)}; send fewer", field=name)
    return found


def _last(messages: list[Fields], role: str) -> Fields:
    for message in reversed(messages):
        if message.get("role") == role:
            return message
    raise InvalidPayload(f"messages: expected a message of the {role}, got none; send one", field="messages")


def _text(message: Fields, where: str, field_name: str) -> str:
    """Return the text of a message, whose content is text or a list of parts."""
    content = message.get(where)
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    if not parts or not all(_is_text(part) for part in parts):
        raise InvalidPayload(
            f"{field_name}: expected text, got files, images or nothing; send text alone", field=field_name
        )
    return "".join(part["text"] for part in parts)


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _interrupt(entry: Fields) -> Decided:
    approval_id, payload = entry.get("interruptId"), entry.get("payload")
    if entry.get("status") == "cancelled":
        payload = False
    if isinstance(payload, dict):
        payload = payload.get("approved", payload.get("answer"))
    if isinstance(payload, bool):
        payload = "approved" if payload else "denied"
    if not isinstance(approval_id, str) or not isinstance(payload, str):
        raise InvalidPayload(
            "resume: expected interruptId, and a payload {approved: true or false} or {answer: text}, got another "
            "form; send what the interrupt's responseSchema says",
            field="resume",
        )
    return Decided(approval_id, payload)


def _approvals(message: Fields) -> list[Decided]:
    parts = message.get("parts")
    decided = []
    for part in parts if isinstance(parts, list) else []:
        approval = part.get("approval") if isinstance(part, dict) else None
        if part.get("state") == "approval-responded" if isinstance(part, dict) else False:
            if not isinstance(approval, dict) or not isinstance(approval.get("id"), str):
                raise InvalidPayload("messages: expected an approval with its id, got none", field="messages")
            decided.append(Decided(approval["id"], "approved" if approval.get("approved") is True else "denied"))
    return decided[-_MOST_DECISIONS:]
