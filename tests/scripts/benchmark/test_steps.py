"""The steps of the hot path: each line of the table leaves out what it says."""

from __future__ import annotations

import pytest

from scripts.benchmark.page import put
from scripts.benchmark.steps import _MARK, _PAGE, STEPS
from scripts.benchmark.variants import VARIANTS, main


def test_every_variant_is_a_step_and_every_step_is_known() -> None:
    assert {step.variant for step in STEPS if step.variant is not None} == VARIANTS


def test_the_first_line_is_the_system_as_it_is() -> None:
    """All others are compared with it."""
    assert (STEPS[0].variant, STEPS[0].settings, STEPS[0].crowd) == (None, {}, True)


def test_an_unknown_variant_is_not_taken_for_the_system_as_it_is() -> None:
    with pytest.raises(SystemExit, match="expected one of asgi"):
        main(["gateway", "as-it-is"])


def test_the_page_has_a_place_for_the_table() -> None:
    assert put(_PAGE.read_text(), _MARK, "here").count("here\n<!-- /steps -->") == 1
