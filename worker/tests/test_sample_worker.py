"""The sample task in real workers, over real brokers: from the message to the `executions` row."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest

from .support import Broker, Platform, Worker, wait_until

StartWorker = Callable[..., Worker]


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_task_runs_then_completes_with_its_decision(
    broker: Broker, platform: Platform, start_worker: StartWorker, pool: str
) -> None:
    worker, pipeline_id, execution_id = start_worker(broker, platform, pool=pool), platform.new_pipeline(), uuid4()

    gate = platform.hold_tasks_half_way()
    broker.send(execution_id, pipeline_id, mode="paper")
    running = platform.wait_for_status(execution_id, "RUNNING", worker)
    assert (running["pipeline_id"], running["symbol"]) == (pipeline_id, "AAPL")
    assert running["started_at"] and running["finished_at"] is None
    gate.close()

    done = platform.wait_for_status(execution_id, "COMPLETED", worker)
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]
    assert (done["error"], done["result"]["action"], done["result"]["position_size"]) == (None, "BUY", 0.035)
    assert (done["result"]["bias"], done["result"]["confidence"], done["result"]["mode"]) == ("BULLISH", 85.0, "paper")
    wait_until("the message acknowledged", broker.is_empty, worker.log)

    # Each ticker has its own direction.
    mixed = uuid4()
    signals = [
        {"ticker": "AAPL", "signal": "BULLISH", "confidence": 91.5},
        {"ticker": "MSFT", "signal": "BEARISH", "confidence": 60},
    ]
    broker.send(mixed, pipeline_id, tickers=["AAPL", "MSFT"], confidence=91.5, signals=signals)
    decisions = platform.wait_for_status(mixed, "COMPLETED", worker)["result"]["decisions"]
    assert {ticker: decision["action"] for ticker, decision in decisions.items()} == {"AAPL": "BUY", "MSFT": "SELL"}

    # The same worker: bad input fails with its reason, and the worker lives on.
    bad, good = uuid4(), uuid4()
    broker.send(bad, pipeline_id, confidence="high")
    broker.send(good, pipeline_id, bias="BEARISH", confidence=70)
    failed = platform.wait_for_status(bad, "FAILED", worker)
    assert (failed["error"], failed["result"]) == ("BadSignal: confidence must be a number, not 'high'", None)
    assert failed["finished_at"] >= failed["started_at"]
    assert platform.wait_for_status(good, "COMPLETED", worker)["result"]["action"] == "SELL"
    assert worker.stop() == 0, worker.log()


def test_the_same_message_delivered_twice_starts_once(
    broker: Broker, platform: Platform, start_worker: StartWorker
) -> None:
    platform.history()
    worker, pipeline_id, execution_id = start_worker(broker, platform), platform.new_pipeline(), uuid4()
    broker.send(execution_id, pipeline_id)
    broker.send(execution_id, pipeline_id)
    worker.wait_for_log("start_refused")
    assert platform.statuses(execution_id) == ["RUNNING", "COMPLETED"]


def test_a_missing_argument_fails_without_leaving_a_mark(
    redis_broker: Broker, platform: Platform, start_worker: StartWorker
) -> None:
    worker, execution_id = start_worker(redis_broker, platform), uuid4()
    redis_broker._producer.send_task(
        "app.orchestration.tasks.execute_pipeline",
        kwargs={"execution_id": str(execution_id)},
        task_id=str(execution_id),
        queue=redis_broker.queue,
    )
    worker.wait_for_log("missing a required argument")
    marks = platform.connection.execute("SELECT count(*) FROM dispatcher.starts").fetchone()
    assert marks == (0,)


def test_a_worker_without_its_table_ends_with_one_clear_line(
    redis_broker: Broker, platform: Platform, start_worker: StartWorker
) -> None:
    with pytest.raises(AssertionError, match="the start guard cannot work: PostgreSQL"):
        start_worker(redis_broker, platform, environment={"POSTGRES_DB": "no_such_database"})
