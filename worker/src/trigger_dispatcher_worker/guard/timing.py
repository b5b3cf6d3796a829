"""What a start that is put off, or made again, needs of the times of broker and message. No IO.

A message comes back after the broker's `visibility_timeout` (Redis), and Celery discards it when it
has expired. Where the two do not fit, no restart ever happens, and nobody says so.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

REDIS_DEFAULT = 3600.0
"""kombu's visibility_timeout for Redis, in seconds."""


def visibility_timeout(conf: Any) -> float | None:
    """After how many seconds the broker delivers an unacknowledged message again; None: when its worker is gone."""
    if not str(conf.broker_url).startswith(("redis", "sentinel")):
        return None
    return float((conf.broker_transport_options or {}).get("visibility_timeout", REDIS_DEFAULT))


def seconds_left(expires: str | datetime | None) -> float | None:
    """Until a message expires; None: never."""
    if expires is None:
        return None
    at = datetime.fromisoformat(expires) if isinstance(expires, str) else expires
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return (at - datetime.now(UTC)).total_seconds()


def why_no_restart(
    redelivered_after: float | None, lease_seconds: float, restart_within_seconds: float, expires_in: float | None
) -> list[str]:
    """Why a start whose worker dies now is given up instead of made again; empty if it is made again."""
    reasons = []
    comes_back = lease_seconds if redelivered_after is None else max(redelivered_after, lease_seconds)
    if comes_back > lease_seconds + restart_within_seconds:
        reasons.append(
            f"the message comes back after {comes_back:g} s, but is given up {restart_within_seconds:g} s after the "
            f"lease of {lease_seconds:g} s: lower the broker's visibility_timeout, or raise restart_within_seconds"
        )
    if expires_in is not None and comes_back >= expires_in:
        reasons.append(
            f"the message expires in {expires_in:.0f} s, but comes back after {comes_back:g} s: lower the broker's "
            "visibility_timeout and the guard's lease, or raise the dispatcher's TRIGGER_LEASE_SECONDS"
        )
    if redelivered_after is not None and lease_seconds >= redelivered_after:
        reasons.append(
            f"a start is put off by its lease of {lease_seconds:g} s, but the broker delivers again after "
            f"{redelivered_after:g} s: let visibility_timeout be longer than the lease"
        )
    return reasons
