"""The variables that a contender is started with: those of the Trigger Dispatcher, with its names and defaults.

Owns no default that decides about speed: how large a batch is, and how long it waits, each contender says itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Statuses of an execution that keep its pipeline busy; as the dispatcher's EXECUTION_ACTIVE_STATUSES.
ACTIVE_STATUSES = (
    "pending",
    "queued",
    "running",
    "started",
    "retry",
    "monitoring",
    "paused",
    "awaiting_approval",
    "communication_error",
    "needs_reconciliation",
)


class Refused(Exception):
    """The environment is not one to start with."""


@dataclass(frozen=True)
class Postgres:
    user: str
    password: str
    host: str
    port: int
    database: str


@dataclass(frozen=True)
class Environment:
    kafka_servers: str
    signal_topic: str
    consumer_group: str
    #: `earliest` or `latest`: where a group begins that has committed nothing.
    auto_offset_reset: str
    postgres: Postgres
    broker_url: str
    task_queue: str
    task_name: str
    batch_size: int
    batch_timeout_seconds: float
    refresh_interval_seconds: float

    @classmethod
    def read(cls, variables: Mapping[str, str], *, batch_size: int, batch_timeout_seconds: float) -> Environment:
        """Reads `variables`. The two arguments are what holds where BATCH_SIZE and BATCH_TIMEOUT_SECONDS are not set.

        Raises Refused for a variable that is missing or no number.
        """

        def required(name: str) -> str:
            value = variables.get(name, "")
            if not value:
                raise Refused(f"{name} is not set")
            return value

        def number(name: str, default: float) -> float:
            text = variables.get(name) or str(default)
            try:
                value = float(text)
            except ValueError:
                raise Refused(f"{name} is not a number: {text!r}") from None
            if not 0 < value < float("inf"):
                raise Refused(f"{name} must be positive: {text!r}")
            return value

        return cls(
            kafka_servers=required("KAFKA_BOOTSTRAP_SERVERS"),
            signal_topic=variables.get("KAFKA_SIGNAL_TOPIC") or "trading-signals",
            consumer_group=variables.get("KAFKA_CONSUMER_GROUP") or "trigger-dispatcher",
            auto_offset_reset=variables.get("KAFKA_AUTO_OFFSET_RESET") or "earliest",
            postgres=Postgres(
                user=required("POSTGRES_USER"),
                password=required("POSTGRES_PASSWORD"),
                host=required("POSTGRES_HOST"),
                port=int(number("POSTGRES_PORT", 5432)),
                database=required("POSTGRES_DB"),
            ),
            broker_url=required("CELERY_BROKER_URL"),
            task_queue=variables.get("CELERY_TASK_QUEUE") or "celery",
            task_name=variables.get("CELERY_TASK_NAME") or "app.orchestration.tasks.execute_pipeline",
            batch_size=int(number("BATCH_SIZE", batch_size)),
            batch_timeout_seconds=number("BATCH_TIMEOUT_SECONDS", batch_timeout_seconds),
            refresh_interval_seconds=number("CACHE_REFRESH_INTERVAL_SECONDS", 30),
        )
