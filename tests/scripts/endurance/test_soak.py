import json
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from typer.testing import CliRunner

from scripts.endurance import soak_page
from scripts.endurance.picture import svg
from scripts.endurance.samples import Held, Sample
from scripts.endurance.soak import app, show, verdicts
from scripts.faultsuite.page import PAGE


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


def _kept(samples: list[Sample]) -> dict[str, Any]:
    return {
        "machine": {"date": "2026-01-02", "cores": 2, "memory_gb": 8, "system": "Linux x86_64", "python": "3.11.7"},
        "minutes": 10.0, "clients": 20, "watchers": 3, "wrong": [],
        "noticed": {"threads": 1200, "turns": 2, "events": 3, "reconnects": 4},
        "samples": [one.plain() for one in samples],
    }  # fmt: skip


def test_a_process_that_leaks_is_named() -> None:
    assert [(one.process, one.what) for one in verdicts(_samples(50_000)) if not one.flat] == [("gateway-0", "memory")]


def test_the_store_may_grow_by_what_it_is_given_to_keep() -> None:
    judged = verdicts(_samples(0))
    assert all(one.flat for one in judged)
    out = StringIO()
    show(judged, _kept([]), Console(file=out, width=100))
    assert "grows" not in out.getvalue()


def test_the_plot_has_a_line_for_each_process_in_each_panel() -> None:
    lines = ElementTree.fromstring(svg(_samples(0))).findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2 + 2 + 2 + 1


def test_there_is_a_plot_of_nothing() -> None:
    assert svg([]).endswith("</svg>\n")


def test_the_page_gets_a_line_for_each_process_and_the_plot(tmp_path: Path) -> None:
    copy, plot = tmp_path / "page.md", tmp_path / "soak.svg"
    copy.write_text("before\n<!-- soak -->\n<!-- /soak -->\nbehind\n")
    samples = _samples(50_000)
    soak_page.write(_kept(samples), samples, verdicts(samples), copy, plot)
    text = copy.read_text()
    assert "| gateway-0 | 130 MB | 19.8 MB of 6.0 | 40 | 0.0 of 8 | 0.20 | grows |" in text
    assert "| store |" in text
    assert "not judged" in text
    assert "1,200 threads" in text
    assert "](soak.svg)" in text
    assert "20 talkers" in plot.read_text()


def test_the_figures_of_a_run_may_be_put_there_later(tmp_path: Path) -> None:
    """What is kept is enough: nothing has to be run again."""
    path = tmp_path / "soak.json"
    path.write_text(json.dumps(_kept(_samples(0))))
    done = CliRunner().invoke(app, ["--from", str(path)])
    assert done.exit_code == 0, done.output
    assert "1,200 threads" in done.output
    assert (tmp_path / "soak.svg").read_text().startswith("<svg")
    path.write_text(json.dumps(_kept(_samples(50_000))))
    assert CliRunner().invoke(app, ["--from", str(path)]).exit_code == 1


def test_the_page_in_the_repository_has_the_marks(tmp_path: Path) -> None:
    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text())
    samples = _samples(0)
    soak_page.write(_kept(samples), samples, verdicts(samples), copy, tmp_path / "soak.svg")
    assert "Run on 2026-01-02" in copy.read_text()
