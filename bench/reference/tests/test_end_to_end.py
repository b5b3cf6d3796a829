"""Each contender as a process on the real services: signals in, tasks out, run by a real Celery worker."""

from __future__ import annotations

import uuid

import pytest

from tests.support import a_signal, celery_worker, running, wait_for

BOTH = pytest.mark.parametrize("module", ["reference", "contender"])


@BOTH
def test_a_celery_worker_runs_what_idle_pipelines_were_triggered_for(platform, module, tmp_path):
    idle = platform.add_pipeline("AAPL", "MSFT")
    over = platform.add_pipeline("AAPL")
    busy = platform.add_pipeline("AAPL")
    shouting = platform.add_pipeline("AAPL")
    platform.add_pipeline("AAPL", is_active=False)
    platform.add_pipeline("AAPL", trigger_mode="manual")
    platform.add_pipeline("TSLA")
    platform.add_execution(over, "COMPLETED")
    platform.add_execution(busy, "running")
    platform.add_execution(shouting, "PENDING")
    with (
        running(module, platform.variables, tmp_path / "log") as contender,
        celery_worker(platform, tmp_path / "worker"),
    ):
        platform.send(a_signal(1, "NVDA", "AAPL"), a_signal(2, "NVDA"))
        wait_for("two tasks", lambda: len(platform.ran()) >= 2)
        wait_for("the commit of both offsets", lambda: platform.committed() == 2)
        assert contender.stop() == 0
        wait_for("an empty queue", lambda: platform.redis.llen(platform.name) == 0)
        ran = platform.ran()
    assert sorted(task["pipeline_id"] for task in ran) == sorted([idle, over])
    for task in ran:
        assert (task["symbol"], task["execution_id"]) == ("AAPL", task["task_id"])
        assert uuid.UUID(task["user_id"])
        assert task["signal_context"] == {
            "signal_id": "signal-1",
            "signal_type": "golden_cross",
            "source": "test",
            "timestamp": "2026-01-05T14:30:00Z",
            "tickers": ["AAPL"],
            "bias": "BULLISH",
            "confidence": 85.0,
            "metadata": {"timeframe": "1d"},
        }


@BOTH
def test_signals_that_came_before_it_and_after_it_was_stopped_are_read(platform, module, tmp_path):
    pipelines = {platform.add_pipeline(f"T{number}"): number for number in range(60)}
    platform.send(*(a_signal(number, f"T{number}") for number in range(30)))
    for sent in (30, 60):
        with running(module, platform.variables, tmp_path / "log") as contender:
            wait_for(f"{sent} tasks", lambda sent=sent: platform.redis.llen(platform.name) == sent)
            assert contender.stop() == 0
        assert platform.committed() == sent
        if sent == 30:
            platform.send(*(a_signal(number, f"T{number}") for number in range(30, 60)), partition=1)
    with celery_worker(platform, tmp_path / "worker"):
        wait_for("all tasks run", lambda: len(platform.ran()) == 60)
    assert {task["pipeline_id"]: task["signal_context"]["signal_id"] for task in platform.ran()} == {
        pipeline: f"signal-{number}" for pipeline, number in pipelines.items()
    }


@BOTH
def test_a_new_pipeline_is_known_after_the_refresh(platform, module, tmp_path):
    variables = {**platform.variables, "CACHE_REFRESH_INTERVAL_SECONDS": "0.2"}
    with running(module, variables, tmp_path / "log"):
        platform.add_pipeline("AAPL")

        def triggered() -> bool:
            platform.send(a_signal(1, "AAPL"))
            return platform.redis.llen(platform.name) > 0

        wait_for("a task of the new pipeline", triggered)


def test_the_reference_triggers_a_pipeline_again_before_its_worker_has_begun(platform, tmp_path):
    platform.add_pipeline("AAPL")
    with running("reference", platform.variables, tmp_path / "log"):
        for number in (1, 2):
            platform.send(a_signal(number, "AAPL"))
            wait_for("one more task", lambda number=number: platform.redis.llen(platform.name) == number)


