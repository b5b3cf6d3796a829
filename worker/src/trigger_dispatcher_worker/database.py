"""PostgreSQL connections: one per process and thread, made on first use.

A connection must never cross a fork (two processes would talk on one socket) nor be shared by
two running tasks. Nothing here retries what may have happened already: `idempotent` is only
for statements that may run twice.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

import psycopg
from psycopg.rows import TupleRow

Connection = psycopg.Connection[TupleRow]
Result = TypeVar("Result")

ATTEMPTS = 3


class Connections:
    """Hands each (process, thread) its own autocommit connection to one database."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._local = threading.local()

    def get(self) -> Connection:
        """This thread's connection, opened anew after a fork or a failure."""
        held: tuple[int, Connection] | None = getattr(self._local, "held", None)
        if held is not None and held[0] == os.getpid() and not held[1].closed:
            return held[1]
        # A server that vanishes without a word must not hang a worker for ever.
        connection = psycopg.connect(
            self._conninfo,
            autocommit=True,
            connect_timeout=5,
            keepalives_idle=15,
            tcp_user_timeout=15_000,
            target_session_attrs="read-write",
            application_name="trigger-dispatcher-worker",
        )
        self._local.held = (os.getpid(), connection)
        return connection

    def drop(self) -> None:
        """Closes this thread's connection; the next `get` opens another."""
        held: tuple[int, Connection] | None = getattr(self._local, "held", None)
        self._local.held = None
        if held is not None and held[0] == os.getpid():
            held[1].close()

    def idempotent(self, statement: Callable[[Connection], Result]) -> Result:
        """Runs a statement that may safely run twice, on a fresh connection after a lost one."""
        for _ in range(ATTEMPTS - 1):
            try:
                return statement(self.get())
            except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction):
                self.drop()
        return statement(self.get())
