"""The rights that docs/postgres-worker-role.sql grants are enough for the guard, and no more."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from trigger_dispatcher_worker.guard.postgres import PostgresStarts
from trigger_dispatcher_worker.guard.starts import StoreUnavailable

GRANTS = Path(__file__).parents[2] / "docs" / "postgres-worker-role.sql"


def login(database: str, name: str) -> str:
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'worker'").format(sql.Identifier(name)))
    return make_conninfo(**{**conninfo_to_dict(database), "user": name, "password": "worker"})


def test_the_documented_grants_are_enough_for_the_guard(database: str, suffix: str) -> None:
    PostgresStarts(database).ensure_schema()
    starts = PostgresStarts(login(database, f"guard_{suffix}"))
    trigger, token, another = uuid4(), uuid4(), uuid4()
    with pytest.raises(StoreUnavailable, match="permission denied"):
        starts.begin(trigger, token, "w", 60.0)
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(GRANTS.read_bytes())
        owner.execute(sql.SQL("GRANT trigger_dispatcher_worker TO {}").format(sql.Identifier(f"guard_{suffix}")))
    starts.ensure_schema()
    assert starts.begin(trigger, token, "w", 0.0).state == "ours"
    assert starts.take_over(trigger, another, "w", 60.0)
    assert starts.renew({trigger: another}, 0.0) == {trigger}
    assert [found for found, _ in starts.expired(0.0, 10)] == [trigger]
    assert starts.finish(trigger, another, "completed")
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(f"guard_{suffix}")))
        owner.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(f"guard_{suffix}")))
