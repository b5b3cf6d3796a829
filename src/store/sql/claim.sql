-- One batch, one statement, one transaction: who may start, and up to where the partitions are decided. A batch of very many
-- slots comes in parts, each a statement of its own: all but the last ($27) leave the offsets, and only note what they did.
-- What stands in braces is filled in for the platform's executions table (catalog.rs).
with
span as materialized (
    select *
    from unnest($3::int[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $28::bigint[], $29::bigint[])
        as s (partition, epoch, first_offset, next_offset, consumed, unmatched, merged, redelivered, stale, invalid, triggered, busy)
),
-- The fence. The lock makes a concurrent owner wait, and shows us what it has written.
fence as materialized (
    select
        p.partition,
        p.epoch = s.epoch as mine,
        coalesce(p.next_offset <= s.first_offset, true) as ahead,
        coalesce(p.next_offset >= s.next_offset, false) or $22::uuid = any (p.parts) as behind
    from dispatcher.progress p
    join span s using (partition)
    -- The partitions by name too: else every row of the topic is read, whoever owns it.
    where p.consumer_group = $1 and p.topic = $2 and p.partition = any ($3::int[])
    order by p.partition
    for update of p
),
candidate as materialized (
    select c.*, c.active is not null as busy,
        -- Of a slot that is busy, the ledger is asked only what stands in the slot itself: whatever else it knows, nothing can start.
        case
            when c.own then true
            when c.active is not null then false
            else coalesce((select true from dispatcher.triggers t where t.trigger_id = c.trigger_id limit 1), false)
                -- Where the versions that knew no deployments shared their ids with others of this database: by the id of then, too.
                -- Only they left out the signal's time: what another deployment of the topic has written since is not ours.
                or c.former_id is not null
                    and coalesce((select true from dispatcher.triggers t where t.trigger_id = c.former_id and t.topic = $2 and t.signal_time is null limit 1), false)
        end as known
    from (
        -- Of a slot that is held, nothing more is asked.
        select c.*, case when c.held then '' else ({busy}) end as active
        from (
            select c.*, s.trigger_id = c.trigger_id as own, case when s.leased_until > now() then not {over} else false end as held
            -- Arrays side by side in a list, not in a function's arguments, which would be stored each by itself first.
            from (
                select unnest($13::uuid[]) as trigger_id, unnest($14::uuid[]) as pipeline_id, unnest($15::text[]) as ticker,
                    unnest($19::int[]) as partition, unnest($20::bigint[]) as record_offset, unnest($21::bool[]) as shared, unnest($32::uuid[]) as former_id,
                    generate_series(1::bigint, cardinality($13::uuid[])) as position
            ) c
            -- The limit keeps this a look into an index for each slot, whatever size the plan was made for (postgres.rs). Most slots
            -- that are taken are seen here, without a lock; the race for the rest is decided below.
            left join lateral (
                select * from dispatcher.slots where pipeline_id = c.pipeline_id and ticker = c.ticker limit 1
            ) s on true
            -- Each step's words are made once.
            offset 0
        ) c
        offset 0
    ) c
),
verdict as materialized (
    select case
        -- Only we write under our epoch: an earlier attempt of this very request was committed, and its reply was lost.
        when (select count(*) from fence where mine and behind) = (select count(*) from span) then 'repeated'
        when (select count(*) from fence where mine and ahead) = (select count(*) from span) then
            case when exists (select from candidate where known and shared) then 'known' else 'claimed' end
        else 'fenced'
    end as word
),
idle as materialized (
    select c.* from candidate c, verdict v where v.word = 'claimed' and not c.known and not c.busy
),
-- Sorted by key: concurrent writers wait for each other instead of deadlocking.
won as (
    insert into dispatcher.slots as s (pipeline_id, ticker, trigger_id, claimed_at, leased_until, deployment_id)
    -- Not now(), which is when the transaction began: planning may take long, and what was seen as over may have begun after
    -- that. It would count as an execution of this very claim, and the slot as free again (see over_by_time.sql).
    select pipeline_id, ticker, trigger_id, clock_timestamp(), now() + make_interval(secs => $23::float8), $30::integer
    from idle
    order by pipeline_id, ticker
    on conflict (pipeline_id, ticker) do update
    set trigger_id = excluded.trigger_id, claimed_at = excluded.claimed_at, leased_until = excluded.leased_until,
        deployment_id = excluded.deployment_id
    -- A slot that this very trigger has had was lost to another claim of the same signal, which we could not see (ADR 8).
    where s.trigger_id <> excluded.trigger_id
        and (s.leased_until <= now() or {over})
    returning s.trigger_id
),
ledger as (
    insert into dispatcher.triggers
        (trigger_id, pipeline_id, ticker, signal_id, symbol, topic, partition, record_offset, kwargs, leased_until, publication_id, signal_time)
    select t.trigger_id, t.pipeline_id, t.ticker, t.signal_id, t.symbol, $2, t.partition, t.record_offset,
        -- Slots share most of their texts. Bytes, for PostgreSQL would count the characters of a text from its beginning each time.
        (t.head || convert_from(
            case when t.first_piece = t.last_piece then substring($34::bytea from ($35::int[])[t.first_piece] for ($36::int[])[t.first_piece])
                -- generate_series gives the numbers in order. `order by` in string_agg would sort them once more for each slot.
                else coalesce((
                    select string_agg(substring($34::bytea from ($35::int[])[n] for ($36::int[])[n]), '')
                    from (select generate_series(t.first_piece, t.last_piece) as n) numbers
                ), '')
            end, 'UTF8'))::json,
        now() + make_interval(secs => $23::float8), $22::uuid, to_timestamp(t.record_time_ms / 1000.0::float8)
    from (
        select i.*, t.signal_id, t.symbol, t.head, t.record_time_ms, t.first_piece, t.last_piece
        from won
        join idle i using (trigger_id)
        -- Texts are large, and most are not needed.
        join unnest($16::text[], $17::text[], $18::text[], $31::bigint[], $37::int[], $38::int[]) with ordinality
            as t (signal_id, symbol, head, record_time_ms, first_piece, last_piece, position) using (position)
        -- First who has won, then their texts.
        offset 0
    ) t
),
publication as (
    insert into dispatcher.publications (publication_id, trigger_ids, deployment_id)
    select $22::uuid, array_agg(trigger_id), $30::integer from won having count(*) > 0
),
-- A publication that a sweeper holds is left to it: it finds that the broker has the tasks, and says so itself. Waiting for it
-- would be a deadlock, for it waits for slots that we hold.
confirmed as (
    update dispatcher.publications set enqueued_at = now()
    -- An array, not a join, which was a scan of all publications wherever the plan was made while there were few.
    where publication_id = any (array(
        select publication_id from dispatcher.publications
        where publication_id = any ($24::uuid[]) and enqueued_at is null
        for update skip locked
    ))
),
record as (
    select c.partition, c.record_offset, bool_or(w.trigger_id is not null) as triggered, bool_and(c.known) as known
    from candidate c left join won w using (trigger_id)
    group by c.partition, c.record_offset
),
counted as (
    select
        partition,
        count(*) filter (where triggered) as triggered,
        count(*) filter (where not triggered and known) as redelivered,
        count(*) filter (where not triggered and not known) as busy
    from record group by partition
),
moved as (
    update dispatcher.progress p
    set next_offset = s.next_offset,
        consumed = p.consumed + s.consumed,
        triggered = p.triggered + s.triggered + coalesce(c.triggered, 0),
        busy = p.busy + s.busy + coalesce(c.busy, 0),
        redelivered = p.redelivered + s.redelivered + coalesce(c.redelivered, 0),
        merged = p.merged + s.merged,
        unmatched = p.unmatched + s.unmatched,
        stale = p.stale + s.stale,
        invalid = p.invalid + s.invalid,
        -- A batch that was begun before a crash may have gone further than this one.
        parts = case when p.parts_until > s.next_offset then p.parts else '{}' end,
        parts_until = case when p.parts_until > s.next_offset then p.parts_until end,
        skipped = case when isempty(p.skipped) then p.skipped
            else p.skipped - int8multirange(int8range(least(p.next_offset, s.first_offset), s.next_offset)) end,
        updated_at = now()
    from span s left join counted c using (partition), verdict v
    where v.word = 'claimed' and not $27::bool and p.consumer_group = $1 and p.topic = $2 and p.partition = any ($3::int[]) and p.partition = s.partition
),
begun as (
    update dispatcher.progress p
    set parts = p.parts || $22::uuid, parts_until = greatest(p.parts_until, s.next_offset), updated_at = now()
    from span s, verdict v
    where v.word = 'claimed' and $27::bool and p.consumer_group = $1 and p.topic = $2 and p.partition = any ($3::int[]) and p.partition = s.partition
)
select
    v.word,
    (extract(epoch from now() + make_interval(secs => $23::float8)) * 1000000)::bigint as leased_until_us,
    coalesce((select array_agg(position order by position) from candidate join won using (trigger_id)), '{}') as won,
    coalesce((select array_agg(position order by position) from candidate where known), '{}') as known,
    coalesce((select array_agg(partition) from span s where not exists (select from fence f where f.partition = s.partition and mine and ahead)), '{}') as fenced,
    coalesce((select array_agg(distinct active) from candidate where active <> ''), '{}') as unknown_statuses
from verdict v
