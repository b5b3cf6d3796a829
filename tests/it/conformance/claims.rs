//! What every `Claims` promises.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use rand::seq::IndexedRandom as _;
use tokio::task::JoinSet;
use trigger_dispatcher::intake::{Identity, PartitionSpan, Position, Start};
use trigger_dispatcher::rules::PartitionCounts;
use trigger_dispatcher::store::memory::{MemoryClaims, MemoryStore, Progress};
use trigger_dispatcher::store::postgres::{ClaimTerms, PostgresClaims};
use trigger_dispatcher::store::{ClaimRequest, Claimed, Claims, Database, Renewal, Verdict, Wanted, migrate};
use trigger_dispatcher::tasks::{List, Pieces, TriggerText, trigger_id};
use uuid::Uuid;

use crate::support::database::TestDatabase;
use crate::support::request::{Held, held};
use crate::support::settings::config;
use crate::support::{unique, wait_until};

macro_rules! conformance {
    ($($test:ident)*) => {
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(&<super::Postgres as super::World>::create(super::LEASE).await).await;
            })*
        }
        mod memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(&<super::Memory as super::World>::create(super::LEASE).await).await;
            })*
        }
    };
}

conformance! {
    opening_fences_and_tells_where_to_go_on
    a_position_is_stored_once_and_by_the_owner_only
    a_claim_moves_the_progress_and_wins_idle_slots
    a_batch_that_wants_nothing_moves_the_progress_all_the_same
    a_held_slot_is_busy
    a_repeated_claim_has_the_same_winners_and_moves_nothing_twice
    a_repeated_claim_that_won_nothing_wins_nothing
    an_old_epoch_is_fenced_and_changes_nothing
    a_span_behind_the_progress_is_fenced
    one_fenced_span_fences_the_batch_and_is_named
    a_partition_that_nobody_opened_is_fenced
    a_known_trigger_that_another_signal_could_lead_changes_nothing
    a_known_trigger_that_no_other_signal_could_lead_is_redelivered
    what_is_known_is_told_of_a_slot_that_it_holds_or_that_is_idle_and_of_no_other
    the_counts_add_up
    arguments_that_come_in_pieces_are_kept_whole
    a_record_that_leads_several_slots_is_counted_once
    an_active_execution_keeps_its_pipeline_busy
    a_finished_execution_of_the_trigger_frees_the_slot
    a_finished_execution_under_an_id_of_its_own_frees_the_slot
    a_lease_that_runs_out_frees_the_slot
    confirmations_are_written_by_a_flush_or_with_the_next_claim
    slots_of_tickers_are_independent
    an_execution_keeps_the_slots_of_its_ticker_busy
    racing_claimers_win_each_slot_once
    racing_claimers_of_one_signal_make_one_trigger_of_it
    a_part_wins_its_slots_and_moves_neither_offset_nor_counts
    the_last_part_moves_the_offset_and_counts_what_it_is_told
    a_repeated_part_has_the_same_winners_and_knows_what_it_knew
    a_part_that_comes_late_changes_nothing
    a_part_of_an_old_epoch_is_fenced_and_changes_nothing
    what_was_begun_is_found_until_an_offset_has_passed_it
}

const LEASE: Duration = Duration::from_secs(900);

/// A store with its platform.
trait World: Sized {
    type Claims: Claims + 'static;
    async fn create(lease: Duration) -> Self;
    fn claims(&self) -> Self::Claims;
    async fn progress(&self) -> BTreeMap<i32, Progress>;
    async fn triggers(&self) -> HashSet<Uuid>;
    /// Everything in the store but its confirmations, to compare with later.
    async fn everything(&self) -> String;
    async fn start_execution(&self, id: Uuid, pipeline: Uuid, symbol: Option<&str>);
    async fn finish_execution(&self, id: Uuid, pipeline: Uuid);
}

struct Memory {
    store: MemoryStore,
    lease: Duration,
}

impl World for Memory {
    type Claims = MemoryClaims;

    async fn create(lease: Duration) -> Self {
        Self { store: MemoryStore::default(), lease }
    }

    fn claims(&self) -> MemoryClaims {
        self.store.claims(self.lease)
    }

    async fn progress(&self) -> BTreeMap<i32, Progress> {
        self.store.progress()
    }

    async fn triggers(&self) -> HashSet<Uuid> {
        self.store.triggers().into_iter().collect()
    }

    async fn everything(&self) -> String {
        format!("{:?}", self.store)
    }

    async fn start_execution(&self, id: Uuid, pipeline: Uuid, symbol: Option<&str>) {
        self.store.start_execution(id, pipeline, symbol);
    }

    async fn finish_execution(&self, id: Uuid, pipeline: Uuid) {
        self.store.finish_execution(id, pipeline);
    }
}

struct Postgres {
    database: TestDatabase,
    store: Database,
    terms: ClaimTerms,
}

impl World for Postgres {
    type Claims = PostgresClaims;

    async fn create(lease: Duration) -> Self {
        let database = TestDatabase::create().await;
        let mut config = config("redis://unused/0", Some(&database));
        config.kafka.consumer_group = unique("group");
        config.trigger.lease = lease;
        let store = Database::new(&config.postgres);
        migrate::migrate(&store).await.unwrap();
        Self { database, store, terms: ClaimTerms::new(&config) }
    }

    fn claims(&self) -> PostgresClaims {
        PostgresClaims::new(self.store.clone(), self.terms.clone())
    }

