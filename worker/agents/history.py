"""The history of a thread as a model reads it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import dropwhile

from worker.turn import Message

INTERRUPTED = "[This answer was interrupted.]"


def as_model_reads(message: Message) -> str:
    """Return the text of a message, with a note on an answer that stopped in the middle."""
    return f"{message.content}\n{INTERRUPTED}".strip() if message.interrupted else message.content


def from_a_question(history: Sequence[Message]) -> list[Message]:
    """Return the history from its first message of the person on.

    A long thread's history begins where the session's limit cuts it, which may be before an answer; Bedrock, and the
    chat templates of many open models, refuse a conversation that begins with one.
    """
    return list(dropwhile(lambda message: message.role == "assistant", history))
