"""When a token ends, and when to ask for another. Nothing is verified here: that is the gateway's part."""

from __future__ import annotations

import base64
import json
import time

MARGIN = 60.0
"""Seconds before the end of a token at which a new one is asked for; at most a fifth of the time that is left."""
SHORTEST = 1.0
"""Seconds between two questions, however soon the token ends."""


def end_of(token: str | None) -> float | None:
    """Return when a JSON Web Token ends, in Unix seconds; None when it does not say."""
    parts = (token or "").split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    end = claims.get("exp") if isinstance(claims, dict) else None
    return float(end) if isinstance(end, int | float) and not isinstance(end, bool) else None


def due_in(token: str | None, now: float | None = None) -> float | None:
    """Return the seconds until another token is to be asked for; None for a token that does not say when it ends."""
    end = end_of(token)
    if end is None:
        return None
    left = max(0.0, end - (time.time() if now is None else now))
    return max(SHORTEST, left - min(MARGIN, left / 5))
