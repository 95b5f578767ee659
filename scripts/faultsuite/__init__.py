"""The fault suite: what is broken on purpose, with real processes, and what must still hold (docs/reliability.md)."""
