"""Decides what a signal means for a position, for each ticker by itself.

Pure: no clock, no IO, the same answer for the same input.

Never guesses: a signal that says nothing usable is a HOLD, a signal that says
something wrong is a `BadSignal`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

THRESHOLD = 60.0
"""Least confidence, in percent, on which a position is opened or closed."""
SMALLEST, LARGEST = 0.01, 0.05
"""Position size as a fraction of the capital: at the threshold, and at 100 % confidence."""

ACTIONS = {"BULLISH": "BUY", "BEARISH": "SELL"}


class BadSignal(ValueError):
    """The signal context cannot be acted on."""


@dataclass(frozen=True)
class Decision:
    action: str
    """BUY, SELL or HOLD."""
    position_size: float
    """Fraction of the capital, 0 for HOLD."""
    reason: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def decide(signal_context: Mapping[str, Any], *, pipeline_is_active: bool = True) -> Decision:
    """The decision on the task's first ticker, its `symbol`; raises `BadSignal`."""
    if not isinstance(signal_context, Mapping):
        raise BadSignal(f"signal_context must be an object, not {type(signal_context).__name__}")
    return _decide("bias", signal_context.get("bias"), signal_context.get("confidence"), pipeline_is_active)


def decide_each(signal_context: Mapping[str, Any], *, pipeline_is_active: bool = True) -> dict[str, Decision]:
    """The decision on each ticker of the task; raises `BadSignal`, so that a task is acted on whole or not at all.

    Each entry of `signals` has the direction of its own ticker. `bias` is that of the first ticker alone: used for
    the others it would buy what should be sold. So without `signals` (an older dispatcher) the others are held.
    """
    first = decide(signal_context, pipeline_is_active=pipeline_is_active)
    tickers, signals = signal_context.get("tickers"), signal_context.get("signals")
    if signals is None:
        others = _hold("the task does not tell the direction of this ticker")
        return {ticker: first if position == 0 else others for position, ticker in enumerate(_list("tickers", tickers))}
    decisions = {}
    for entry in _list("signals", signals):
        ticker = entry.get("ticker") if isinstance(entry, Mapping) else None
        if not isinstance(ticker, str):
            raise BadSignal(f"an entry of signals must be an object with a ticker, not {entry!r}")
        name = f"signal of {ticker}"
        decisions[ticker] = _decide(name, entry.get("signal"), entry.get("confidence"), pipeline_is_active)
    return decisions


def _list(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise BadSignal(f"{name} must be a list, not {type(value).__name__}")
    return value


def _decide(name: str, stated_bias: Any, stated_confidence: Any, pipeline_is_active: bool) -> Decision:
    bias = _bias(name, stated_bias)
    confidence = _confidence(stated_confidence)
    if not pipeline_is_active:
        return _hold("the pipeline is not active")
    if bias is None or bias == "NEUTRAL":
        return _hold("the signal has no direction")
    if confidence is None:
        return _hold("the signal has no confidence")
    if confidence < THRESHOLD:
        return _hold(f"confidence {confidence:g} is below {THRESHOLD:g}")
    return Decision(ACTIONS[bias], _position_size(confidence), f"{bias} with confidence {confidence:g}")


def _hold(reason: str) -> Decision:
    return Decision("HOLD", 0.0, reason)


def _position_size(confidence: float) -> float:
    share = (confidence - THRESHOLD) / (100.0 - THRESHOLD)
    return round(SMALLEST + share * (LARGEST - SMALLEST), 4)


def _bias(name: str, value: Any) -> str | None:
    if value is None:
        return None
    bias = value.strip().upper() if isinstance(value, str) else value
    if bias != "NEUTRAL" and bias not in ACTIONS:
        raise BadSignal(f"{name} must be BULLISH, BEARISH or NEUTRAL, not {value!r}")
    return str(bias)


def _confidence(value: Any) -> float | None:
    if value is None:
        return None
    # bool is an int to Python, and NaN passes no comparison: both would slip through.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise BadSignal(f"confidence must be a number, not {value!r}")
    if not 0 <= value <= 100:
        raise BadSignal(f"confidence must be between 0 and 100, not {value!r}")
    return float(value)
