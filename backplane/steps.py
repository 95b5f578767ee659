"""Steps: what an attempt has finished, no later attempt does again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from backplane.turns import Claim, Verdict

if TYPE_CHECKING:
    from backplane.connection import Backplane


class Steps:
    """Records the steps of turns, for their owners."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane

    async def begin(self, claim: Claim, step: str) -> tuple[Verdict, bool]:
        """Note that a step begins. Returns the verdict, and whether an earlier attempt began it and did not finish.

        Raises:
            Unavailable: when Redis did not answer; the same call may be sent again.
        """
        call = self._backplane.call("step_begin", claim.ref, claim.request_id, claim.proof, step)
        verdict, first = await self._backplane.run(call)
        return verdict.decode(), 0 < first < claim.fence

    async def end(self, claim: Claim, step: str, result: str) -> Verdict | Literal["too_large"]:
        """Record the result (JSON) of a step. `too_large` when the turn's steps would take over `max_steps_bytes`.

        Raises:
            Unavailable: when Redis did not answer; the same call may be sent again.
        """
        most = self._backplane.settings.max_steps_bytes
        call = self._backplane.call("step_end", claim.ref, claim.request_id, claim.proof, step, result, most)
        answer: bytes = await self._backplane.run(call)
        found: Verdict | Literal["too_large"] = answer.decode()  # type: ignore[assignment]
        return found
