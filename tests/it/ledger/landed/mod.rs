//! An instance of the version before deployments (schema version 3), as far as the store sees it: the statements of that version, on a
//! session that goes on whatever happens to the schema. An instance that runs when another one migrates does just that.

use std::collections::HashSet;

use trigger_dispatcher::intake::PartitionSpan;
use trigger_dispatcher::rules::PartitionCounts;
use trigger_dispatcher::store::{ClaimRequest, Wanted};
use uuid::Uuid;

use crate::support::database::TestDatabase;
use crate::support::request::Held;

const FIRST: [&str; 3] = [
    include_str!("../../../../src/store/sql/0001_ledger.sql"),
    include_str!("../../../../src/store/sql/0002_partitions.sql"),
    include_str!("../../../../src/store/sql/0003_parts.sql"),
];

/// Makes the schema as that version made it.
pub(super) async fn migrate(database: &TestDatabase) {
    database
        .run(
            "create schema dispatcher;
             create table dispatcher.schema_versions (version integer primary key, applied_at timestamptz not null default now())",
        )
        .await;
    for (number, sql) in (1..).zip(FIRST) {
        let sql =
            format!("do $migrate$ begin {sql} insert into dispatcher.schema_versions (version) values ({number}); end $migrate$");
        database.run(&sql).await;
    }
}

/// A partition that an instance of either version has taken over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) held: Held,
    /// The next offset to decide.
    pub(super) next: i64,
}

/// A running instance.
pub(super) struct Instance {
    client: tokio_postgres::Client,
    claim: tokio_postgres::Statement,
    group: String,
    topic: String,
}

impl Instance {
    pub(super) async fn start(database: &TestDatabase, group: &str, topic: &str) -> Self {
        let client = database.another().await;
        client.batch_execute("set plan_cache_mode = force_generic_plan").await.unwrap();
        let claim = client.prepare(include_str!("claim.sql")).await.unwrap();
        Self { client, claim, group: group.to_owned(), topic: topic.to_owned() }
    }

    /// Takes partitions over.
    pub(super) async fn open(&self, partitions: &[i32]) -> Vec<Place> {
        let rows = self.client.query(include_str!("open.sql"), &[&self.group, &self.topic, &partitions]).await.unwrap();
        let place = |row: &tokio_postgres::Row| Place {
            held: Held { partition: row.get(0), epoch: row.get(1) },
            next: row.get::<_, Option<i64>>(2).unwrap_or(0),
        };
        rows.iter().map(place).collect()
    }

    /// Records that no offset has passed, though a part of their batch was decided.
    pub(super) async fn begun(&self, partitions: &[i32]) -> HashSet<(i32, i64)> {
        let rows = self.client.query(include_str!("begun.sql"), &[&self.group, &self.topic, &partitions]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// Decides a request: the triggers that were won, or nothing where another owner has the partition.
    pub(super) async fn claim(&self, request: &ClaimRequest) -> Option<Vec<Uuid>> {
        loop {
            match self.try_to_claim(request).await {
                Ok(verdict) => return verdict,
                // As that version does: again with the same ids, whatever it was.
                Err(error) => {
                    let code = error.code().expect("an error of the server").code().to_owned();
                    assert_eq!(code, "40P01", "only a migration may get in the way, by a deadlock: {error}");
                }
            }
        }
    }

    async fn try_to_claim(&self, request: &ClaimRequest) -> Result<Option<Vec<Uuid>>, tokio_postgres::Error> {
        let (spans, wanted) = (&request.spans, &request.wanted);
        let numbers = |of: fn(&PartitionSpan) -> i64| -> Vec<i64> { spans.iter().map(|(span, _)| of(span)).collect() };
        let counts = |of: fn(&PartitionCounts) -> i64| -> Vec<i64> { spans.iter().map(|(_, counts)| of(counts)).collect() };
        let texts = |of: fn(&Wanted) -> &str| -> Vec<&str> { wanted.iter().map(of).collect() };
        let ids: Vec<Uuid> = wanted.iter().map(|wanted| wanted.text.trigger_id).collect();
        let row = self
            .client
            .query_one(
                &self.claim,
                &[
                    &self.group,
                    &self.topic,
                    &spans.iter().map(|(span, _)| span.partition).collect::<Vec<_>>(),
                    &numbers(|span| span.epoch),
                    &numbers(|span| span.first_offset),
                    &numbers(|span| span.next_offset),
                    &numbers(|span| span.consumed),
                    &counts(|counts| counts.unmatched),
                    &counts(|counts| counts.merged),
                    &counts(|counts| counts.redelivered),
                    &numbers(|span| span.stale),
                    &numbers(|span| span.invalid),
                    &ids,
                    &wanted.iter().map(|wanted| wanted.pipeline_id).collect::<Vec<_>>(),
                    &texts(|wanted| &wanted.ticker),
                    &texts(|wanted| &wanted.text.signal_id),
                    &texts(|wanted| &wanted.text.symbol),
                    &wanted.iter().map(|wanted| wanted.text.kwargs(&request.pieces)).collect::<Vec<_>>(),
                    &wanted.iter().map(|wanted| wanted.partition).collect::<Vec<_>>(),
                    &wanted.iter().map(|wanted| wanted.offset).collect::<Vec<_>>(),
                    &vec![false; wanted.len()],
                    &request.publication_id,
                    &900_f64,
                    &Vec::<Uuid>::new(),
                    &vec!["running"],
                    &vec!["completed"],
                    &request.goes_on,
                    &counts(|counts| counts.triggered),
                    &counts(|counts| counts.busy),
                ],
            )
            .await?;
        match row.get::<_, &str>(0) {
            "claimed" => {
                let won: Vec<i64> = row.get(2);
                Ok(Some(won.into_iter().map(|position| ids[usize::try_from(position).unwrap() - 1]).collect()))
            }
            "repeated" => {
                let sql = "select trigger_id from dispatcher.triggers where publication_id = $1";
                let rows = self.client.query(sql, &[&request.publication_id]).await?;
                Ok(Some(rows.iter().map(|row| row.get(0)).collect()))
            }
            "fenced" => Ok(None),
            other => panic!("{other}"),
        }
    }

    /// What its sweeper would publish: entries that have waited for so long, of whatever group and topic.
    pub(super) async fn take_up(&self, patience_seconds: f64) -> Vec<(Uuid, Vec<Uuid>)> {
        let rows = match self.client.query(include_str!("sweep.sql"), &[&patience_seconds, &900_f64]).await {
            Ok(rows) => rows,
            // The next round is soon.
            Err(error) if error.code().is_some_and(|code| code.code() == "40P01") => Vec::new(),
            Err(error) => panic!("{error}"),
        };
        let mut found: Vec<(Uuid, Vec<Uuid>)> = Vec::new();
        for row in &rows {
            let (entry, trigger): (Uuid, Option<Uuid>) = (row.get(0), row.get(1));
            if found.last().is_none_or(|(last, _)| *last != entry) {
                found.push((entry, Vec::new()));
            }
            found.last_mut().unwrap().1.extend(trigger);
        }
        found
    }
}
