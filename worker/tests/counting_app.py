"""A Celery application that writes down every start of its body, with the guard or without.

The body then waits at a gate (a table that the test locks), so that a test decides when it ends.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, Task, signals

from trigger_dispatcher_worker.database import Connections
from trigger_dispatcher_worker.guard import PostgresStarts, RedisStarts, Starts, one_start
from trigger_dispatcher_worker.settings import Settings

settings = Settings.from_environment()
database = Connections(settings.database)
starts: Starts = PostgresStarts(database)
if settings.guard_redis_url:
    starts = RedisStarts(settings.guard_redis_url, key_prefix=os.environ["CELERY_GLOBAL_KEYPREFIX"])

app = Celery("counting", broker=settings.broker_url)
app.conf.update(broker_transport_options=settings.transport_options, worker_prefetch_multiplier=1)


@signals.worker_init.connect(weak=False)
def prepare(**_: Any) -> None:
    starts.ensure_schema()


def record_failure(trigger_id: object, error: str) -> None:
    database.get().execute("INSERT INTO failures VALUES (%s, %s)", (trigger_id, error))


def body(*, execution_id: str, **_: Any) -> None:
    database.get().execute("INSERT INTO bodies (trigger_id) VALUES (%s)", (execution_id,))
    database.get().execute("SELECT count(*) FROM gate")


def positional(pipeline_id: str, user_id: str, mode: str, execution_id: str) -> None:
    body(execution_id=execution_id)


def bound(self: Task, pipeline_id: str, user_id: str, mode: str, execution_id: str) -> None:
    body(execution_id=execution_id)


guard = one_start(
    starts,
    lease_seconds=settings.guard_lease_seconds,
    record_failure=record_failure,
    store_retry_seconds=0.5,
)
guarded = guard(body)
app.task(name="guarded", acks_late=True, reject_on_worker_lost=True)(guarded)
app.task(name="guarded_acknowledged_early")(guarded)
app.task(name="guarded_positional", acks_late=True, reject_on_worker_lost=True)(guard(positional))
app.task(name="guarded_bound", bind=True, acks_late=True, reject_on_worker_lost=True)(guard(bound))
app.task(name="unguarded", acks_late=True)(body)
