-- Sample pipelines for the sample platform (the worker's schema.sql comes first). Safe to run twice.
-- The tickers are those of the signal-generator in compose.yaml.

INSERT INTO scanners (id, config) VALUES
    ('5ca00000-0000-4000-8000-000000000001', '{"tickers": ["NVDA", "AMD", "INTC"]}')
ON CONFLICT (id) DO NOTHING;

INSERT INTO pipelines (id, user_id, name, is_active, trigger_mode, scanner_id, scanner_tickers, signal_subscriptions) VALUES
    -- Any signal about its ticker.
    ('91e00000-0000-4000-8000-000000000001', '05e00000-0000-4000-8000-000000000001', 'Apple, whatever happens', true, 'signal',
     NULL, '["AAPL"]', NULL),
    ('91e00000-0000-4000-8000-000000000002', '05e00000-0000-4000-8000-000000000001', 'Microsoft, whatever happens', true, 'signal',
     NULL, '["MSFT"]', NULL),
    -- Several tickers, one type, one timeframe.
    ('91e00000-0000-4000-8000-000000000003', '05e00000-0000-4000-8000-000000000002', 'Big technology on golden crosses', true, 'signal',
     NULL, '["AAPL", "MSFT", "GOOG", "AMZN", "META"]', '[{"signal_type": "golden_cross", "timeframe": "1d"}]'),
    -- Only what is sure.
    ('91e00000-0000-4000-8000-000000000004', '05e00000-0000-4000-8000-000000000002', 'Sure death crosses', true, 'signal',
     NULL, '["AAPL", "TSLA", "NVDA"]', '[{"signal_type": "death_cross", "min_confidence": 80}]'),
    -- Its tickers are the scanner's; its own list is not looked at.
    ('91e00000-0000-4000-8000-000000000005', '05e00000-0000-4000-8000-000000000003', 'Chip makers, by scanner', true, 'signal',
     '5ca00000-0000-4000-8000-000000000001', '["XOM"]', NULL),
    -- Never triggered: switched off, and run by the clock.
    ('91e00000-0000-4000-8000-000000000006', '05e00000-0000-4000-8000-000000000003', 'Switched off', false, 'signal',
     NULL, '["AAPL"]', NULL),
    ('91e00000-0000-4000-8000-000000000007', '05e00000-0000-4000-8000-000000000003', 'Every morning', true, 'periodic',
     NULL, '["AAPL"]', NULL)
ON CONFLICT (id) DO NOTHING;
