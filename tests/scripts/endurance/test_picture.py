import pytest

from scripts.endurance.picture import apart, steps, thinned


def test_an_axis_has_few_round_numbers_and_reaches_over_the_highest_value() -> None:
    for highest in (0.03, 1.0, 7.0, 106.0, 2_000.0):
        marks = steps(highest)
        assert marks[0] == 0
        assert marks[-1] >= highest
        assert 4 <= len(marks) <= 7
    assert steps(106) == [0, 25, 50, 75, 100, 125]
    assert steps(0)[-1] > 0


def test_a_long_run_is_drawn_with_few_points_and_its_trend() -> None:
    points = thinned([(float(at), 100.0 + at + (5_000 if at % 50 == 0 else 0)) for at in range(1_000)], most=100)
    assert len(points) == 100
    assert all(value == pytest.approx(100 + at, abs=1) for at, value in points), "single peaks are no trend"
    assert thinned([]) == []


def test_labels_keep_apart_and_stay_beside_their_panel() -> None:
    assert apart([10, 12, 100], 0, 200) == [10, 26, 100]
    assert apart([198, 199, 200], 0, 200) == [168, 184, 200]
