"""What the tests do with a platform, a broker and a worker process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
import redis
from celery import Celery
from psycopg.conninfo import conninfo_to_dict

WORKER_FOLDER = Path(__file__).parents[1]
TASK = "app.orchestration.tasks.execute_pipeline"
DEADLINE_SECONDS = 30.0

COUNTING_TABLES = """
    CREATE TABLE bodies (trigger_id uuid, at timestamptz DEFAULT clock_timestamp());
    CREATE TABLE failures (trigger_id uuid, error text);
    CREATE TABLE gate (id int);
"""
"""What `counting_app` writes to, and waits for."""

Value = TypeVar("Value")


def wait_until(
    what: str, condition: Callable[[], Value], explain: Callable[[], str] = str, seconds: float = DEADLINE_SECONDS
) -> Value:
    """The first truthy answer of `condition`; fails after the deadline with `what` and `explain()`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s\n{explain()}"
        time.sleep(0.02)  # between two looks at the condition, never instead of one
    return value


class Platform:
    """The sample platform's database, seen from outside."""

    def __init__(self, database: str, connection: psycopg.Connection[Any]) -> None:
        self.database = database
        self.connection = connection

    def new_pipeline(self, *, is_active: bool = True) -> UUID:
        pipeline_id = uuid4()
        self.connection.execute(
            "INSERT INTO pipelines (id, user_id, name, is_active) VALUES (%s, %s, 'momentum', %s)",
            (pipeline_id, uuid4(), is_active),
        )
        return pipeline_id

    def execution(self, execution_id: UUID) -> dict[str, Any]:
        cursor = self.connection.execute("SELECT * FROM executions WHERE id = %s", (execution_id,))
        row = cursor.fetchone()
        return dict(zip([column.name for column in cursor.description or []], row, strict=True)) if row else {}

    def wait_for_status(self, execution_id: UUID, status: str, worker: Worker) -> dict[str, Any]:
        wait_until(
            f"status {status}",
            lambda: self.execution(execution_id).get("status") == status,
            lambda: f"{self.execution(execution_id)}\n{worker.log()}",
        )
        return self.execution(execution_id)

    def wait_for_outcome(self, execution_id: UUID, outcome: str, worker: Worker) -> None:
        query = "SELECT 1 FROM dispatcher.starts WHERE trigger_id = %s AND outcome = %s"
        wait_until(
            f"start {outcome}",
            lambda: self.connection.execute(query, (execution_id, outcome)).fetchone(),
            worker.log,
        )

    def history(self) -> None:
        """From now on, writes down every change of an execution, by a trigger of the database."""
        self.connection.execute("""
            CREATE TABLE history (id uuid, status text, at timestamptz DEFAULT clock_timestamp());
            CREATE FUNCTION write_history() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO history (id, status) VALUES (NEW.id, NEW.status); RETURN NEW; END $$;
            CREATE TRIGGER write_history AFTER INSERT OR UPDATE ON executions
                FOR EACH ROW EXECUTE FUNCTION write_history();
        """)

    def statuses(self, execution_id: UUID) -> list[str]:
        rows = self.connection.execute("SELECT status FROM history WHERE id = %s ORDER BY at", (execution_id,))
        return [row[0] for row in rows]

    def hold_tasks_half_way(self) -> psycopg.Connection[Any]:
        """Until the returned connection is closed, a task that reads its pipeline waits, RUNNING."""
        gate = psycopg.connect(self.database)
        gate.execute("LOCK TABLE pipelines IN ACCESS EXCLUSIVE MODE")
        return gate


