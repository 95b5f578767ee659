"""What must hold of a thread, whatever broke meanwhile. No I/O: a log, and what clients saw of it.

the log        offsets 1, 2, 3, …; no epoch again behind another one; of each request, seq 0, 1, 2, …
a request      accepted once; then exactly one terminal event, and nothing of it behind that; or taken out of its
               lane, or delivered into another turn, and then never accepted
an attempt     its number rises with each claim, told by `turn_restarted` unless the turn was parked; the text of
               the last one, and what a restart kept of those before, is the answer
a question     is asked once, and settled once
the thread     at most one primary turn at a time; what waits in a lane leaves it in its order
a client       saw each offset once, in order, with the words of the log; deltas may have been merged
a message      that was acknowledged stands in the log once, where the acknowledgement said
the session    holds each accepted or delivered message once, and each answer as its `chat_done` has it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Fields = Mapping[str, Any]

ACCEPTED = "chat_accepted"
TERMINAL = frozenset({"chat_done", "chat_error"})
MERGED = frozenset({"text_delta", "thinking_delta", "tool_args_delta"})
DELIVERED, REMOVED = "queue_item_delivered", "queue_item_removed"
QUEUE = frozenset({"queue_item_queued", DELIVERED, REMOVED})
ASKED, DECIDED = "approval_request", "approval_decided"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log as it is stored: its place, its name, and the fields that clients receive."""

    offset: int
    name: str
    fields: Fields

    @property
    def request_id(self) -> str:
        """The turn that it belongs to."""
        return str(self.fields.get("request_id", ""))


@dataclass(slots=True)
class Segment:
    """What a client was sent in one go: everything behind `after`, as far as the node kept its promise."""

    epoch: str
    after: int
    frames: list[Fields] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The offset behind which the client resumes."""
        return int(self.frames[-1]["offset"]) if self.frames else self.after

    @property
    def epoch_now(self) -> str:
        """The epoch of that offset."""
        return str(self.frames[-1]["epoch"]) if self.frames else self.epoch


@dataclass(slots=True)
class Transcript:
    """All that one client was sent of a thread. A second segment means that the node told it of a loss."""

    name: str
    segments: list[Segment] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Promises that a node broke, in words."""

    @property
    def frames(self) -> list[Fields]:
        """Every event, in the order in which it came."""
        return [frame for segment in self.segments for frame in segment.frames]


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A message, and what the acknowledgement of its `chat:start` said."""

    message: str
    request_id: str
    epoch: str
    offset: int
    state: str = "accepted"


def check(
    log: Sequence[Entry],
    transcripts: Iterable[Transcript],
    acknowledged: Iterable[Acknowledged],
    session: Sequence[Fields] | None = None,
    *,
    losses_told: bool = False,
) -> None:
    """Hold a thread up to every invariant, after its turns have ended.

    Args:
        log: the whole log.
        transcripts: of clients that were to see it up to its end.
        acknowledged: every start that a node said yes to.
        session: the thread's messages, oldest first; None leaves them out.
        losses_told: whether clients may have been told of a loss, because the log was lost or trimmed.

    Raises:
        AssertionError: with each violation on a line of its own.
    """
    found = violations(log, transcripts, acknowledged, session, losses_told=losses_told)
    if found:
        raise AssertionError("the invariants do not hold:\n  " + "\n  ".join(found))


def violations(
    log: Sequence[Entry],
    transcripts: Iterable[Transcript],
    acknowledged: Iterable[Acknowledged],
    session: Sequence[Fields] | None = None,
    *,
    losses_told: bool = False,
) -> list[str]:
    """Return what does not hold, in words; empty when all is well. Arguments as for `check`."""
    found = [*_of_log(log), *_of_requests(log), *_of_thread(log), *_of_messages(log, acknowledged)]
    for transcript in transcripts:
        found += [f"{transcript.name}: {problem}" for problem in _of_transcript(log, transcript, losses_told)]
    if session is not None:
        found += _of_session(log, session)
    return found


def requests(log: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Return the entries of each request, in the order in which the requests came."""
    found: dict[str, list[Entry]] = {}
    for entry in log:
        found.setdefault(entry.request_id, []).append(entry)
    return found


def epochs(log: Iterable[Entry]) -> list[str]:
    """Return the epochs of a log, in their order."""
    return list(dict.fromkeys(str(entry.fields["epoch"]) for entry in log))


def _of_log(log: Sequence[Entry]) -> Iterator[str]:
    if not log:
        yield "the log is empty"
        return
    epoch, left = log[0].fields["epoch"], set()
    for place, entry in enumerate(log, start=1):
        fields = entry.fields
        if fields["epoch"] != epoch:
            left.add(epoch)
            epoch = fields["epoch"]
        if epoch in left:
            yield f"entry {entry.offset} ({entry.name}) is of epoch {epoch}, which had ended"
        if entry.offset != place:
            yield f"offset {place} is missing in the log: {entry.offset} stands in its place"
            return
        if (fields["offset"], fields["event"]) != (entry.offset, entry.name):
            yield f"entry {entry.offset} ({entry.name}) carries another place or name: {fields}"
    for request_id, entries in requests(log).items():
        numbers = [entry.fields["seq"] for entry in entries]
        if numbers != list(range(len(entries))):
            yield f"{request_id}: expected seq 0, 1, 2, …, got {numbers}"


