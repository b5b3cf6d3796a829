"""The decorator: decides whether a delivered task may start. The only place that does.

    delivered ─▶ begin ─┬─ ours ────▶ run, finish (completed | failed)
                        ├─ over ────▶ drop: it ran before
                        ├─ running ─▶ drop (fail) or look again when that lease is over (restart)
                        └─ expired ─▶ give up (fail) or take over and run (restart)

Fails closed: without an answer from the store nothing starts, the message is put off.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, Literal, TypeVar
from uuid import UUID, uuid4

import celery
from celery import signals
from celery.concurrency import prefork
from celery.exceptions import Ignore

from . import timing
from .keeper import Keeper
from .starts import Starts, StoreUnavailable

log = logging.getLogger(__name__)

Task = TypeVar("Task", bound=Callable[..., Any])
RecordFailure = Callable[[UUID, str], None]

HOUR = 3600.0
SWEEP_LIMIT = 100


class Abandoned(RuntimeError):
    """The trigger was started before, and its worker died half-way. It is not started again."""


class StartRefused(RuntimeError):
    """A Celery retry of a trigger that was started already: a retry is a second start."""


def one_start(
    starts: Starts,
    *,
    lease_seconds: float = 60.0,
    on_abandoned: Literal["fail", "restart"] = "fail",
    record_failure: RecordFailure | None = None,
    max_starts: int = 3,
    restart_within_seconds: float = HOUR,
    store_retry_seconds: float = 5.0,
) -> Callable[[Task], Task]:
    """Lets one start per trigger happen. Goes between `@app.task` and the function.

    The trigger is the argument `execution_id`, by name or by position, or else the task's id; it must be a UUID.
    `record_failure(trigger_id, error)` is called when the function raised, and when a start
    was abandoned. It may be called twice, and must leave alone what is over already.
    `on_abandoned="restart"` runs a trigger again (at most `max_starts` times in all) when its message
    comes back after the lease; a message that does not come back within `restart_within_seconds`
    after the lease is given up. It needs `acks_late` and `reject_on_worker_lost`.
    While the store cannot answer, a message is put off by `store_retry_seconds`.
    """
    if on_abandoned not in ("fail", "restart"):
        raise ValueError(f"on_abandoned must be 'fail' or 'restart', not {on_abandoned!r}")
    if lease_seconds <= 0:
        raise ValueError("lease_seconds must be positive")
    restarts = max_starts - 1 if on_abandoned == "restart" else 0
    patience = restart_within_seconds if restarts else 0.0
    guard = _Guard(starts, lease_seconds, restarts, patience, record_failure, store_retry_seconds)

    def decorate(function: Task) -> Task:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            # A call that cannot be made raises here, before it leaves a mark.
            bound = signature.bind(*args, **kwargs)
            return guard.run(_trigger_id(_execution_id(bound)), lambda: function(*args, **kwargs))

        # Celery reads the arguments from here; it does not follow __wrapped__.
        guarded.__signature__ = signature  # type: ignore[attr-defined]
        return guarded  # type: ignore[return-value]

    guard.watch_over_worker()
    return decorate


class _Guard:
    def __init__(
        self,
        starts: Starts,
        lease_seconds: float,
        restarts: int,
        patience: float,
        record_failure: RecordFailure | None,
        store_retry_seconds: float,
    ) -> None:
        self._starts = starts
        self._lease_seconds = lease_seconds
        self._restarts = restarts
        self._patience = patience
        self._record_failure = record_failure or (lambda _trigger_id, _error: None)
        self._store_retry_seconds = store_retry_seconds
        self._keeper = Keeper(starts, lease_seconds, self._sweep)
        self._has_told = False

    def watch_over_worker(self) -> None:
        """Looks for the dead from every process that runs tasks, also while none arrives."""

        def in_child(**_: Any) -> None:
            self._keeper.ensure_running()

        def in_worker(sender: Any, **_: Any) -> None:
            # Not in the parent of a prefork pool: it forks again, and a fork must find no thread.
            if not isinstance(sender.pool, prefork.TaskPool):
                self._keeper.ensure_running()

        signals.worker_process_init.connect(in_child, weak=False)
        signals.worker_ready.connect(in_worker, weak=False)

    def run(self, trigger_id: UUID, function: Callable[[], Any]) -> Any:
        token = self._token_to_start(trigger_id)
        try:
            with self._keeper.holding(trigger_id, token):
                result = function()
        except Ignore:
            self._finish(trigger_id, token, "completed")
            raise
        except Exception as error:
            self._failed(trigger_id, token, error)
            raise
        self._finish(trigger_id, token, "completed")
        return result

    def _token_to_start(self, trigger_id: UUID) -> UUID:
        """The right to start, or an exception that ends the task without one."""
        token, worker = uuid4(), _worker()
        try:
            begun = self._starts.begin(trigger_id, token, worker, self._lease_seconds)
            if begun.state == "ours":
                self._tell_why_no_restart_can_happen()
                return token
            if begun.state == "expired":
                if begun.attempts > self._restarts:
                    self._give_up(trigger_id, token)
                elif self._starts.take_over(trigger_id, token, worker, self._lease_seconds):
                    log.warning("start_taken_over trigger_id=%s attempts=%d", trigger_id, begun.attempts + 1)
                    return token
        except StoreUnavailable as error:
            log.error("start_put_off trigger_id=%s error=%s", trigger_id, error)
            raise _put_off(trigger_id, self._store_retry_seconds) from error
        if begun.state != "over" and self._restarts:
            raise _put_off(trigger_id, begun.seconds_left or self._lease_seconds)
        raise _dropped(trigger_id, begun.outcome or begun.state)

    def _tell_why_no_restart_can_happen(self) -> None:
        task = celery.current_task
        if self._has_told or not self._restarts or not task or task.request.called_directly:
            return
        self._has_told = True
        left = timing.seconds_left(task.request.expires)
        for reason in timing.why_no_restart(
            timing.visibility_timeout(task.app.conf), self._lease_seconds, self._patience, left
        ):
            log.error("restart_cannot_happen reason=%s", reason)

    def _give_up(self, trigger_id: UUID, token: UUID) -> None:
        """Records that a start was abandoned, once, whoever finds it. Raises `Abandoned` if that was us."""
        # Taken over like a restart: if we die before the failure is recorded, the next one will do it.
        if not self._starts.take_over(trigger_id, token, _worker(), self._lease_seconds):
            return
        error = Abandoned("abandoned: its worker stopped half-way, and what it did by then is unknown")
        self._record_failure(trigger_id, str(error))
        self._starts.finish(trigger_id, token, "abandoned")
        log.error("start_abandoned trigger_id=%s", trigger_id)
        raise error

    def _sweep(self) -> None:
        for trigger_id, worker in self._starts.expired(self._patience, SWEEP_LIMIT):
            log.error("start_expired trigger_id=%s worker=%s", trigger_id, worker)
            try:
                self._give_up(trigger_id, uuid4())
            except Abandoned:
                continue  # given up and logged: in a sweep nobody waits for the exception

    def _failed(self, trigger_id: UUID, token: UUID, error: Exception) -> None:
        try:
            if self._starts.renew({trigger_id: token}, self._lease_seconds):
                self._record_failure(trigger_id, f"{type(error).__name__}: {error}")
                self._starts.finish(trigger_id, token, "failed")
                return
        except Exception:
            # Left unfinished on purpose: the lease runs out, and a sweep records the failure.
            log.exception("start_failure_not_recorded trigger_id=%s", trigger_id)
            return
        log.error("start_lost trigger_id=%s", trigger_id)

    def _finish(self, trigger_id: UUID, token: UUID, outcome: str) -> None:
        try:
            if not self._starts.finish(trigger_id, token, outcome):
                log.error("start_lost trigger_id=%s", trigger_id)
        except StoreUnavailable as error:
            # The work is done and recorded; the sweep's `record_failure` will leave it alone.
            log.error("start_not_finished trigger_id=%s error=%s", trigger_id, error)


def _execution_id(bound: inspect.BoundArguments) -> Any:
    """The argument `execution_id`, wherever the caller put it; None if there is none."""
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            extra = bound.arguments.get(name, {})
            if "execution_id" in extra:
                return extra["execution_id"]
        elif name == "execution_id" and name in bound.arguments:
            return bound.arguments[name]
    return None


def _trigger_id(execution_id: Any) -> UUID:
    execution_id = execution_id or _request_id()
    try:
        return UUID(str(execution_id))
    except ValueError:
        raise ValueError(f"execution_id must be a UUID, not {execution_id!r}") from None


def _request_id() -> str | None:
    task = celery.current_task
    return task.request.id if task else None


def _worker() -> str:
    task = celery.current_task
    name = task.request.hostname if task else None
    return f"{name or socket.gethostname()}:{os.getpid()}:{threading.current_thread().name}"


def _put_off(trigger_id: UUID, seconds: float) -> Ignore:
    """Sends the same message again, to be looked at later; this delivery then ends without a result.

    A new message before the old one is acknowledged: a crash between the two makes one too
    many, which is what the guard is for, and never one too few.
    """
    task = celery.current_task
    if not task or task.request.called_directly:
        raise StoreUnavailable("the task was called directly, so there is no message to put off")
    left = timing.seconds_left(task.request.expires)
    if left is not None and left <= seconds:
        # Celery discards an expired message without a word to us.
        log.error("start_put_off_in_vain trigger_id=%s seconds=%g expires_in=%g", trigger_id, seconds, left)
    task.signature_from_request(retries=task.request.retries, countdown=seconds).apply_async()
    return Ignore(f"put off for {seconds:g} s")


def _dropped(trigger_id: UUID, what_became_of_it: str) -> Exception:
    task = celery.current_task
    log.warning("start_refused trigger_id=%s state=%s", trigger_id, what_became_of_it)
    if task and task.request.retries:
        # Ignoring this one would leave the result at RETRY for ever.
        return StartRefused(f"trigger {trigger_id} was started before: use no Celery retries with one_start")
    ignore: Exception = Ignore(f"started before ({what_became_of_it})")
    return ignore
