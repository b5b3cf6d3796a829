//! What every `Source` promises.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use trigger_dispatcher::clock;
use trigger_dispatcher::config::{BatchConfig, Flush, KafkaConfig};
use trigger_dispatcher::intake::kafka::KafkaSource;
use trigger_dispatcher::intake::memory::{MemoryRecord, MemorySource, MemoryTopic};
use trigger_dispatcher::intake::{Arrival, Batch, Position, Reason, Rejected, Source, Start};
use trigger_dispatcher::rules::PartitionCounts;
use trigger_dispatcher::store::memory::{MemoryClaims, MemoryStore};
use trigger_dispatcher::store::{ClaimRequest, Claims as _, Verdict};

use crate::support::settings::config;
use crate::support::topic::TestTopic;
use crate::support::{service, unique, wait_for};

macro_rules! conformance {
    ($($test:ident($partitions:literal))*) => {
        mod kafka {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(&<super::Kafka as super::World>::create($partitions).await).await;
            })*
        }
        mod memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(&<super::Memory as super::World>::create($partitions).await).await;
            })*
        }
    };
}

conformance! {
    the_assignment_is_announced_before_any_record(3)
    records_arrive_once_and_in_order(3)
    reading_starts_where_the_store_says(2)
    what_the_store_does_not_know_starts_where_kafka_was_told(1)
    bad_records_keep_their_bytes_and_have_a_reason(1)
    a_commit_becomes_visible(2)
    closing_hands_the_last_commit_on(1)
    cancelling_the_wait_loses_nothing(2)
    a_window_waits_until_it_is_full(1)
    a_second_member_takes_half(2)
    undecided_records_stay_behind_after_a_revoke(2)
    closing_leaves_the_group(2)
    where_reading_starts_is_told_before_the_first_record(2)
    a_committed_offset_ahead_of_the_stores_is_where_reading_goes_on(1)
    records_that_are_decided_are_passed_over(1)
}

/// Longer than Kafka takes for anything here.
const PATIENCE: Duration = Duration::from_secs(30);

/// A topic that one consumer group reads.
trait World: Sized {
    type Source: Source;
    async fn create(partitions: i32) -> Self;
    fn join(&self, batch: &BatchConfig) -> Self::Source;
    /// Appends records, and returns once they are in the topic.
    fn produce(&self, partition: i32, records: Vec<MemoryRecord>);
    /// The group's committed offsets.
    fn committed(&self) -> BTreeMap<i32, i64>;
    /// Reason, offset, payload and key of what was rejected.
    fn dead_letters(&self) -> Vec<(Reason, i64, Option<Vec<u8>>, Option<Vec<u8>>)>;
}

struct Memory(MemoryTopic);

impl World for Memory {
    type Source = MemorySource;

    async fn create(partitions: i32) -> Self {
        Self(MemoryTopic::new(usize::try_from(partitions).unwrap()))
    }

    fn join(&self, batch: &BatchConfig) -> MemorySource {
        self.0.join(batch)
    }

    fn produce(&self, partition: i32, records: Vec<MemoryRecord>) {
        for record in records {
            self.0.produce(usize::try_from(partition).unwrap(), MemoryRecord { time_ms: clock::unix_ms(), ..record });
        }
    }

    fn committed(&self) -> BTreeMap<i32, i64> {
        self.0.committed()
    }

    fn dead_letters(&self) -> Vec<(Reason, i64, Option<Vec<u8>>, Option<Vec<u8>>)> {
        let letter = |letter: Rejected| (letter.reason, letter.offset, letter.payload, letter.key);
        self.0.dead_letters().into_iter().map(letter).collect()
    }
}

struct Kafka {
    topic: TestTopic,
    config: KafkaConfig,
}

impl World for Kafka {
    type Source = KafkaSource;

