"""Which pipelines watch a ticker: an index, made anew at each refresh. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Pipeline(NamedTuple):
    id: str
    user_id: str
    tickers: frozenset[str]


class Match(NamedTuple):
    """A signal, and the pipelines that watch one of its tickers with the first such ticker."""

    signal: dict[str, Any]
    pipelines: list[tuple[Pipeline, dict[str, Any]]]


class Rules:
    def __init__(self, pipelines: Iterable[Pipeline]) -> None:
        self._watching: dict[str, list[Pipeline]] = {}
        for pipeline in pipelines:
            for ticker in pipeline.tickers:
                self._watching.setdefault(ticker, []).append(pipeline)

    def match(self, signal: Any) -> Match | None:
        """None where no pipeline watches the signal, or where it is no signal: then there is nobody to tell."""
        try:
            entries = signal["tickers"]
            if len(entries) == 1:
                entry = entries[0]
                found = [(pipeline, entry) for pipeline in self._watching.get(entry["ticker"], ())]
            else:
                first = {
                    pipeline.id: (pipeline, entry)
                    for entry in reversed(entries)
                    for pipeline in self._watching.get(entry["ticker"], ())
                }
                found = list(first.values())
        except (KeyError, TypeError):
            return None
        return Match(signal, found) if found else None