def _of_requests(log: Sequence[Entry]) -> Iterator[str]:
    for request_id, entries in requests(log).items():
        names = [entry.name for entry in entries]
        for problem in (*_of_end(entries), *_of_attempts(entries), *_of_questions(entries)):
            yield f"{request_id}: {problem} (its events: {_short(names)})"


def _of_end(entries: Sequence[Entry]) -> Iterator[str]:
    names = [entry.name for entry in entries]
    accepted = names.count(ACCEPTED)
    ends = [place for place, name in enumerate(names) if name in TERMINAL]
    into_another = [entry for entry in entries if _went_elsewhere(entry)]
    if names[-1] == REMOVED or into_another:
        if accepted or ends:
            yield f"{'delivered into another turn' if into_another else 'taken out of the queue'}, and run all the same"
        if len(into_another) + names.count(REMOVED) != 1:
            yield "left its lane more than once"
        return
    if accepted != 1:
        yield f"accepted {accepted} times"
    elif any(name not in QUEUE for name in names[: names.index(ACCEPTED)]):
        yield "something of it stands before its acceptance"
    if len(ends) != 1:
        yield f"{len(ends)} terminal events"
    elif ends[0] != len(names) - 1:
        yield "something of it stands behind its terminal event"


def _of_attempts(entries: Sequence[Entry]) -> Iterator[str]:
    """Fences: attempts rise, and what an overtaken one said is no part of the answer."""
    attempt, told, text, parked = 0, 1, "", False
    for entry in entries:
        if entry.name == "turn_restarted":
            told, text = int(entry.fields["attempt"]), text[: int(entry.fields.get("kept_text", 0))]
            if told <= attempt:
                yield f"attempt {told} follows attempt {attempt}"
        elif entry.name == "inference_start":
            number = int(entry.fields["attempt"])
            told = number if parked and number > attempt else told  # it goes on, and nothing was dropped
            if number <= attempt or number != told:
                yield f"attempt {number} begins behind attempt {attempt}, clients were told {told}"
            attempt = number
        elif entry.name == "text_delta":
            text += entry.fields["delta"]
            if attempt != told:
                yield f"text of attempt {attempt} stands behind the restart as {told}"
        elif entry.name == "chat_done" and entry.fields["full_response"] != text:
            yield f"the answer is not the text of its last attempt: {_differ(entry.fields['full_response'], text)}"
        parked = entry.name == ASKED or (parked and entry.name in (DECIDED, "inference_start"))


def _of_questions(entries: Sequence[Entry]) -> Iterator[str]:
    asked = [entry.fields["approval_id"] for entry in entries if entry.name == ASKED]
    settled = [entry.fields["approval_id"] for entry in entries if entry.name == DECIDED]
    for question, times in Counter(asked).items():
        if times != 1 or settled.count(question) != 1:
            yield f"{question} was asked {times} times and settled {settled.count(question)} times"
    if set(settled) - set(asked):
        yield f"{sorted(set(settled) - set(asked))} was settled and never asked"


def _went_elsewhere(entry: Entry) -> bool:
    """Whether a message left its lane for another turn, and so is none of its own."""
    return entry.name == DELIVERED and "into_request_id" in entry.fields


def _beside(entry: Entry) -> bool:
    """Whether a turn runs beside the primary one, and leaves the session as it was."""
    return entry.fields.get("lane") == "parallel"


def _of_thread(log: Sequence[Entry]) -> Iterator[str]:
    running = ""
    lanes: dict[str, list[str]] = {}
    for entry in log:
        lane = lanes.setdefault(str(entry.fields.get("lane", "followup")), [])
        if entry.name == ACCEPTED and not _beside(entry):
            if running:
                yield f"{entry.request_id} was accepted while {running} ran (offset {entry.offset})"
            running = entry.request_id
        elif entry.name in TERMINAL and entry.request_id == running:
            running = ""
        elif entry.name == "queue_item_queued":
            _queue(entry, lanes, lane)
        elif entry.name == REMOVED and entry.request_id in lane:
            lane.remove(entry.request_id)
        elif entry.name == DELIVERED:
            if lane[:1] != [entry.request_id]:
                yield f"{entry.request_id} was delivered out of order; waiting were {lane}"
            if entry.request_id in lane:
                lane.remove(entry.request_id)


def _queue(entry: Entry, lanes: dict[str, list[str]], lane: list[str]) -> None:
    if (before := entry.fields.get("from_lane")) is None:
        lane.append(entry.request_id)
        return
    # a steer that its turn never took: it waits in front of the follow-ups
    lane.insert(int(entry.fields["position"]) - 1, entry.request_id)
    if entry.request_id in lanes.get(str(before), []):
        lanes[str(before)].remove(entry.request_id)


