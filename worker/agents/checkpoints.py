"""The checkpoints of a LangGraph run, kept in memory, and what came to them since the last look, as text for a step."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import msgpack  # type: ignore[import-untyped]  # the library has no types
from langgraph.checkpoint.memory import InMemorySaver

_Entry = tuple[str, tuple[Any, ...], Any]


class Checkpoints(InMemorySaver):
    """A checkpointer for one attempt of one turn; another attempt fills it from the turn's steps."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[tuple[Any, ...], Any] = {}

    def news(self) -> str:
        """Return what came since the last call (or the last `add`), compressed: letters and digits."""
        entries = [entry for entry in self._entries() if self._told.get((entry[0], *entry[1])) != entry[2]]
        self._note(entries)
        packed: bytes = msgpack.packb(entries)
        return base64.b64encode(zlib.compress(packed)).decode("ascii")

    def add(self, news: str) -> None:
        """Take what `news` gave in another attempt."""
        entries = msgpack.unpackb(zlib.decompress(base64.b64decode(news)), use_list=False)
        for kind, key, value in entries:
            if kind == "checkpoint":
                thread, namespace, checkpoint_id = key
                self.storage[thread][namespace][checkpoint_id] = value
            elif kind == "write":
                self.writes[key[:3]][key[3:]] = value
            else:
                self.blobs[key] = value
        self._note(entries)

    def _note(self, entries: Any) -> None:
        self._told.update(((kind, *key), value) for kind, key, value in entries)

    def _entries(self) -> list[_Entry]:
        found: list[_Entry] = []
        for thread, namespaces in self.storage.items():
            for namespace, checkpoints in namespaces.items():
                found += [("checkpoint", (thread, namespace, name), value) for name, value in checkpoints.items()]
        for place, writes in self.writes.items():
            found += [("write", (*place, *key), value) for key, value in writes.items()]
        found += [("blob", key, value) for key, value in self.blobs.items()]
        return found
