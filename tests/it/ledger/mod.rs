//! The ledger by time: it keeps its promises across partitions, and does not grow for ever.

mod borders;
mod landed;
mod prune;
mod side_by_side;
mod versions;

use std::time::Duration;

use trigger_dispatcher::intake::PartitionSpan;
use trigger_dispatcher::rules::PartitionCounts;
use trigger_dispatcher::store::postgres::{ClaimTerms, PostgresClaims};
use trigger_dispatcher::store::{ClaimRequest, Claims as _, Database, StoreError, Verdict, Wanted, migrate};
use trigger_dispatcher::tasks::{List, Pieces, TriggerText, trigger_id};
use uuid::Uuid;

use crate::support::database::TestDatabase;
use crate::support::request::{Held, held};
use crate::support::settings::config;

const DAY: i64 = 24;

/// A database with the newest schema, and claims on its partition 0.
struct Ledger {
    database: TestDatabase,
    store: Database,
    terms: ClaimTerms,
    claims: PostgresClaims,
    start: Held,
    next_offset: i64,
}

/// Wants a slot of the pipeline for the signal.
fn request(start: Held, offset: i64, pipeline_id: Uuid, signal_id: &str) -> ClaimRequest {
    let Held { partition, epoch } = start;
    let span =
        PartitionSpan { partition, epoch, first_offset: offset, next_offset: offset + 1, consumed: 1, invalid: 0, stale: 0 };
    let text = TriggerText {
        trigger_id: trigger_id(pipeline_id, "", signal_id),
        signal_id: signal_id.into(),
        symbol: "AAPL".into(),
        head: "{}".to_owned(),
        pieces: List::default(),
    };
    let wanted = Wanted {
        text,
        pipeline_id,
        ticker: String::new(),
        partition,
        offset,
        record_time_ms: trigger_dispatcher::clock::unix_ms(),
        shared: false,
    };
    ClaimRequest {
        publication_id: Uuid::new_v4(),
        spans: vec![(span, PartitionCounts::default())],
        wanted: vec![wanted],
        pieces: Pieces::default(),
        goes_on: false,
    }
}

/// How many slots were won, and how many triggers known.
async fn claim(claims: &mut PostgresClaims, request: &ClaimRequest) -> Result<(usize, usize), StoreError> {
    Ok(match claims.claim(request).await? {
        Verdict::Claimed(claimed) => (claimed.won.len(), claimed.known.len()),
        other => panic!("expected a decision, got {other:?}"),
    })
}

impl Ledger {
    async fn create() -> Self {
        Self::in_database(TestDatabase::create().await).await
    }

    async fn in_database(database: TestDatabase) -> Self {
        let mut config = config("redis://unused/0", Some(&database));
        config.trigger.lease = Duration::from_secs(900);
        let (store, terms) = (Database::new(&config.postgres), ClaimTerms::new(&config));
        migrate::migrate(&store).await.unwrap();
        let mut claims = PostgresClaims::new(store.clone(), terms.clone());
        let start = held(&claims.open(&[0]).await.unwrap()[0]);
        Self { database, store, terms, claims, start, next_offset: 0 }
    }

    /// Another instance, on a partition of its own.
    async fn another(&self, partition: i32) -> (PostgresClaims, Held) {
        let mut claims = PostgresClaims::new(self.store.clone(), self.terms.clone());
        let start = held(&claims.open(&[partition]).await.unwrap()[0]);
        (claims, start)
    }

    /// Decides a signal for the pipeline: won, known.
    async fn claim(&mut self, pipeline: Uuid, signal: &str) -> (usize, usize) {
        self.next_offset += 1;
        claim(&mut self.claims, &request(self.start, self.next_offset - 1, pipeline, signal)).await.unwrap()
    }

    /// A trigger that was claimed and enqueued so many hours ago, and whose lease has ended.
    async fn past(&mut self, hours: i64) -> Uuid {
        let pipeline = Uuid::new_v4();
        assert_eq!(self.claim(pipeline, "past").await, (1, 0));
        self.age(pipeline, hours).await;
        pipeline
    }

