"""Which times let a start be made again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from trigger_dispatcher_worker.guard.timing import seconds_left, visibility_timeout, why_no_restart


@pytest.mark.parametrize(
    ("redelivered_after", "lease", "within", "expires_in", "reasons"),
    [
        (None, 60, 3600, 810, []),
        (300, 60, 3600, 810, []),
        # kombu's default with the dispatcher's default lease: the message has long expired.
        (3600, 60, 3600, 810, ["expires in 810 s"]),
        (7200, 60, 3600, None, ["given up 3600 s after"]),
        (30, 60, 3600, None, ["visibility_timeout be longer"]),
        (None, 900, 3600, 810, ["expires in 810 s"]),
    ],
)
def test_a_restart_needs_a_message_that_comes_back_in_time(
    redelivered_after: float | None, lease: float, within: float, expires_in: float | None, reasons: list[str]
) -> None:
    found = why_no_restart(redelivered_after, lease, within, expires_in)
    assert len(found) == len(reasons)
    assert all(part in text for part, text in zip(reasons, found, strict=True)), found


def test_the_broker_says_when_a_message_comes_back() -> None:
    def conf(url: str, **options: float) -> SimpleNamespace:
        return SimpleNamespace(broker_url=url, broker_transport_options=options)

    assert visibility_timeout(conf("redis://h/0", visibility_timeout=60)) == 60
    assert visibility_timeout(conf("rediss://h/0")) == 3600
    assert visibility_timeout(conf("amqp://h//")) is None


def test_an_expiry_is_read_as_celery_has_it() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=100)
    for expires in (soon, soon.isoformat(), soon.replace(tzinfo=None)):
        left = seconds_left(expires)
        assert left is not None and 90 < left <= 100
    assert seconds_left(None) is None
