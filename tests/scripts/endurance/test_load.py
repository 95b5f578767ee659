from scripts.endurance.load import silences
from tests.fleet.invariants import Segment
from tests.fleet.watcher import Watcher


def _watched(*events: tuple[float, str]) -> Watcher:
    watcher = Watcher(["http://127.0.0.1:1"], "t1")
    watcher.transcript.segments.append(Segment("e", 0, [{"request_id": turn} for _, turn in events]))
    watcher.times = [at for at, _ in events]
    return watcher


def test_a_silence_counts_in_the_middle_of_a_turn_alone() -> None:
    """Between two turns nobody waits for a word."""
    watcher = _watched((0.0, "a"), (0.5, "a"), (9.0, "b"), (9.01, "b"), (9.31, "b"))
    assert [(at, round(long, 2)) for at, long in silences(watcher)] == [(0.5, 0.5), (9.31, 0.3)]
