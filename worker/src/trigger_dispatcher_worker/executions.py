"""The `executions` row of one run: RUNNING, then COMPLETED or FAILED.

Every change is a compare-and-set on the status, and a result also on `started_at`, so that a
worker which was given up for dead cannot overwrite its successor. Every statement may run
twice. Never writes PENDING: the dispatcher's claim already says that.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from .database import Connections

START = """
    INSERT INTO executions (id, pipeline_id, status, symbol, started_at)
    VALUES (%(id)s, %(pipeline_id)s, 'RUNNING', %(symbol)s, clock_timestamp())
    ON CONFLICT (id) DO UPDATE SET status = 'RUNNING', started_at = clock_timestamp()
        WHERE upper(executions.status) IN ('PENDING', 'RUNNING')
    RETURNING started_at
"""

COMPLETE = """
    UPDATE executions SET status = 'COMPLETED', finished_at = clock_timestamp(), result = %(result)s
    WHERE id = %(id)s AND started_at = %(started_at)s AND status IN ('RUNNING', 'COMPLETED')
"""

FAIL = """
    UPDATE executions SET status = 'FAILED', finished_at = clock_timestamp(), error = %(error)s
    WHERE id = %(id)s AND status = 'RUNNING'
"""

PIPELINE_IS_ACTIVE = "SELECT is_active FROM pipelines WHERE id = %(id)s"


class NotOurs(RuntimeError):
    """The execution is over, or another worker has it."""


class Executions:
    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def start(self, execution_id: UUID, pipeline_id: UUID, symbol: str | None) -> datetime:
        """Makes the row RUNNING and returns the mark that `complete` wants back.

        A row that is RUNNING already is one that the guard let us take over.
        """
        values = {"id": execution_id, "pipeline_id": pipeline_id, "symbol": symbol}
        row = self._connections.idempotent(lambda db: db.execute(START, values).fetchone())
        if row is None:
            raise NotOurs(f"execution {execution_id} is over already")
        started_at: datetime = row[0]
        return started_at

    def pipeline_is_active(self, pipeline_id: UUID) -> bool:
        """False too when the pipeline was deleted after the signal."""
        row = self._connections.idempotent(lambda db: db.execute(PIPELINE_IS_ACTIVE, {"id": pipeline_id}).fetchone())
        return row is not None and bool(row[0])

    def complete(self, execution_id: UUID, started_at: datetime, result: Mapping[str, Any]) -> None:
        values = {"id": execution_id, "started_at": started_at, "result": Jsonb(dict(result))}
        if not self._connections.idempotent(lambda db: db.execute(COMPLETE, values).rowcount):
            raise NotOurs(f"execution {execution_id} was given up for dead before it completed")

    def fail(self, execution_id: UUID, error: str) -> None:
        """Marks a running execution FAILED; one that is not running stays as it is."""
        # PostgreSQL refuses NUL in text, and an error may quote what the signal said.
        values = {"id": execution_id, "error": error.replace("\x00", "\\0")[:2000]}
        self._connections.idempotent(lambda db: db.execute(FAIL, values))
