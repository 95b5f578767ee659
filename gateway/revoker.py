"""Ends what is open with a token that counts no more: one that was taken back, for a stream also one that has ended.

A socket sees to the end of its own token (`auth_expired`, and a grace to refresh it); a stream cannot be refreshed.
"""

from __future__ import annotations

import time

import structlog

from backplane.revocations import Revocations
from gateway.auth import Identity
from gateway.node import Node
from gateway.sockets import Sockets
from gateway.streams import Stream

_LOOKS = 10
"""Readings after a new revocation in which all are looked through: a token may have been accepted just before, and its
socket or stream is not there yet."""
_log = structlog.get_logger("gateway.revoker")


class Revoker:
    """Looks through the sockets and streams of this node.

    Args:
        grace: seconds that a stream goes on beyond the end of its token.
    """

    def __init__(self, revocations: Revocations, sockets: Sockets, node: Node, grace: float) -> None:
        self._revocations = revocations
        self._sockets = sockets
        self._node = node
        self._grace = grace

    def revoked(self, identity: Identity) -> bool:
        """Tell whether somebody's token was taken back.

        Raises:
            Unavailable: while that is not known.
        """
        return self._revocations.covers(identity.tenant, identity.subject, identity.token_id, identity.issued_at)

    async def run(self) -> None:
        """Look, until cancelled."""
        looks = 0
        while True:
            looks = _LOOKS if await self._revocations.changed() else max(0, looks - 1)
            if looks:
                self._sockets.end(self.revoked)
            self._end_streams(bool(looks))

    def _end_streams(self, revoked: bool) -> None:
        latest = time.time() - self._grace
        for reader in self._node.degraded.readers:
            if not isinstance(reader, Stream) or reader.gone:
                continue
            ends = reader.identity.expires_at
            if (ends is not None and ends < latest) or (revoked and self.revoked(reader.identity)):
                reader.lose("the token counts no more")
