"""Starts in Redis: one hash per trigger, and the unfinished ones in a sorted set by lease.

For platforms without PostgreSQL at the worker. A mark lives `retention_seconds` (7 days), which
must be longer than any redelivery; and it is as durable as that Redis: a failover that loses
writes loses marks. Every step is one script, so it is atomic, and the clock is Redis' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import redis

from .starts import Begun, StoreUnavailable

CLOCK = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS: the start, the leases. ARGV: trigger, token, worker, lease and retention in milliseconds.
# HSETNX is the SET NX of a hash: of all who race, one makes the token.
BEGIN = (
    CLOCK
    + """
if redis.call('HSETNX', KEYS[1], 'token', ARGV[2]) == 1 then
  redis.call('HSET', KEYS[1], 'worker', ARGV[3], 'started_at', now, 'attempts', 1)
  redis.call('HSET', KEYS[1], 'leased_until', now + ARGV[4])
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  redis.call('ZADD', KEYS[2], now + ARGV[4], ARGV[1])
  return {'ours', tonumber(ARGV[4]), 1, ''}
end
local start = redis.call('HMGET', KEYS[1], 'token', 'leased_until', 'attempts', 'outcome')
local left, attempts = start[2] - now, tonumber(start[3])
if start[4] then return {'over', 0, attempts, start[4]} end
if start[1] == ARGV[2] then return {'ours', left, attempts, ''} end
if left > 0 then return {'running', left, attempts, ''} end
return {'expired', 0, attempts, ''}
"""
)

TAKE_OVER = (
    CLOCK
    + """
local start = redis.call('HMGET', KEYS[1], 'token', 'leased_until', 'outcome')
if not start[1] then redis.call('ZREM', KEYS[2], ARGV[1]) return 0 end
if start[3] or (start[2] - now > 0 and start[1] ~= ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'token', ARGV[2], 'worker', ARGV[3], 'leased_until', now + ARGV[4])
redis.call('HINCRBY', KEYS[1], 'attempts', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('ZADD', KEYS[2], now + ARGV[4], ARGV[1])
return 1
"""
)

# ARGV: trigger, token, lease, retention.
RENEW = (
    CLOCK
    + """
local start = redis.call('HMGET', KEYS[1], 'token', 'outcome')
if start[1] ~= ARGV[2] or start[2] then return 0 end
redis.call('HSET', KEYS[1], 'leased_until', now + ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
return 1
"""
)

# ARGV: trigger, token, outcome, retention.
FINISH = (
    CLOCK
    + """
local start = redis.call('HMGET', KEYS[1], 'token', 'outcome')
if start[1] ~= ARGV[2] then return 0 end
if start[2] then return start[2] == ARGV[3] and 1 or 0 end
redis.call('HSET', KEYS[1], 'outcome', ARGV[3], 'finished_at', now)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
"""
)

# KEYS: the leases. ARGV: how long ago in milliseconds, limit.
EXPIRED = CLOCK + "return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1], 'LIMIT', 0, ARGV[2])"

WEEK = 7 * 24 * 3600


class RedisStarts:
    """The store for a platform that has only Redis at its workers; takes a Redis URL."""

    def __init__(self, url: str, *, key_prefix: str = "", retention_seconds: float = WEEK) -> None:
        # redis-py's pool notices a fork by itself, and locks between threads.
        self._redis: Any = redis.Redis.from_url(url, decode_responses=True, socket_connect_timeout=5, socket_timeout=10)
        self._retention = _milliseconds(retention_seconds)
        # The braces keep all keys of the guard in one slot of a cluster.
        self._prefix = key_prefix + "dispatcher:{starts}:"
        self._leases = key_prefix + "dispatcher:{starts}"

    def ensure_schema(self) -> None:
        policy = self._ask(lambda: self._redis.info("memory").get("maxmemory_policy", "noeviction"))
        if policy != "noeviction":
            raise StoreUnavailable(f"Redis: maxmemory-policy {policy} evicts start marks, use noeviction")

    def begin(self, trigger_id: UUID, token: UUID, worker: str, lease_seconds: float) -> Begun:
        lease = _milliseconds(lease_seconds)
        answer = self._run(BEGIN, trigger_id, token, worker, lease, self._retention)
        state, left, attempts, outcome = answer
        return Begun(state, left / 1000, attempts, outcome or None)

    def take_over(self, trigger_id: UUID, token: UUID, worker: str, lease_seconds: float) -> bool:
        lease = _milliseconds(lease_seconds)
        return bool(self._run(TAKE_OVER, trigger_id, token, worker, lease, self._retention))

    def renew(self, held: Mapping[UUID, UUID], lease_seconds: float) -> set[UUID]:
        lease = _milliseconds(lease_seconds)
        return {
            trigger_id
            for trigger_id, token in held.items()
            if self._run(RENEW, trigger_id, token, lease, self._retention)
        }

    def finish(self, trigger_id: UUID, token: UUID, outcome: str) -> bool:
        return bool(self._run(FINISH, trigger_id, token, outcome, self._retention))

    def expired(self, for_seconds: float, limit: int) -> list[tuple[UUID, str]]:
        ago = _milliseconds(for_seconds)
        found = self._ask(lambda: self._redis.eval(EXPIRED, 1, self._leases, ago, limit))
        workers = [self._ask(lambda key=key: self._redis.hget(self._prefix + key, "worker")) for key in found]
        return [(UUID(key), worker or "unknown") for key, worker in zip(found, workers, strict=True)]

    def _run(self, script: str, trigger_id: UUID, *arguments: object) -> Any:
        keys = [self._prefix + str(trigger_id), self._leases]
        values = [str(trigger_id), *(a if isinstance(a, int) else str(a) for a in arguments)]
        return self._ask(lambda: self._redis.eval(script, 2, *keys, *values))

    def _ask(self, command: Any) -> Any:
        try:
            return command()
        except redis.RedisError as error:
            raise StoreUnavailable(f"Redis: {error}") from error


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
