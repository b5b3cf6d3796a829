"""Quix Streams' application: reads, matches, and commits offsets after the sink has flushed."""

from __future__ import annotations

import logging
import tempfile
import threading
from typing import Any

import psycopg
from quixstreams import Application

from contender.platform import Platform
from contender.rules import Match, Rules
from contender.sink import Triggers
from contender.tasks import Tasks
from environment import Environment

log = logging.getLogger(__name__)


class Announced(Application):
    """Says `ready` when it has partitions; Quix Streams has no public callback for that."""

    _announced = False

    def _on_assign(self, *arguments: Any) -> None:
        super()._on_assign(*arguments)
        if not self._announced:
            print("ready", flush=True)
            self._announced = True


class Current:
    """The rules of now, read again in a thread of its own with a connection of its own."""

    def __init__(self, environment: Environment) -> None:
        self._platform = Platform(environment.postgres)
        self._interval = environment.refresh_interval_seconds
        self._rules = Rules(self._platform.pipelines())

    def match(self, signal: Any) -> Match | None:
        return self._rules.match(signal)

    def start(self) -> None:
        threading.Thread(target=self._refresh, name="refresh", daemon=True).start()

    def _refresh(self) -> None:
        # Nobody sets it: a wait that ends by its time-out only.
        never = threading.Event()
        while not never.wait(self._interval):
            try:
                self._rules = Rules(self._platform.pipelines())
            except psycopg.Error:
                log.exception("the pipelines cannot be read: the old ones stay")


def skip(error: Exception, message: Any, logger: logging.Logger) -> bool:
    """A record that cannot be decoded is told and left behind; anything else ends the application."""
    if message is None:
        return False
    logger.error("skipped %s[%s] at %s: %s", message.topic(), message.partition(), message.offset(), error)
    return True


def run(environment: Environment) -> None:
    """Runs until SIGTERM or SIGINT, which Quix Streams handles: the batch under way is flushed and committed."""
    rules = Current(environment)
    with tempfile.TemporaryDirectory(prefix="contender-") as folder:
        application = Announced(
            environment.kafka_servers,
            consumer_group=environment.consumer_group,
            auto_offset_reset=environment.auto_offset_reset,  # type: ignore[arg-type]
            commit_every=environment.batch_size,
            commit_interval=environment.batch_timeout_seconds,
            # A batch ends between two polls only, so that an idle one must be short.
            consumer_poll_timeout=min(environment.batch_timeout_seconds, 0.005),
            consumer_extra_config={"queued.min.messages": 100_000, "fetch.queue.backoff.ms": 10},
            on_consumer_error=skip,
            # It keeps no state, and the topic is the platform's.
            use_changelog_topics=False,
            auto_create_topics=False,
            state_dir=folder,
            # Checked at every record otherwise.
            broker_availability_timeout=0,
            loglevel="WARNING",
        )
        signals = application.dataframe(application.topic(environment.signal_topic, value_deserializer="json"))
        signals.apply(rules.match).filter(bool).sink(Triggers(Platform(environment.postgres), Tasks(environment)))
        rules.start()
        application.run()
