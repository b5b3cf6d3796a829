"""The `executions` row under statements that come late or twice."""

from __future__ import annotations

from uuid import uuid4

import pytest

from trigger_dispatcher_worker.database import Connections
from trigger_dispatcher_worker.executions import Executions, NotOurs

from .support import Platform


def test_a_failure_that_comes_late_leaves_a_completed_execution_alone(platform: Platform) -> None:
    executions, execution_id = Executions(Connections(platform.database)), uuid4()
    started_at = executions.start(execution_id, uuid4(), None)
    executions.complete(execution_id, started_at, {"action": "HOLD"})
    executions.fail(execution_id, "abandoned")
    row = platform.execution(execution_id)
    assert (row["status"], row["error"], row["symbol"]) == ("COMPLETED", None, None)
    with pytest.raises(NotOurs, match="is over already"):
        executions.start(execution_id, uuid4(), None)


def test_completing_twice_is_completing_once(platform: Platform) -> None:
    executions, execution_id = Executions(Connections(platform.database)), uuid4()
    started_at = executions.start(execution_id, uuid4(), "AAPL")
    for _ in range(2):
        executions.complete(execution_id, started_at, {"action": "BUY"})
    assert platform.execution(execution_id)["result"] == {"action": "BUY"}


def test_an_error_with_a_nul_is_still_recorded(platform: Platform) -> None:
    executions, execution_id = Executions(Connections(platform.database)), uuid4()
    executions.start(execution_id, uuid4(), "AAPL")
    executions.fail(execution_id, "bad\x00ticker")
    assert platform.execution(execution_id)["error"] == "bad\\0ticker"
