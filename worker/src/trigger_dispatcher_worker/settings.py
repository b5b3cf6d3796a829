"""Reads the environment, once, into one value. Never prints a secret.

The names are the dispatcher's own, so that one `.env` serves both.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg.conninfo import make_conninfo

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class SettingsError(ValueError):
    """The environment makes no sense; the message names every variable at fault."""


@dataclass(frozen=True)
class Settings:
    broker_url: str = field(repr=False)
    result_backend: str | None = field(repr=False)
    task_queue: str
    task_name: str
    transport_options: dict[str, Any]
    result_transport_options: dict[str, Any]
    database: str = field(repr=False)
    """The libpq connection string."""
    guard_redis_url: str | None = field(repr=False)
    """Where the guard keeps its marks; None is PostgreSQL."""
    guard_lease_seconds: float
    guard_on_abandoned: str
    auto_migrate: bool

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        read = _Reader(environment)
        broker_url = read.text("CELERY_BROKER_URL", "redis://localhost:6379/0")
        settings = cls(
            broker_url=with_verified_tls(broker_url),
            result_backend=with_verified_tls(read.text("CELERY_RESULT_BACKEND", "")) or None,
            task_queue=read.text("CELERY_TASK_QUEUE", "celery"),
            task_name=read.text("CELERY_TASK_NAME", "app.orchestration.tasks.execute_pipeline"),
            transport_options=read.transport_options(broker_url),
            result_transport_options=read.result_transport_options(),
            database=read.database(),
            guard_redis_url=with_verified_tls(read.text("START_GUARD_REDIS_URL", "")) or None,
            guard_lease_seconds=read.positive("START_GUARD_LEASE_SECONDS", 60.0),
            guard_on_abandoned=read.one_of("START_GUARD_ON_ABANDONED", ("fail", "restart")),
            auto_migrate=read.one_of("AUTO_MIGRATE", ("true", "false")) == "true",
        )
        if read.mistakes:
            raise SettingsError("; ".join(read.mistakes))
        return settings


class _Reader:
    """Collects all mistakes, so that they are told at once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.mistakes: list[str] = []

    def text(self, name: str, default: str) -> str:
        return self._environment.get(name, "").strip() or default

    def required(self, name: str) -> str:
        value = self.text(name, "")
        if not value:
            self.mistakes.append(f"{name} is not set")
        return value

    def positive(self, name: str, default: float) -> float:
        text = self.text(name, str(default))
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            self.mistakes.append(f"{name} must be a positive number of seconds")
        return value

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        value = self.text(name, choices[0]).lower()
        if value not in choices:
            self.mistakes.append(f"{name} must be one of {', '.join(choices)}")
        return value

    def transport_options(self, broker_url: str) -> dict[str, Any]:
        """What kombu is told about the broker: a JSON object, and the dispatcher's key prefix."""
        try:
            options = json.loads(self.text("CELERY_BROKER_TRANSPORT_OPTIONS", "{}"))
        except json.JSONDecodeError:
            options = None
        if not isinstance(options, dict):
            self.mistakes.append("CELERY_BROKER_TRANSPORT_OPTIONS must be a JSON object")
            return {}
        prefix = self.text("CELERY_GLOBAL_KEYPREFIX", "")
        # Only the Redis transport knows prefixes; py-amqp refuses to connect with an unknown option.
        if prefix and broker_url.startswith("redis"):
            options.setdefault("global_keyprefix", prefix)
        return options

    def result_transport_options(self) -> dict[str, Any]:
        prefix = self.text("CELERY_RESULT_GLOBAL_KEYPREFIX", "")
        return {"global_keyprefix": prefix} if prefix else {}

    def database(self) -> str:
        # As the dispatcher reads it: a list, and an IPv6 address may stand in brackets.
        hosts = [host.strip().strip("[]") for host in self.text("POSTGRES_HOST", "localhost").split(",")]
        # Off this machine the server must prove who it is, unless the operator says otherwise.
        is_local = all(host in LOOPBACK for host in hosts)
        sslmode = self.text("POSTGRES_SSLMODE", "disable" if is_local else "verify-full")
        certificate = self.text("POSTGRES_SSLROOTCERT", "system" if sslmode == "verify-full" else "")
        return make_conninfo(
            host=",".join(hosts),
            port=self.text("POSTGRES_PORT", "5432"),
            dbname=self.required("POSTGRES_DB"),
            user=self.required("POSTGRES_USER"),
            password=self.text("POSTGRES_PASSWORD", "") or None,
            sslmode=sslmode,
            sslrootcert=certificate or None,
        )


def with_verified_tls(url: str) -> str:
    """kombu takes a bare `rediss://` as "no certificate check": ask for the check, unless the URL decides."""
    if not url.startswith("rediss://") or "ssl_cert_reqs=" in url:
        return url
    return url + ("&" if "?" in url else "?") + "ssl_cert_reqs=required"
