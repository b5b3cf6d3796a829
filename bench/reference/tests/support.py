"""A platform of a test's own on the real services, a contender as a process, and a real Celery worker for its tasks."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psycopg
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

HERE = Path(__file__).parent
FOLDER = HERE.parent
SCHEMA = FOLDER.parents[1] / "worker/src/trigger_dispatcher_worker/schema.sql"
TASK = "tests.execute_pipeline"
SECONDS = 60

T = TypeVar("T")


def wait_for(what: str, found: Callable[[], T | None], seconds: float = SECONDS) -> T:
    """Asks until there is an answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = found()
        if answer:
            return answer
        # Between two questions to a service; nothing depends on its length.
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


class Platform:
    """A database, a topic and a queue with a name that nobody else has."""

    def __init__(self) -> None:
        self.name = f"reference_{uuid.uuid4().hex[:12]}"
        self.kafka = os.environ["TEST_KAFKA"]
        self.redis_url = os.environ["TEST_REDIS_URL"]
        # A busy machine's Redis may take longer than the client's own 5 s.
        self.redis = redis.Redis.from_url(self.redis_url, socket_timeout=SECONDS)
        self._admin_url = urlsplit(os.environ["TEST_POSTGRES_URL"])
        # Kept: what it was asked for ends with it.
        self._topics = AdminClient({"bootstrap.servers": self.kafka})

    def __enter__(self) -> Platform:
        with psycopg.connect(self._admin_url.geturl(), autocommit=True) as admin:
            admin.execute(f"create database {self.name}")
        self.database = psycopg.connect(self._admin_url._replace(path=f"/{self.name}").geturl(), autocommit=True)
        self.database.execute(SCHEMA.read_text())
        created = self._topics.create_topics([NewTopic(self.name, 2, 1)])
        created[self.name].result(SECONDS)
        self.producer = Producer({"bootstrap.servers": self.kafka, "linger.ms": 5})
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()
        with psycopg.connect(self._admin_url.geturl(), autocommit=True) as admin:
            admin.execute(f"drop database {self.name} with (force)")
        self._topics.delete_topics([self.name])[self.name].result(SECONDS)
        self.redis.delete(self.name, self.seen)

    @property
    def seen(self) -> str:
        """The list in which the worker of a test writes down the tasks that it ran."""
        return f"{self.name}-seen"

    @property
    def variables(self) -> dict[str, str]:
        """What the harness gives a contender."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka,
            "KAFKA_SIGNAL_TOPIC": self.name,
            "KAFKA_CONSUMER_GROUP": self.name,
            "KAFKA_AUTO_OFFSET_RESET": "earliest",
            "POSTGRES_USER": self._admin_url.username or "",
            "POSTGRES_PASSWORD": self._admin_url.password or "",
            "POSTGRES_HOST": self._admin_url.hostname or "",
            "POSTGRES_PORT": str(self._admin_url.port),
            "POSTGRES_DB": self.name,
            "CELERY_BROKER_URL": self.redis_url,
            "CELERY_TASK_QUEUE": self.name,
            "CELERY_TASK_NAME": TASK,
        }

    def add_pipeline(self, *tickers: str, **columns: Any) -> str:
        """A pipeline that watches the tickers; gives its id."""
        columns = {"id": str(uuid.uuid4()), "user_id": str(uuid.uuid4()), "name": "of a test", **columns}
        columns["scanner_tickers"] = json.dumps(tickers)
        names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
        self.database.execute(f"insert into pipelines ({names}) values ({places})", list(columns.values()))
        return str(columns["id"])

    def add_execution(self, pipeline: str, status: str) -> None:
        self.database.execute(
            "insert into executions (id, pipeline_id, status) values (gen_random_uuid(), %s, %s)", (pipeline, status)
        )

    def send(self, *records: object, partition: int = 0) -> None:
        """Signals, or bytes as they are; all in Kafka afterwards."""
        for record in records:
            payload = record if isinstance(record, bytes) else json.dumps(record).encode()
            self.producer.produce(self.name, payload, partition=partition)
        assert self.producer.flush(SECONDS) == 0

    def committed(self) -> int:
        """How many records the group has left behind."""
        consumer = Consumer({"bootstrap.servers": self.kafka, "group.id": self.name})
        try:
            partitions = [TopicPartition(self.name, number) for number in range(2)]
            return sum(max(found.offset, 0) for found in consumer.committed(partitions, SECONDS))
        finally:
            consumer.close()

    def ran(self) -> list[dict[str, Any]]:
        """The keyword arguments of all tasks that the worker ran so far."""
        return [json.loads(entry) for entry in self.redis.lrange(self.seen, 0, -1)]


def a_signal(number: int, *tickers: str, **fields: Any) -> dict[str, Any]:
    return {
        "signal_id": f"signal-{number}",
        "signal_type": "golden_cross",
        "source": "test",
        "timestamp": "2026-01-05T14:30:00Z",
        "tickers": [{"ticker": ticker, "signal": "BULLISH", "confidence": 85.0} for ticker in tickers],
        "metadata": {"timeframe": "1d"},
        **fields,
    }


class Contender:
    """A contender as the harness starts it: the variables, nothing else of our environment, PYTHONPATH."""

    def __init__(self, module: str, variables: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                env={**variables, "PYTHONPATH": str(FOLDER)},
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        line = self.process.stdout.readline() if readable else None
        assert line == "ready\n", f"{line!r}; {self.log.read_text()[-2000:]}"

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)


@contextmanager
def running(module: str, variables: Mapping[str, str], log: Path) -> Iterator[Contender]:
    contender = Contender(module, variables, log)
    try:
        contender.wait_until_ready()
        yield contender
    finally:
        if contender.process.poll() is None:
            contender.process.kill()
            contender.process.wait()
        assert contender.process.stdout is not None
        contender.process.stdout.close()


@contextmanager
def celery_worker(platform: Platform, log: Path) -> Iterator[None]:
    """A real worker that runs what comes to the queue."""
    variables = {**platform.variables, "SEEN": platform.seen, "PYTHONPATH": str(FOLDER), "PATH": os.environ["PATH"]}
    arguments = ["-A", "tests.worker_app", "worker", "-P", "solo", "--without-gossip", "--without-mingle"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", *arguments, "-Q", platform.name],
            env=variables,
            cwd=FOLDER,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield
        assert process.poll() is None, log.read_text()[-2000:]
    finally:
        process.terminate()
        process.wait(SECONDS)
