"""Both ways to match, without services: the reference's scan and the contender's index."""

from __future__ import annotations

import random

import pytest

from contender.rules import Pipeline as Indexed
from contender.rules import Rules
from reference.matching import Pipeline, match_batch
from tests.support import a_signal


def scanned(*pipelines: tuple[str, set[str]]) -> dict[str, Pipeline]:
    return {name: Pipeline(name, "user", frozenset(tickers)) for name, tickers in pipelines}


def found(matches):
    return [(match.pipeline.id, match.signal["signal_id"], match.symbol) for match in matches]


def test_the_scan_finds_every_pipeline_that_watches_a_ticker_of_a_signal():
    pipelines = scanned(("one", {"AAPL", "MSFT"}), ("two", {"MSFT"}), ("three", {"TSLA"}))
    matches = match_batch([a_signal(1, "AAPL", "MSFT"), a_signal(2, "NVDA"), a_signal(3, "TSLA")], pipelines)
    assert found(matches) == [
        ("one", "signal-1", "AAPL"),
        ("two", "signal-1", "MSFT"),
        ("three", "signal-3", "TSLA"),
    ]


def test_the_scan_triggers_a_pipeline_once_for_each_signal():
    matches = match_batch([a_signal(1, "AAPL"), a_signal(2, "AAPL")], scanned(("one", {"AAPL"})))
    assert found(matches) == [("one", "signal-1", "AAPL"), ("one", "signal-2", "AAPL")]


def test_signals_without_an_id_are_taken_for_one_another_as_in_the_old_service():
    pipelines = scanned(("apple's", {"AAPL"}), ("microsoft's", {"MSFT"}))
    signals = [a_signal(1, "AAPL"), a_signal(2, "MSFT")]
    for signal in signals:
        del signal["signal_id"]
    matches = match_batch(signals, pipelines)
    assert [(match.pipeline.id, match.symbol) for match in matches] == [("apple's", "MSFT")]


def test_a_field_of_the_payload_chooses_the_pipeline_as_in_the_old_service():
    pipelines = scanned(("one", {"AAPL"}), ("two", {"MSFT"}))
    signal = a_signal(1, "AAPL", metadata={"backtest_pipeline_id": "two"})
    assert found(match_batch([signal], pipelines)) == [("two", "signal-1", "AAPL")]


def test_the_index_and_the_scan_agree():
    chance = random.Random(4)
    tickers = [f"T{number}" for number in range(40)]
    chosen = {f"p{number}": frozenset(chance.choices(tickers, k=chance.randint(0, 6))) for number in range(60)}
    rules = Rules(Indexed(name, "user", watched) for name, watched in chosen.items())
    pipelines = scanned(*chosen.items())
    matched = 0
    for number in range(500):
        signal = a_signal(number, *chance.choices([*tickers, "unknown"], k=chance.randint(1, 4)))
        match = rules.match(signal)
        by_index = {(pipeline.id, entry["ticker"]) for pipeline, entry in match.pipelines} if match else set()
        by_scan = match_batch([signal], pipelines)
        assert by_index == {(match.pipeline.id, match.symbol) for match in by_scan}
        assert len(by_scan) == len(match.pipelines if match else [])
        matched += len(by_scan)
    assert matched > 1_000


@pytest.mark.parametrize(
    "signal",
    [None, 1, "AAPL", [], {}, {"tickers": None}, {"tickers": [1]}, {"tickers": [{}]}, {"tickers": [{"ticker": []}]}],
)
def test_the_index_has_no_match_for_what_is_no_signal(signal):
    assert Rules([Indexed("one", "user", frozenset({"AAPL"}))]).match(signal) is None
