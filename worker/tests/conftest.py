"""Real services, and a database, a broker prefix and a queue for each test.

Nothing sleeps: `wait_until` waits for a condition, and a process is ready when Celery says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import redis
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from trigger_dispatcher_worker.guard import PostgresStarts, RedisStarts

from .support import Broker, Platform, Worker

NEEDED = ("TEST_POSTGRES_URL", "TEST_REDIS_URL", "TEST_AMQP_URL")


def pytest_configure(config: pytest.Config) -> None:
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        pytest.exit(f"{', '.join(missing)} not set: run `scripts/services up` and `scripts/services env`", 2)


@pytest.fixture
def suffix() -> str:
    return uuid4().hex[:12]


@pytest.fixture
def database(suffix: str) -> Iterator[str]:
    """The connection string of an empty database of this test's own."""
    url, name = os.environ["TEST_POSTGRES_URL"], f"worker_{suffix}"
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield make_conninfo(**{**conninfo_to_dict(url), "dbname": name})
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def platform(database: str) -> Iterator[Platform]:
    """The sample platform's tables, and one connection of the test's own to look at them."""
    with psycopg.connect(database, autocommit=True) as connection:
        schema = resources.files("trigger_dispatcher_worker").joinpath("schema.sql").read_bytes()
        connection.execute(schema)
        yield Platform(database, connection)


@pytest.fixture
def redis_prefix(suffix: str) -> Iterator[str]:
    prefix = f"worker-{suffix}:"
    yield prefix
    with redis.Redis.from_url(os.environ["TEST_REDIS_URL"]) as client:
        for key in client.scan_iter(match=f"{prefix}*", count=1000):
            client.delete(key)


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, suffix: str, redis_prefix: str) -> Iterator[Broker]:
    yield from _broker(request.param, suffix, redis_prefix)


@pytest.fixture
def redis_broker(suffix: str, redis_prefix: str) -> Iterator[Broker]:
    yield from _broker("redis", suffix, redis_prefix)


def _broker(kind: str, suffix: str, redis_prefix: str) -> Iterator[Broker]:
    url = os.environ["TEST_REDIS_URL" if kind == "redis" else "TEST_AMQP_URL"]
    broker = Broker(url, queue=f"worker-{suffix}", key_prefix=redis_prefix)
    yield broker
    broker.delete_queue()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts Celery workers; whatever still runs at the end is killed, by its pid."""
    workers: list[Worker] = []

    def start(broker: Broker, platform: Platform, **options: object) -> Worker:
        worker = Worker(broker, platform, tmp_path / f"worker-{len(workers)}.log", **options)  # type: ignore[arg-type]
        workers.append(worker)
        worker.wait_until_ready()
        return worker

    yield start
    for worker in workers:
        worker.kill()


@pytest.fixture(params=["postgres", "redis"])
def starts(request: pytest.FixtureRequest, database: str, redis_prefix: str) -> PostgresStarts | RedisStarts:
    """Both stores, each empty."""
    store: PostgresStarts | RedisStarts = (
        PostgresStarts(database)
        if request.param == "postgres"
        else RedisStarts(os.environ["TEST_REDIS_URL"], key_prefix=redis_prefix)
    )
    store.ensure_schema()
    return store