    /// Lets all about the pipeline have happened earlier. The database's clock cannot be set.
    async fn age(&self, pipeline: Uuid, hours: i64) {
        self.database
            .run(&format!(
                "update dispatcher.publications set claimed_at = claimed_at - interval '{hours} h', enqueued_at = now() - interval '{hours} h'
                     where publication_id = (select publication_id from dispatcher.triggers where pipeline_id = '{pipeline}');
                 update dispatcher.triggers set claimed_at = claimed_at - interval '{hours} h', leased_until = leased_until - interval '{hours} h'
                     where pipeline_id = '{pipeline}';
                 update dispatcher.slots set claimed_at = claimed_at - interval '{hours} h', leased_until = leased_until - interval '{hours} h'
                     where pipeline_id = '{pipeline}'"
            ))
            .await;
    }

    /// Partitions of ten days each, from 60 days ago to 20 days from now, instead of the first one.
    async fn ten_days_each(&self) {
        self.database
            .run(
                "do $$ declare
                     ledger text; name text; since timestamptz;
                     today timestamptz := date_trunc('day', now() at time zone 'UTC') at time zone 'UTC';
                 begin
                     foreach ledger in array array['triggers', 'publications'] loop
                         execute format('drop table dispatcher.%I', ledger || '_first');
                         for number in 0..7 loop
                             since := today + (number - 6) * interval '10 days';
                             name := ledger || '_number_' || number;
                             perform dispatcher.make_partition(ledger, name);
                             execute format('alter table dispatcher.%I attach partition dispatcher.%I for values from (%L) to (%L)',
                                 ledger, name, since, since + interval '10 days');
                         end loop;
                     end loop;
                 end $$",
            )
            .await;
    }

    async fn partitions(&self, ledger: &str) -> Vec<String> {
        let sql = "select partition from dispatcher.ledger_partitions() where ledger = $1 order by until";
        self.database.rows(sql, &[&ledger]).await.iter().map(|row| row.get(0)).collect()
    }

    async fn triggers(&self) -> i64 {
        self.database.number("select count(*) from dispatcher.triggers").await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_of_version_1_is_taken_over_with_its_rows_and_rights() {
    let database = TestDatabase::create().await;
    database
        .run(&format!(
            "create schema dispatcher;
             create table dispatcher.schema_versions (version integer primary key, applied_at timestamptz not null default now());
             insert into dispatcher.schema_versions (version) values (1);
             {}",
            include_str!("../../../src/store/sql/0001_ledger.sql")
        ))
        .await;
    let (role, pipeline, publication) = (database.role().await, Uuid::new_v4(), Uuid::new_v4());
    let trigger = trigger_id(pipeline, "", "long ago");
    database
        .run(&format!(
            "insert into dispatcher.triggers select '{trigger}', '{pipeline}', '', 'long ago', 'AAPL', 'topic', 0, 0, '{{}}',
                 now() - interval '1 year', now() - interval '1 year', '{publication}';
             insert into dispatcher.triggers select gen_random_uuid(), gen_random_uuid(), '', 'signal', 'AAPL', 'topic', 0, n, '{{}}',
                 now() - n * interval '1 h', now(), '{publication}' from generate_series(0, 999) as n;
             insert into dispatcher.publications values ('{publication}', '{{{trigger}}}', now() - interval '1 year', null, null, null)"
        ))
        .await;
    let mut ledger = Ledger::in_database(database).await;

    assert_eq!(ledger.triggers().await, 1001);
    let waiting = "select count(*) from dispatcher.publications where enqueued_at is null and lapsed_at is null";
    assert_eq!(ledger.database.number(waiting).await, 1);
    assert_eq!(ledger.claim(pipeline, "long ago").await, (0, 1), "it is known for ever");
    assert_eq!(ledger.claim(pipeline, "now").await, (1, 0));
    assert_eq!(ledger.partitions("triggers").await, ["triggers_first", "triggers_default"]);
    let rights = format!(
        "select count(*) from unnest(array['dispatcher.triggers', 'dispatcher.publications']) as t (name)
         where has_table_privilege('{role}', name, 'select') and has_table_privilege('{role}', name, 'insert')
             and has_table_privilege('{role}', name, 'update')"
    );
    assert_eq!(ledger.database.number(&rights).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_chaos_harness_notes_is_noted_in_every_partition() {
    let mut ledger = Ledger::create().await;
    ledger.database.run(include_str!("../../../chaos/src/history.sql")).await;
    ledger.ten_days_each().await;
    assert_eq!(ledger.claim(Uuid::new_v4(), "1").await, (1, 0));
    ledger.past(30 * DAY).await;
    let noted = ledger.database.number("select count(*) from chaos.attempts").await;
    assert!(noted >= 2, "{noted} of two claims");
}
