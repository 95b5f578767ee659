"""Looks whether the page was built, before hatch puts it into a wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PageIsBuilt(BuildHookInterface[Any]):
    """Refuses to make a wheel whose gateways would serve no page."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Raise FileNotFoundError unless the page is there; an editable install reads it when a gateway starts."""
        index = Path(self.root, "gateway", "bundle", "index.html")
        if version == "standard" and not index.is_file():
            raise FileNotFoundError(f"expected the page at {index}, found none; run scripts/page, then build again")
