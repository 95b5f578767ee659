"""Callers: the users and tenants who call, held to what each may (gateway/allowances.py).

Calls are counted over all nodes; the sockets and streams that a user has open, at this node.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from backplane.errors import RateLimited
from backplane.keys import Keys
from backplane.settings import Settings
from gateway.allowances import Allowances
from gateway.auth import ANONYMOUS, Identity
from gateway.metrics import Metrics

_AGAIN_MS = 5000
"""When somebody with too many connections should come back: one that is lost is noticed within a minute."""


class Callers:
    """Users and tenants, and how often each may call."""

    def __init__(self, settings: Settings, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        keys = Keys(settings.key_prefix, settings.partitions)
        self._metrics = metrics
        self._most = settings.max_connections_per_user
        self._open: Counter[tuple[str, str]] = Counter()
        self.users: Allowances[tuple[str, str]] = Allowances(
            settings.user_calls_per_second, "calls of one user", lambda user: keys.user_calls(*user), clock
        )
        self.tenants: Allowances[str] = Allowances(
            settings.tenant_calls_per_second, "calls of one tenant", keys.tenant_calls, clock
        )

    def take(self, identity: Identity) -> None:
        """Count a call of somebody. One that is refused costs neither the user nor the tenant anything.

        Raises:
            RateLimited: when the user or the tenant has called too often.
        """
        if identity == ANONYMOUS:
            return
        whose, user = "user", None
        try:
            user = self.users.take((identity.tenant, identity.subject))
            whose = "tenant"
            self.tenants.take(identity.tenant)
        except RateLimited:
            if user is not None:
                user.give_back()
            self._metrics.limited.labels(whose).inc()
            raise

    def charge(self, identity: Identity, calls: int) -> None:
        """Count calls that came as one: they pass, and what they are beyond the limits is waited for afterwards."""
        if identity != ANONYMOUS:
            self.users.charge((identity.tenant, identity.subject), calls)
            self.tenants.charge(identity.tenant, calls)

    def enter(self, identity: Identity) -> None:
        """Count a socket or a stream of somebody, until `leave`.

        Raises:
            RateLimited: when the user has as many open at this node as it may; then it is not counted.
        """
        self.check(identity)
        if identity != ANONYMOUS:
            self._open[identity.tenant, identity.subject] += 1

    def check(self, identity: Identity) -> None:
        """Refuse what `enter` would refuse, before anything is done for it.

        Raises:
            RateLimited: as `enter`.
        """
        if self._most and self._open[identity.tenant, identity.subject] >= self._most:
            self._metrics.limited.labels("user").inc()
            raise RateLimited(
                f"expected at most {self._most} sockets and streams of one user at a gateway, got one more; close "
                "some, or come back later",
                retry_after_ms=_AGAIN_MS,
            )

    def leave(self, identity: Identity) -> None:
        """Hear that a socket or a stream has ended that had entered."""
        if identity == ANONYMOUS:
            return
        user = (identity.tenant, identity.subject)
        self._open[user] -= 1
        if self._open[user] <= 0:
            del self._open[user]
