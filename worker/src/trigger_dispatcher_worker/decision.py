"""What a signal means for a position. Pure: no clock, no IO, the same answer for the same input.

Never guesses: a signal that says nothing usable is a HOLD, a signal that says
something wrong is a `BadSignal`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    """The decision on one signal; raises `BadSignal`."""
    if not isinstance(signal_context, Mapping):
        raise BadSignal(f"signal_context must be an object, not {type(signal_context).__name__}")
    bias = _bias(signal_context.get("bias"))
    confidence = _confidence(signal_context.get("confidence"))
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


def _bias(value: Any) -> str | None:
    if value is None:
        return None
    bias = value.strip().upper() if isinstance(value, str) else value
    if bias != "NEUTRAL" and bias not in ACTIONS:
        raise BadSignal(f"bias must be BULLISH, BEARISH or NEUTRAL, not {value!r}")
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
