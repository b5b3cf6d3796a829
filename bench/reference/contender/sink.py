"""What Quix Streams calls for every match (`add`) and before every commit (`flush`)."""

from __future__ import annotations

import logging
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import redis
from quixstreams.sinks import BaseSink, SinkBackpressureError

from contender.platform import LEASE, Platform
from contender.rules import Match, Pipeline
from contender.tasks import Task, Tasks

log = logging.getLogger(__name__)

#: Seconds until signals are read again that could not be decided.
PAUSE = 1.0


class Triggers(BaseSink):
    """At most one trigger a batch for each pipeline: the first signal that it watches leads, the rest is discarded."""

    def __init__(self, platform: Platform, tasks: Tasks) -> None:
        super().__init__()
        self._platform = platform
        self._tasks = tasks
        #: Per pipeline, what would trigger it.
        self._matched: dict[str, tuple[Pipeline, dict[str, Any]]] = {}
        #: Per pipeline, when we enqueued it last, by the database's clock.
        self._enqueued_at: dict[str, datetime] = {}

    def add(
        self, value: Match, key: Any, timestamp: int, headers: Any, topic: str, partition: int, offset: int
    ) -> None:
        matched = self._matched
        for pipeline, ticker in value.pipelines:
            if pipeline.id not in matched:
                signal = context(value.signal, ticker, timestamp, f"{topic}-{partition}-{offset}-{timestamp}")
                matched[pipeline.id] = (pipeline, signal)

    def flush(self) -> None:
        """Asks, enqueues, remembers. What cannot be decided now is read again: nobody is taken for idle meanwhile."""
        if not self._matched:
            return
        matched, self._matched = self._matched, {}
        try:
            idle = self._platform.idle(list(matched), [self._enqueued_at.get(pipeline) for pipeline in matched])
            if idle:
                self._tasks.enqueue(task(*matched[pipeline], now) for pipeline, now in idle.items())
        except (psycopg.Error, redis.RedisError) as error:
            log.warning("signals wait: %s", error)
            raise SinkBackpressureError(retry_after=PAUSE) from error
        self._enqueued_at.update(idle)

    def on_paused(self) -> None:
        self._matched.clear()


def task(pipeline: Pipeline, signal: dict[str, Any], now: datetime) -> Task:
    arguments = {
        "pipeline_id": pipeline.id,
        "user_id": pipeline.user_id,
        "execution_id": str(uuid.uuid4()),
        "symbol": signal["tickers"][0],
        "signal_context": signal,
    }
    return Task(arguments, expires=now + timedelta(seconds=LEASE))


def context(signal: dict[str, Any], ticker: dict[str, Any], timestamp_ms: int, record: str) -> dict[str, Any]:
    """What the worker is told of the signal; `record` names it where it has no id of its own."""
    return {
        "signal_id": signal.get("signal_id") or str(uuid.uuid5(uuid.NAMESPACE_OID, record)),
        "signal_type": signal.get("signal_type"),
        "source": signal.get("source"),
        "timestamp": signal.get("timestamp") or datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat(),
        "tickers": [ticker["ticker"]],
        "bias": ticker.get("signal"),
        "confidence": ticker.get("confidence"),
        "metadata": signal.get("metadata") or {},
    }
