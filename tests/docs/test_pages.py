"""What every page says of other places is true: links, scripts, commands, and the fleet of the tour."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (".", "clients/python", "clients/typescript", "deploy", "docs", "scripts")
    for path in (ROOT / folder).glob("*.md")
)


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_to_a_place_in_the_repository_leads_there(name: str) -> None:
    page = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{name}: {link}"
        assert not anchor or anchor in _anchors(target), f"{name}: {link}"


@pytest.mark.parametrize("name", PAGES)
def test_every_script_that_a_page_names_exists(name: str) -> None:
    for script in re.findall(r"(?<![\w/.-])((?:scripts|\.ci)/[a-z]+)\b(?!\.)", (ROOT / name).read_text()):
        assert (ROOT / script).is_file(), f"{name}: {script}"


@pytest.mark.parametrize("name", PAGES)
def test_every_command_that_a_page_shows_has_the_options_shown(name: str) -> None:
    commands = getattr(get_command(app), "commands")  # noqa: B009  typer types no group
    for verb, rest in re.findall(
        r"(?:\.venv/bin/|^|`)threadline ([a-z]+)((?: [^\n`#|]*)?)", (ROOT / name).read_text(), re.M
    ):
        assert verb in commands, f"{name}: threadline {verb}"
        options = {option for parameter in commands[verb].params for option in parameter.opts} | {"--help"}
        assert set(re.findall(r"(?<=\s)--[a-z-]+", rest)) <= options, f"{name}: threadline {verb}{rest}"


@pytest.mark.parametrize("name", PAGES)
def test_every_python_module_that_a_page_links_to_by_name_exists(name: str) -> None:
    for module in re.findall(
        r"`((?:backplane|gateway|worker|cli|tests)/[\w/]+\.(?:py|lua))`", (ROOT / name).read_text()
    ):
        assert (ROOT / module).is_file(), f"{name}: {module}"


def test_every_dependency_that_the_code_imports_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    of_users = [line for name, lines in extras.items() if name != "dev" for line in lines]
    declared = {re.split(r"[^\w-]", line)[0] for line in [*project["dependencies"], *of_users]}
    section = (ROOT / "docs/design.md").read_text().split("## Dependencies")[1].split("\n## ")[0]
    explained = {
        name for row in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE) for name in re.findall("`(.+?)`", row)
    }
    assert explained <= declared
    folders = ("backplane", "gateway", "worker", "cli", "clients/python")
    code = "\n".join(path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py"))
    modules = {"python-socketio": "socketio", "python-engineio": "engineio", "pyjwt": "jwt"}
    for name in declared - explained:
        module = modules.get(name, name.replace("-", "_"))
        assert not re.search(rf"^\s*(?:import|from) {module}\b", code, re.MULTILINE), name