    async fn progress(&self) -> BTreeMap<i32, Progress> {
        let sql =
            "select partition, epoch, next_offset, consumed, triggered, busy, redelivered, merged, unmatched, stale, invalid,
                cardinality(parts)::bigint, parts_until
            from dispatcher.progress where consumer_group = $1 and topic = $2";
        let rows = self.database.rows(sql, &[&self.terms.key.group, &self.terms.key.topic]).await;
        let progress = |row: &tokio_postgres::Row| Progress {
            epoch: row.get(1),
            next_offset: row.get(2),
            consumed: row.get(3),
            triggered: row.get(4),
            busy: row.get(5),
            redelivered: row.get(6),
            merged: row.get(7),
            unmatched: row.get(8),
            stale: row.get(9),
            invalid: row.get(10),
            begun: row.get::<_, Option<i64>>(12).map(|until| (usize::try_from(row.get::<_, i64>(11)).unwrap(), until)),
        };
        rows.iter().map(|row| (row.get(0), progress(row))).collect()
    }

    async fn triggers(&self) -> HashSet<Uuid> {
        self.database.rows("select trigger_id from dispatcher.triggers", &[]).await.iter().map(|row| row.get(0)).collect()
    }

    async fn everything(&self) -> String {
        let sql = "select concat_ws(E'\\n',
            (select json_agg(t order by trigger_id) from dispatcher.triggers t),
            (select json_agg(s order by pipeline_id, ticker) from dispatcher.slots s),
            (select json_agg(publication_id order by publication_id) from dispatcher.publications),
            (select json_agg(p order by partition) from dispatcher.progress p))";
        self.database.rows(sql, &[]).await[0].get(0)
    }

    async fn start_execution(&self, id: Uuid, pipeline: Uuid, symbol: Option<&str>) {
        let sql = "insert into executions (id, pipeline_id, status, symbol) values ($1, $2, 'RUNNING', $3)";
        self.database.client.execute(sql, &[&id, &pipeline, &symbol]).await.unwrap();
    }

    async fn finish_execution(&self, id: Uuid, pipeline: Uuid) {
        let sql = "update executions set status = 'COMPLETED' where id = $1 and pipeline_id = $2";
        assert_eq!(self.database.client.execute(sql, &[&id, &pipeline]).await.unwrap(), 1);
    }
}

/// Pipelines in ascending order, as claims want them.
fn pipelines<const N: usize>() -> [Uuid; N] {
    let mut ids = [(); N].map(|()| Uuid::new_v4());
    ids.sort_unstable();
    ids
}

fn wanted_for(pipeline_id: Uuid, ticker: &str, signal_id: &str, place: (i32, i64)) -> Wanted {
    let text = TriggerText {
        trigger_id: trigger_id(pipeline_id, ticker, signal_id),
        signal_id: signal_id.into(),
        symbol: "AAPL".into(),
        head: r#"{"symbol": "AAPL"}"#.to_owned(),
        pieces: List::default(),
    };
    let (partition, offset) = place;
    Wanted { text, pipeline_id, ticker: ticker.to_owned(), partition, offset, record_time_ms: 0, shared: false }
}

/// A whole pipeline, wanted by the record at `offset` of partition 0.
fn wanted(pipeline_id: Uuid, offset: i64) -> Wanted {
    wanted_for(pipeline_id, "", &format!("signal {offset}"), (0, offset))
}

fn span(start: Held, offsets: Range<i64>) -> PartitionSpan {
    PartitionSpan {
        partition: start.partition,
        epoch: start.epoch,
        first_offset: offsets.start,
        next_offset: offsets.end,
        consumed: offsets.end - offsets.start,
        invalid: 0,
        stale: 0,
    }
}

/// A batch of one partition. Every record that wants nothing is unmatched.
fn request(start: Held, offsets: Range<i64>, wanted: Vec<Wanted>) -> ClaimRequest {
    let leading: HashSet<i64> = wanted.iter().map(|wanted| wanted.offset).collect();
    let unmatched = offsets.clone().filter(|offset| !leading.contains(offset)).count();
    let counts = PartitionCounts { unmatched: i64::try_from(unmatched).unwrap(), ..PartitionCounts::default() };
    ClaimRequest {
        publication_id: Uuid::new_v4(),
        spans: vec![(span(start, offsets), counts)],
        wanted,
        ..ClaimRequest::default()
    }
}

async fn open<C: Claims>(claims: &mut C) -> Held {
    held(&claims.open(&[0]).await.unwrap()[0])
}

async fn claimed<C: Claims>(claims: &mut C, request: &ClaimRequest) -> Claimed {
    match claims.claim(request).await.unwrap() {
        Verdict::Claimed(claimed) => claimed,
        other => panic!("expected a decision, got {other:?}"),
    }
}

async fn won<C: Claims>(claims: &mut C, request: &ClaimRequest) -> Vec<usize> {
    claimed(claims, request).await.won
}

/// What became of partition 0.
async fn progress<W: World>(world: &W) -> Progress {
    world.progress().await[&0]
}

async fn opening_fences_and_tells_where_to_go_on<W: World>(world: &W) {
    let mut first = world.claims();
    let mut starts = first.open(&[1, 0]).await.unwrap();
    starts.sort_unstable_by_key(|start| start.partition);
    let new = |partition| Start { partition, epoch: 1, ..Start::default() };
    assert_eq!(starts, [new(0), new(1)]);
    claimed(&mut first, &request(held(&starts[0]), 0..7, vec![])).await;

    let reopened = world.claims().open(&[0]).await.unwrap();
    assert_eq!(reopened, [Start { partition: 0, epoch: 2, next_offset: Some(7), ..Start::default() }]);
    // The other partition stays with its owner.
    claimed(&mut first, &request(held(&starts[1]), 0..1, vec![])).await;
}

