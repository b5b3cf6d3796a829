"""The platform's tables in PostgreSQL, through SQLAlchemy: which pipelines there are, and which of them run."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from sqlalchemy import URL, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from environment import ACTIVE_STATUSES, Postgres
from reference.matching import Pipeline

log = logging.getLogger(__name__)

PIPELINES = text(
    """
    select pipelines.id::text as id, pipelines.user_id::text as user_id,
           pipelines.scanner_tickers || coalesce(scanners.config -> 'tickers', '[]') as tickers
    from pipelines left join scanners on scanners.id = pipelines.scanner_id
    where pipelines.is_active and lower(pipelines.trigger_mode::text) = 'signal'
    """
)
# In its favour: arrays, so that the statement is the same for any number of pipelines and stays prepared.
RUNNING = text(
    """
    select distinct pipeline_id::text from executions
    where pipeline_id = any(cast(:pipelines as uuid[])) and status::text = any(cast(:statuses as text[]))
    """
)
STATUSES = [*ACTIVE_STATUSES, *(status.upper() for status in ACTIVE_STATUSES)]


class Platform:
    def __init__(self, postgres: Postgres) -> None:
        self._engine = create_async_engine(
            URL.create(
                "postgresql+asyncpg",
                postgres.user,
                postgres.password,
                postgres.host,
                postgres.port,
                postgres.database,
            ),
            pool_size=2,
            # In its favour: a status query is one round trip, not BEGIN, query and ROLLBACK.
            isolation_level="AUTOCOMMIT",
        )

    async def pipelines(self) -> dict[str, Pipeline]:
        """All that wait for signals, by their id."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(PIPELINES)
            return {row.id: Pipeline(row.id, row.user_id, frozenset(row.tickers)) for row in rows}

    async def running(self, pipelines: Iterable[str]) -> set[str]:
        """Those of the pipelines that have an active execution now."""
        try:
            async with self._engine.connect() as connection:
                asked = {"pipelines": list(pipelines), "statuses": STATUSES}
                return set((await connection.execute(RUNNING, asked)).scalars())
        except (SQLAlchemyError, OSError):
            # FLAW: it fails open. Where nobody can tell who runs, all are taken for idle.
            log.exception("the status of the pipelines is unknown: taking all of them for idle")
            return set()

    async def close(self) -> None:
        await self._engine.dispose()
