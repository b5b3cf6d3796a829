//! A ledger of the version before deployments is migrated while instances of that version work in it, and new ones join: nothing is lost
//! and nothing doubled, whoever decides a signal and whoever publishes it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use trigger_dispatcher::intake::PartitionSpan;
use trigger_dispatcher::rules::PartitionCounts;
use trigger_dispatcher::store::deployment::{DeploymentKey, register};
use trigger_dispatcher::store::postgres::{ClaimTerms, PostgresClaims};
use trigger_dispatcher::store::sweep::{LeaseTerms, take_up};
use trigger_dispatcher::store::{ClaimRequest, Claims as _, Database, Verdict, migrate};
use trigger_dispatcher::tasks::IdSpace;
use uuid::Uuid;

use super::landed::{self, Place};
use crate::support::database::TestDatabase;
use crate::support::request::{Held, held};
use crate::support::settings::config;
use crate::support::wait_until;

const PARTITIONS: i32 = 4;
/// Records of each partition, and the signals that are new among them. The others are signals of the next partition, sent again.
const RECORDS: i64 = 60;
const SIGNALS: i64 = 35;
const BATCH: i64 = 3;

/// What is common to all instances: the database, the broker, and how far the topic goes by now.
struct World {
    database: TestDatabase,
    store: Database,
    key: DeploymentKey,
    broker: Mutex<Broker>,
    end: watch::Sender<i64>,
}

/// A broker whose guard lets an entry in once.
#[derive(Default)]
struct Broker {
    guards: HashSet<Uuid>,
    tasks: HashMap<Uuid, usize>,
}

/// The signal of a record, and the pipeline that watches it: one for each signal, so that each signal has to start it.
fn signal(partition: i32, offset: i64) -> (String, Uuid) {
    let is_again = offset % 2 == 1 && offset > 10;
    let (partition, offset) = if is_again { ((partition + 1) % PARTITIONS, offset - 11) } else { (partition, offset) };
    let id = format!("signal {partition} {offset}");
    let pipeline = Uuid::new_v5(&Uuid::NAMESPACE_OID, id.as_bytes());
    (id, pipeline)
}

/// Some records of a partition, as one batch up to `next_offset` or a part of it. The counts are of its records that are decided already.
fn request(
    start: Place,
    ids: IdSpace,
    offsets: &[i64],
    next_offset: i64,
    counts: PartitionCounts,
    goes_on: bool,
) -> ClaimRequest {
    let Place { held: Held { partition, epoch }, next: first_offset } = start;
    let consumed = next_offset - first_offset;
    let span = PartitionSpan { partition, epoch, first_offset, next_offset, consumed, invalid: 0, stale: 0 };
    let wanted = |offset: &i64| {
        let (signal, pipeline) = signal(partition, *offset);
        let mut wanted = super::request(start.held, *offset, pipeline, &signal).wanted.remove(0);
        wanted.text.trigger_id = ids.trigger_id(pipeline, "", &signal);
        wanted
    };
    let mut wanted: Vec<_> = offsets.iter().map(wanted).collect();
    wanted.sort_by_key(|wanted| wanted.pipeline_id);
    ClaimRequest { publication_id: Uuid::new_v4(), spans: vec![(span, counts)], wanted, goes_on, ..ClaimRequest::default() }
}

impl World {
    async fn create() -> Arc<Self> {
        let database = TestDatabase::create().await;
        landed::migrate(&database).await;
        let config = config("redis://unused/0", Some(&database));
        let key = DeploymentKey::new(&config);
        Arc::new(Self {
            store: Database::new(&config.postgres),
            database,
            key,
            broker: Mutex::default(),
            end: watch::Sender::new(0),
        })
    }

    async fn old_instance(&self) -> Claimer {
        Claimer::Old(landed::Instance::start(&self.database, &self.key.group, &self.key.topic).await)
    }

