"""The last events that a room has sent, for whoever joins it at this moment."""

from __future__ import annotations

from collections import deque

from backplane.events import Event

MOST_EVENTS = 64
"""More than a room sends between the reading of the log and the joining of its reader, which lie milliseconds apart."""
MOST_BYTES = 512 * 1024
"""What they may take together: tool outputs are large, and a node may have a hundred thousand rooms."""


class Recent:
    """A few contiguous events, the newest at the end, bounded in number and in bytes."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._bytes = 0

    def append(self, event: Event) -> None:
        """Add the event that follows, and forget the oldest ones beyond the bounds."""
        self._events.append(event)
        self._bytes += len(event.raw)
        while self._events and (self._bytes > MOST_BYTES or len(self._events) > MOST_EVENTS):
            self._bytes -= len(self._events.popleft().raw)

    def clear(self) -> None:
        """Forget all of them."""
        self._events.clear()
        self._bytes = 0

    def after(self, offset: int) -> list[Event] | None:
        """Return every event after an offset; None when they do not reach back that far."""
        if not self._events or self._events[0].offset > offset + 1:
            return None
        return [event for event in self._events if event.offset > offset]
