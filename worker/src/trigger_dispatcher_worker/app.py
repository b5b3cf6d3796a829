"""The sample worker: a Celery application with the one task that the dispatcher sends.

celery -A trigger_dispatcher_worker.app worker -Q celery -l info          (prefork)
celery -A trigger_dispatcher_worker.app worker -P solo -Q celery -l info
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from celery import Celery, signals

from .database import Connections
from .decision import decide, decide_each
from .executions import Executions
from .guard import PostgresStarts, RedisStarts, Starts, StoreUnavailable, one_start
from .settings import Settings

settings = Settings.from_environment()
database = Connections(settings.database)
executions = Executions(database)
starts: Starts = PostgresStarts(database)
if settings.guard_redis_url:
    starts = RedisStarts(settings.guard_redis_url)

app = Celery("trigger_dispatcher_worker", broker=settings.broker_url, backend=settings.result_backend)
app.conf.update(
    task_default_queue=settings.task_queue,
    broker_transport_options=settings.transport_options,
    result_backend_transport_options=settings.result_transport_options,
    broker_connection_retry_on_startup=True,
    # A broker message is a request to run code: take JSON only, never pickle.
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    worker_prefetch_multiplier=1,
    # The connection to the broker may break while a task runs; the guard drops the second delivery.
    worker_cancel_long_running_tasks_on_connection_loss=False,
)


@signals.worker_init.connect(weak=False)  # type: ignore[untyped-decorator]
def prepare_the_guard(**_: Any) -> None:
    if settings.auto_migrate:
        try:
            starts.ensure_schema()
        except StoreUnavailable as error:
            # Celery logs what a signal handler raises and goes on; only leaving stops it.
            raise SystemExit(f"the start guard cannot work: {error}") from error


# Acknowledged late, so that a worker which dies between delivery and start loses nothing.
@app.task(  # type: ignore[untyped-decorator]
    name=settings.task_name, acks_late=True, reject_on_worker_lost=True
)
@one_start(
    starts,
    lease_seconds=settings.guard_lease_seconds,
    on_abandoned=settings.guard_on_abandoned,  # type: ignore[arg-type]
    record_failure=executions.fail,
)
def execute_pipeline(
    *,
    pipeline_id: str,
    user_id: str,
    execution_id: str,
    symbol: str | None,
    signal_context: dict[str, Any],
    **extra: Any,
) -> dict[str, Any]:
    """Decides on each ticker of one task, and leaves the decisions in `executions.result`."""
    started_at = executions.start(UUID(execution_id), UUID(pipeline_id), symbol)
    is_active = executions.pipeline_is_active(UUID(pipeline_id))
    decision = decide(signal_context, pipeline_is_active=is_active)
    decisions = decide_each(signal_context, pipeline_is_active=is_active)
    result = {
        **extra,
        # Of the first ticker, which is the symbol; those of all tickers are in `decisions`.
        **decision.as_json(),
        "decisions": {ticker: each.as_json() for ticker, each in decisions.items()},
        "symbol": symbol,
        "user_id": user_id,
        "signal_id": signal_context.get("signal_id"),
        "bias": signal_context.get("bias"),
        "confidence": signal_context.get("confidence"),
    }
    executions.complete(UUID(execution_id), started_at, result)
    return result
