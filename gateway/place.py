"""A place in a room: where one member stands in the log, and what it is there for."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from backplane.events import QUEUE_ITEM_DELIVERED, QUEUE_ITEM_REMOVED, TERMINAL, Event


def ends(event: Event) -> bool:
    """Return whether nothing more follows of the message whose event this is, under its own request id."""
    if event.name == QUEUE_ITEM_DELIVERED:
        return "into_request_id" in event.fields  # else its own turn begins
    return event.name in TERMINAL or event.name == QUEUE_ITEM_REMOVED


@dataclass(slots=True, eq=False)
class Place:
    """Where a member stands."""

    after: int
    """It has events up to this offset, which may be ahead of the room."""
    own: dict[str, int] = field(default_factory=dict)
    """The messages it sent that have not ended as far as it was told: request id -> offset of its first event."""
    subject: str = ""
    """Who it is."""
    only_own: bool = False
    """True when it left the thread, but waits for the end of what it started."""
    reader: object | None = None
    """Who brings it up to the present, if anybody: live events would overtake what it is to read first. There may be an
    older one, which notices by this that it was overtaken."""

    def wants(self, event: Event) -> bool:
        """Return whether an event is for this member."""
        return not self.only_own or event.request_id in self.own

    def told(self, event: Event) -> None:
        """Note that the member was sent an event: what has ended is nothing to wait for."""
        if self.own and ends(event):
            self.own.pop(event.request_id, None)

    def keep_own(self, alive: Set[str], heard: int) -> None:
        """Forget what can have no end any more: neither alive, nor so new that the room has not heard of it."""
        self.own = {request: at for request, at in self.own.items() if at > heard or request in alive}