async fn a_position_is_stored_once_and_by_the_owner_only<W: World>(world: &W) {
    let identity = |word: &str| Identity { cluster_id: Some(format!("c{word}")), topic_id: Some(format!("t{word}")) };
    let mut old = world.claims();
    let first = old.open(&[0, 1]).await.unwrap();
    let mut claims = world.claims();
    let start = held(&claims.open(&[0]).await.unwrap()[0]);
    let of = |epoch, next_offset, word| Position { epoch, next_offset, identity: identity(word), ..Position::default() };
    assert_eq!(old.position(&[of(first[0].epoch, 99, "x")]).await.unwrap(), [0_i32; 0], "another owner has it");
    for _ in 0..2 {
        assert_eq!(claims.position(&[of(start.epoch, 7, "1")]).await.unwrap(), [0], "may be repeated");
    }
    assert_eq!(progress(world).await, Progress { epoch: start.epoch, next_offset: Some(7), ..Progress::default() });
    // Records are decided from there on, and not before it.
    assert_eq!(claims.claim(&request(start, 6..8, vec![])).await.unwrap(), Verdict::Fenced(vec![0]));
    claimed(&mut claims, &request(start, 7..9, vec![])).await;
    // A repetition that comes late moves nothing back; ids that are known stay.
    assert_eq!(claims.position(&[of(start.epoch, 7, "2")]).await.unwrap(), [0]);
    let reopened = claims.open(&[0]).await.unwrap();
    let expected = Start { epoch: start.epoch + 1, next_offset: Some(9), identity: identity("1"), ..Start::default() };
    assert_eq!(reopened, [expected]);
    // Another member of the group has gone further: what it has decided is not counted as ours.
    assert_eq!(claims.position(&[of(start.epoch + 1, 20, "1")]).await.unwrap(), [0]);
    let now = progress(world).await;
    assert_eq!((now.next_offset, now.consumed), (Some(20), 2));
}

async fn a_claim_moves_the_progress_and_wins_idle_slots<W: World>(world: &W) {
    let [a, b] = pipelines();
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    let request = request(start, 10..15, vec![wanted(a, 11), wanted(b, 13)]);
    let claimed = claimed(&mut claims, &request).await;

    assert_eq!((claimed.won, claimed.known, claimed.unknown_statuses), (vec![0, 1], vec![], vec![]));
    #[expect(clippy::disallowed_methods, reason = "the lease is compared with the time of day")]
    let left = claimed.leased_until.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((LEASE.as_secs() as i64 - 30..=LEASE.as_secs() as i64 + 30).contains(&left), "{left}");
    let ids: HashSet<_> = request.wanted.iter().map(|wanted| wanted.text.trigger_id).collect();
    assert_eq!(world.triggers().await, ids);
    let expected = Progress { epoch: 1, next_offset: Some(15), consumed: 5, triggered: 2, unmatched: 3, ..Progress::default() };
    assert_eq!(progress(world).await, expected);
}

async fn a_batch_that_wants_nothing_moves_the_progress_all_the_same<W: World>(world: &W) {
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    assert_eq!(won(&mut claims, &request(start, 0..3, vec![])).await, [0_usize; 0]);
    assert_eq!(progress(world).await.next_offset, Some(3));
    assert_eq!(world.triggers().await.len(), 0);
}

async fn a_held_slot_is_busy<W: World>(world: &W) {
    let [a, b] = pipelines();
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    assert_eq!(won(&mut claims, &request(start, 0..1, vec![wanted(a, 0)])).await, [0]);
    assert_eq!(won(&mut claims, &request(start, 1..3, vec![wanted(a, 1), wanted(b, 2)])).await, [1]);
    let now = progress(world).await;
    assert_eq!((now.triggered, now.busy), (2, 1));
}

async fn a_repeated_claim_has_the_same_winners_and_moves_nothing_twice<W: World>(world: &W) {
    let [a, b, c] = pipelines();
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    won(&mut claims, &request(start, 0..1, vec![wanted(b, 0)])).await;
    let request = request(start, 1..5, vec![wanted(a, 1), wanted(b, 2), wanted(c, 3)]);
    let first = claimed(&mut claims, &request).await;
    assert_eq!(first.won, [0, 2]);
    let before = world.everything().await;

    // The reply was lost: the same connection, or a new one of the same instance, asks again.
    for mut again in [claims, world.claims()] {
        let repeated = claimed(&mut again, &request).await;
        assert_eq!(repeated.won, [0, 2]);
        let apart = repeated.leased_until.duration_since(first.leased_until).as_secs().abs();
        assert!(apart < 60, "the lease is {apart} s apart");
    }
    assert_eq!(world.everything().await, before);
}

async fn a_repeated_claim_that_won_nothing_wins_nothing<W: World>(world: &W) {
    let [a] = pipelines();
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    won(&mut claims, &request(start, 0..1, vec![wanted(a, 0)])).await;
    let busy = request(start, 1..2, vec![wanted(a, 1)]);
    for _ in 0..3 {
        assert_eq!(won(&mut claims, &busy).await, [0_usize; 0]);
    }
    assert_eq!(progress(world).await.busy, 1);
}

