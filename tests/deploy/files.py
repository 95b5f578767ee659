"""What the files of deploy/ say, read for the tests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import yaml

from backplane.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
needs_kubectl = (shutil.which("kubectl") is None, "no kubectl here, which builds the kustomization")
PINNED = re.compile(r"^[a-z0-9./-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*$")
"""An image with its whole version."""


def read(path: Path) -> dict[str, Any]:
    """Return a file of one YAML document."""
    return cast("dict[str, Any]", yaml.safe_load(path.read_text()))


def read_all(text: str) -> list[dict[str, Any]]:
    """Return the resources of YAML documents."""
    return [document for document in yaml.safe_load_all(text) if document]


def env_file(path: Path) -> dict[str, str]:
    """Return the variables of a file of NAME=value lines."""
    lines = (line for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return dict(line.partition("=")[::2] for line in lines)


def built(overlay: str) -> str:
    """Return what `kubectl kustomize` makes of a folder of deploy/kubernetes."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES / overlay)], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def program(name: str) -> str:
    """Return the path of a console script that was installed beside Python."""
    return str(Path(sys.executable).parent / name)


def parsed(variables: dict[str, str]) -> Settings:
    """Return what the product makes of variables; an unknown one or an unfit value fails."""
    unknown = [name for name in variables if name.startswith("THREADLINE_") and name not in Settings.settings_names()]
    assert not unknown
    given = {
        name.removeprefix("THREADLINE_").lower(): value
        for name, value in variables.items()
        if name.startswith("THREADLINE_")
    }
    return Settings.model_validate({name: value for name, value in given.items() if value})
