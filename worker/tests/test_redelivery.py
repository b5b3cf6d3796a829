"""What Celery really delivers twice, made to happen: slow tasks, killed workers, frozen workers.

The evidence is the database's: every start of a body, every change of an execution.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import psycopg
import pytest

from .support import COUNTING_TABLES, Broker, Platform, Worker, wait_until

StartWorker = Callable[..., Worker]


@pytest.fixture
def counting(platform: Platform) -> Iterator[Callable[[UUID], int]]:
    """How often the body of a trigger started."""
    platform.connection.execute(COUNTING_TABLES)

    def starts_of(trigger_id: UUID) -> int:
        query = "SELECT count(*) FROM bodies WHERE trigger_id = %s"
        row = platform.connection.execute(query, (trigger_id,)).fetchone()
        return row[0] if row else 0

    yield starts_of


def closed_gate(platform: Platform) -> psycopg.Connection:
    gate = psycopg.connect(platform.database)
    gate.execute("LOCK TABLE gate IN ACCESS EXCLUSIVE MODE")
    return gate


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
@pytest.mark.parametrize("store", ["postgres", "redis"])
def test_three_deliveries_of_each_trigger_start_each_once(
    redis_broker: Broker,
    platform: Platform,
    start_worker: StartWorker,
    counting: Callable[[UUID], int],
    store: str,
    pool: str,
) -> None:
    where = {"START_GUARD_REDIS_URL": os.environ["TEST_REDIS_URL"] if store == "redis" else ""}
    triggers = [uuid4() for _ in range(5)]
    for trigger in triggers * 3:
        redis_broker.send(trigger, uuid4(), name="guarded")
    worker = start_worker(redis_broker, platform, pool=pool, app="tests.counting_app", environment=where)
    wait_until("all deliveries handled", redis_broker.is_empty, worker.log)
    assert [counting(trigger) for trigger in triggers] == [1] * 5
    assert worker.log().count("start_refused") == 10


@pytest.mark.parametrize("task", ["guarded_positional", "guarded_bound"])
def test_an_execution_id_among_positional_arguments_starts_once(
    broker: Broker, platform: Platform, start_worker: StartWorker, counting: Callable[[UUID], int], task: str
) -> None:
    worker, trigger = start_worker(broker, platform, app="tests.counting_app"), uuid4()
    # As `execute_pipeline.delay(pipeline_id, user_id, mode, execution_id)` twice: two messages with ids of their own.
    for _ in range(2):
        broker.delay(task, str(uuid4()), str(uuid4()), "paper", str(trigger))
    wait_until("a second delivery", lambda: "start_refused" in worker.log() or counting(trigger) == 2, worker.log)
    wait_until("all deliveries handled", broker.is_empty, worker.log)
    assert counting(trigger) == 1
    assert f"start_refused trigger_id={trigger}" in worker.log()


@pytest.mark.parametrize(("task", "starts"), [("unguarded", 2), ("guarded", 1)])
def test_a_task_that_outlives_the_visibility_timeout_starts_twice_only_without_the_guard(
    redis_broker: Broker,
    platform: Platform,
    start_worker: StartWorker,
    counting: Callable[[UUID], int],
    task: str,
    starts: int,
) -> None:
    trigger, gate = uuid4(), closed_gate(platform)
    workers = [start_worker(redis_broker, platform, app="tests.counting_app", pool="prefork") for _ in range(2)]
    redis_broker.send(trigger, uuid4(), name=task)

    def delivered_again() -> bool:
        return counting(trigger) == 2 or any("start_refused" in worker.log() for worker in workers)

    wait_until("a second delivery", delivered_again, lambda: "\n".join(worker.log() for worker in workers))
    gate.close()
    wait_until("all deliveries handled", redis_broker.is_empty)
    assert counting(trigger) == starts


def test_a_worker_killed_half_way_is_never_started_again_and_its_execution_is_failed(
    broker: Broker, platform: Platform, start_worker: StartWorker
) -> None:
    platform.history()
    first, pipeline_id, execution_id = start_worker(broker, platform, pool="prefork"), platform.new_pipeline(), uuid4()
    gate = platform.hold_tasks_half_way()
    broker.send(execution_id, pipeline_id)
    platform.wait_for_status(execution_id, "RUNNING", first)
    first.kill()
    gate.close()

    second = start_worker(broker, platform)
    failed = platform.wait_for_status(execution_id, "FAILED", second)
    assert failed["error"].startswith("abandoned: its worker stopped half-way")
    platform.wait_for_outcome(execution_id, "abandoned", second)
    wait_until("the redelivered message handled", broker.is_empty, second.log)
    # It was delivered again, and neither that nor the sweep started it.
    wait_until("redelivery seen", lambda: second.log().count(f"[{execution_id}] received"), second.log)
    assert platform.statuses(execution_id) == ["RUNNING", "FAILED"]


def test_a_pool_process_killed_half_way_is_given_up_by_its_own_worker(
    redis_broker: Broker, platform: Platform, start_worker: StartWorker
) -> None:
    platform.history()
    worker, execution_id = start_worker(redis_broker, platform, pool="prefork"), uuid4()
    gate = platform.hold_tasks_half_way()
    redis_broker.send(execution_id, platform_pipeline := uuid4())
    assert platform.wait_for_status(execution_id, "RUNNING", worker)["pipeline_id"] == platform_pipeline
    for pid in worker.pool():
        os.kill(pid, signal.SIGKILL)
    gate.close()
    platform.wait_for_status(execution_id, "FAILED", worker)
    assert platform.statuses(execution_id) == ["RUNNING", "FAILED"]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_an_idle_worker_finds_the_dead_whose_message_is_gone(
    redis_broker: Broker,
    platform: Platform,
    start_worker: StartWorker,
    counting: Callable[[UUID], int],
    pool: str,
) -> None:
    first, trigger, gate = (
        start_worker(redis_broker, platform, app="tests.counting_app", pool="prefork"),
        uuid4(),
        closed_gate(platform),
    )
    redis_broker.send(trigger, uuid4(), name="guarded_acknowledged_early")
    wait_until("started", lambda: counting(trigger) == 1, first.log)
    wait_until("acknowledged", redis_broker.is_empty, first.log)
    first.kill()
    gate.close()

    second = start_worker(redis_broker, platform, app="tests.counting_app", pool=pool)
    platform.wait_for_outcome(trigger, "abandoned", second)
    failures = platform.connection.execute("SELECT trigger_id, error FROM failures").fetchall()
    assert [(id, error.split(":")[0]) for id, error in failures] == [(trigger, "abandoned")]
    assert counting(trigger) == 1


def test_with_restart_a_killed_worker_is_succeeded_after_its_lease(
    broker: Broker, platform: Platform, start_worker: StartWorker
) -> None:
    platform.history()
    restart = {"START_GUARD_ON_ABANDONED": "restart"}
    first, pipeline_id, execution_id = (
        start_worker(broker, platform, environment=restart),
        platform.new_pipeline(),
        uuid4(),
    )
    gate = platform.hold_tasks_half_way()
    broker.send(execution_id, pipeline_id)
    platform.wait_for_status(execution_id, "RUNNING", first)
    first.kill()
    gate.close()

    second = start_worker(broker, platform, environment=restart)
    done = platform.wait_for_status(execution_id, "COMPLETED", second)
    assert done["result"]["action"] == "BUY"
    assert platform.statuses(execution_id) == ["RUNNING", "RUNNING", "COMPLETED"]
    platform.wait_for_outcome(execution_id, "completed", second)
    attempts = platform.connection.execute("SELECT attempts FROM dispatcher.starts").fetchall()
    assert attempts == [(2,)]


def test_a_frozen_worker_that_wakes_after_its_successor_changes_nothing(
    redis_broker: Broker, platform: Platform, start_worker: StartWorker
) -> None:
    platform.history()
    restart = {"START_GUARD_ON_ABANDONED": "restart"}
    zombie, pipeline_id, execution_id = (
        start_worker(redis_broker, platform, environment=restart),
        platform.new_pipeline(),
        uuid4(),
    )
    gate = platform.hold_tasks_half_way()
    redis_broker.send(execution_id, pipeline_id)
    platform.wait_for_status(execution_id, "RUNNING", zombie)
    os.kill(zombie.process.pid, signal.SIGSTOP)
    successor = start_worker(redis_broker, platform, environment=restart)
    successor.wait_for_log("start_taken_over")
    gate.close()
    platform.wait_for_status(execution_id, "COMPLETED", successor)

    os.kill(zombie.process.pid, signal.SIGCONT)
    zombie.wait_for_log("was given up for dead before it completed")
    assert platform.execution(execution_id)["status"] == "COMPLETED"
    assert platform.statuses(execution_id) == ["RUNNING", "RUNNING", "COMPLETED"]


def test_while_the_store_cannot_answer_nothing_starts_and_nothing_is_lost(
    redis_broker: Broker, platform: Platform, start_worker: StartWorker, counting: Callable[[UUID], int]
) -> None:
    worker, trigger = start_worker(redis_broker, platform, app="tests.counting_app", pool="threads"), uuid4()
    platform.connection.execute("ALTER TABLE dispatcher.starts RENAME TO away")
    redis_broker.send(trigger, uuid4(), name="guarded")
    wait_until("put off twice", lambda: worker.log().count("start_put_off") >= 2, worker.log)
    assert counting(trigger) == 0
    platform.connection.execute("ALTER TABLE dispatcher.away RENAME TO starts")
    platform.wait_for_outcome(trigger, "completed", worker)
    assert counting(trigger) == 1
