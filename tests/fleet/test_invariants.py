"""The checker itself: it passes what is right, and each kind of wrong has its own words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.fleet.invariants import Acknowledged, Entry, Segment, Transcript, check, violations

Story = list[tuple[str, str, dict[str, Any]]]
STORY: Story = [
    ("r1", "chat_accepted", {"message": "hello", "client_message_id": "m1"}),
    ("r1", "inference_start", {"attempt": 1}),
    ("r1", "text_delta", {"delta": "gone ", "round": 1}),
    ("r2", "queue_item_queued", {"item_id": "r2"}),
    ("r1", "turn_restarted", {"attempt": 2}),
    ("r1", "inference_start", {"attempt": 2}),
    ("r1", "text_delta", {"delta": "Good ", "round": 1}),
    ("r1", "text_delta", {"delta": "day", "round": 1}),
    ("r1", "chat_done", {"full_response": "Good day"}),
    ("r2", "queue_item_delivered", {"item_id": "r2"}),
    ("r2", "chat_accepted", {"message": "stop"}),
    ("r2", "chat_error", {"error_type": "cancelled"}),
]
ACKNOWLEDGED = [Acknowledged("hello", "r1", "e", 1), Acknowledged("stop", "r2", "e", 4, "queued")]
SESSION: list[dict[str, Any]] = [
    {"role": "user", "content": "hello", "request_id": "r1"},
    {"role": "assistant", "content": "Good day", "request_id": "r1"},
    {"role": "user", "content": "stop", "request_id": "r2"},
]


def log_of(story: Story) -> list[Entry]:
    """Return the log of a story, with its offsets and numbers."""
    seen: dict[str, int] = {}
    log = []
    for offset, (request_id, name, fields) in enumerate(story, start=1):
        seq = seen[request_id] = seen.get(request_id, -1) + 1
        own = {"event": name, "request_id": request_id, "epoch": "e", "offset": offset, "seq": seq, "ts": offset}
        log.append(Entry(offset, name, own | fields))
    return log


def transcript_of(log: list[Entry]) -> Transcript:
    """Return what a client saw that was there all the time."""
    return Transcript("somebody", [Segment("e", 0, [dict(entry.fields) for entry in log])])


def merged(log: list[Entry], first: int, last: int) -> dict[str, Any]:
    """Return the frame that stands for several deltas."""
    delta = "".join(entry.fields["delta"] for entry in log[first - 1 : last])
    return {**log[last - 1].fields, "delta": delta, "first_offset": first}


def found(story: Story) -> str:
    """Return what is wrong with a story that everybody saw as it is."""
    log = log_of(story)
    return "\n".join(violations(log, [transcript_of(log)], []))


def test_a_thread_without_fault_passes() -> None:
    log = log_of(STORY)
    resumed = transcript_of(log)
    resumed.segments[0].frames[6:8] = [merged(log, 7, 8)]
    late = Transcript("late", [Segment("e", 10, [dict(entry.fields) for entry in log[10:]])])
    check(log, [transcript_of(log), resumed, late], ACKNOWLEDGED, SESSION)


Change = Callable[[Story], Story]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda s: [], "the log is empty", id="no log"),
        pytest.param(lambda s: [*s[:8], *s[9:]], "0 terminal events", id="no end"),
        pytest.param(lambda s: [*s, s[-1]], "2 terminal events", id="two ends"),
        pytest.param(lambda s: [*s[:9], s[7], *s[9:]], "behind its terminal event", id="late word"),
        pytest.param(lambda s: [s[0], *s], "accepted 2 times", id="accepted twice"),
        pytest.param(lambda s: [s[0], *s], "client_message_id m1 was accepted 2 times", id="one key twice"),
        pytest.param(lambda s: [s[1], s[0], *s[2:]], "before its acceptance", id="too early"),
        pytest.param(lambda s: [*s[:4], *s[5:]], "clients were told 1", id="silent restart"),
        pytest.param(lambda s: [*s[:6], s[1], *s[6:]], "attempt 1 begins behind attempt 2", id="fence falls"),
        pytest.param(lambda s: [*s[:5], s[2], *s[5:]], "text of attempt 1 stands behind the restart", id="between"),
        pytest.param(lambda s: [*s[:6], s[2], *s[6:]], "not the text of its last attempt", id="stale word"),
        pytest.param(lambda s: [*s[:7], *s[8:]], "not the text of its last attempt", id="lost word"),
        pytest.param(lambda s: [*s[:8], *s[9:11], s[8], s[11]], "was accepted while r1 ran", id="two at once"),
        pytest.param(
            lambda s: [*s[:4], ("r3", "queue_item_queued", {}), *s[4:9], ("r3", "queue_item_delivered", {}), *s[9:]],
            "delivered out of order",
            id="jumped the queue",
        ),
        pytest.param(
            lambda s: [*s, ("r2", "queue_item_removed", {})], "taken out of the queue, and run all the same", id="both"
        ),
    ],
)
def test_a_log_that_breaks_a_promise_is_told_in_words(change: Change, words: str) -> None:
    assert words in found(change(STORY))


def test_a_log_with_a_hole_or_a_foreign_entry_is_found() -> None:
    log = log_of(STORY)
    assert "offset 3 is missing" in "\n".join(violations([*log[:2], *log[3:]], [], []))
    foreign = Entry(3, "text_delta", {**log[2].fields, "epoch": "other"})
    assert "which had ended" in "\n".join(violations([*log[:2], foreign, *log[3:]], [], []))
    doubled = Entry(3, "text_delta", {**log[2].fields, "seq": 1})
    assert "expected seq 0, 1, 2" in "\n".join(violations([*log[:2], doubled, *log[3:]], [], []))


Frames = list[dict[str, Any]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda f: [*f[:3], f[2], *f[3:]], "got offset 3 again", id="doubled"),
        pytest.param(lambda f: [*f[:3], *f[4:]], "got offset 5 behind 3: a hole", id="hole"),
        pytest.param(lambda f: [*f[:2], f[3], f[2], *f[4:]], "a hole", id="out of order"),
        pytest.param(lambda f: f[:-1], "ends at offset 11, the log at 12", id="end missing"),
        pytest.param(lambda f: [*f, {**f[-1], "offset": 13}], "which the log does not have", id="invented"),
        pytest.param(lambda f: [{**f[0], "message": "bye"}, *f[1:]], "other words than the log", id="other words"),
        pytest.param(
            lambda f: [*f[:6], {**f[7], "delta": "Good", "first_offset": 7}, *f[8:]], "other words", id="badly merged"
        ),
        pytest.param(
            lambda f: [*f[:7], {**f[8], "delta": "day", "first_offset": 8}, *f[9:]], "other words", id="merged too far"
        ),
    ],
)
def test_a_client_that_saw_something_else_is_named(change: Callable[[Frames], Frames], words: str) -> None:
    log = log_of(STORY)
    transcript = Transcript("somebody", [Segment("e", 0, list(change([dict(entry.fields) for entry in log])))])
    wrong = violations(log, [transcript], [])
    assert all(problem.startswith("somebody: ") for problem in wrong)
    assert words in "\n".join(wrong)


def test_a_loss_is_wrong_unless_losses_are_part_of_the_row() -> None:
    log = log_of(STORY)
    twice = Transcript("somebody", [Segment("old", 0), Segment("e", 12)])
    assert violations(log, [twice], [], losses_told=True) == []
    assert "was told of a loss" in "\n".join(violations(log, [twice], []))
    assert "holds epoch old" in "\n".join(violations(log, [twice], []))


def test_a_promise_that_a_node_broke_counts() -> None:
    log = log_of(STORY)
    transcript = transcript_of(log)
    transcript.broken.append("was lied to")
    assert violations(log, [transcript, Transcript("nobody")], []) == [
        "somebody: was lied to",
        "nobody: was never sent anything",
    ]


@pytest.mark.parametrize(
    ("ack", "words"),
    [
        (Acknowledged("hello", "r9", "e", 1), "acknowledged as accepted at 1"),
        (Acknowledged("hello", "r1", "e", 2), "acknowledged as accepted at 2"),
        (Acknowledged("hello", "r1", "e", 99), "where the log has None"),
        (Acknowledged("hello", "r1", "old", 1), "acknowledged in epoch old"),
        (Acknowledged("Hello?", "r1", "e", 1), "acknowledged was 'Hello?', accepted ['hello']"),
    ],
)
def test_a_message_that_was_acknowledged_and_is_not_there_is_named(ack: Acknowledged, words: str) -> None:
    assert words in "\n".join(violations(log_of(STORY), [], [ack]))


def test_a_session_that_is_not_the_logs_is_found() -> None:
    log = log_of(STORY)
    assert "session's messages" in "\n".join(violations(log, [], [], [SESSION[0], *SESSION]))
    assert "session's messages" in "\n".join(violations(log, [], [], SESSION[1:]))
    assert "session's answers" in "\n".join(violations(log, [], [], [SESSION[0], SESSION[2]]))
    assert violations(log, [], [], [*SESSION, {**SESSION[1], "content": "Go", "interrupted": True}]) == []


def test_check_says_everything_that_is_wrong_at_once() -> None:
    with pytest.raises(AssertionError, match=r"r1: accepted 0 times(.|\n)*r2: 0 terminal events"):
        check(log_of(STORY[1:-1]), [], [])


# --- lanes, questions, turns that were parked ------------------------------------------------------------

LANES: Story = [
    ("r1", "chat_accepted", {"message": "order tea"}),
    ("r1", "inference_start", {"attempt": 1}),
    ("s1", "queue_item_queued", {"item_id": "s1", "lane": "steer", "position": 1}),
    ("s2", "queue_item_queued", {"item_id": "s2", "lane": "steer", "position": 2}),
    ("f1", "queue_item_queued", {"item_id": "f1", "lane": "followup", "position": 1}),
    ("c1", "queue_item_queued", {"item_id": "c1", "lane": "collect", "position": 1}),
    ("p1", "chat_accepted", {"message": "aside", "lane": "parallel"}),
    ("r1", "text_delta", {"delta": "May I? ", "round": 1}),
    ("r1", "approval_request", {"approval_id": "r1.a"}),
    ("r1", "approval_decided", {"approval_id": "r1.a"}),
    ("r1", "inference_start", {"attempt": 2}),
    ("s1", "queue_item_delivered", {"item_id": "s1", "lane": "steer", "into_request_id": "r1", "message": "hot"}),
    ("r1", "text_delta", {"delta": "lost", "round": 1}),
    ("r1", "turn_restarted", {"attempt": 3, "kept_text": 7}),
    ("r1", "inference_start", {"attempt": 3}),
    ("r1", "text_delta", {"delta": "Done", "round": 1}),
    ("r1", "chat_done", {"full_response": "May I? Done"}),
    ("s2", "queue_item_queued", {"item_id": "s2", "lane": "followup", "from_lane": "steer", "position": 1}),
    ("s2", "queue_item_delivered", {"item_id": "s2", "lane": "followup"}),
    ("c1", "queue_item_delivered", {"item_id": "c1", "lane": "collect", "into_request_id": "s2", "message": "note"}),
    ("s2", "chat_accepted", {"message": "sweet"}),
    ("p1", "chat_done", {"full_response": ""}),
    ("s2", "chat_error", {"error_type": "cancelled"}),
    ("f1", "queue_item_delivered", {"item_id": "f1", "lane": "followup"}),
    ("f1", "chat_accepted", {"message": "next"}),
    ("f1", "chat_error", {"error_type": "cancelled"}),
]
HEARD = [("r1", "order tea"), ("s1", "hot"), ("c1", "note"), ("s2", "sweet"), ("f1", "next")]
LANES_SESSION: list[dict[str, Any]] = [
    *({"role": "user", "content": text, "request_id": request_id} for request_id, text in HEARD),
    {"role": "assistant", "content": "May I? Done", "request_id": "r1"},
]


def test_a_log_with_every_lane_and_a_parked_turn_is_right() -> None:
    log = log_of(LANES)
    acks = [Acknowledged("hot", "s1", "e", 3, "queued"), Acknowledged("aside", "p1", "e", 7)]
    assert violations(log, [transcript_of(log)], acks, LANES_SESSION) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda s: [*s[:18], *s[23:], *s[18:23]], "f1 was delivered", id="past the steer"),
        pytest.param(lambda s: [*s[:12], s[11], *s[12:]], "s1: left its lane more than once", id="steered twice"),
        pytest.param(
            lambda s: [*s, ("c1", "chat_accepted", {"message": "note"})], "into another turn, and run", id="ran"
        ),
        pytest.param(lambda s: [*s[:9], *s[10:]], "asked 1 times and settled 0", id="never settled"),
        pytest.param(lambda s: [*s[:10], s[9], *s[10:]], "asked 1 times and settled 2", id="settled twice"),
        pytest.param(lambda s: [*s[:8], *s[9:]], "was settled and never asked", id="never asked"),
        pytest.param(lambda s: [*s[:10], s[7], *s[10:]], "attempt 2 begins behind attempt 1", id="not parked"),
        pytest.param(lambda s: [*s[:13], ("r1", "turn_restarted", {"attempt": 3}), *s[14:]], "not the text", id="kept"),
    ],
)
def test_a_lane_or_a_question_that_broke_its_promise_is_told_in_words(change: Change, words: str) -> None:
    assert words in found(change(LANES))