async fn an_old_epoch_is_fenced_and_changes_nothing<W: World>(world: &W) {
    let [a] = pipelines();
    let (mut old, mut new) = (world.claims(), world.claims());
    let old_start = open(&mut old).await;
    let new_start = open(&mut new).await;
    let before = world.everything().await;
    let request_of = |start| request(start, 0..2, vec![wanted(a, 0)]);
    assert_eq!(old.claim(&request_of(old_start)).await.unwrap(), Verdict::Fenced(vec![0]));
    assert_eq!(world.everything().await, before);
    assert_eq!(won(&mut new, &request_of(new_start)).await, [0]);
}

async fn a_span_behind_the_progress_is_fenced<W: World>(world: &W) {
    let [a] = pipelines();
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    claimed(&mut claims, &request(start, 0..5, vec![])).await;
    let before = world.everything().await;
    let overlapping = request(start, 3..8, vec![wanted(a, 6)]);
    assert_eq!(claims.claim(&overlapping).await.unwrap(), Verdict::Fenced(vec![0]));
    assert_eq!(world.everything().await, before);
    // A gap is no overlap: offsets of a compacted or transactional topic have gaps.
    assert_eq!(won(&mut claims, &request(start, 6..8, vec![wanted(a, 6)])).await, [0]);
}

async fn one_fenced_span_fences_the_batch_and_is_named<W: World>(world: &W) {
    let [a] = pipelines();
    let mut claims = world.claims();
    let mut starts = claims.open(&[0, 1]).await.unwrap();
    starts.sort_unstable_by_key(|start| start.partition);
    world.claims().open(&[1]).await.unwrap();
    let before = world.everything().await;
    let mut both = request(held(&starts[0]), 0..1, vec![wanted(a, 0)]);
    both.spans.push((span(held(&starts[1]), 0..4), PartitionCounts::default()));
    assert_eq!(claims.claim(&both).await.unwrap(), Verdict::Fenced(vec![1]));
    assert_eq!(world.everything().await, before);
    both.spans.pop();
    assert_eq!(won(&mut claims, &both).await, [0]);
}

async fn a_partition_that_nobody_opened_is_fenced<W: World>(world: &W) {
    let mut claims = world.claims();
    let made_up = Held { partition: 3, epoch: 1 };
    assert_eq!(claims.claim(&request(made_up, 0..1, vec![])).await.unwrap(), Verdict::Fenced(vec![3]));
    assert_eq!(world.progress().await.len(), 0);
}

async fn a_known_trigger_that_another_signal_could_lead_changes_nothing<W: World>(world: &W) {
    let [a, b] = pipelines();
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    won(&mut claims, &request(start, 0..1, vec![wanted(b, 0)])).await;
    let before = world.everything().await;

    // The producer sent the same signal again, at another offset.
    let mut known = Wanted { offset: 2, shared: true, ..wanted(b, 0) };
    let again = request(start, 1..3, vec![wanted(a, 1), known.clone()]);
    assert_eq!(claims.claim(&again).await.unwrap(), Verdict::Known(vec![1]));
    assert_eq!(world.everything().await, before);

    // The same batch, once nobody else could lead.
    known.shared = false;
    let decided = claimed(&mut claims, &ClaimRequest { wanted: vec![wanted(a, 1), known], ..again }).await;
    assert_eq!((decided.won, decided.known), (vec![0], vec![1]));
}

async fn a_known_trigger_that_no_other_signal_could_lead_is_redelivered<W: World>(world: &W) {
    let [a] = pipelines();
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    let first = wanted(a, 0);
    let id = first.text.trigger_id;
    won(&mut claims, &request(start, 0..1, vec![first.clone()])).await;
    // Idle again: still it must not start twice for one signal.
    world.start_execution(id, a, None).await;
    world.finish_execution(id, a).await;
    let again = claimed(&mut claims, &request(start, 1..2, vec![Wanted { offset: 1, ..first }])).await;
    assert_eq!((again.won, again.known), (vec![], vec![0]));
    let now = progress(world).await;
    assert_eq!((now.triggered, now.redelivered, now.busy), (1, 1, 0));
    assert_eq!(world.triggers().await, HashSet::from([id]));
}

/// The ledger need not be asked about a slot that is busy with something else, and nobody else is asked to lead there.
async fn what_is_known_is_told_of_a_slot_that_it_holds_or_that_is_idle_and_of_no_other<W: World>(world: &W) {
    let [a] = pipelines();
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    let (first, second) = (wanted(a, 0), wanted(a, 1));
    let again = |offset: i64| request(start, offset..offset + 1, vec![Wanted { offset, shared: true, ..first.clone() }]);
    let over = async |trigger: &Wanted| {
        world.start_execution(trigger.text.trigger_id, a, None).await;
        world.finish_execution(trigger.text.trigger_id, a).await;
    };
    won(&mut claims, &request(start, 0..1, vec![first.clone()])).await;
    assert_eq!(claims.claim(&again(1)).await.unwrap(), Verdict::Known(vec![0]), "it holds the slot");
    over(&first).await;
    assert_eq!(won(&mut claims, &request(start, 1..2, vec![second.clone()])).await, [0]);
    let busy = claimed(&mut claims, &again(2)).await;
    assert_eq!((busy.won, busy.known), (vec![], vec![]), "another trigger holds it");
    over(&second).await;
    assert_eq!(claims.claim(&again(3)).await.unwrap(), Verdict::Known(vec![0]), "it is idle");
    let now = progress(world).await;
    assert_eq!((now.triggered, now.redelivered, now.busy), (2, 0, 1));
}