def _of_messages(log: Sequence[Entry], acknowledged: Iterable[Acknowledged]) -> Iterator[str]:
    keys = Counter(
        entry.fields["client_message_id"]
        for entry in log
        if entry.name == ACCEPTED and "client_message_id" in entry.fields
    )
    for key, times in keys.items():
        if times > 1:
            yield f"the message under client_message_id {key} was accepted {times} times"
    by_request = requests(log)
    for ack in acknowledged:
        if log and ack.epoch not in epochs(log):
            yield f"{ack.request_id}: acknowledged in epoch {ack.epoch}, and the log is of {epochs(log)}"
            continue
        wanted = ACCEPTED if ack.state == "accepted" else "queue_item_queued"
        entry = log[ack.offset - 1] if 0 < ack.offset <= len(log) else None
        if entry is None or (entry.name, entry.request_id) != (wanted, ack.request_id):
            yield f"{ack.request_id}: acknowledged as {ack.state} at {ack.offset}, where the log has {entry}"
        entries = by_request.get(ack.request_id, [])
        said = [one.fields["message"] for one in entries if one.name == ACCEPTED or _went_elsewhere(one)]
        removed = any(one.name == REMOVED for one in entries)
        if said != ([] if removed else [ack.message]):
            yield f"{ack.request_id}: acknowledged was {ack.message!r}, accepted {said}"


def _of_transcript(log: Sequence[Entry], transcript: Transcript, losses_told: bool) -> Iterator[str]:
    yield from transcript.broken
    if not transcript.segments:
        yield "was never sent anything"
        return
    if len(transcript.segments) > 1 and not losses_told:
        starts = [(segment.epoch, segment.after) for segment in transcript.segments]
        yield f"was told of a loss: its parts begin behind {starts}"
    for segment in transcript.segments:
        if not log or segment.epoch not in epochs(log):
            if not losses_told:
                yield f"holds epoch {segment.epoch}, which is not that of the log"
            continue
        yield from _of_segment(log, segment)
    last = transcript.segments[-1]
    if log and last.last != log[-1].offset:
        yield f"ends at offset {last.last}, the log at {log[-1].offset}"


def _of_segment(log: Sequence[Entry], segment: Segment) -> Iterator[str]:
    at = segment.after
    for frame in segment.frames:
        first, last = int(frame.get("first_offset", frame["offset"])), int(frame["offset"])
        if first <= at:
            yield f"got offset {first} again, behind {at} ({frame['event']})"
        elif first > at + 1:
            yield f"got offset {first} behind {at}: a hole ({frame['event']})"
        at = max(at, last)
        covered = log[first - 1 : last]
        if len(covered) != last - first + 1:
            yield f"got offsets {first} to {last}, which the log does not have"
        elif not _same(frame, covered):
            yield f"got other words than the log at {first} to {last}: {frame}"


def _same(frame: Fields, covered: Sequence[Entry]) -> bool:
    if len(covered) == 1:
        return dict(frame) == dict(covered[0].fields)
    own = ("delta", "first_offset", "offset", "seq", "ts")
    alike = [{name: value for name, value in entry.fields.items() if name not in own} for entry in covered]
    return (
        frame["event"] in MERGED
        and all(fields == {name: value for name, value in frame.items() if name not in own} for fields in alike)
        and frame["delta"] == "".join(entry.fields["delta"] for entry in covered)
    )


def _of_session(log: Sequence[Entry], session: Sequence[Fields]) -> Iterator[str]:
    heard = [(message["request_id"], message["content"]) for message in session if message["role"] == "user"]
    beside = {entry.request_id for entry in log if entry.name == ACCEPTED and _beside(entry)}
    said = [
        (entry.request_id, entry.fields["message"])
        for entry in log
        if (entry.name == ACCEPTED and not _beside(entry)) or _went_elsewhere(entry)
    ]
    if heard != said:
        yield f"the session's messages are not those of the log: {_short(heard)} and {_short(said)}"
    answered = [
        (message["request_id"], message["content"])
        for message in session
        if message["role"] == "assistant" and not message.get("interrupted")
    ]
    answers = [
        (entry.request_id, entry.fields["full_response"])
        for entry in log
        if entry.name == "chat_done" and entry.request_id not in beside
    ]
    if answered != [answer for answer in answers if answer[1]]:
        yield f"the session's answers are not those of the log: {_short(answered)} and {_short(answers)}"


def _short(values: Sequence[object]) -> str:
    shown = [str(value)[:60] for value in values]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:6], f"… {len(shown) - 12} more …", *shown[-6:]])


def _differ(one: str, other: str) -> str:
    at = next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    return f"from character {at} on, {one[at : at + 40]!r} and {other[at : at + 40]!r}"
