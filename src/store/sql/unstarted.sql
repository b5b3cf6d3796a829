-- Triggers of ours whose task the broker has had for a while, and that left no trace of a start: no mark of the worker guard, no
-- execution of their slot since the claim.
select t.trigger_id, t.attempt
from dispatcher.slots s
join dispatcher.triggers t on t.trigger_id = s.trigger_id
join dispatcher.publications p on p.publication_id = t.publication_id
where s.leased_until > now()
    and t.failed_at is null
    and p.enqueued_at < now() - make_interval(secs => $1::float8)
    and {ours}
    and not exists (select from dispatcher.starts g where g.trigger_id = t.trigger_id)
    and not ({over})
order by p.enqueued_at
limit $2::integer