async fn arguments_that_come_in_pieces_are_kept_whole<W: World>(world: &W) {
    let mut claims = world.claims();
    let start = held(&claims.open(&[0]).await.unwrap()[0]);
    let mut pieces = Pieces::default();
    // Characters of one to four bytes, for pieces are cut by bytes; and one piece that nobody names.
    let [a, _, b, end] = [r#", "é": "€"#, "unused", "🚀", r#""}"#].map(|piece| pieces.add(piece));
    let (short, none, long) = (pieces.list([a, end]), pieces.list([]), pieces.list([a, b, b, end]));
    let texts = [(r#"{"n": 1"#, short), (r#"{"n": 2}"#, none), (r#"{"n": 3"#, long), (r#"{"n": 4"#, short)];
    let wanted = pipelines::<4>().into_iter().zip(texts).map(|(pipeline, (head, list))| {
        let slot = wanted(pipeline, 0);
        let text = TriggerText { head: head.to_owned(), pieces: list, ..slot.text };
        // As fresh as it is, for triggers of old signals are not published.
        Wanted { text, record_time_ms: trigger_dispatcher::clock::unix_ms(), ..slot }
    });
    let request = ClaimRequest { pieces, ..request(start, 0..1, wanted.collect()) };

    let won = claimed(&mut claims, &request).await.won;

    assert_eq!(won, [0, 1, 2, 3], "the slots are idle");
    let Renewal::Taken(taken) = claims.renew(request.publication_id).await.unwrap() else { panic!("it is not published") };
    let mut kept: Vec<String> = taken.publication.tasks.into_iter().map(|task| task.kwargs).collect();
    kept.sort_unstable();
    assert_eq!(kept, [r#"{"n": 1, "é": "€"}"#, r#"{"n": 2}"#, r#"{"n": 3, "é": "€🚀🚀"}"#, r#"{"n": 4, "é": "€"}"#]);
}

async fn the_counts_add_up<W: World>(world: &W) {
    let [a, b, c] = pipelines();
    let mut claims = world.claims();
    let mut starts = claims.open(&[0, 1]).await.unwrap();
    starts.sort_unstable_by_key(|start| start.partition);
    won(&mut claims, &request(held(&starts[0]), 0..2, vec![wanted(a, 0), wanted(b, 1)])).await;

    let mixed = ClaimRequest {
        publication_id: Uuid::new_v4(),
        spans: vec![
            // 3 of 12 unmatched, 2 merged, 1 known to matching; 1 bad, 2 stale; then one busy, one redelivered, one triggered.
            (
                PartitionSpan { consumed: 12, invalid: 1, stale: 2, ..span(held(&starts[0]), 2..20) },
                PartitionCounts { unmatched: 3, merged: 2, redelivered: 1, ..PartitionCounts::default() },
            ),
            (PartitionSpan { stale: 4, ..span(held(&starts[1]), 5..10) }, PartitionCounts::default()),
        ],
        wanted: vec![Wanted { offset: 9, ..wanted(a, 0) }, wanted(b, 10), wanted_for(c, "", "other", (1, 9))],
        ..ClaimRequest::default()
    };
    // One record of partition 0 leads a fourth slot.
    let [last] = pipelines();
    let mut mixed = ClaimRequest { wanted: mixed.wanted.into_iter().chain([wanted(last, 11)]).collect(), ..mixed };
    mixed.wanted.sort_by_key(|wanted| wanted.pipeline_id);
    claimed(&mut claims, &mixed).await;

    let progress = world.progress().await;
    let next = |next_offset, consumed| Progress { epoch: 1, next_offset: Some(next_offset), consumed, ..Progress::default() };
    let zero = Progress {
        triggered: 2 + 1,
        busy: 1,
        redelivered: 1 + 1,
        merged: 2,
        unmatched: 3,
        stale: 2,
        invalid: 1,
        ..next(20, 2 + 12)
    };
    assert_eq!(progress[&0], zero);
    assert_eq!(progress[&1], Progress { triggered: 1, stale: 4, ..next(10, 5) });
    for counted in progress.values() {
        let Progress { triggered, busy, redelivered, merged, unmatched, stale, invalid, .. } = *counted;
        assert_eq!(counted.consumed, triggered + busy + redelivered + merged + unmatched + stale + invalid);
    }
}

async fn a_record_that_leads_several_slots_is_counted_once<W: World>(world: &W) {
    let [a, b, c] = pipelines();
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    won(&mut claims, &request(start, 0..1, vec![wanted(a, 0)])).await;
    // Busy for a, triggered for b: triggered.
    assert_eq!(won(&mut claims, &request(start, 1..2, vec![wanted(a, 1), wanted(b, 1)])).await, [1]);
    // Known for a, busy for b: busy.
    let known = Wanted { offset: 2, ..wanted(a, 0) };
    assert_eq!(won(&mut claims, &request(start, 2..3, vec![known, wanted(b, 2)])).await, [0_usize; 0]);
    // Two at once: triggered, once.
    let [d] = pipelines();
    let mut two = vec![wanted(c, 3), wanted(d, 3)];
    two.sort_by_key(|wanted| wanted.pipeline_id);
    assert_eq!(won(&mut claims, &request(start, 3..4, two)).await, [0, 1]);
    let now = progress(world).await;
    assert_eq!((now.consumed, now.triggered, now.busy, now.redelivered), (4, 3, 1, 0));
}

async fn an_active_execution_keeps_its_pipeline_busy<W: World>(world: &W) {
    let [a, b] = pipelines();
    let execution = Uuid::new_v4();
    // Started by hand: nothing of it stands in our tables.
    world.start_execution(execution, a, Some("TSLA")).await;
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    assert_eq!(won(&mut claims, &request(start, 0..2, vec![wanted(a, 0), wanted(b, 1)])).await, [1]);
    world.finish_execution(execution, a).await;
    assert_eq!(won(&mut claims, &request(start, 2..3, vec![wanted(a, 2)])).await, [0]);
}

async fn a_finished_execution_of_the_trigger_frees_the_slot<W: World>(world: &W) {
    let [a] = pipelines();
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    let first = wanted(a, 0);
    let execution = first.text.trigger_id;
    won(&mut claims, &request(start, 0..1, vec![first])).await;
    world.start_execution(execution, a, None).await;
    assert_eq!(won(&mut claims, &request(start, 1..2, vec![wanted(a, 1)])).await, [0_usize; 0]);
    world.finish_execution(execution, a).await;
    assert_eq!(won(&mut claims, &request(start, 2..3, vec![wanted(a, 2)])).await, [0]);
    // The new holder holds it.
    assert_eq!(won(&mut claims, &request(start, 3..4, vec![wanted(a, 3)])).await, [0_usize; 0]);
}

async fn a_finished_execution_under_an_id_of_its_own_frees_the_slot<W: World>(world: &W) {
    let [a, b] = pipelines();
    // It ended before the claim, so it is not the claim's.
    let earlier = Uuid::new_v4();
    world.start_execution(earlier, a, None).await;
    world.finish_execution(earlier, a).await;
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    assert_eq!(won(&mut claims, &request(start, 0..2, vec![wanted(a, 0), wanted(b, 1)])).await, [0, 1]);
    assert_eq!(won(&mut claims, &request(start, 2..3, vec![wanted(a, 2)])).await, [0_usize; 0]);
    let execution = Uuid::new_v4();
    world.start_execution(execution, a, None).await;
    assert_eq!(won(&mut claims, &request(start, 3..4, vec![wanted(a, 3)])).await, [0_usize; 0]);
    world.finish_execution(execution, a).await;
    assert_eq!(won(&mut claims, &request(start, 4..6, vec![wanted(a, 4), wanted(b, 5)])).await, [0]);
}

async fn a_lease_that_runs_out_frees_the_slot<W: World>(_: &W) {
    let world = W::create(Duration::from_millis(400)).await;
    let [a] = pipelines();
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    assert_eq!(won(&mut claims, &request(start, 0..1, vec![wanted(a, 0)])).await, [0]);
    let claimed_at = Instant::now();
    let mut offset = 1;
    while won(&mut claims, &request(start, offset..offset + 1, vec![wanted(a, offset)])).await.is_empty() {
        offset += 1;
        assert!(claimed_at.elapsed() < Duration::from_secs(20), "the lease has not run out");
        tokio::task::yield_now().await;
    }
    assert!(claimed_at.elapsed() >= Duration::from_millis(300), "freed before its lease ran out");
    assert_eq!(world.triggers().await.len(), 2);
}

async fn confirmations_are_written_by_a_flush_or_with_the_next_claim<W: World>(world: &W) {
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    assert!(!claims.has_unwritten());
    claims.confirm(Uuid::new_v4());
    assert!(claims.has_unwritten());
    claims.flush().await.unwrap();
    assert!(!claims.has_unwritten());
    claims.flush().await.unwrap();

    claims.confirm(Uuid::new_v4());
    claimed(&mut claims, &request(start, 0..1, vec![])).await;
    assert!(!claims.has_unwritten());
}

async fn slots_of_tickers_are_independent<W: World>(world: &W) {
    let [a] = pipelines();
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    let slot = |ticker: &str, offset| wanted_for(a, ticker, &format!("signal {offset}"), (0, offset));
    assert_eq!(won(&mut claims, &request(start, 0..1, vec![slot("AAPL", 0)])).await, [0]);
    assert_eq!(won(&mut claims, &request(start, 1..3, vec![slot("AAPL", 1), slot("MSFT", 2)])).await, [1]);
    // One signal may start both, under ids of their own.
    assert_ne!(slot("AAPL", 0).text.trigger_id, slot("MSFT", 0).text.trigger_id);
}

async fn an_execution_keeps_the_slots_of_its_ticker_busy<W: World>(world: &W) {
    let [a] = pipelines();
    let (of_aapl, of_all) = (Uuid::new_v4(), Uuid::new_v4());
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    let slots =
        |offset: i64| ["AAPL", "MSFT"].map(|ticker| wanted_for(a, ticker, &format!("signal {offset}"), (0, offset))).to_vec();
    // Symbols compare as tickers do: trimmed and in upper case.
    world.start_execution(of_aapl, a, Some(" aapl ")).await;
    assert_eq!(won(&mut claims, &request(start, 0..1, slots(0))).await, [1]);
    world.finish_execution(of_aapl, a).await;
    // Without a symbol, an execution is for the whole pipeline.
    world.start_execution(of_all, a, None).await;
    assert_eq!(won(&mut claims, &request(start, 1..2, slots(1))).await, [0_usize; 0]);
    world.finish_execution(of_all, a).await;
    assert_eq!(won(&mut claims, &request(start, 2..3, slots(2))).await, [0, 1]);
}

/// A part of a batch, which goes on.
fn part(start: Held, offsets: Range<i64>, wanted: Vec<Wanted>) -> ClaimRequest {
    ClaimRequest { goes_on: true, ..request(start, offsets, wanted) }
}

async fn begun<C: Claims>(claims: &mut C, partitions: &[i32]) -> Vec<(i32, i64)> {
    let mut places = claims.begun(partitions).await.unwrap();
    places.sort_unstable();
    places
}

async fn a_part_wins_its_slots_and_moves_neither_offset_nor_counts<W: World>(world: &W) {
    let [a, b] = pipelines();
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    assert_eq!(begun(&mut claims, &[0]).await, []);
    let first = part(start, 0..3, vec![wanted(a, 0), wanted(b, 2)]);
    assert_eq!(won(&mut claims, &first).await, [0, 1]);
    let ids: HashSet<_> = first.wanted.iter().map(|wanted| wanted.text.trigger_id).collect();
    assert_eq!(world.triggers().await, ids);
    assert_eq!(progress(world).await, Progress { epoch: 1, begun: Some((1, 3)), ..Progress::default() });
}

async fn the_last_part_moves_the_offset_and_counts_what_it_is_told<W: World>(world: &W) {
    let [a, b] = pipelines();
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    won(&mut claims, &part(start, 0..6, vec![wanted(a, 0)])).await;
    won(&mut claims, &part(start, 0..6, vec![wanted(b, 0)])).await;
    let mut last = request(start, 0..6, vec![]);
    last.spans[0].1 = PartitionCounts { triggered: 1, busy: 2, redelivered: 1, merged: 1, unmatched: 1 };
    assert_eq!(won(&mut claims, &last).await, [0_usize; 0]);
    let expected = Progress {
        epoch: 1,
        next_offset: Some(6),
        consumed: 6,
        triggered: 1,
        busy: 2,
        redelivered: 1,
        merged: 1,
        unmatched: 1,
        ..Progress::default()
    };
    assert_eq!(progress(world).await, expected);
    // And again, when its reply was lost.
    assert_eq!(won(&mut claims, &last).await, [0_usize; 0]);
    assert_eq!(progress(world).await, expected);
}

async fn a_repeated_part_has_the_same_winners_and_knows_what_it_knew<W: World>(world: &W) {
    let [a, b, c] = pipelines();
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    won(&mut claims, &request(start, 0..1, vec![wanted(b, 0)])).await;
    let known = Wanted { offset: 2, ..wanted(b, 0) };
    let some = part(start, 1..5, vec![wanted(a, 1), known, wanted(c, 3)]);
    for mut again in [claims, world.claims(), world.claims()] {
        let claimed = claimed(&mut again, &some).await;
        assert_eq!((claimed.won, claimed.known), (vec![0, 2], vec![1]));
        assert_eq!(progress(world).await.begun, Some((1, 5)));
    }
}

async fn a_part_that_comes_late_changes_nothing<W: World>(world: &W) {
    let [a, b] = pipelines();
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    let (first, second) = (part(start, 0..1, vec![wanted(a, 0)]), part(start, 0..1, vec![wanted(b, 0)]));
    won(&mut claims, &first).await;
    won(&mut claims, &second).await;
    let before = world.everything().await;
    assert_eq!(won(&mut claims, &first).await, [0]);
    assert_eq!(world.everything().await, before);
    won(&mut claims, &request(start, 0..1, vec![])).await;
    let before = world.everything().await;
    assert_eq!(won(&mut claims, &first).await, [0]);
    assert_eq!(world.everything().await, before);
}

async fn a_part_of_an_old_epoch_is_fenced_and_changes_nothing<W: World>(world: &W) {
    let [a, b] = pipelines();
    let (mut old, mut new) = (world.claims(), world.claims());
    let start = open(&mut old).await;
    let first = part(start, 0..1, vec![wanted(a, 0)]);
    won(&mut old, &first).await;
    open(&mut new).await;
    let before = world.everything().await;
    for late in [first, part(start, 0..1, vec![wanted(b, 0)]), request(start, 0..1, vec![])] {
        assert_eq!(old.claim(&late).await.unwrap(), Verdict::Fenced(vec![0]));
    }
    assert_eq!(world.everything().await, before);
}

async fn what_was_begun_is_found_until_an_offset_has_passed_it<W: World>(world: &W) {
    let [a, b, c] = pipelines();
    let mut claims = world.claims();
    let mut starts = claims.open(&[0, 1]).await.unwrap();
    starts.sort_unstable_by_key(|start| start.partition);
    let mut both = part(held(&starts[0]), 0..9, vec![wanted(a, 3), wanted(b, 7), wanted_for(c, "", "other", (1, 2))]);
    both.spans.push((span(held(&starts[1]), 0..5), PartitionCounts::default()));
    won(&mut claims, &both).await;

    // The instance is gone; its partitions have new owners.
    let mut next = world.claims();
    let mut starts = next.open(&[0, 1]).await.unwrap();
    starts.sort_unstable_by_key(|start| start.partition);
    assert_eq!(begun(&mut next, &[0, 1, 2]).await, [(0, 3), (0, 7), (1, 2)]);
    assert_eq!(begun(&mut next, &[1]).await, [(1, 2)]);
    // A batch that goes less far, and one that goes further.
    won(&mut next, &request(held(&starts[0]), 0..5, vec![])).await;
    assert_eq!(begun(&mut next, &[0, 1]).await, [(0, 7), (1, 2)]);
    won(&mut next, &request(held(&starts[0]), 5..10, vec![])).await;
    assert_eq!(begun(&mut next, &[0, 1]).await, [(1, 2)]);
    assert_eq!((world.progress().await[&0].begun, world.progress().await[&1].begun), (None, Some((1, 5))));
}

async fn racing_claimers_win_each_slot_once<W: World>(world: &W) {
    const CLAIMERS: i32 = 8;
    const BATCHES: i64 = 40;
    let everyone: [Uuid; 150] = pipelines();
    let mut racing = JoinSet::new();
    for partition in 0..CLAIMERS {
        let mut claims = world.claims();
        racing.spawn(async move {
            let start = held(&claims.open(&[partition]).await.unwrap()[0]);
            let mut wins = Vec::new();
            for offset in 0..BATCHES {
                let mut chosen: Vec<Uuid> = everyone.choose_multiple(&mut rand::rng(), 20).copied().collect();
                // As matching sorts them: unsorted, they deadlock.
                chosen.sort_unstable();
                let signal = format!("signal {partition} {offset}");
                let wanted: Vec<_> = chosen.iter().map(|id| wanted_for(*id, "", &signal, (partition, offset))).collect();
                // Any error, a deadlock among them, fails the test.
                let won = won(&mut claims, &request(start, offset..offset + 1, wanted)).await;
                wins.extend(won.into_iter().map(|position| chosen[position]));
            }
            wins
        });
    }
    let wins = racing.join_all().await.concat();
    let slots: HashSet<_> = wins.iter().copied().collect();
    assert_eq!(wins.len(), slots.len(), "a slot was won twice");
    assert_eq!(world.triggers().await.len(), slots.len());
    assert_eq!(slots.len(), everyone.len());
    for progress in world.progress().await.values() {
        assert_eq!((progress.consumed, progress.triggered + progress.busy), (BATCHES, BATCHES));
    }
}

/// A producer sent it twice, to two partitions: their owners decide it at once.
async fn racing_claimers_of_one_signal_make_one_trigger_of_it<W: World>(world: &W) {
    const CLAIMERS: i32 = 4;
    let slots: [[Uuid; 5]; 30] = [(); 30].map(|()| pipelines());
    let mut racing = JoinSet::new();
    for partition in 0..CLAIMERS {
        let mut claims = world.claims();
        racing.spawn(async move {
            let start = held(&claims.open(&[partition]).await.unwrap()[0]);
            let mut wins = 0;
            for (offset, slots) in (0..).zip(&slots) {
                let signal = format!("signal {offset}");
                let wanted = slots.iter().map(|id| wanted_for(*id, "", &signal, (partition, offset))).collect();
                wins += won(&mut claims, &request(start, offset..offset + 1, wanted)).await.len();
            }
            wins
        });
    }
    let wins: usize = racing.join_all().await.into_iter().sum();
    assert_eq!(wins, slots.concat().len());
    assert_eq!(world.triggers().await.len(), wins);
}

/// The plan of a claim is kept while the tables grow: made for empty ones, it must not read all of them when they are full.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_looks_up_each_slot_by_index_even_with_a_plan_made_for_empty_tables() {
    let world = Postgres::create(LEASE).await;
    // From now on PostgreSQL takes the tables' word for it that they are empty.
    world.database.run("vacuum analyze").await;
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    let batches = 30;
    for batch in 0..batches {
        let mut wants: Vec<_> = (0..50).map(|_| wanted(Uuid::new_v4(), batch)).collect();
        wants.sort_unstable_by_key(|wanted| wanted.pipeline_id);
        let request = request(start, batch..batch + 1, wants);
        assert_eq!(won(&mut claims, &request).await.len(), 50);
        claims.confirm(request.publication_id);
    }
    // A session's counts are written when it ends, at the latest.
    drop(claims);
    let sql = "select min(idx_scan)::bigint, sum(seq_scan)::bigint,
            (select sum(idx_tup_read)::bigint from pg_stat_user_indexes
                where schemaname = 'dispatcher' and relname like 'publications%')
        from pg_stat_user_tables
        where schemaname = 'dispatcher' and relname in ('slots', 'triggers_first', 'publications_first')";
    let scans = wait_until("the counts of scans", 60, async || {
        let row = &world.database.rows(sql, &[]).await[0];
        let (by_index, whole, publications): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        (by_index.max(whole) >= batches - 1).then_some((by_index, whole, publications))
    });
    let (by_index, whole, publications) = scans.await;
    // Making an index reads its table once, and so does taking a table over as a partition. The first session reads the evidence of
    // workers: the last pages of the publications, and where these are few, the slots.
    assert!(whole <= 8, "{whole} scans of whole tables, {by_index} by index");
    // A confirmation finds its own publication to lock it, and again to write it.
    assert!(publications <= 2 * batches, "{batches} confirmations have read {publications} publications");
}

/// A producer writes into a record's time whatever it likes.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_with_any_time_is_claimed() {
    let world = Postgres::create(LEASE).await;
    let mut claims = world.claims();
    let start = open(&mut claims).await;
    for (offset, record_time_ms) in (0..).zip([i64::MIN, -1, 0, 253_402_300_800_000, i64::MAX]) {
        let wanted = Wanted { record_time_ms, ..wanted(Uuid::new_v4(), offset) };
        assert_eq!(won(&mut claims, &request(start, offset..offset + 1, vec![wanted])).await.len(), 1, "{record_time_ms}");
    }
}
