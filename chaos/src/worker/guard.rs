//! One start for each trigger, through `dispatcher.starts`, as the guard that we ship does it (worker/…/guard/postgres.py).
//! PostgreSQL may die at any moment: every step is repeated until it is known to have happened, and may happen twice.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use postgres::Client;
use uuid::Uuid;

use super::Delivery;
use crate::clock;
use crate::platform::Platform;

/// The right to start is taken only before the lease's end, by the database's clock, and together with the execution's row:
/// so nobody can claim the slot in between.
const BEGIN: &str = "
    with d as (
        select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[]) as d (id, token, pipeline_id, symbol, expires)
    ), begun as (
        insert into dispatcher.starts (trigger_id, attempt_token, worker, leased_until)
        select distinct on (id) id, token, 'chaos', now() + interval '1 hour' from d where expires::timestamptz > clock_timestamp()
        on conflict (trigger_id) do nothing
        returning trigger_id, attempt_token
    )
    insert into executions (id, pipeline_id, status, symbol, started_at)
    select d.id, d.pipeline_id, 'RUNNING', d.symbol, clock_timestamp()
    from d join begun b on b.trigger_id = d.id and b.attempt_token = d.token";
const WHOSE: &str = "select trigger_id, attempt_token from dispatcher.starts where trigger_id = any ($1::uuid[])";
const COMPLETE: &str = "
    with done as (update dispatcher.starts set finished_at = coalesce(finished_at, now()), outcome = 'completed' where trigger_id = any ($1::uuid[]))
    update executions set status = 'COMPLETED', finished_at = clock_timestamp() where id = any ($1::uuid[]) and status = 'RUNNING'";

/// What became of the wish to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    Ours,
    /// The trigger was started before.
    Before,
    /// The lease is over.
    Expired,
}

pub(super) struct Guard {
    platform: Platform,
    client: Option<Client>,
}

impl Guard {
    pub(super) fn new(platform: Platform) -> Self {
        Self { platform, client: None }
    }

    /// What becomes of each delivery. The same trigger may be among them twice.
    pub(super) fn begin(&mut self, deliveries: &[Delivery]) -> anyhow::Result<Vec<Begun>> {
        let ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.trigger_id).collect();
        let tokens: Vec<Uuid> = deliveries.iter().map(|_| Uuid::new_v4()).collect();
        let pipelines: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.pipeline_id).collect();
        let symbols: Vec<&str> = deliveries.iter().map(|delivery| delivery.symbol.as_str()).collect();
        let expires: Vec<&str> = deliveries.iter().map(|delivery| delivery.expires.as_str()).collect();
        let owners: HashMap<Uuid, Uuid> = self.until_done(|client| {
            client.execute(BEGIN, &[&ids, &tokens, &pipelines, &symbols, &expires])?;
            // A second statement: the first cannot see the row that it lost to.
            client.query(WHOSE, &[&ids])?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
        })?;
        let begun = |(id, token): (&Uuid, &Uuid)| match owners.get(id) {
            Some(owner) if owner == token => Begun::Ours,
            Some(_) => Begun::Before,
            None => Begun::Expired,
        };
        Ok(ids.iter().zip(&tokens).map(begun).collect())
    }

    pub(super) fn complete(&mut self, triggers: &[Uuid]) -> anyhow::Result<()> {
        self.until_done(|client| client.execute(COMPLETE, &[&triggers]).map(|_| ()))
    }

    /// Repeats until PostgreSQL has answered, at most three minutes long.
    fn until_done<T>(&mut self, mut work: impl FnMut(&mut Client) -> Result<T, postgres::Error>) -> anyhow::Result<T> {
        let mut last = String::new();
        let done = clock::wait_for(Duration::from_secs(180), || {
            let client = match self.client.take() {
                Some(client) => Ok(client),
                None => self.platform.connect(),
            };
            let result = client.and_then(|mut client| {
                let done = work(&mut client)?;
                self.client = Some(client);
                Ok(done)
            });
            Ok(result.map_err(|error| last = format!("{error:#}")).ok())
        })?;
        done.with_context(|| format!("a worker waited 3 min in vain for PostgreSQL: {last}"))
    }
}
