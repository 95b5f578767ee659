"""A listener of a channel of the live path."""

from __future__ import annotations


class Ear:
    """Notes what it hears, and how often it may have missed something."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.misses = 0

    def heard(self, message: bytes) -> None:
        """Note a message."""
        self.messages.append(message)

    def missed(self) -> None:
        """Count it."""
        self.misses += 1
