"""What a process is told: every setting is documented, and what is told wrongly stops the start."""

from __future__ import annotations

import ast
import inspect
import itertools
import os
import re
from pathlib import Path
from typing import Any

import pytest

from backplane import settings
from backplane.errors import Misconfigured
from backplane.settings import Settings, check_environment, load

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"
ROW = re.compile(r"^\| `(\w+)` \| `(\w+)` \| (.+?) \| (.+) \|$", re.MULTILINE)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of whoever runs the tests do not count."""
    for name in Settings.settings_names():
        monkeypatch.delenv(name, raising=False)


def shown(value: object) -> str:
    """Return a default as the document writes it."""
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{','.join(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def meanings() -> dict[str, str]:
    """Return the sentence below each attribute of `Settings`, read from its source."""
    tree = ast.parse(inspect.getsource(Settings))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
    found: dict[str, str] = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            assert isinstance(below, ast.Expr), field.target.id
            assert isinstance(below.value, ast.Constant), field.target.id
            found[field.target.id] = inspect.cleandoc(str(below.value.value))
    return found


def test_every_setting_is_documented_with_its_variable_its_default_and_its_meaning() -> None:
    rows = {row[0]: row[1:] for row in ROW.findall(DOCUMENT.read_text())}
    expected = {}
    for name, field in Settings.model_fields.items():
        default = shown(field.default) if field.default_factory is None else "host name and process id"
        expected[name] = (f"THREADLINE_{name.upper()}", default, meanings()[name])
    assert rows == expected


def test_a_setting_comes_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADLINE_PORT", "9000")
    monkeypatch.setenv("THREADLINE_ALIASES", "false")
    monkeypatch.setenv("THREADLINE_LEASE", "4.5")
    told = load()
    assert (told.port, told.aliases, told.lease) == (9000, False, 4.5)


def test_what_is_given_wins_over_the_variable_and_none_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADLINE_PORT", "9000")
    assert load(port=9001, host=None).port == 9001
    assert load(port=None, host=None).port == 9000
    assert load(host=None).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://a.example", ("https://a.example",)),
        ("https://a.example,https://b.example", ("https://a.example", "https://b.example")),
        (" https://a.example , https://b.example ,", ("https://a.example", "https://b.example")),
        ("*", ("*",)),
        ("", ()),
    ],
)
def test_a_list_is_written_with_commas(monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[str, ...]) -> None:
    monkeypatch.setenv("THREADLINE_CORS_ORIGINS", text)
    assert load().cors_origins == expected
    assert load(url=["http://a", "http://b"]).url == ("http://a", "http://b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("acme=3", {"acme": 3}), (" acme=3 , free=1,", {"acme": 3, "free": 1}), ("", {})],
)
def test_numbers_of_tenants_are_written_with_commas(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: dict[str, int]
) -> None:
    monkeypatch.setenv("THREADLINE_TENANT_WEIGHTS", text)
    assert load().tenant_weights == expected


@pytest.mark.parametrize("text", ["acme", "acme=", "acme=0", "acme=x", "acme=-1"])
def test_a_tenant_without_a_whole_number_stops_the_start(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("THREADLINE_TENANT_WEIGHTS", text)
    with pytest.raises(Misconfigured, match=r"THREADLINE_TENANT_WEIGHTS\.ACME"):
        load()


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("THREADLINE_REDIS_ULR", "THREADLINE_REDIS_URL"),
        ("THREADLINE_PROT", "THREADLINE_PORT"),
        ("THREADLINE_JWT_SECRETS", "THREADLINE_JWT_SECRET"),
        ("THREADLINE_MAX_MESSAGE_BYTE", "THREADLINE_MAX_MESSAGE_BYTES"),
    ],
)
def test_a_misspelt_variable_is_an_error_that_says_what_was_meant(
    monkeypatch: pytest.MonkeyPatch, wrong: str, meant: str
) -> None:
    monkeypatch.setenv(wrong, "1")
    with pytest.raises(Misconfigured, match=rf"{wrong} .* did you mean {meant}\?"):
        load()


def test_a_variable_that_resembles_none_is_sent_to_the_document() -> None:
    with pytest.raises(Misconfigured, match=r"docs/settings\.md"):
        check_environment({"THREADLINE_QQQQQQQQQQQQQQQ": "1"})


def test_variables_of_others_are_none_of_our_business() -> None:
    check_environment({"PATH": "/bin", "THREADLINES_PORT": "1", "threadline_port": "1", "REDIS_URL": "x"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("port", "eighty"),
        ("port", ""),
        ("partitions", "0"),
        ("partitions", "16385"),
        ("lease", "0"),
        ("lease", "-2.5"),
        ("redis_timeout", "soon"),
        ("coalesce", "-0.1"),
        ("max_message_bytes", "0"),
        ("max_message_bytes", "1.5"),
        ("thread_ttl", "30 days"),
        ("slots", "many"),
        ("calls_per_second", "0"),
        ("aliases", "perhaps"),
        ("log_level", "loud"),
        ("log_level", "INFO"),
        ("log_format", "xml"),
        ("key_prefix", "a{b}"),
        ("key_prefix", ""),
        ("key_prefix", "a:b"),
    ],
)
def test_a_value_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"THREADLINE_{name.upper()}", value)
    with pytest.raises(Misconfigured) as caught:
        load()
    message = caught.value.message
    assert message.startswith(f"THREADLINE_{name.upper()}: ")
    assert f"got {value!r}" in message
    assert "docs/settings.md" in message


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADLINE_PORT", "x")
    monkeypatch.setenv("THREADLINE_SLOTS", "y")
    with pytest.raises(Misconfigured, match=r"THREADLINE_PORT.*THREADLINE_SLOTS"):
        load()


def test_an_unknown_setting_cannot_be_given() -> None:
    given: dict[str, Any] = {"prot": 1}
    with pytest.raises(Misconfigured, match="THREADLINE_PROT"):
        load(**given)


def test_settings_do_not_change_while_a_process_runs() -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings.Settings().port = 1


def test_two_processes_of_one_machine_have_different_names() -> None:
    assert Settings().node_id.endswith(f"-{os.getpid()}")
