"""Celery's message protocol 2 as its Redis transport writes it, and a list of such messages in one round trip."""

from __future__ import annotations

import base64
import os
import socket
import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import orjson
import redis

from environment import Environment, Refused

ORIGIN = f"{os.getpid()}@{socket.gethostname()}"
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class Task(NamedTuple):
    arguments: dict[str, Any]
    #: The worker throws it away if it comes to it later than this.
    expires: datetime


class Tasks:
    def __init__(self, environment: Environment) -> None:
        if not environment.broker_url.startswith(("redis://", "rediss://")):
            raise Refused("this contender speaks to a broker by redis:// only")
        # Long, for after a time-out nobody knows what was enqueued, and all of it is enqueued again.
        self._redis = redis.Redis.from_url(environment.broker_url, socket_timeout=30)
        self._queue = environment.task_queue
        self._name = environment.task_name

    def enqueue(self, tasks: Iterable[Task]) -> None:
        """All of them, in their order. Raises redis.RedisError; some may have been enqueued then."""
        messages = [message(task, self._name, self._queue) for task in tasks]
        # LPUSH of many values: one command, which Redis takes whole.
        self._redis.lpush(self._queue, *messages)


def message(task: Task, name: str, queue: str) -> bytes:
    task_id = task.arguments["execution_id"]
    return orjson.dumps(
        {
            "body": base64.b64encode(orjson.dumps([[], task.arguments, EMBED])).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {
                "lang": "py",
                "task": name,
                "id": task_id,
                "root_id": task_id,
                "parent_id": None,
                "group": None,
                "retries": 0,
                "eta": None,
                "expires": task.expires.isoformat(),
                "timelimit": [None, None],
                "argsrepr": "()",
                "kwargsrepr": "{}",
                "origin": ORIGIN,
            },
            "properties": {
                "correlation_id": task_id,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )
