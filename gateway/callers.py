"""Callers: the users and tenants who call, held to what each may (gateway/allowances.py)."""

from __future__ import annotations

import time
from collections.abc import Callable

from backplane.errors import RateLimited
from backplane.keys import Keys
from backplane.settings import Settings
from gateway.allowances import Allowances
from gateway.auth import ANONYMOUS, Identity
from gateway.metrics import Metrics


class Callers:
    """Users and tenants, and how often each may call."""

    def __init__(self, settings: Settings, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        keys = Keys(settings.key_prefix, settings.partitions)
        self._metrics = metrics
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
