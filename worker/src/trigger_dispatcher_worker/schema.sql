-- The sample platform's tables, as small as the dispatcher and the sample worker need them.
-- A real platform has its own; the dispatcher only reads them. Safe to run twice.

CREATE TABLE IF NOT EXISTS scanners (
    id      uuid PRIMARY KEY,
    config  jsonb NOT NULL DEFAULT '{"tickers": []}'
);

CREATE TABLE IF NOT EXISTS pipelines (
    id                    uuid PRIMARY KEY,
    user_id               uuid NOT NULL,
    name                  text NOT NULL,
    is_active             boolean NOT NULL DEFAULT true,
    trigger_mode          text NOT NULL DEFAULT 'signal',
    scanner_id            uuid REFERENCES scanners (id),
    scanner_tickers       jsonb NOT NULL DEFAULT '[]',
    signal_subscriptions  jsonb,
    created_at            timestamptz NOT NULL DEFAULT now()
);

-- No foreign key to pipelines: what ran stays on record when its pipeline is deleted.
CREATE TABLE IF NOT EXISTS executions (
    id           uuid PRIMARY KEY,
    pipeline_id  uuid NOT NULL,
    status       text NOT NULL,
    symbol       text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    started_at   timestamptz,
    finished_at  timestamptz,
    result       jsonb,
    error        text
);

-- The dispatcher asks on every batch for a pipeline's active executions, and for those since a claim.
CREATE INDEX IF NOT EXISTS executions_pipeline_status ON executions (pipeline_id, status);
CREATE INDEX IF NOT EXISTS executions_pipeline_created_at ON executions (pipeline_id, created_at);
