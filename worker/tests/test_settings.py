"""The environment: defaults, mistakes all at once, no secret in sight."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from trigger_dispatcher_worker.settings import Settings, SettingsError, with_verified_tls

ENOUGH = {"POSTGRES_USER": "trader", "POSTGRES_DB": "platform", "POSTGRES_PASSWORD": "canary-secret"}


def test_user_and_database_are_enough() -> None:
    settings = Settings.from_environment(ENOUGH)
    assert settings.task_name == "app.orchestration.tasks.execute_pipeline"
    assert (settings.task_queue, settings.guard_on_abandoned) == ("celery", "fail")
    assert conninfo_to_dict(settings.database)["sslmode"] == "disable"


def test_a_server_off_this_machine_must_prove_who_it_is() -> None:
    settings = Settings.from_environment({**ENOUGH, "POSTGRES_HOST": "db.internal"})
    database = conninfo_to_dict(settings.database)
    assert (database["sslmode"], database["sslrootcert"]) == ("verify-full", "system")


def test_all_mistakes_are_told_at_once_by_name() -> None:
    wrong = {
        "CELERY_BROKER_TRANSPORT_OPTIONS": "[1]",
        "START_GUARD_LEASE_SECONDS": "soon",
        "START_GUARD_ON_ABANDONED": "shrug",
    }
    with pytest.raises(SettingsError) as mistake:
        Settings.from_environment(wrong)
    for name in (*wrong, "POSTGRES_USER", "POSTGRES_DB"):
        assert name in str(mistake.value)


def test_settings_print_without_secrets() -> None:
    urls = {"CELERY_BROKER_URL": "redis://:canary-secret@h/0", "START_GUARD_REDIS_URL": "redis://:canary-secret@h/1"}
    assert "canary-secret" not in repr(Settings.from_environment({**ENOUGH, **urls}))


@pytest.mark.parametrize(
    ("url", "verified"),
    [
        ("rediss://h:1/0", "rediss://h:1/0?ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_ca_certs=ca.pem", "rediss://h/0?ssl_ca_certs=ca.pem&ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_cert_reqs=none", "rediss://h/0?ssl_cert_reqs=none"),
        ("redis://h/0", "redis://h/0"),
    ],
)
def test_redis_over_tls_checks_the_certificate_unless_the_url_decides(url: str, verified: str) -> None:
    assert with_verified_tls(url) == verified


def test_several_hosts_and_an_ipv6_address_in_brackets_are_read_as_the_dispatcher_reads_them() -> None:
    local = Settings.from_environment({**ENOUGH, "POSTGRES_HOST": "[::1], localhost"})
    assert "host=::1,localhost" in local.database and "sslmode=disable" in local.database
    assert "sslmode=verify-full" in Settings.from_environment({**ENOUGH, "POSTGRES_HOST": "localhost,db"}).database


def test_results_have_the_key_prefix_that_the_dispatcher_reads() -> None:
    prefixed = Settings.from_environment({**ENOUGH, "CELERY_RESULT_GLOBAL_KEYPREFIX": "p:"})
    assert prefixed.result_transport_options == {"global_keyprefix": "p:"}
    assert Settings.from_environment(ENOUGH).result_transport_options == {}


def test_only_the_redis_transport_is_told_the_key_prefix() -> None:
    prefix = {"CELERY_GLOBAL_KEYPREFIX": "p:"}
    on_redis = Settings.from_environment({**ENOUGH, **prefix, "CELERY_BROKER_URL": "redis://h/0"})
    on_rabbitmq = Settings.from_environment({**ENOUGH, **prefix, "CELERY_BROKER_URL": "amqp://h//"})
    assert (on_redis.transport_options, on_rabbitmq.transport_options) == ({"global_keyprefix": "p:"}, {})
