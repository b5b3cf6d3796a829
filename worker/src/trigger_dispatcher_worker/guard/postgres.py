"""Starts in PostgreSQL, table `dispatcher.starts`. As durable as the claims themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from typing import TypeVar
from uuid import UUID

import psycopg

from ..database import Connection, Connections
from .starts import Begun, StoreUnavailable

Result = TypeVar("Result")

BEGIN = """
    INSERT INTO dispatcher.starts (trigger_id, attempt_token, worker, leased_until)
    VALUES (%(trigger_id)s, %(token)s, %(worker)s, now() + make_interval(secs => %(lease)s))
    ON CONFLICT (trigger_id) DO NOTHING
"""

# A second statement: the first cannot see the row that it lost to.
WHO_HAS_IT = """
    SELECT attempt_token = %(token)s, finished_at IS NOT NULL, outcome, attempts,
           extract(epoch FROM leased_until - now())::float8
    FROM dispatcher.starts WHERE trigger_id = %(trigger_id)s
"""

# `attempt_token = token` makes a repeated take-over, whose first answer was lost, find its own work.
TAKE_OVER = """
    UPDATE dispatcher.starts
    SET attempt_token = %(token)s, worker = %(worker)s, attempts = attempts + 1,
        leased_until = now() + make_interval(secs => %(lease)s)
    WHERE trigger_id = %(trigger_id)s AND finished_at IS NULL
      AND (leased_until <= now() OR attempt_token = %(token)s)
"""

RENEW = """
    UPDATE dispatcher.starts AS start SET leased_until = now() + make_interval(secs => %(lease)s)
    FROM unnest(%(triggers)s::uuid[], %(tokens)s::uuid[]) AS held (trigger_id, token)
    WHERE start.trigger_id = held.trigger_id AND start.attempt_token = held.token
      AND start.finished_at IS NULL
    RETURNING start.trigger_id
"""

FINISH = """
    UPDATE dispatcher.starts SET finished_at = coalesce(finished_at, now()), outcome = %(outcome)s
    WHERE trigger_id = %(trigger_id)s AND attempt_token = %(token)s
      AND (finished_at IS NULL OR outcome = %(outcome)s)
"""

EXPIRED = """
    SELECT trigger_id, coalesce(worker, 'unknown') FROM dispatcher.starts
    WHERE finished_at IS NULL AND leased_until <= now() - make_interval(secs => %(for_seconds)s)
    ORDER BY leased_until LIMIT %(limit)s
"""

COLUMNS_OF_THE_GUARD = """
    SELECT count(*) FROM information_schema.columns
    WHERE table_schema = 'dispatcher' AND table_name = 'starts'
      AND column_name IN ('leased_until', 'attempts', 'outcome')
"""


class PostgresStarts:
    """The store for a platform with PostgreSQL; takes a libpq connection string, or connections to share."""

    def __init__(self, database: str | Connections) -> None:
        self._connections = Connections(database) if isinstance(database, str) else database

    def ensure_schema(self) -> None:
        self._ask(_make_table_unless_it_is_there)

    def begin(self, trigger_id: UUID, token: UUID, worker: str, lease_seconds: float) -> Begun:
        values = {"trigger_id": trigger_id, "token": token, "worker": worker, "lease": lease_seconds}

        def insert_or_look(db: Connection) -> Begun:
            if db.execute(BEGIN, values).rowcount:
                return Begun("ours", lease_seconds, 1)
            row = db.execute(WHO_HAS_IT, values).fetchone()
            if row is None:
                raise StoreUnavailable(f"start {trigger_id} was deleted while it was read")
            ours, finished, outcome, attempts, seconds_left = row
            if finished:
                return Begun("over", 0.0, attempts, outcome)
            if ours:
                return Begun("ours", seconds_left, attempts)
            if seconds_left > 0:
                return Begun("running", seconds_left, attempts)
            return Begun("expired", 0.0, attempts)

        return self._ask(insert_or_look)

    def take_over(self, trigger_id: UUID, token: UUID, worker: str, lease_seconds: float) -> bool:
        values = {"trigger_id": trigger_id, "token": token, "worker": worker, "lease": lease_seconds}
        return self._ask(lambda db: db.execute(TAKE_OVER, values).rowcount == 1)

    def renew(self, held: Mapping[UUID, UUID], lease_seconds: float) -> set[UUID]:
        values = {"triggers": list(held.keys()), "tokens": list(held.values()), "lease": lease_seconds}
        return self._ask(lambda db: {row[0] for row in db.execute(RENEW, values)})

    def finish(self, trigger_id: UUID, token: UUID, outcome: str) -> bool:
        values = {"trigger_id": trigger_id, "token": token, "outcome": outcome}
        return self._ask(lambda db: db.execute(FINISH, values).rowcount == 1)

    def expired(self, for_seconds: float, limit: int) -> list[tuple[UUID, str]]:
        values = {"for_seconds": for_seconds, "limit": limit}
        return self._ask(lambda db: [(row[0], row[1]) for row in db.execute(EXPIRED, values)])

    def _ask(self, statement: Callable[[Connection], Result]) -> Result:
        try:
            return self._connections.idempotent(statement)
        except psycopg.Error as error:
            raise StoreUnavailable(f"PostgreSQL: {error}") from error


def _make_table_unless_it_is_there(db: Connection) -> None:
    """Looks first, so that a role which may not create anything can use a migrated database."""
    with db.transaction():
        # Workers start together, and two CREATE … IF NOT EXISTS can still collide.
        db.execute("SELECT pg_advisory_xact_lock(hashtext('dispatcher.starts'))")
        row = db.execute(COLUMNS_OF_THE_GUARD).fetchone()
        if row is None or row[0] < 3:
            db.execute(resources.files(__package__).joinpath("starts.sql").read_bytes())
