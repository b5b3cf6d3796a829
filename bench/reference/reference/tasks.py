"""Celery: one `send_task` for each match."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from kombu.utils.uuid import uuid

from environment import Environment
from reference.matching import Match, Signal

log = logging.getLogger(__name__)


class Tasks:
    def __init__(self, environment: Environment) -> None:
        self._name = environment.task_name
        self._queue = environment.task_queue
        self._celery = Celery("reference", broker=environment.broker_url)
        # In its favour: no result, no event for each task, and no loop of retries around each publish.
        self._celery.conf.update(
            task_ignore_result=True,
            task_send_sent_event=False,
            task_publish_retry=False,
            task_default_queue=self._queue,
            broker_pool_limit=1,
        )

    def send(self, matches: Iterable[Match]) -> int:
        """Enqueues them one by one; gives how many the broker took."""
        sent = 0
        # In its favour: one producer of the pool for the whole batch, not one for each task.
        with self._celery.producer_pool.acquire(block=True) as producer:
            for match in matches:
                task_id = uuid()
                try:
                    self._celery.send_task(
                        self._name,
                        kwargs=arguments(match, task_id),
                        task_id=task_id,
                        queue=self._queue,
                        producer=producer,
                        ignore_result=True,
                        add_to_parent=False,
                        # In its favour: texts for people, which Celery would take long to make.
                        argsrepr="()",
                        kwargsrepr="{}",
                    )
                    sent += 1
                except (OperationalError, OSError):
                    # FLAW: it goes on, and the offsets are committed all the same: this task is lost.
                    log.exception("pipeline %s cannot be enqueued", match.pipeline.id)
        return sent

    def close(self) -> None:
        self._celery.close()


def arguments(match: Match, execution_id: str) -> dict[str, Any]:
    """The task's keyword arguments, as the platform's workers expect them."""
    return {
        "pipeline_id": match.pipeline.id,
        "user_id": match.pipeline.user_id,
        "execution_id": execution_id,
        "symbol": match.symbol,
        "signal_context": context(match.signal, match.symbol),
    }


def context(signal: Signal, symbol: str) -> dict[str, Any]:
    ticker: dict[str, Any] = next((entry for entry in signal["tickers"] if entry["ticker"] == symbol), {})
    return {
        "signal_id": str(signal.get("signal_id")),
        "signal_type": signal.get("signal_type"),
        "source": signal.get("source"),
        "timestamp": signal.get("timestamp"),
        "tickers": [symbol],
        "bias": ticker.get("signal"),
        "confidence": ticker.get("confidence"),
        "metadata": signal.get("metadata") or {},
    }