def test_the_contender_triggers_a_pipeline_again_only_when_its_execution_is_over(platform, tmp_path):
    pipeline, other = platform.add_pipeline("AAPL"), platform.add_pipeline("MSFT")
    with running("contender", platform.variables, tmp_path / "log"):
        platform.send(a_signal(1, "AAPL"))
        wait_for("a task", lambda: platform.redis.llen(platform.name) == 1)
        platform.send(a_signal(2, "AAPL"), a_signal(3, "MSFT"))
        wait_for("the other's task", lambda: platform.redis.llen(platform.name) == 2)
        platform.add_execution(pipeline, "RUNNING")
        platform.send(a_signal(4, "AAPL"))
        wait_for("the decision", lambda: platform.committed() == 4)
        assert platform.redis.llen(platform.name) == 2, other
        platform.database.execute("update executions set status = 'COMPLETED'")
        platform.send(a_signal(5, "AAPL"))
        wait_for("a third task", lambda: platform.redis.llen(platform.name) == 3)


def test_the_reference_stands_still_at_a_record_that_is_no_json(platform, tmp_path):
    platform.add_pipeline("AAPL")
    with running("reference", platform.variables, tmp_path / "log") as contender:
        platform.send(b"{no json", a_signal(1, "AAPL"))
        wait_for("three failures", lambda: contender.log.read_text().count("the batch failed") >= 3)
        assert contender.stop() == 0
    assert platform.redis.llen(platform.name) == 0
    assert platform.committed() == 0


def test_the_contender_skips_a_record_that_is_no_json(platform, tmp_path):
    platform.add_pipeline("AAPL")
    with running("contender", platform.variables, tmp_path / "log") as contender:
        platform.send(b"{no json", b"[]", a_signal(1, "AAPL"))
        wait_for("a task", lambda: platform.redis.llen(platform.name) == 1)
        assert "skipped" in contender.log.read_text()


def test_the_reference_takes_all_for_idle_when_it_cannot_ask(platform, tmp_path):
    platform.add_execution(platform.add_pipeline("AAPL"), "RUNNING")
    with running("reference", platform.variables, tmp_path / "log"):
        platform.database.execute("alter table executions rename to gone")
        platform.send(a_signal(1, "AAPL"))
        wait_for("a task that should not be", lambda: platform.redis.llen(platform.name) == 1)
        wait_for("the commit", lambda: platform.committed() == 1)


def test_the_contender_waits_when_it_cannot_ask(platform, tmp_path):
    platform.add_execution(platform.add_pipeline("AAPL"), "RUNNING")
    platform.add_pipeline("AAPL")
    with running("contender", platform.variables, tmp_path / "log") as contender:
        platform.database.execute("alter table executions rename to gone")
        platform.send(a_signal(1, "AAPL"))
        wait_for("a warning", lambda: "signals wait" in contender.log.read_text())
        assert (platform.redis.llen(platform.name), platform.committed()) == (0, 0)
        platform.database.execute("alter table gone rename to executions")
        wait_for("the idle one's task", lambda: platform.redis.llen(platform.name) == 1)


def test_the_reference_loses_what_its_broker_refuses(platform, tmp_path):
    platform.add_pipeline("AAPL")
    variables = {**platform.variables, "CELERY_BROKER_URL": "redis://127.0.0.1:9/0"}
    with running("reference", variables, tmp_path / "log"):
        platform.send(a_signal(1, "AAPL"))
        wait_for("the commit", lambda: platform.committed() == 1)


def test_the_contender_waits_for_its_broker(platform, tmp_path):
    platform.add_pipeline("AAPL")
    variables = {**platform.variables, "CELERY_BROKER_URL": "redis://127.0.0.1:9/0"}
    with running("contender", variables, tmp_path / "log") as contender:
        platform.send(a_signal(1, "AAPL"))
        wait_for("three attempts", lambda: contender.log.read_text().count("signals wait") >= 3)
        assert platform.committed() == 0
