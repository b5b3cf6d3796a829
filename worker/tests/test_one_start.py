"""The decorator in this process, on both real stores: what it decides, and what it records."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import Celery, Task
from celery.exceptions import Ignore

from trigger_dispatcher_worker.guard import Abandoned, StartRefused, Starts, one_start

from .support import wait_until

LEASE = 0.3


class Recorder:
    """Stands where the platform's `record_failure` stands."""

    def __init__(self) -> None:
        self.failures: list[tuple[UUID, str]] = []
        self.is_down = False

    def __call__(self, trigger_id: UUID, error: str) -> None:
        if self.is_down:
            raise ConnectionError("the platform's database is down")
        self.failures.append((trigger_id, error))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def task(starts: Starts, recorder: Recorder) -> Callable[..., Task]:
    def make(body: Callable[..., Any], **options: Any) -> Task:
        body.__name__ = "body"  # Celery cannot read the signature of something called <lambda>
        options = {"lease_seconds": 60.0, "record_failure": recorder, **options}
        app = Celery(set_as_current=False)
        made = app.task(shared=False)(one_start(starts, **options)(body))
        app.finalize()  # as a worker does at its start: threads that race to do it break Celery
        return made

    return make


def die_half_way(starts: Starts, trigger: UUID) -> None:
    starts.begin(trigger, uuid4(), "dead", 0.05)
    wait_until("lease over", lambda: starts.expired(0.0, 10))


def test_eight_threads_with_one_trigger_run_the_body_once(task: Callable[..., Task]) -> None:
    runs: list[str] = []
    guarded, trigger = task(lambda execution_id: runs.append(execution_id)), str(uuid4())

    def deliver(_: int) -> str:
        try:
            guarded(execution_id=trigger)
        except Ignore:
            return "dropped"
        return "ran"

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(deliver, range(8)))
    assert (runs, sorted(answers)) == ([trigger], ["dropped"] * 7 + ["ran"])


def test_the_result_and_the_signature_are_the_functions_own(task: Callable[..., Task]) -> None:
    guarded = task(lambda *, execution_id, symbol: symbol.lower())
    assert guarded(execution_id=str(uuid4()), symbol="AAPL") == "aapl"
    with pytest.raises(TypeError, match="symbol"):
        guarded.apply_async(kwargs={"execution_id": str(uuid4())})


def test_without_an_execution_id_the_task_id_is_the_trigger(task: Callable[..., Task], starts: Starts) -> None:
    trigger = str(uuid4())
    assert task(lambda: "ran").apply(task_id=trigger).get() == "ran"
    assert starts.begin(UUID(trigger), uuid4(), "other", 60.0).outcome == "completed"


@pytest.mark.parametrize(
    "body",
    [
        lambda pipeline_id, user_id, mode, execution_id: None,
        lambda pipeline_id, user_id, mode, execution_id, **extra: None,
        lambda pipeline_id, user_id, mode="live", execution_id=None, *rest: None,
    ],
)
def test_the_execution_id_is_found_by_position_and_by_name(
    task: Callable[..., Task], starts: Starts, body: Callable[..., Any]
) -> None:
    guarded, trigger = task(body), uuid4()
    # Two messages of one execution: their task ids differ.
    assert guarded.apply(("p", "u", "paper", str(trigger)), task_id=str(uuid4())).get() is None
    assert starts.begin(trigger, uuid4(), "other", 60.0).outcome == "completed"
    by_name = {"pipeline_id": "p", "user_id": "u", "mode": "paper", "execution_id": str(trigger)}
    assert guarded.apply(kwargs=by_name, task_id=str(uuid4())).state == "IGNORED"


def test_the_execution_id_is_found_among_extra_keyword_arguments(task: Callable[..., Task], starts: Starts) -> None:
    guarded, trigger = task(lambda pipeline_id, **anything: None), uuid4()
    guarded("p", execution_id=str(trigger))
    assert starts.begin(trigger, uuid4(), "other", 60.0).outcome == "completed"


def test_a_bound_task_finds_it_behind_self(starts: Starts) -> None:
    runs: list[str] = []

    def body(self: Task, pipeline_id: str, execution_id: str) -> None:
        runs.append(self.name)

    app = Celery(set_as_current=False)
    guarded, trigger = app.task(bind=True, shared=False, name="bound")(one_start(starts)(body)), str(uuid4())
    app.finalize()
    for _ in range(2):
        guarded.apply(("p", trigger), task_id=str(uuid4()))
    assert runs == ["bound"]


def test_a_trigger_that_is_no_uuid_is_refused(task: Callable[..., Task]) -> None:
    with pytest.raises(ValueError, match="must be a UUID, not 'seven'"):
        task(lambda execution_id: None)(execution_id="seven")