class Broker:
    """One queue on a real broker, and a producer that is not ours: Celery's own."""

    def __init__(self, url: str, queue: str, key_prefix: str) -> None:
        self.url, self.queue, self.key_prefix = url, queue, key_prefix
        self.is_redis = url.startswith("redis")
        self._producer = Celery(broker=url)
        self._producer.conf.broker_transport_options = {"global_keyprefix": key_prefix} if self.is_redis else {}

    def send(self, execution_id: UUID, pipeline_id: UUID, name: str = TASK, **changes: Any) -> None:
        """Sends the dispatcher's task; `changes` replace fields of the signal context or are extra kwargs."""
        context = {
            "signal_id": "signal-1",
            "signal_type": "golden_cross",
            "source": "test",
            "timestamp": "2026-11-22T10:00:00+00:00",
            "tickers": ["AAPL"],
            "bias": "BULLISH",
            "confidence": 85.0,
            "signals": None,
            "metadata": {"grund": "Übergang"},
        }
        context.update({key: changes.pop(key) for key in list(changes) if key in context})
        if context["signals"] is None:
            said = {"signal": context["bias"], "confidence": context["confidence"], "reasoning": None}
            origin = {"signal_id": "signal-1", "timestamp": context["timestamp"]}
            context["signals"] = [{"ticker": "AAPL", **said, **origin}]
        kwargs = {
            "pipeline_id": str(pipeline_id),
            "user_id": str(uuid4()),
            "execution_id": str(execution_id),
            "symbol": "AAPL",
            "signal_context": context,
            **changes,
        }
        self._producer.send_task(name, kwargs=kwargs, task_id=str(execution_id), queue=self.queue)

    def delay(self, name: str, *args: Any) -> None:
        """Sends a task as a platform does that passes positional arguments, under a new task id each time."""
        self._producer.send_task(name, args=args, queue=self.queue)

    def is_empty(self) -> bool:
        """Nothing waits in the queue; on Redis, where one can see it, nothing is unacknowledged either."""
        if self.is_redis:
            with redis.Redis.from_url(self.url) as client:
                return not client.exists(f"{self.key_prefix}{self.queue}", f"{self.key_prefix}unacked")
        with self._producer.connection_for_write() as connection:
            queue = connection.default_channel.queue_declare(self.queue, passive=True)
            return bool(queue.message_count == 0)

    def delete_queue(self) -> None:
        if not self.is_redis:  # on Redis the keys go with their prefix
            with self._producer.connection_for_write() as connection:
                connection.default_channel.queue_delete(self.queue)
        self._producer.close()


class Worker:
    """A real `celery worker` process."""

    def __init__(
        self,
        broker: Broker,
        platform: Platform,
        log_file: Path,
        *,
        pool: str = "solo",
        app: str = "trigger_dispatcher_worker.app",
        environment: dict[str, str] | None = None,
    ) -> None:
        self._log_file = log_file
        concurrency = {"solo": "1", "prefork": "2", "threads": "4"}[pool]
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-P", pool, "-c", concurrency]
        # RabbitMQ gives a node name's control queue to one worker only, and other tests run workers too.
        command += ["-n", f"{uuid4().hex}@%h"]
        # Gossip and mingle cost a second at the start and say nothing about tasks.
        command += ["-Q", broker.queue, "-l", "info", "--without-gossip", "--without-mingle"]
        with log_file.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **_environment(broker, platform), **(environment or {})},
                cwd=WORKER_FOLDER,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that `kill` reaches the pool's processes too
            )

    def log(self) -> str:
        return self._log_file.read_text(errors="replace")

    def wait_until_ready(self) -> None:
        def ready_or_gone() -> bool:
            assert self.process.poll() is None, f"the worker ended by itself:\n{self.log()}"
            return " ready." in self.log()

        wait_until("worker ready", ready_or_gone, self.log)

    def wait_for_log(self, text: str) -> None:
        wait_until(f"{text!r} in the worker's log", lambda: text in self.log(), self.log)

    def pool(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def kill(self) -> None:
        """SIGKILL to the worker and its pool, as when the machine goes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE_SECONDS)

    def stop(self) -> int:
        """SIGTERM, as an operator does; the exit code."""
        self.process.terminate()
        return self.process.wait(DEADLINE_SECONDS)


def _environment(broker: Broker, platform: Platform) -> dict[str, str]:
    postgres = conninfo_to_dict(platform.database)
    # A message comes back 1 s after its worker went silent, and is looked for all the time.
    options = (
        '{"visibility_timeout": 1, "unacked_restore_interval": 0.2, "unacked_restore_throttle": 1}'
        if broker.is_redis
        else "{}"
    )
    return {
        "PYTHONPATH": str(WORKER_FOLDER / "src"),
        "CELERY_BROKER_URL": broker.url,
        "CELERY_RESULT_BACKEND": "",
        "CELERY_TASK_QUEUE": broker.queue,
        "CELERY_GLOBAL_KEYPREFIX": broker.key_prefix,
        "CELERY_BROKER_TRANSPORT_OPTIONS": options,
        "POSTGRES_HOST": str(postgres["host"]),
        "POSTGRES_PORT": str(postgres["port"]),
        "POSTGRES_USER": str(postgres["user"]),
        "POSTGRES_PASSWORD": str(postgres.get("password") or ""),
        "POSTGRES_DB": str(postgres["dbname"]),
        "START_GUARD_LEASE_SECONDS": "1.5",
    }
