import json
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from typer.testing import CliRunner

from scripts.endurance.picture import svg
from scripts.endurance.soak import app, show, verdicts
from tests.scripts.endurance.leaks import kept, leaking


def test_a_process_that_leaks_is_named() -> None:
    assert [(one.process, one.what) for one in verdicts(leaking(50_000)) if not one.flat] == [("gateway-0", "memory")]


def test_the_store_may_grow_by_what_it_is_given_to_keep() -> None:
    judged = verdicts(leaking(0))
    assert all(one.flat for one in judged)
    out = StringIO()
    show(judged, kept([]), Console(file=out, width=100))
    assert "grows" not in out.getvalue()


def test_the_plot_has_a_line_for_each_process_in_each_panel_but_for_the_stores_memory() -> None:
    lines = ElementTree.fromstring(svg(leaking(0))).findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 1 + 2 + 2 + 1


def test_there_is_a_plot_of_nothing() -> None:
    assert svg([]).endswith("</svg>\n")


def test_the_figures_of_a_run_may_be_put_there_later(tmp_path: Path) -> None:
    """What is kept is enough: nothing has to be run again."""
    path = tmp_path / "soak.json"
    path.write_text(json.dumps(kept(leaking(0))))
    done = CliRunner().invoke(app, ["--from", str(path)])
    assert done.exit_code == 0, done.output
    assert "1,200 threads" in done.output
    assert (tmp_path / "soak.svg").read_text().startswith("<svg")
    path.write_text(json.dumps(kept(leaking(50_000))))
    assert CliRunner().invoke(app, ["--from", str(path)]).exit_code == 1
