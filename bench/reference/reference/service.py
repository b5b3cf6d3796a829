"""The loop: a batch, its matches, one status query, the tasks, the commit. One step after the other.

FLAW: it checks and then acts. Between a task in the queue and its worker's row in `executions`, the next batch takes
the pipeline for idle and starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from dataclasses import dataclass, field

from kafka.errors import KafkaError
from sqlalchemy.exc import SQLAlchemyError

from environment import Environment
from reference.intake import Intake
from reference.matching import Pipeline, Signal, match_batch
from reference.platform import Platform
from reference.tasks import Tasks

log = logging.getLogger(__name__)

#: Seconds until the next batch after one that failed.
PAUSE = 0.1


@dataclass
class Cache:
    pipelines: dict[str, Pipeline] = field(default_factory=dict)


async def run(environment: Environment) -> None:
    """Runs until SIGTERM or SIGINT. The batch under way is finished."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    platform, tasks, intake = Platform(environment.postgres), Tasks(environment), Intake(environment)
    cache = Cache(await platform.pipelines())
    refreshing = asyncio.create_task(refresh(platform, cache, environment.refresh_interval_seconds))
    try:
        while not stop.is_set() and not await intake.assigned():
            pass
        print("ready", flush=True)
        log.info("consuming %s, %d pipelines", environment.signal_topic, len(cache.pipelines))
        while not stop.is_set():
            await one_batch(intake, platform, tasks, cache)
    finally:
        refreshing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await refreshing
        await intake.close()
        tasks.close()
        await platform.close()


async def one_batch(intake: Intake, platform: Platform, tasks: Tasks, cache: Cache) -> None:
    try:
        signals = await intake.batch()
        if signals:
            await dispatch(signals, platform, tasks, cache)
            await intake.commit()
    # orjson's error is a ValueError.
    except (KafkaError, ValueError):
        log.exception("the batch failed")
        await asyncio.sleep(PAUSE)


async def dispatch(signals: list[Signal], platform: Platform, tasks: Tasks, cache: Cache) -> None:
    matches = match_batch(signals, cache.pipelines)
    if not matches:
        return
    running = await platform.running({match.pipeline.id for match in matches})
    idle = [match for match in matches if match.pipeline.id not in running]
    sent = tasks.send(idle)
    log.debug("%d signals, %d matches, %d idle, %d sent", len(signals), len(matches), len(idle), sent)


async def refresh(platform: Platform, cache: Cache, interval: float) -> None:
    """Reads the pipelines again, for ever."""
    while True:
        await asyncio.sleep(interval)
        try:
            cache.pipelines = await platform.pipelines()
        except (SQLAlchemyError, OSError):
            log.exception("the pipelines cannot be read: the old ones stay")