    async fn create(partitions: i32) -> Self {
        service("TEST_KAFKA");
        let topic = TestTopic::create(partitions).await;
        let mut config = config("redis://unused/0", None).kafka;
        config.signal_topic.clone_from(&topic.name);
        config.dead_letter_topic = format!("{}.dead-letter", topic.name);
        config.consumer_group = unique("group");
        // A member learns of a rebalance with its next heartbeat: by default only every 3 s.
        config.properties = vec![("heartbeat.interval.ms".to_owned(), "200".to_owned().into())];
        Self { topic, config }
    }

    fn join(&self, batch: &BatchConfig) -> KafkaSource {
        KafkaSource::connect(&self.config, batch, None, None, &std::sync::Arc::default()).unwrap()
    }

    fn produce(&self, partition: i32, records: Vec<MemoryRecord>) {
        for record in records {
            self.topic.send_record(partition, record.key.as_deref(), record.payload.as_deref(), &record.headers);
        }
        self.topic.flush();
    }

    fn committed(&self) -> BTreeMap<i32, i64> {
        let committed = self.topic.committed(&self.config.consumer_group);
        (0..).zip(committed).filter_map(|(partition, offset)| Some((partition, offset?))).collect()
    }

    fn dead_letters(&self) -> Vec<(Reason, i64, Option<Vec<u8>>, Option<Vec<u8>>)> {
        let letter = |letter: crate::support::topic::DeadLetter| {
            let word = letter.header("dead-letter-reason").unwrap();
            let reason = Reason::ALL.into_iter().find(|reason| reason.as_str() == word).unwrap();
            (reason, letter.header("dead-letter-offset").unwrap().parse().unwrap(), letter.payload, letter.key)
        };
        self.topic.dead_letters().into_iter().map(letter).collect()
    }
}

/// Every batch leaves at once.
fn eager() -> BatchConfig {
    BatchConfig { size: 1, timeout: Duration::from_millis(1), flush: Flush::Eager, queries_per_second: None }
}

/// No batch leaves before it holds `size` records.
fn window(size: usize) -> BatchConfig {
    BatchConfig { size, timeout: Duration::from_secs(3_600), flush: Flush::Window, queries_per_second: None }
}

