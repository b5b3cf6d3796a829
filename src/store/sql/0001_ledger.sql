-- What the dispatcher must remember. The platform's tables are never written.

-- One row for every execution that was started, and the task that was sent for it.
-- No index but the key: each further one would cost every claim.
create table dispatcher.triggers (
    trigger_id uuid primary key,
    pipeline_id uuid not null,
    -- the slot: '' is the whole pipeline
    ticker text not null,
    signal_id text not null,
    symbol text not null,
    topic text not null,
    partition integer not null,
    record_offset bigint not null,
    kwargs json not null,
    claimed_at timestamptz not null default now(),
    leased_until timestamptz not null,
    publication_id uuid not null,
    attempt integer not null default 1,
    -- when it was given up: enqueued as often as allowed, and never started
    failed_at timestamptz
);

-- Who holds a slot, and how long at most.
create table dispatcher.slots (
    pipeline_id uuid not null,
    ticker text not null,
    trigger_id uuid not null,
    claimed_at timestamptz not null,
    leased_until timestamptz not null,
    primary key (pipeline_id, ticker)
) with (fillfactor = 50);

-- The tasks of one batch, which reach the broker together or not at all.
create table dispatcher.publications (
    publication_id uuid primary key,
    trigger_ids uuid[] not null,
    claimed_at timestamptz not null default now(),
    -- when a sweeper last took it up
    swept_at timestamptz,
    -- when the broker had it
    enqueued_at timestamptz,
    -- when it was given up: all its slots had passed on to newer triggers before anyone could publish it
    lapsed_at timestamptz
) with (fillfactor = 70);
create index publications_waiting on dispatcher.publications (claimed_at) where enqueued_at is null and lapsed_at is null;

-- Up to where a partition is decided, by whom (the fence), and what became of its records:
-- consumed = triggered + busy + redelivered + merged + unmatched + stale + invalid.
create table dispatcher.progress (
    consumer_group text not null,
    topic text not null,
    partition integer not null,
    epoch bigint not null,
    next_offset bigint,
    consumed bigint not null default 0,
    triggered bigint not null default 0,
    busy bigint not null default 0,
    redelivered bigint not null default 0,
    merged bigint not null default 0,
    unmatched bigint not null default 0,
    stale bigint not null default 0,
    invalid bigint not null default 0,
    updated_at timestamptz not null default now(),
    primary key (consumer_group, topic, partition)
) with (fillfactor = 20);

-- One start for each trigger, whatever Celery redelivers: written by the worker guard (worker/), whose
-- `ensure_schema()` makes the same table.
create table if not exists dispatcher.starts (
    trigger_id uuid primary key,
    started_at timestamptz default now(),
    attempt_token uuid,
    worker text,
    finished_at timestamptz,
    leased_until timestamptz not null default now(),
    attempts integer not null default 1,
    -- completed, failed, abandoned; null while it runs
    outcome text
);
create index if not exists starts_unfinished on dispatcher.starts (leased_until) where finished_at is null;
