-- The guard's marks. `trigger-dispatcher migrate` makes this table too; safe to run twice.
-- A row is written once per trigger and stays, but for those that `trigger-dispatcher prune` finds older than the ledger's
-- retention: deleting one lets its trigger start again.

CREATE SCHEMA IF NOT EXISTS dispatcher;

CREATE TABLE IF NOT EXISTS dispatcher.starts (
    trigger_id     uuid PRIMARY KEY,
    started_at     timestamptz DEFAULT now(),
    attempt_token  uuid,
    worker         text,
    finished_at    timestamptz
);

ALTER TABLE dispatcher.starts
    ADD COLUMN IF NOT EXISTS leased_until timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS attempts integer NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS outcome text;  -- completed, failed, abandoned; null while it runs

CREATE INDEX IF NOT EXISTS starts_unfinished ON dispatcher.starts (leased_until) WHERE finished_at IS NULL;