    async fn new_instance(&self) -> Claimer {
        let terms = ClaimTerms::new(&config("redis://unused/0", Some(&self.database)));
        let deployment = register(&self.store.connect().await.unwrap(), &self.key).await.unwrap();
        Claimer::New(Box::new(PostgresClaims::new(self.store.clone(), terms)), deployment.ids)
    }

    /// Publishes as Redis does it. Most of the workers end their executions at once, and free the slots.
    async fn publish(&self, entry: Uuid, triggers: &[Uuid]) {
        {
            let mut broker = self.broker.lock().unwrap();
            if !broker.guards.insert(entry) {
                return;
            }
            for trigger in triggers {
                *broker.tasks.entry(*trigger).or_default() += 1;
            }
        }
        let sql = "insert into executions (id, pipeline_id, status)
            select trigger_id, pipeline_id, 'COMPLETED' from dispatcher.triggers where trigger_id = any ($1) and record_offset % 5 <> 0";
        self.database.client.execute(sql, &[&triggers]).await.unwrap();
    }

    async fn confirm(&self, entry: Uuid) {
        let sql = "update dispatcher.publications set enqueued_at = now() where publication_id = $1 and enqueued_at is null";
        self.database.client.execute(sql, &[&entry]).await.unwrap();
    }

    async fn consumed(&self) -> i64 {
        self.database.number("select coalesce(sum(consumed), 0)::bigint from dispatcher.progress").await
    }

    /// Lets the partitions go on to an offset, and waits until all of it is decided.
    async fn decide_to(&self, offset: i64) {
        self.end.send_replace(offset);
        let all = offset * i64::from(PARTITIONS);
        wait_until(&format!("{all} decided records"), 60, async || Some(self.consumed().await).filter(|count| *count == all))
            .await;
    }

    /// An instance that owns partitions until others have taken all of them.
    async fn own(self: Arc<Self>, mut claimer: Claimer, partitions: Vec<i32>) {
        let mut end = self.end.subscribe();
        let mut owned = claimer.open(&partitions).await;
        let mut begun = claimer.begun(&partitions).await;
        while !owned.is_empty() && !end.borrow().is_negative() {
            let to = *end.borrow_and_update();
            let mut fenced = HashSet::new();
            for start in &mut owned {
                while start.next < to {
                    let until = (start.next + BATCH).min(to);
                    if self.decide(&mut claimer, *start, until, &mut begun).await.is_none() {
                        fenced.insert(start.held.partition);
                        break;
                    }
                    start.next = until;
                }
            }
            owned.retain(|start| !fenced.contains(&start.held.partition));
            end.changed().await.unwrap();
        }
    }

    /// Decides one batch, some in two parts, and publishes it, unless the instance forgets to: then it is the sweepers' turn.
    async fn decide(&self, claimer: &mut Claimer, start: Place, to: i64, begun: &mut HashSet<(i32, i64)>) -> Option<()> {
        let (first, ids) = (start.next, claimer.ids());
        let mut counts = PartitionCounts::default();
        let mut offsets: Vec<i64> = (first..to).collect();
        offsets.retain(|offset| !begun.contains(&(start.held.partition, *offset)));
        counts.triggered = (to - first) - offsets.len() as i64;
        if first % 2 == 1 && offsets.len() > 1 {
            let part = request(start, ids, &[offsets.remove(0)], to, PartitionCounts::default(), true);
            let won = self.claim(claimer, &part, first).await?;
            counts.triggered += won;
            counts.busy += 1 - won;
        }
        self.claim(claimer, &request(start, ids, &offsets, to, counts, false), first).await?;
        Some(())
    }

    /// Decides a request; how many it won.
    async fn claim(&self, claimer: &mut Claimer, request: &ClaimRequest, first: i64) -> Option<i64> {
        let won = claimer.claim(request).await?;
        match first % 4 {
            _ if won.is_empty() => {}
            0 => {}
            1 => self.publish(request.publication_id, &won).await,
            _ => {
                self.publish(request.publication_id, &won).await;
                self.confirm(request.publication_id).await;
            }
        }
        Some(won.len() as i64)
    }

