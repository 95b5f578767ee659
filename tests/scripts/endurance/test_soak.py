from io import StringIO
from xml.etree import ElementTree

from rich.console import Console

from scripts.endurance.load import Noticed
from scripts.endurance.picture import svg
from scripts.endurance.samples import Held, Sample
from scripts.endurance.soak import show, verdicts


def _samples(leak: int) -> list[Sample]:
    """Return ten minutes in which a gateway leaks so many bytes a second, and the store keeps what it is given."""
    return [
        Sample(
            float(at),
            0.004 if at else None,
            {
                "gateway-0": Held(100_000_000 + leak * at, 40, 0.2),
                "store": Held(50_000_000 + 100_000 * at, 30, 0.1),
            },
        )
        for at in range(0, 600, 5)
    ]


def test_a_process_that_leaks_is_named() -> None:
    assert [(one.process, one.what) for one in verdicts(_samples(50_000)) if not one.flat] == [("gateway-0", "memory")]


def test_the_store_may_grow_by_what_it_is_given_to_keep() -> None:
    judged = verdicts(_samples(0))
    assert all(one.flat for one in judged)
    out = StringIO()
    show(judged, Noticed(threads=2), Console(file=out, width=100))
    assert "grows" not in out.getvalue()


def test_the_plot_has_a_line_for_each_process_in_each_panel() -> None:
    lines = ElementTree.fromstring(svg(_samples(0))).findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2 + 2 + 2 + 1


def test_there_is_a_plot_of_nothing() -> None:
    assert svg([]).endswith("</svg>\n")
