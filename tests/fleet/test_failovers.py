"""The judgement of a failover: what was lost and told may differ, and nothing else."""

from __future__ import annotations

from typing import Any

from tests.fleet.failovers import judged
from tests.fleet.invariants import Entry, Segment, Transcript


def entry(offset: int, name: str, epoch: str, seq: int, **more: Any) -> Entry:
    fields = {"event": name, "request_id": "r", "epoch": epoch, "offset": offset, "seq": seq, **more}
    return Entry(offset, name, fields)


KEPT = [entry(1, "chat_accepted", "old", 0, message="hi"), entry(2, "inference_start", "old", 1, attempt=1)]
LOST = [entry(3, "text_delta", "old", 2, delta="lost")]
AFTER = [
    entry(3, "turn_restarted", "new", 2, attempt=2),
    entry(4, "inference_start", "new", 3, attempt=2),
    entry(5, "chat_done", "new", 4, full_response=""),
]
LOG = [*KEPT, *AFTER]


def client(*segments: tuple[str, int, list[Entry]]) -> Transcript:
    """Return what a client was sent, in segments of epoch, place and events."""
    made = [Segment(epoch, after, [one.fields for one in events]) for epoch, after, events in segments]
    return Transcript("a client", made)


def test_a_client_that_was_told_of_what_it_lost_is_well() -> None:
    session = [{"role": "user", "request_id": "r", "content": "hi"}]
    assert judged(LOG, [client(("old", 0, [*KEPT, *LOST]), ("old", 2, AFTER))], [], session) == []


def test_a_client_that_goes_on_behind_what_is_lost_is_found() -> None:
    """The words that it was sent as the third are not those of the log, and nobody has told it."""
    found = "\n".join(judged(LOG, [client(("old", 0, [*KEPT, *LOST, *AFTER[1:]]))], [], []))
    assert "was not told of the loss" in found
    assert "other words than the log" in found


def test_a_client_that_was_sent_too_little_behind_a_loss_is_found() -> None:
    found = "\n".join(judged(LOG, [client(("old", 0, [*KEPT, *LOST]), ("old", 2, AFTER[:1]))], [], []))
    assert "ends at offset 3" in found