def test_a_restart_that_cannot_happen_is_told_once(task: Callable[..., Task], caplog: pytest.LogCaptureFixture) -> None:
    guarded = task(lambda execution_id: None, on_abandoned="restart", restart_within_seconds=60.0)
    guarded.app.conf.broker_url = "redis://h/0"  # whose messages come back after an hour
    for _ in range(2):
        guarded.apply(kwargs={"execution_id": str(uuid4())})
    assert caplog.text.count("restart_cannot_happen reason=the message comes back after 3600 s") == 1


def test_a_failure_is_recorded_with_its_text_and_is_final(
    task: Callable[..., Task], recorder: Recorder, starts: Starts
) -> None:
    def body(execution_id: str) -> None:
        raise ValueError("no such ticker")

    guarded, trigger = task(body), uuid4()
    with pytest.raises(ValueError, match="no such ticker"):
        guarded(execution_id=str(trigger))
    assert recorder.failures == [(trigger, "ValueError: no such ticker")]
    assert starts.begin(trigger, uuid4(), "other", 60.0).outcome == "failed"
    with pytest.raises(Ignore):
        guarded(execution_id=str(trigger))
    assert len(recorder.failures) == 1


def test_a_failure_that_could_not_be_recorded_is_recorded_by_a_later_sweep(
    task: Callable[..., Task], recorder: Recorder, starts: Starts
) -> None:
    def body(execution_id: str) -> None:
        recorder.is_down = True
        raise ValueError("no such ticker")

    trigger = uuid4()
    with pytest.raises(ValueError, match="no such ticker"):
        task(body, lease_seconds=LEASE)(execution_id=str(trigger))
    assert recorder.failures == []
    recorder.is_down = False
    wait_until("recorded", lambda: recorder.failures)
    wait_until("over", lambda: starts.begin(trigger, uuid4(), "other", 60.0).outcome == "abandoned")
    assert recorder.failures[0][0] == trigger


def test_a_body_longer_than_its_lease_keeps_it(task: Callable[..., Task], starts: Starts, recorder: Recorder) -> None:
    seen = set()

    def body(execution_id: str) -> None:
        end = time.monotonic() + 3 * LEASE

        def three_leases_later() -> bool:
            seen.add(starts.begin(UUID(execution_id), uuid4(), "other", LEASE).state)
            return time.monotonic() > end

        wait_until("three leases", three_leases_later)

    task(body, lease_seconds=LEASE)(execution_id=str(uuid4()))
    assert (seen, recorder.failures) == ({"running"}, [])


def test_a_delivery_after_a_death_half_way_is_told_so_and_records_it(
    task: Callable[..., Task], starts: Starts, recorder: Recorder
) -> None:
    runs: list[str] = []
    guarded, trigger = task(lambda execution_id: runs.append(execution_id)), uuid4()
    die_half_way(starts, trigger)
    with pytest.raises(Abandoned):
        guarded(execution_id=str(trigger))
    assert (runs, [id for id, _ in recorder.failures]) == ([], [trigger])
    with pytest.raises(Ignore):
        guarded(execution_id=str(trigger))
    assert len(recorder.failures) == 1


def test_restart_takes_over_until_the_starts_are_used_up(
    task: Callable[..., Task], starts: Starts, recorder: Recorder
) -> None:
    runs: list[str] = []
    options = {"on_abandoned": "restart", "max_starts": 2}
    guarded = task(lambda execution_id: runs.append(execution_id), **options)
    once, twice = uuid4(), uuid4()
    die_half_way(starts, once)
    guarded(execution_id=str(once))
    assert runs == [str(once)]

    die_half_way(starts, twice)
    starts.take_over(twice, uuid4(), "dead too", 0.05)
    wait_until("lease over", lambda: starts.expired(0.0, 10))
    with pytest.raises(Abandoned):
        guarded(execution_id=str(twice))
    assert (runs, [id for id, _ in recorder.failures]) == ([str(once)], [twice])


def test_a_celery_retry_is_a_second_start_and_is_refused_aloud(task: Callable[..., Task]) -> None:
    guarded, trigger = task(lambda execution_id: None), str(uuid4())
    guarded.apply(kwargs={"execution_id": trigger}, task_id=trigger).get()
    with pytest.raises(StartRefused):
        guarded.apply(kwargs={"execution_id": trigger}, task_id=trigger, retries=1).get()


@pytest.mark.parametrize("wrong", [{"on_abandoned": "shrug"}, {"lease_seconds": 0}])
def test_options_that_make_no_sense_are_refused_at_once(starts: Starts, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        one_start(starts, **wrong)
