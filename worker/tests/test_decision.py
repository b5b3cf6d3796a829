"""The decision, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from trigger_dispatcher_worker.decision import BadSignal, decide


@pytest.mark.parametrize(
    ("bias", "confidence", "action", "position_size"),
    [
        ("BULLISH", 85.0, "BUY", 0.035),
        ("BULLISH", 60, "BUY", 0.01),
        ("BULLISH", 100, "BUY", 0.05),
        ("BEARISH", 80, "SELL", 0.03),
        (" bearish ", 80, "SELL", 0.03),
        ("BULLISH", 59.9, "HOLD", 0.0),
        ("NEUTRAL", 99, "HOLD", 0.0),
        (None, 99, "HOLD", 0.0),
        ("BULLISH", None, "HOLD", 0.0),
    ],
)
def test_bias_gives_the_direction_and_confidence_the_size(
    bias: str | None, confidence: float | None, action: str, position_size: float
) -> None:
    decision = decide({"bias": bias, "confidence": confidence})
    assert (decision.action, decision.position_size) == (action, position_size)


@pytest.mark.parametrize(
    ("context", "complaint"),
    [
        ({"bias": "SIDEWAYS", "confidence": 80}, "bias must be BULLISH, BEARISH or NEUTRAL, not 'SIDEWAYS'"),
        ({"bias": 1, "confidence": 80}, "bias must be BULLISH, BEARISH or NEUTRAL, not 1"),
        ({"bias": "BULLISH", "confidence": "high"}, "confidence must be a number, not 'high'"),
        ({"bias": "BULLISH", "confidence": True}, "confidence must be a number, not True"),
        ({"bias": "BULLISH", "confidence": float("nan")}, "confidence must be a number, not nan"),
        ({"bias": "BULLISH", "confidence": 101}, "confidence must be between 0 and 100, not 101"),
        ({"bias": "BULLISH", "confidence": -1}, "confidence must be between 0 and 100, not -1"),
        (None, "signal_context must be an object, not NoneType"),
    ],
)
def test_a_signal_that_says_something_wrong_is_refused_with_the_reason(context: Any, complaint: str) -> None:
    with pytest.raises(BadSignal, match=complaint):
        decide(context)


def test_a_pipeline_that_was_switched_off_after_the_signal_holds() -> None:
    decision = decide({"bias": "BULLISH", "confidence": 90}, pipeline_is_active=False)
    assert (decision.action, decision.reason) == ("HOLD", "the pipeline is not active")