    /// A sweeper of an instance, until the world ends. It has no patience: it races with the instances that publish.
    async fn sweep(self: Arc<Self>, sweeper: Claimer) {
        let mut end = self.end.subscribe();
        let connection = match &sweeper {
            Claimer::Old(_) => None,
            Claimer::New(..) => Some(self.store.connect().await.unwrap()),
        };
        while !end.borrow().is_negative() {
            let found = match (&sweeper, &connection) {
                (Claimer::Old(instance), _) => instance.take_up(0.0).await,
                (Claimer::New(..), Some(connection)) => {
                    let deployment = register(connection, &self.key).await.unwrap();
                    let config = config("redis://unused/0", Some(&self.database));
                    let evidence = ClaimTerms::new(&config).evidence;
                    let terms = LeaseTerms::new(deployment, &config.trigger, evidence);
                    let terms = LeaseTerms { patience: Duration::ZERO, ..terms };
                    let ids = |tasks: &[trigger_dispatcher::tasks::Task]| tasks.iter().map(|task| task.trigger_id).collect();
                    let taken = take_up(connection, &terms).await.unwrap();
                    taken.iter().map(|taken| (taken.publication.id, ids(&taken.publication.tasks))).collect()
                }
                (Claimer::New(..), None) => unreachable!(),
            };
            for (entry, triggers) in found {
                if !triggers.is_empty() {
                    self.publish(entry, &triggers).await;
                    self.confirm(entry).await;
                }
            }
            // The next round, soon.
            drop(tokio::time::timeout(Duration::from_millis(20), end.changed()).await);
        }
    }
}

/// An instance of either version.
enum Claimer {
    Old(landed::Instance),
    New(Box<PostgresClaims>, IdSpace),
}

impl Claimer {
    fn ids(&self) -> IdSpace {
        match self {
            Self::Old(_) => IdSpace::FORMER,
            Self::New(_, ids) => *ids,
        }
    }

    async fn open(&mut self, partitions: &[i32]) -> Vec<Place> {
        match self {
            Self::Old(instance) => instance.open(partitions).await,
            Self::New(claims, _) => {
                let starts = claims.open(partitions).await.unwrap();
                starts.iter().map(|start| Place { held: held(start), next: start.next_offset.unwrap_or(0) }).collect()
            }
        }
    }

    /// Records that no offset has passed, though a part of their batch was decided.
    async fn begun(&mut self, partitions: &[i32]) -> HashSet<(i32, i64)> {
        match self {
            Self::Old(instance) => instance.begun(partitions).await,
            Self::New(claims, _) => claims.begun(partitions).await.unwrap().into_iter().collect(),
        }
    }

