"""What both stores of starts promise: each test runs on PostgreSQL and on Redis."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import psycopg
import pytest

from trigger_dispatcher_worker.guard import Begun, PostgresStarts, RedisStarts, Starts, StoreUnavailable

from .support import wait_until

LONG, SHORT = 60.0, 0.05


def expired_start(starts: Starts) -> tuple:  # type: ignore[type-arg]
    trigger, token = uuid4(), uuid4()
    starts.begin(trigger, token, "dead", SHORT)
    wait_until("lease over", lambda: (trigger, "dead") in starts.expired(0.0, 100))
    return trigger, token


def test_the_first_to_begin_has_it_and_the_second_learns_so(starts: Starts) -> None:
    trigger = uuid4()
    assert starts.begin(trigger, uuid4(), "a", LONG) == Begun("ours", LONG, 1)
    second = starts.begin(trigger, uuid4(), "b", LONG)
    assert (second.state, second.attempts) == ("running", 1)
    assert LONG - 10 < second.seconds_left <= LONG


def test_a_begin_whose_answer_was_lost_finds_itself(starts: Starts) -> None:
    trigger, token = uuid4(), uuid4()
    starts.begin(trigger, token, "a", LONG)
    assert starts.begin(trigger, token, "a", LONG).state == "ours"


def test_of_many_that_race_exactly_one_begins(starts: Starts) -> None:
    triggers = [uuid4() for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda t: (t, starts.begin(t, uuid4(), "w", LONG).state), triggers * 8))
    for trigger in triggers:
        assert sorted(state for t, state in answers if t == trigger) == ["ours"] + ["running"] * 7


@pytest.mark.parametrize("outcome", ["completed", "failed", "abandoned"])
def test_a_finished_start_is_over_for_good(starts: Starts, outcome: str) -> None:
    trigger, token = uuid4(), uuid4()
    starts.begin(trigger, token, "a", SHORT)
    assert starts.finish(trigger, token, outcome)
    assert starts.begin(trigger, uuid4(), "b", LONG) == Begun("over", 0.0, 1, outcome)
    assert starts.begin(trigger, token, "a", LONG).state == "over"
    assert not starts.take_over(trigger, uuid4(), "b", LONG)
    assert starts.renew({trigger: token}, LONG) == set()
    assert starts.expired(0.0, 100) == []


def test_finishing_twice_is_one_answer_but_not_two_outcomes(starts: Starts) -> None:
    trigger, token = uuid4(), uuid4()
    starts.begin(trigger, token, "a", LONG)
    assert [starts.finish(trigger, token, o) for o in ("completed", "completed", "failed")] == [True, True, False]
    assert starts.begin(trigger, uuid4(), "b", LONG).outcome == "completed"


def test_only_the_holder_of_the_token_can_finish_or_renew(starts: Starts) -> None:
    trigger, token = uuid4(), uuid4()
    starts.begin(trigger, token, "a", LONG)
    assert not starts.finish(trigger, uuid4(), "completed")
    assert starts.renew({trigger: uuid4()}, LONG) == set()
    assert starts.begin(trigger, uuid4(), "b", LONG).state == "running"


def test_a_start_in_its_lease_cannot_be_taken_over(starts: Starts) -> None:
    trigger = uuid4()
    starts.begin(trigger, uuid4(), "a", LONG)
    assert not starts.take_over(trigger, uuid4(), "b", LONG)
    assert not starts.take_over(uuid4(), uuid4(), "b", LONG)


def test_an_expired_start_is_found_and_taken_over_by_exactly_one(starts: Starts) -> None:
    trigger, old_token = expired_start(starts)
    assert starts.begin(trigger, uuid4(), "b", LONG).state == "expired"
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda token: starts.take_over(trigger, token, "b", LONG), [uuid4() for _ in range(8)]))
    assert won.count(True) == 1
    assert starts.begin(trigger, uuid4(), "c", LONG).attempts == 2
    # The old holder wakes up: it has lost the start, and cannot touch the new one's.
    assert starts.renew({trigger: old_token}, LONG) == set()
    assert not starts.finish(trigger, old_token, "completed")


def test_a_renewed_start_does_not_expire(starts: Starts) -> None:
    trigger, token = expired_start(starts)
    other = uuid4()
    starts.begin(other, uuid4(), "w", LONG)
    assert starts.renew({trigger: token, other: uuid4()}, LONG) == {trigger}
    assert starts.expired(0.0, 100) == []
    assert not starts.take_over(trigger, uuid4(), "b", LONG)


def test_the_expired_are_named_oldest_first_and_no_more_than_asked(starts: Starts) -> None:
    dead = [expired_start(starts)[0] for _ in range(3)]
    assert [trigger for trigger, _ in starts.expired(0.0, 2)] == dead[:2]
    assert starts.expired(3600.0, 100) == []


def test_making_the_schema_twice_changes_nothing(starts: Starts) -> None:
    trigger = uuid4()
    starts.begin(trigger, uuid4(), "a", LONG)
    starts.ensure_schema()
    assert starts.begin(trigger, uuid4(), "b", LONG).state == "running"


@pytest.mark.parametrize(
    "unreachable",
    [
        PostgresStarts("host=127.0.0.1 port=1 dbname=none user=none"),
        RedisStarts("redis://127.0.0.1:1/0"),
    ],
    ids=["postgres", "redis"],
)
def test_a_store_that_is_down_says_so(unreachable: Starts) -> None:
    with pytest.raises(StoreUnavailable):
        unreachable.begin(uuid4(), uuid4(), "a", LONG)


def test_a_role_that_may_not_create_uses_the_table_that_migrate_made(database: str, suffix: str) -> None:
    PostgresStarts(database).ensure_schema()
    role = f"worker_{suffix}"
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'only-here'")
        try:
            owner.execute(f"GRANT USAGE ON SCHEMA dispatcher TO {role}")
            owner.execute(f"GRANT SELECT, INSERT, UPDATE ON dispatcher.starts TO {role}")
            limited = PostgresStarts(psycopg.conninfo.make_conninfo(database, user=role, password="only-here"))
            limited.ensure_schema()
            assert limited.begin(uuid4(), uuid4(), "a", LONG).state == "ours"
        finally:
            owner.execute(f"DROP OWNED BY {role}")
            owner.execute(f"DROP ROLE {role}")


def test_the_columns_are_added_to_a_table_of_an_older_migration(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("CREATE SCHEMA dispatcher")
        owner.execute(
            "CREATE TABLE dispatcher.starts (trigger_id uuid PRIMARY KEY, started_at timestamptz DEFAULT now(),"
            " attempt_token uuid, worker text, finished_at timestamptz)"
        )
    starts = PostgresStarts(database)
    starts.ensure_schema()
    assert starts.begin(uuid4(), uuid4(), "a", LONG).state == "ours"


def test_redis_marks_end_with_their_retention_and_not_before(redis_prefix: str) -> None:
    url, trigger = os.environ["TEST_REDIS_URL"], uuid4()
    starts = RedisStarts(url, key_prefix=redis_prefix, retention_seconds=1.0)
    token = uuid4()
    starts.begin(trigger, token, "a", SHORT)
    starts.finish(trigger, token, "completed")
    assert starts.begin(trigger, uuid4(), "b", SHORT).state == "over"
    wait_until("the mark gone", lambda: starts.begin(trigger, uuid4(), "b", SHORT).state == "ours")
