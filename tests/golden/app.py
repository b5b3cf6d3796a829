"""A Celery application that runs whatever the golden messages ask for, and records what it saw.

Everything goes into one Redis list, as JSON, in the order of events: {"event": "ready" | "ran" | "revoked", …}.
"""

from __future__ import annotations

import json
import os
from typing import Any

import redis
from celery import Celery, Task, signals

BROKER = os.environ["GOLDEN_BROKER"]
RESULTS = os.environ["GOLDEN_RESULTS"]
LIST = os.environ["GOLDEN_LIST"]

app = Celery("golden", broker=BROKER, backend=RESULTS)
app.conf.update(
    accept_content=["json"],
    broker_connection_retry_on_startup=True,
    broker_transport_options={"global_keyprefix": os.environ["GOLDEN_PREFIX"]} if BROKER.startswith("redis") else {},
    result_backend_transport_options={"global_keyprefix": os.environ["GOLDEN_RESULT_PREFIX"]},
    # RabbitMQ heeds priorities only on a queue that was declared with this.
    task_queue_max_priority=10,
    worker_prefetch_multiplier=1,
    result_expires=600,
)
store = redis.Redis.from_url(RESULTS)


def record(event: str, **fields: Any) -> None:
    store.rpush(LIST, json.dumps({"event": event, **fields}))
    store.expire(LIST, 600)


@signals.worker_ready.connect(weak=False)
def tell_that_we_are_ready(**_: Any) -> None:
    record("ready")


@signals.task_revoked.connect(weak=False)
def tell_what_was_thrown_away(request: Any = None, expired: bool = False, **_: Any) -> None:
    record("revoked", id=request.id, expired=expired)


@app.task(name="app.orchestration.tasks.execute_pipeline", bind=True)
def execute_pipeline(self: Task, *args: Any, **kwargs: Any) -> str:
    request = self.request
    record(
        "ran",
        id=request.id,
        args=args,
        kwargs=kwargs,
        headers=request.headers,
        expires=str(request.expires),
        priority=request.delivery_info["priority"],
        routing_key=request.delivery_info["routing_key"],
        root_id=request.root_id,
        correlation_id=request.correlation_id,
        retries=request.retries,
        timelimit=request.timelimit,
        argsrepr=request.argsrepr,
        kwargsrepr=request.kwargsrepr,
        origin=request.origin,
    )
    return "ran"
