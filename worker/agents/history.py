"""The history of a thread as a model reads it."""

from __future__ import annotations

from worker.turn import Message

INTERRUPTED = "[This answer was interrupted.]"


def as_model_reads(message: Message) -> str:
    """Return the text of a message, with a note on an answer that stopped in the middle."""
    return f"{message.content}\n{INTERRUPTED}".strip() if message.interrupted else message.content
