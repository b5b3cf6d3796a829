"""What a start is, and what a store of starts must do. No IO.

A *start* is a mark: this trigger has been begun, by the holder of this token. While it runs its
lease is renewed. A start that is not finished and whose lease has run out is *expired*: its
worker is dead, or cut off. Both stores pass one conformance suite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

State = Literal["ours", "running", "expired", "over"]


class StoreUnavailable(RuntimeError):
    """The store could not answer. Nothing may be started on it."""


@dataclass(frozen=True)
class Begun:
    """The answer to `begin`."""

    state: State
    seconds_left: float
    """Until the holder's lease runs out; 0 unless `running`."""
    attempts: int
    """How often the trigger has been started; more than 1 only by take-over."""
    outcome: str | None = None
    """What a start that is over came to: completed, failed or abandoned."""


class Starts(Protocol):
    """Compare-and-set by token everywhere, and the store's own clock only.

    Every method raises `StoreUnavailable` when the store cannot answer, and may be called
    again with the same arguments after that.
    """

    def ensure_schema(self) -> None:
        """Makes what the store needs, and refuses a store that would forget marks."""

    def begin(self, trigger_id: UUID, token: UUID, worker: str, lease_seconds: float) -> Begun:
        """Starts the trigger for `token` if nobody ever did; else says what became of it."""

    def take_over(self, trigger_id: UUID, token: UUID, worker: str, lease_seconds: float) -> bool:
        """Gives an expired start to `token`; False when it is not expired (any more)."""

    def renew(self, held: Mapping[UUID, UUID], lease_seconds: float) -> set[UUID]:
        """Renews the leases of {trigger: token}; returns the triggers that are still theirs."""

    def finish(self, trigger_id: UUID, token: UUID, outcome: str) -> bool:
        """Ends the start for good; False when `token` does not hold it."""

    def expired(self, for_seconds: float, limit: int) -> list[tuple[UUID, str]]:
        """(trigger, worker) of unfinished starts whose lease ran out at least that long ago, oldest first."""