    async fn claim(&mut self, request: &ClaimRequest) -> Option<Vec<Uuid>> {
        match self {
            Self::Old(instance) => instance.claim(request).await,
            Self::New(claims, _) => match claims.claim(request).await.unwrap() {
                Verdict::Claimed(claimed) => {
                    Some(claimed.won.iter().map(|position| request.wanted[*position].text.trigger_id).collect())
                }
                Verdict::Fenced(_) => None,
                other => panic!("{other:?}"),
            },
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_migrated_under_its_instances_loses_and_doubles_nothing() {
    let world = World::create().await;
    let mut running = JoinSet::new();
    // Before: two instances with their sweepers.
    running.spawn(Arc::clone(&world).own(world.old_instance().await, vec![0, 1]));
    running.spawn(Arc::clone(&world).own(world.old_instance().await, vec![2, 3]));
    world.decide_to(15).await;
    let old_sweeper = running.spawn(Arc::clone(&world).sweep(world.old_instance().await));
    // The migration, while they go on.
    world.end.send_replace(25);
    let migrated = migrate::migrate(&world.store).await.unwrap();
    assert_eq!((migrated.from, migrated.to), (3, 4));
    world.decide_to(25).await;
    // An old one begins a batch, and does not come to its end.
    let mut interrupted = world.old_instance().await;
    let start = interrupted.open(&[1]).await[0];
    let part = request(start, interrupted.ids(), &[26], 28, PartitionCounts::default(), true);
    assert_eq!(interrupted.claim(&part).await.map(|won| won.len()), Some(1));
    // A new instance takes two partitions, each from another one, and a new sweeper joins.
    running.spawn(Arc::clone(&world).own(world.new_instance().await, vec![1, 2]));
    running.spawn(Arc::clone(&world).sweep(world.new_instance().await));
    world.decide_to(40).await;
    // Partitions go both ways: one that a new instance had goes to an old one, and the other way round.
    running.spawn(Arc::clone(&world).own(world.old_instance().await, vec![2]));
    running.spawn(Arc::clone(&world).own(world.new_instance().await, vec![0]));
    world.decide_to(50).await;
    // The last old one leaves, and its sweeper too: what it has claimed is left to the new ones.
    old_sweeper.abort();
    let mut last = world.old_instance().await;
    let start = last.open(&[2]).await[0];
    let won = last.claim(&request(start, last.ids(), &[50, 51, 52], 53, PartitionCounts::default(), false)).await.unwrap();
    assert!(won.len() >= 2, "two signals are new");
    running.spawn(Arc::clone(&world).own(world.new_instance().await, vec![2, 3]));
    world.decide_to(RECORDS).await;
    let waiting = "select count(*) from dispatcher.publications where enqueued_at is null and lapsed_at is null";
    wait_until("all confirmations", 60, async || Some(world.database.number(waiting).await).filter(|count| *count == 0)).await;
    world.end.send_replace(-1);
    while let Some(ended) = running.join_next().await {
        assert!(ended.is_ok() || ended.is_err_and(|error| error.is_cancelled()));
    }

    let signals = i64::from(PARTITIONS) * SIGNALS;
    let number = async |sql: &str| world.database.number(sql).await;
    let started = "select count(distinct (pipeline_id, signal_id)) from dispatcher.triggers";
    assert_eq!(number("select count(*) from dispatcher.triggers").await, signals, "each signal has one trigger");
    assert_eq!(number(started).await, signals);
    let tasks = world.broker.lock().unwrap().tasks.clone();
    assert_eq!(tasks.len() as i64, signals, "each trigger has a task");
    assert_eq!(tasks.values().filter(|count| **count > 1).count(), 0, "none was published twice");
    let sum = "select sum(triggered)::bigint from dispatcher.progress";
    assert_eq!(number(sum).await, signals);
    let others = "select sum(busy + redelivered)::bigint from dispatcher.progress";
    assert_eq!(number(others).await, i64::from(PARTITIONS) * (RECORDS - SIGNALS), "what was sent again is counted as such");
    let gaps = "select count(*) from dispatcher.progress
        where consumed <> triggered + busy + redelivered + merged + unmatched + stale + invalid or next_offset <> consumed";
    assert_eq!(number(gaps).await, 0);
    // Both have decided and published.
    for sql in [
        "select count(*) from dispatcher.triggers where signal_time is null",
        "select count(*) from dispatcher.triggers where signal_time is not null",
        "select count(*) from dispatcher.publications where deployment_id is null and swept_at is not null",
        "select count(*) from dispatcher.publications where deployment_id is not null and swept_at is not null",
    ] {
        assert!(number(sql).await > 0, "{sql}");
    }
    assert_eq!(number("select count(*) from dispatcher.deployments where former_ids and adopts").await, 1);
    assert_eq!(number("select count(*) from dispatcher.deployments").await, 1);
}
