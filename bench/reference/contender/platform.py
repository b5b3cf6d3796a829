"""The platform's tables in PostgreSQL, through psycopg: which pipelines there are, and which of them are idle."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import psycopg

from contender.rules import Pipeline
from environment import ACTIVE_STATUSES, Postgres

PIPELINES = """
    select pipelines.id::text, pipelines.user_id::text,
           pipelines.scanner_tickers || coalesce(scanners.config -> 'tickers', '[]')
    from pipelines left join scanners on scanners.id = pipelines.scanner_id
    where pipelines.is_active and lower(pipelines.trigger_mode::text) = 'signal'
"""

# A pipeline that we have enqueued stays busy until its worker has made a row, or until the lease is over.
IDLE = """
    select asked.id::text, now()
    from unnest(%(pipelines)s::uuid[], %(enqueued_at)s::timestamptz[]) as asked (id, enqueued_at)
    where not exists (
            select from executions
            where executions.pipeline_id = asked.id and executions.status::text = any(%(active)s))
      and (asked.enqueued_at is null
           or asked.enqueued_at < now() - make_interval(secs => %(lease)s)
           or exists (
             select from executions
             where executions.pipeline_id = asked.id and executions.created_at >= asked.enqueued_at))
"""
ACTIVE = [*ACTIVE_STATUSES, *(status.upper() for status in ACTIVE_STATUSES)]

#: Seconds for which an enqueued task keeps its pipeline busy without a trace of its worker: the dispatcher's default.
LEASE = 900


class Platform:
    """One connection, made when it is needed and made anew after it broke."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._connection: psycopg.Connection[Any] | None = None

    def pipelines(self) -> list[Pipeline]:
        """All that wait for signals. Raises psycopg.Error."""
        rows = self._connected().execute(PIPELINES).fetchall()
        return [Pipeline(id_, user_id, frozenset(tickers)) for id_, user_id, tickers in rows]

    def idle(self, pipelines: Sequence[str], enqueued_at: Sequence[datetime | None]) -> dict[str, datetime]:
        """The idle ones among the pipelines, with the database's time. Raises psycopg.Error.

        `enqueued_at` says when we enqueued each of them last, by that clock.
        """
        asked = {"pipelines": pipelines, "enqueued_at": enqueued_at, "active": ACTIVE, "lease": LEASE}
        return dict(self._connected().execute(IDLE, asked, prepare=True).fetchall())

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                user=self._postgres.user,
                password=self._postgres.password,
                host=self._postgres.host,
                port=self._postgres.port,
                dbname=self._postgres.database,
                autocommit=True,
            )
        return self._connection
