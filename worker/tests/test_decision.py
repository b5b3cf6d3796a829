"""The decision, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from trigger_dispatcher_worker.decision import BadSignal, decide, decide_each


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


def mixed(*signals: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The context of a task whose first ticker is AAPL, BULLISH."""
    return {"tickers": ["AAPL", "MSFT"], "bias": "BULLISH", "confidence": 91.5, "signals": list(signals), **changes}


def test_each_ticker_follows_its_own_direction_and_confidence() -> None:
    decisions = decide_each(
        mixed(
            {"ticker": "AAPL", "signal": "BULLISH", "confidence": 91.5},
            {"ticker": "MSFT", "signal": "BEARISH", "confidence": 60},
            {"ticker": "TSLA", "signal": None, "confidence": None},
        )
    )
    actions = {ticker: (decision.action, decision.position_size) for ticker, decision in decisions.items()}
    assert actions == {"AAPL": ("BUY", 0.0415), "MSFT": ("SELL", 0.01), "TSLA": ("HOLD", 0.0)}


def test_without_signals_only_the_first_ticker_is_acted_on() -> None:
    context = mixed()
    del context["signals"]
    actions = {ticker: decision.action for ticker, decision in decide_each(context).items()}
    assert actions == {"AAPL": "BUY", "MSFT": "HOLD"}


@pytest.mark.parametrize(
    ("context", "complaint"),
    [
        (mixed({"ticker": "MSFT", "signal": "UP"}), "signal of MSFT must be BULLISH, BEARISH or NEUTRAL, not 'UP'"),
        (mixed({"ticker": "MSFT", "confidence": "high"}), "confidence must be a number, not 'high'"),
        (mixed({"signal": "BULLISH"}), "an entry of signals must be an object with a ticker"),
        (mixed("AAPL"), "an entry of signals must be an object with a ticker, not 'AAPL'"),
        (mixed(signals={}), "signals must be a list, not dict"),
        (mixed(signals=None, tickers=None), "tickers must be a list, not NoneType"),
    ],
)
def test_one_entry_that_says_something_wrong_refuses_the_whole_task(context: Any, complaint: str) -> None:
    with pytest.raises(BadSignal, match=complaint):
        decide_each(context)


def test_no_ticker_of_a_pipeline_that_was_switched_off_is_traded() -> None:
    context = mixed({"ticker": "AAPL", "signal": "BULLISH", "confidence": 90})
    assert {decision.action for decision in decide_each(context, pipeline_is_active=False).values()} == {"HOLD"}
