"""Kafka, through kafka-python: batches of signals, and the commit of their offsets.

kafka-python blocks and is not made for several threads: everything runs in one thread of its own, so that the event
loop goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import orjson
from kafka import KafkaConsumer, TopicPartition

from environment import Environment
from reference.matching import Signal

T = TypeVar("T")


class Intake:
    def __init__(self, environment: Environment) -> None:
        self._size = environment.batch_size
        self._timeout = environment.batch_timeout_seconds
        #: The batch that fills. It outlives a poll that fails: its offsets are committed with it, not before.
        self._records: list[Any] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kafka")
        self._consumer: Any = KafkaConsumer(
            environment.signal_topic,
            bootstrap_servers=environment.kafka_servers.split(","),
            group_id=environment.consumer_group,
            auto_offset_reset=environment.auto_offset_reset,
            enable_auto_commit=False,
            # In its favour: no checksums in Python, no bookkeeping of metrics, large fetches.
            check_crcs=False,
            metrics_enabled=False,
            max_partition_fetch_bytes=8 * 1024 * 1024,
            # A topic that was made just now may not be known at the first look, and the next would be after 5 minutes.
            metadata_max_age_ms=5_000,
        )

    async def assigned(self) -> bool:
        """Polls once, which joins the group; whether there are partitions to read. What came is in the first batch."""
        return await self._run(self._assigned)

    async def batch(self) -> list[Signal]:
        """What has come until there are enough signals, or the time is over.

        FLAW: raises ValueError for a record that cannot be decoded, and at the next call for the same record.
        """
        return await self._run(self._batch)

    async def commit(self) -> None:
        """Moves the group's offsets behind all that was read."""
        await self._run(self._consumer.commit)

    async def close(self) -> None:
        await self._run(self._consumer.close)
        self._thread.shutdown()

    async def _run(self, blocking: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, blocking)

    def _assigned(self) -> bool:
        self._poll(0.1)
        return bool(self._consumer.assignment())

    def _batch(self) -> list[Signal]:
        deadline = time.monotonic() + self._timeout
        while len(self._records) < self._size and (left := deadline - time.monotonic()) > 0:
            self._poll(left)
        records, self._records = self._records, []
        try:
            return [orjson.loads(record.value) for record in records]
        except ValueError:
            self._rewind(records)
            raise

    def _poll(self, seconds: float) -> None:
        # It takes whole milliseconds, and 0 would not wait at all.
        found = self._consumer.poll(timeout_ms=max(1, int(seconds * 1000)), max_records=self._size - len(self._records))
        for records in found.values():
            self._records.extend(records)

    def _rewind(self, records: list[Any]) -> None:
        first = {TopicPartition(record.topic, record.partition): record.offset for record in reversed(records)}
        assigned = self._consumer.assignment()
        for partition, offset in first.items():
            if partition in assigned:
                self._consumer.seek(partition, offset)
