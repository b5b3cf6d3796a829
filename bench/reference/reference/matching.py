"""Which pipelines a batch of signals would start: a scan of all of them for each signal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Signal = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pipeline:
    id: str
    user_id: str
    tickers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Match:
    pipeline: Pipeline
    signal: Signal
    symbol: str


def match_batch(signals: Iterable[Signal], pipelines: Mapping[str, Pipeline]) -> list[Match]:
    """One match for each pipeline and signal."""
    by_id: dict[str, Signal] = {}
    matched: dict[str, list[Pipeline]] = {}
    for signal in signals:
        # FLAW: matches and signals are joined by this id, and all signals without one have the id "None". Only the
        # first of them is matched, and its pipelines are started with the last one's tickers.
        signal_id = str(signal.get("signal_id"))
        if signal_id not in matched:
            matched[signal_id] = watching(signal, pipelines)
        by_id[signal_id] = signal
    return [
        Match(pipeline, by_id[signal_id], symbol_of(by_id[signal_id], pipeline))
        for signal_id, found in matched.items()
        for pipeline in found
    ]


def watching(signal: Signal, pipelines: Mapping[str, Pipeline]) -> list[Pipeline]:
    """The pipelines that a signal is for."""
    # FLAW: a field of the payload chooses the pipeline, whatever the rules say.
    chosen = (signal.get("metadata") or {}).get("backtest_pipeline_id")
    if chosen is not None:
        return [pipelines[chosen]] if chosen in pipelines else []
    tickers = set(tickers_of(signal))
    return [pipeline for pipeline in pipelines.values() if not tickers.isdisjoint(pipeline.tickers)]


def tickers_of(signal: Signal) -> Sequence[str]:
    return [entry["ticker"] for entry in signal.get("tickers", ())]


def symbol_of(signal: Signal, pipeline: Pipeline) -> str:
    """The first ticker that the pipeline watches; where it watches none, the first."""
    tickers = tickers_of(signal)
    return next((ticker for ticker in tickers if ticker in pipeline.tickers), tickers[0])
