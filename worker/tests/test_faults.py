"""The guard while PostgreSQL or Redis behind it is away: nothing starts twice, and nothing is silently dropped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
import redis
from psycopg.conninfo import conninfo_to_dict

from .faults import Port, PrivateRedis
from .support import COUNTING_TABLES, Broker, Platform, Worker, wait_until

StartWorker = Callable[..., Worker]


@pytest.fixture
def counting(platform: Platform) -> Callable[[UUID], int]:
    """How often the body of a trigger started."""
    platform.connection.execute(COUNTING_TABLES)

    def starts_of(trigger_id: UUID) -> int:
        query = "SELECT count(*) FROM bodies WHERE trigger_id = %s"
        row = platform.connection.execute(query, (trigger_id,)).fetchone()
        return row[0] if row else 0

    return starts_of


@pytest.fixture
def private_redis(tmp_path: Path) -> Iterator[PrivateRedis]:
    server = PrivateRedis(tmp_path)
    server.start()
    yield server
    server.kill()


def behind_a_port(store: str, platform: Platform) -> tuple[Port, dict[str, str]]:
    """A port in front of the guard's store, and the worker's settings that lead through it."""
    if store == "postgres":
        address = conninfo_to_dict(platform.database)
        port = Port(str(address["host"]), int(address["port"] or 5432))
        return port, {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(port.port), "START_GUARD_REDIS_URL": ""}
    shared = redis.Redis.from_url(os.environ["TEST_REDIS_URL"]).connection_pool.connection_kwargs
    port = Port(shared["host"], shared["port"])
    return port, {"START_GUARD_REDIS_URL": f"redis://127.0.0.1:{port.port}/0"}


def closed_gate(platform: Platform) -> psycopg.Connection:
    gate = psycopg.connect(platform.database)
    gate.execute("LOCK TABLE gate IN ACCESS EXCLUSIVE MODE")
    return gate


@pytest.mark.parametrize("store", ["postgres", "redis"])
def test_while_the_store_is_cut_off_every_start_is_put_off_and_then_happens_once(
    redis_broker: Broker, platform: Platform, start_worker: StartWorker, counting: Callable[[UUID], int], store: str
) -> None:
    port, settings = behind_a_port(store, platform)
    worker = start_worker(redis_broker, platform, app="tests.counting_app", pool="threads", environment=settings)
    before, meanwhile = uuid4(), [uuid4() for _ in range(3)]
    redis_broker.send(before, uuid4(), name="guarded")
    wait_until("a start before", lambda: counting(before) == 1, worker.log)
    port.close()
    for trigger in meanwhile:
        redis_broker.send(trigger, uuid4(), name="guarded")
    wait_until("each put off twice", lambda: all(put_off(worker, trigger) >= 2 for trigger in meanwhile), worker.log)
    assert [counting(trigger) for trigger in meanwhile] == [0] * 3
    port.open()
    wait_until("all started", lambda: all(counting(trigger) for trigger in meanwhile), worker.log)
    wait_until("all deliveries handled", redis_broker.is_empty, worker.log)
    assert [counting(trigger) for trigger in [before, *meanwhile]] == [1] * 4


def put_off(worker: Worker, trigger: UUID) -> int:
    return worker.log().count(f"start_put_off trigger_id={trigger}")


def test_a_body_that_ends_while_the_store_is_cut_off_is_never_started_again_and_that_is_told(
    redis_broker: Broker, platform: Platform, start_worker: StartWorker, counting: Callable[[UUID], int]
) -> None:
    port, settings = behind_a_port("redis", platform)
    worker = start_worker(redis_broker, platform, app="tests.counting_app", pool="threads", environment=settings)
    trigger, gate = uuid4(), closed_gate(platform)
    redis_broker.send(trigger, uuid4(), name="guarded")
    wait_until("a start", lambda: counting(trigger) == 1, worker.log)
    port.close()
    worker.wait_for_log("start_store_unavailable")
    gate.close()
    worker.wait_for_log(f"start_not_finished trigger_id={trigger}")
    assert worker.log().count("start_store_unavailable") == 1, "once, not at every tick"
    port.open()
    # Nobody knows any more that it ended: after its lease it counts as abandoned. `record_failure` must leave alone
    # what is over, and nothing runs again, also when the message comes back.
    failures = "SELECT error FROM failures WHERE trigger_id = %s"
    wait_until("given up", lambda: platform.connection.execute(failures, (trigger,)).fetchone(), worker.log)
    redis_broker.send(trigger, uuid4(), name="guarded")
    worker.wait_for_log(f"start_refused trigger_id={trigger}")
    assert counting(trigger) == 1


def test_one_redis_for_broker_and_guard_that_is_killed_starts_each_trigger_once(
    private_redis: PrivateRedis, platform: Platform, start_worker: StartWorker, counting: Callable[[UUID], int]
) -> None:
    broker = Broker(private_redis.url, "worker-queue", "worker:")
    settings = {"START_GUARD_REDIS_URL": private_redis.url}
    worker = start_worker(broker, platform, app="tests.counting_app", pool="threads", environment=settings)
    triggers, gate = [uuid4() for _ in range(10)], closed_gate(platform)
    for trigger in triggers:
        broker.send(trigger, uuid4(), name="guarded")
    # Some are half-way then, some are delivered and not started, the others wait in the queue.
    wait_until("four half-way", lambda: sum(counting(trigger) for trigger in triggers) == 4, worker.log)
    private_redis.kill()
    gate.close()
    worker.wait_for_log("start_not_finished")
    private_redis.start()
    wait_until("all started", lambda: all(counting(trigger) for trigger in triggers), worker.log, seconds=60)
    wait_until("all deliveries handled", broker.is_empty, worker.log, seconds=60)
    assert [counting(trigger) for trigger in triggers] == [1] * 10
    broker.delete_queue()
