"""The variables that a contender is started with."""

from __future__ import annotations

import pytest

from environment import Environment, Refused

REQUIRED = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092",
    "POSTGRES_USER": "user",
    "POSTGRES_PASSWORD": "secret",
    "POSTGRES_HOST": "127.0.0.1",
    "POSTGRES_DB": "platform",
    "CELERY_BROKER_URL": "redis://127.0.0.1/0",
}


def read(**changes: str) -> Environment:
    return Environment.read({**REQUIRED, **changes}, batch_size=20, batch_timeout_seconds=0.5)


def test_what_is_not_set_has_the_dispatchers_default_or_the_contenders_own():
    environment = read()
    assert (environment.signal_topic, environment.consumer_group) == ("trading-signals", "trigger-dispatcher")
    assert (environment.auto_offset_reset, environment.task_queue) == ("earliest", "celery")
    assert (environment.batch_size, environment.batch_timeout_seconds) == (20, 0.5)
    assert environment.refresh_interval_seconds == 30


def test_what_is_set_holds():
    environment = read(BATCH_SIZE="500", BATCH_TIMEOUT_SECONDS="0.05", POSTGRES_PORT="6000", CELERY_TASK_QUEUE="q")
    assert (environment.batch_size, environment.batch_timeout_seconds) == (500, 0.05)
    assert (environment.postgres.port, environment.task_queue) == (6000, "q")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_variable_that_is_missing_is_named(name):
    with pytest.raises(Refused, match=name):
        read(**{name: ""})


@pytest.mark.parametrize("value", ["many", "0", "-1", "inf", "nan"])
def test_a_number_that_is_none_is_refused(value):
    with pytest.raises(Refused, match="BATCH_SIZE"):
        read(BATCH_SIZE=value)