/// A signal whose ticker tells it from every other.
fn signal(partition: i32, number: i64) -> MemoryRecord {
    let payload = format!(r#"{{"tickers": [{{"ticker": "{}"}}]}}"#, ticker(partition, number));
    MemoryRecord { payload: Some(payload.into_bytes()), ..MemoryRecord::default() }
}

fn ticker(partition: i32, number: i64) -> String {
    format!("P{partition}N{number}")
}

fn produce<W: World>(world: &W, partition: i32, numbers: std::ops::Range<i64>) {
    world.produce(partition, numbers.map(|number| signal(partition, number)).collect());
}

/// The next arrival but for positions, which have tests of their own.
async fn next<S: Source>(source: &mut S) -> Arrival {
    loop {
        match tokio::time::timeout(PATIENCE, source.next()).await.expect("an arrival in time") {
            Arrival::Positioned(_) => {}
            other => return other,
        }
    }
}

async fn assigned<S: Source>(source: &mut S) -> Vec<i32> {
    match next(source).await {
        Arrival::Assigned(mut partitions) => {
            partitions.sort_unstable();
            partitions
        }
        other => panic!("expected an assignment, got {other:?}"),
    }
}

async fn batch<S: Source>(source: &mut S) -> Batch {
    match next(source).await {
        Arrival::Batch(batch) => batch,
        other => panic!("expected a batch, got {other:?}"),
    }
}

fn new(partition: i32) -> Start {
    Start { partition, epoch: 1, ..Start::default() }
}

/// A member that reads the given partitions from their beginnings.
async fn reader<W: World>(world: &W, batch: &BatchConfig, partitions: &[i32]) -> W::Source {
    let mut source = world.join(batch);
    assert_eq!(assigned(&mut source).await, partitions);
    source.start(&partitions.iter().copied().map(new).collect::<Vec<_>>()).await.unwrap();
    source
}

/// What has arrived, by partition: offset and ticker.
#[derive(Debug, Default, PartialEq)]
struct Read(BTreeMap<i32, Vec<(i64, String)>>);

impl Read {
    fn add(&mut self, batch: &Batch) {
        for span in batch.offsets.spans() {
            let of_it = batch.signals().iter().filter(|signal| signal.partition == span.partition);
            let offsets: Vec<_> = of_it.map(|signal| signal.offset).collect();
            assert_eq!((span.first_offset, span.next_offset), (offsets[0], offsets[offsets.len() - 1] + 1));
            assert_eq!(span.consumed, i64::try_from(offsets.len()).unwrap());
        }
        for signal in batch.signals() {
            let ticker = batch.text(batch.mentions(signal)[0].ticker).to_owned();
            self.0.entry(signal.partition).or_default().push((signal.offset, ticker));
        }
    }

    fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Partition by partition: every record once, in order, at its offset.
    fn expected(partitions: &[(i32, std::ops::Range<i64>)]) -> Self {
        let records = |(partition, offsets): &(i32, std::ops::Range<i64>)| {
            (*partition, offsets.clone().map(|offset| (offset, ticker(*partition, offset))).collect())
        };
        Self(partitions.iter().map(records).collect())
    }
}

/// Reads until there are `count` records.
async fn read<S: Source>(source: &mut S, count: usize) -> Read {
    let mut read = Read::default();
    while read.len() < count {
        read.add(&batch(source).await);
    }
    read
}

async fn the_assignment_is_announced_before_any_record<W: World>(world: &W) {
    for partition in 0..3 {
        produce(world, partition, 0..5);
    }
    let mut source = world.join(&eager());
    assert_eq!(assigned(&mut source).await, [0, 1, 2]);
    // Before the store has said from where, nothing arrives: an absence, so time must pass.
    let early = tokio::time::timeout(Duration::from_millis(500), source.next()).await;
    assert!(early.is_err(), "{early:?} arrived before the start");
    source.start(&[new(0), new(1), new(2)]).await.unwrap();
    assert_eq!(read(&mut source, 15).await, Read::expected(&[(0, 0..5), (1, 0..5), (2, 0..5)]));
}

async fn records_arrive_once_and_in_order<W: World>(world: &W) {
    for partition in 0..3 {
        produce(world, partition, 0..50);
    }
    let mut source = reader(world, &eager(), &[0, 1, 2]).await;
    let mut all = read(&mut source, 1).await;
    for number in 50..80 {
        for partition in 0..3 {
            produce(world, partition, number..number + 1);
        }
    }
    while all.len() < 240 {
        all.add(&batch(&mut source).await);
    }
    assert_eq!(all, Read::expected(&[(0, 0..80), (1, 0..80), (2, 0..80)]));
    // Nothing comes twice: the next that arrives is the next that is sent.
    produce(world, 1, 80..81);
    assert_eq!(read(&mut source, 1).await, Read::expected(&[(1, 80..81)]));
}

async fn reading_starts_where_the_store_says<W: World>(world: &W) {
    produce(world, 0, 0..10);
    produce(world, 1, 0..10);
    let mut source = world.join(&eager());
    assigned(&mut source).await;
    let starts = [(0, 4, 7), (1, 9, 0)].map(|(partition, epoch, next)| Start {
        partition,
        epoch,
        next_offset: Some(next),
        ..Start::default()
    });
    source.start(&starts).await.unwrap();
    let mut read = Read::default();
    while read.len() < 13 {
        let batch = batch(&mut source).await;
        for span in batch.offsets.spans() {
            assert_eq!(span.epoch, if span.partition == 0 { 4 } else { 9 }, "records carry the epoch of their start");
        }
        read.add(&batch);
    }
    assert_eq!(read, Read::expected(&[(0, 7..10), (1, 0..10)]));
}

async fn what_the_store_does_not_know_starts_where_kafka_was_told<W: World>(world: &W) {
    produce(world, 0, 0..3);
    let mut first = reader(world, &eager(), &[0]).await;
    let mut decided = batch(&mut first).await;
    while decided.offsets.get(0).unwrap().next_offset < 3 {
        decided = batch(&mut first).await;
    }
    first.commit(&decided.offsets).await.unwrap();
    first.close().await;
    produce(world, 0, 3..5);
    let mut second = reader(world, &eager(), &[0]).await;
    assert_eq!(read(&mut second, 2).await, Read::expected(&[(0, 3..5)]));
}

async fn positioned<S: Source>(source: &mut S) -> Vec<Position> {
    match tokio::time::timeout(PATIENCE, source.next()).await.expect("an arrival in time") {
        Arrival::Positioned(mut positions) => {
            positions.sort_unstable_by_key(|position| position.partition);
            positions
        }
        other => panic!("expected positions, got {other:?}"),
    }
}

async fn where_reading_starts_is_told_before_the_first_record<W: World>(world: &W) {
    produce(world, 0, 0..3);
    let mut source = world.join(&eager());
    assigned(&mut source).await;
    source.start(&[new(0), Start { epoch: 5, ..new(1) }]).await.unwrap();
    let positions = positioned(&mut source).await;
    let seen: Vec<_> = positions.iter().map(|one| (one.partition, one.epoch, one.next_offset, one.overtaken_at)).collect();
    assert_eq!(seen, [(0, 1, 0, None), (1, 5, 0, None)]);
    assert_eq!(read(&mut source, 3).await, Read::expected(&[(0, 0..3)]));

    // What is known already is not told again.
    source.reopen().await.unwrap();
    assigned(&mut source).await;
    let known = |position: Position| Start {
        partition: position.partition,
        epoch: position.epoch + 1,
        next_offset: Some(position.next_offset),
        identity: position.identity,
        ..Start::default()
    };
    source.start(&positions.into_iter().map(known).collect::<Vec<_>>()).await.unwrap();
    let Ok(Arrival::Batch(_)) = tokio::time::timeout(PATIENCE, source.next()).await else { panic!("expected records") };
}

/// A former service of the same group has gone further, and said so to Kafka.
async fn a_committed_offset_ahead_of_the_stores_is_where_reading_goes_on<W: World>(world: &W) {
    produce(world, 0, 0..10);
    let mut other = reader(world, &window(10), &[0]).await;
    let mut decided = batch(&mut other).await.offsets;
    decided.remove(&[0]);
    for offset in 0..6 {
        decided.record(0, 1, offset);
    }
    other.commit(&decided).await.unwrap();
    other.close().await;
    assert_eq!(world.committed(), BTreeMap::from([(0, 6)]));

    for (next_offset, seen, first, overtaken_at) in
        [(4, None, 6, Some(4)), (6, None, 6, None), (8, None, 8, None), (4, Some(6), 4, None), (4, Some(5), 6, Some(4))]
    {
        let mut source = world.join(&window(usize::try_from(10 - first).unwrap()));
        assigned(&mut source).await;
        let start = Start { next_offset: Some(next_offset), committed_seen: seen, ..new(0) };
        source.start(&[start]).await.unwrap();
        let mut overtaken = None;
        let batch = loop {
            match tokio::time::timeout(PATIENCE, source.next()).await.expect("an arrival in time") {
                Arrival::Positioned(positions) => overtaken = positions[0].overtaken_at,
                Arrival::Batch(batch) => break batch,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((batch.offsets.get(0).unwrap().first_offset, overtaken), (first, overtaken_at), "{next_offset} {seen:?}");
        source.close().await;
        // For the next case, as a former service would.
        let mut other = reader(world, &eager(), &[0]).await;
        other.commit(&decided).await.unwrap();
        other.close().await;
        assert_eq!(world.committed(), BTreeMap::from([(0, 6)]));
    }
}

async fn records_that_are_decided_are_passed_over<W: World>(world: &W) {
    produce(world, 0, 0..10);
    let mut source = world.join(&eager());
    assigned(&mut source).await;
    source.start(&[Start { next_offset: Some(2), decided: vec![2..4, 7..9], ..new(0) }]).await.unwrap();
    let (mut offsets, mut covered) = (Vec::new(), Vec::new());
    while covered.last() != Some(&10) {
        let batch = batch(&mut source).await;
        offsets.extend(batch.signals().iter().map(|signal| signal.offset));
        let span = batch.offsets.get(0).unwrap();
        assert_eq!(usize::try_from(span.consumed).unwrap(), batch.signals().len(), "what was decided is not counted again");
        covered.extend([span.first_offset, span.next_offset]);
    }
    assert_eq!(offsets, [4, 5, 6, 9]);
    assert_eq!(covered[0], 2, "the progress passes the decided ones too");
}

async fn bad_records_keep_their_bytes_and_have_a_reason<W: World>(world: &W) {
    let bad: [(&[u8], Reason); 5] = [
        (b"", Reason::Empty),
        (b"{\"tickers\": [", Reason::NotJson),
        (b"[1, 2]", Reason::NotObject),
        (b"\xff\xfe\x00", Reason::NotUtf8),
        (b"{\"tickers\": []}", Reason::NoTicker),
    ];
    let key = Some(b"key \xf0".to_vec());
    let headers = vec![("trace".to_owned(), Some(b"\x00\x01".to_vec())), ("none".to_owned(), None)];
    let record =
        |payload: &[u8]| MemoryRecord { key: key.clone(), payload: Some(payload.to_vec()), headers: headers.clone(), time_ms: 0 };
    world.produce(0, bad.iter().map(|(payload, _)| record(payload)).collect());
    world.produce(0, vec![MemoryRecord::default()]);
    produce(world, 0, 6..7);

    let mut source = reader(world, &window(7), &[0]).await;
    let batch = batch(&mut source).await;
    let span = batch.offsets.get(0).unwrap();
    assert_eq!((span.consumed, span.invalid, span.next_offset, batch.signals().len()), (7, 6, 7, 1));
    let found = batch.rejected();
    for (offset, (payload, reason)) in bad.iter().enumerate() {
        let expected = Rejected {
            reason: *reason,
            partition: 0,
            offset: i64::try_from(offset).unwrap(),
            time_ms: found[offset].time_ms,
            key: key.clone(),
            payload: Some(payload.to_vec()),
            headers: headers.clone(),
        };
        assert_eq!(found[offset], expected);
    }
    assert_eq!((found[5].reason, &found[5].payload, &found[5].key), (Reason::Empty, &None, &None));

    source.dead_letter(found).await.unwrap();
    let mut expected: Vec<_> =
        (0..).zip(bad).map(|(offset, (payload, reason))| (reason, offset, Some(payload.to_vec()), key.clone())).collect();
    expected.push((Reason::Empty, 5, None, None));
    assert_eq!(world.dead_letters(), expected);
}

async fn a_commit_becomes_visible<W: World>(world: &W) {
    produce(world, 0, 0..4);
    produce(world, 1, 0..2);
    let mut source = reader(world, &window(6), &[0, 1]).await;
    let batch = batch(&mut source).await;
    assert_eq!(world.committed(), BTreeMap::new(), "nothing is committed that was not said");
    source.commit(&batch.offsets).await.unwrap();
    wait_for("the commit", 30, || (world.committed() == BTreeMap::from([(0, 4), (1, 2)])).then_some(()));
}

async fn closing_hands_the_last_commit_on<W: World>(world: &W) {
    produce(world, 0, 0..30);
    let mut source = reader(world, &window(30), &[0]).await;
    let batch = batch(&mut source).await;
    source.commit(&batch.offsets).await.unwrap();
    source.close().await;
    assert_eq!(world.committed(), BTreeMap::from([(0, 30)]));
}

async fn cancelling_the_wait_loses_nothing<W: World>(world: &W) {
    produce(world, 0, 0..20);
    let mut source = world.join(&eager());
    let (deadline, mut read, mut announced, mut cancelled) = (clock::now() + PATIENCE, Read::default(), 0, 0);
    let mut sent = 0;
    while read.len() < 40 {
        assert!(clock::now() < deadline, "{} of 40 arrived", read.len());
        // A wait that is cancelled at once, and one that is cancelled soon: both at any moment of a hand-over.
        let arrival = match source.next().now_or_never() {
            None => tokio::time::timeout(Duration::from_micros(300), source.next()).await.ok(),
            arrival => arrival,
        };
        match arrival {
            None => cancelled += 1,
            Some(Arrival::Assigned(_)) => {
                announced += 1;
                source.start(&[new(0), new(1)]).await.unwrap();
            }
            Some(Arrival::Positioned(_)) => {}
            Some(Arrival::Batch(batch)) => read.add(&batch),
            Some(Arrival::Ended | Arrival::Stalled | Arrival::Fenced | Arrival::Lost) => panic!("ended"),
        }
        if announced == 1 && sent < 20 {
            produce(world, 1, sent..sent + 1);
            sent += 1;
        }
    }
    assert_eq!(read, Read::expected(&[(0, 0..20), (1, 0..20)]));
    assert_eq!(announced, 1);
    // Nothing was cancelled: then this test has shown nothing.
    while cancelled == 0 {
        assert!(tokio::time::timeout(Duration::from_millis(1), next(&mut source)).await.is_err());
        cancelled += 1;
    }
    produce(world, 0, 20..21);
    assert_eq!(self::read(&mut source, 1).await, Read::expected(&[(0, 20..21)]));
}

async fn a_window_waits_until_it_is_full<W: World>(world: &W) {
    let mut source = reader(world, &window(10), &[0]).await;
    produce(world, 0, 0..9);
    let early = tokio::time::timeout(Duration::from_millis(300), next(&mut source)).await;
    assert!(early.is_err(), "{early:?} left before the window was full");
    produce(world, 0, 9..10);
    let batch = batch(&mut source).await;
    assert_eq!(batch.records(), 10);
}

/// A member with a store: a dispatcher without rules and tasks.
struct Member<S> {
    source: S,
    claims: MemoryClaims,
    owned: Vec<i32>,
    decided: Read,
}

impl<S: Source> Member<S> {
    fn new(source: S, store: &MemoryStore) -> Self {
        Self { source, claims: store.claims(Duration::from_secs(60)), owned: Vec::new(), decided: Read::default() }
    }

    /// Takes what comes next, if it comes soon.
    async fn step(&mut self) {
        match tokio::time::timeout(Duration::from_millis(50), self.source.next()).await {
            Ok(Arrival::Assigned(partitions)) => {
                let Ok(starts) = self.claims.open(&partitions).await;
                self.source.start(&starts).await.unwrap();
                self.owned = partitions;
            }
            Ok(Arrival::Positioned(positions)) => {
                let Ok(_) = self.claims.position(&positions).await;
            }
            Ok(Arrival::Batch(batch)) => {
                let spans = batch.offsets.spans().iter().map(|span| (*span, PartitionCounts::default())).collect();
                let request =
                    ClaimRequest { publication_id: uuid::Uuid::new_v4(), spans, goes_on: false, ..ClaimRequest::default() };
                let Ok(verdict) = self.claims.claim(&request).await;
                if let Verdict::Claimed(_) = verdict {
                    self.decided.add(&batch);
                    self.source.commit(&batch.offsets).await.unwrap();
                }
            }
            Ok(Arrival::Ended | Arrival::Stalled | Arrival::Fenced | Arrival::Lost) => panic!("ended"),
            Err(_) => {}
        }
    }
}

/// Lets both go on until the condition holds.
async fn until<S: Source>(what: &str, members: (&mut Member<S>, &mut Member<S>), done: impl Fn(&Member<S>, &Member<S>) -> bool) {
    let deadline: Instant = clock::now() + PATIENCE;
    let (a, b) = members;
    while !done(a, b) {
        assert!(clock::now() < deadline, "waited in vain for {what}: {:?} and {:?}", a.owned, b.owned);
        tokio::join!(a.step(), b.step());
    }
}

async fn a_second_member_takes_half<W: World>(world: &W) {
    let store = MemoryStore::default();
    let mut a = Member::new(world.join(&eager()), &store);
    produce(world, 0, 0..10);
    produce(world, 1, 0..10);
    let deadline = clock::now() + PATIENCE;
    while a.decided.len() < 20 {
        assert!(clock::now() < deadline, "{:?}", a.decided);
        a.step().await;
    }
    assert_eq!(a.owned.len(), 2);

    let mut b = Member::new(world.join(&eager()), &store);
    until("one partition each", (&mut a, &mut b), |a, b| a.owned.len() == 1 && b.owned.len() == 1).await;
    assert_ne!(a.owned, b.owned);
    produce(world, 0, 10..20);
    produce(world, 1, 10..20);
    until("all records", (&mut a, &mut b), |a, b| a.decided.len() + b.decided.len() == 40).await;

    // Together they have each record once.
    let mut all = a.decided;
    for (partition, records) in b.decided.0 {
        assert_eq!(b.owned, [partition]);
        all.0.entry(partition).or_default().extend(records);
    }
    assert_eq!(all, Read::expected(&[(0, 0..20), (1, 0..20)]));
}

async fn undecided_records_stay_behind_after_a_revoke<W: World>(world: &W) {
    produce(world, 0, 0..5);
    produce(world, 1, 0..5);
    let mut a = reader(world, &window(1_000), &[0, 1]).await;
    // They are fetched, and wait for a fuller batch.
    let early = tokio::time::timeout(Duration::from_millis(500), next(&mut a)).await;
    assert!(early.is_err(), "{early:?} left before the window was full");

    // The group gives one partition to the second member, who decides what was undecided.
    let store = MemoryStore::default();
    let mut b = Member::new(world.join(&eager()), &store);
    let deadline = clock::now() + PATIENCE;
    while b.decided.len() < 5 {
        assert!(clock::now() < deadline, "{:?} {:?}", b.owned, b.decided);
        b.step().await;
    }
    let kept = i32::from(b.owned == [0]);
    // The first thing that the old owner hears is its new assignment, not what it had fetched before.
    assert_eq!(assigned(&mut a).await, [kept]);
    a.start(&[Start { partition: kept, epoch: 2, ..Start::default() }]).await.unwrap();
    // A full window holds its own partition only, from the start on and under the new epoch.
    produce(world, kept, 5..1_000);
    let batch = batch(&mut a).await;
    let spans: Vec<_> =
        batch.offsets.spans().iter().map(|span| (span.partition, span.epoch, span.first_offset, span.consumed)).collect();
    assert_eq!(spans, [(kept, 2, 0, 1_000)]);
}

async fn closing_leaves_the_group<W: World>(world: &W) {
    let store = MemoryStore::default();
    let mut a = Member::new(world.join(&eager()), &store);
    let mut b = Member::new(world.join(&eager()), &store);
    until("one partition each", (&mut a, &mut b), |a, b| a.owned.len() == 1 && b.owned.len() == 1).await;
    let left_at = clock::now();
    a.source.close().await;
    while b.owned.len() < 2 {
        // Far below Kafka's session time-out of 45 s, after which a member that says nothing is thrown out.
        assert!(left_at.elapsed() < Duration::from_secs(20), "the group still counts on the member that left");
        b.step().await;
    }
    produce(world, 0, 0..3);
    produce(world, 1, 0..3);
    while b.decided.len() < 6 {
        assert!(left_at.elapsed() < PATIENCE, "{:?}", b.decided);
        b.step().await;
    }
    assert_eq!(b.decided, Read::expected(&[(0, 0..3), (1, 0..3)]));
}
