"""One thread per process that keeps the leases of what runs here, and looks for the dead.

It does both in one tick, three ticks to a lease. It never starts a task; what to do with an
expired start is told by its owner. A store that is down is logged once, and asked again.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from .starts import Starts, StoreUnavailable

log = logging.getLogger(__name__)

TICKS_PER_LEASE = 3


class Keeper:
    """Owns the leases of this process. `sweep` is called once per tick."""

    def __init__(self, starts: Starts, lease_seconds: float, sweep: Callable[[], None]) -> None:
        self._starts = starts
        self._lease_seconds = lease_seconds
        self._sweep = sweep
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._held: dict[UUID, UUID] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._store_is_down = False

    def ensure_running(self) -> None:
        """Starts the thread in this process, unless it runs: a fork takes no thread along."""
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="start-keeper", daemon=True)
                self._thread.start()

    @contextmanager
    def holding(self, trigger_id: UUID, token: UUID) -> Iterator[None]:
        """Renews the lease while the block runs."""
        self.ensure_running()
        with self._lock:
            self._held[trigger_id] = token
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(trigger_id, None)

    def _run(self) -> None:
        pause = threading.Event()  # never set: the thread ends with its process
        while not pause.wait(self._lease_seconds / TICKS_PER_LEASE):
            try:
                self._tick()
            except StoreUnavailable as error:
                if not self._store_is_down:
                    log.error("start_store_unavailable error=%s", error)
                self._store_is_down = True
            except Exception:
                # The hook that records a failure is the platform's code. Whatever it raises, the
                # leases of this process must still be renewed at the next tick.
                log.exception("start_sweep_failed")
            else:
                if self._store_is_down:
                    log.warning("start_store_available")
                self._store_is_down = False

    def _tick(self) -> None:
        with self._lock:
            held = dict(self._held)
        if held:
            kept = self._starts.renew(held, self._lease_seconds)
            self._forget_lost(held, kept)
        self._sweep()

    def _forget_lost(self, held: dict[UUID, UUID], kept: set[UUID]) -> None:
        with self._lock:
            # What has ended since the copy was made is not lost, and what began anew is not old.
            lost = [id for id, token in held.items() if id not in kept and self._held.get(id) == token]
            for trigger_id in lost:
                del self._held[trigger_id]
        for trigger_id in lost:
            log.error("start_lost trigger_id=%s", trigger_id)
