use std::collections::BTreeMap;
use std::convert::Infallible;

use arc_swap::ArcSwap;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::config::{BatchConfig, Flush};
use crate::intake::memory::{MemoryRecord, MemorySource, MemoryTopic};
use crate::rules::{Rule, RuleSet};
use crate::store::memory::{MemoryClaims, MemoryStore, PublicationState};
use crate::tasks::Publication;

const MANY: usize = WAITED_FOR + 1;

/// A broker that takes a publication when it is told to.
struct SlowQueue {
    asked: UnboundedSender<usize>,
    told: UnboundedReceiver<()>,
}

impl TaskQueue for SlowQueue {
    type Error = Infallible;

    async fn enqueue(&mut self, publication: &Publication) -> Result<(), Infallible> {
        self.asked.send(publication.tasks.len()).ok();
        // Its other end is kept until the test is over.
        self.told.recv().await;
        Ok(())
    }
}

/// Everything around a dispatcher. So many pipelines watch A that their tasks are not waited for, and one watches B.
struct Scene {
    topic: MemoryTopic,
    store: MemoryStore,
    asked: UnboundedReceiver<usize>,
    tell: UnboundedSender<()>,
    stop: CancellationToken,
}

impl Scene {
    fn new() -> (Self, Dispatcher<MemorySource, MemoryClaims, SlowQueue>) {
        let (topic, store, stop) = (MemoryTopic::new(1), MemoryStore::default(), CancellationToken::new());
        let ((asked_tx, asked), (tell, told)) = (unbounded_channel(), unbounded_channel());
        let rule = |number: usize| Rule {
            pipeline_id: Uuid::from_u128(number as u128),
            user_id: None,
            tickers: vec![if number == 0 { "B" } else { "A" }.to_owned()],
            subscriptions: Vec::new(),
        };
        let batch = BatchConfig { size: 20, timeout: Duration::from_millis(500), flush: Flush::Eager, queries_per_second: None };
        let dispatcher = Dispatcher {
            source: topic.join(&batch),
            claims: store.claims(Duration::from_secs(900)),
            queue: SlowQueue { asked: asked_tx, told },
            rules: Arc::new(ArcSwap::from_pointee(RuleSet::new((0..=MANY).map(rule).collect()))),
            terms: Terms {
                topic: "signals".to_owned(),
                ids: IdSpace::FORMER,
                scope: Scope::Pipeline,
                lease: Duration::from_secs(900),
                margin: Duration::ZERO,
                celery: CeleryConfig::of_defaults(),
                most_slots: MOST_SLOTS,
                waited_for: WAITED_FOR,
            },
            events: Events::new("signals", 0),
            metrics: Arc::default(),
            waits: Waits::default(),
            stop: stop.clone(),
        };
        (Self { topic, store, asked, tell, stop }, dispatcher)
    }

    fn produce(&self, ticker: &str) {
        let payload = format!(r#"{{"tickers": [{{"ticker": "{ticker}"}}]}}"#).into_bytes();
        self.topic.produce(0, MemoryRecord { payload: Some(payload), ..MemoryRecord::default() });
    }

    /// Has many tasks on their way, and a batch claimed meanwhile.
    async fn claim_beside(&mut self) {
        self.produce("A");
        assert_eq!(self.asked.recv().await, Some(MANY));
        self.produce("B");
        while self.store.ledger().len() < MANY + 1 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_store_decides_the_next_batch_while_the_broker_gets_the_tasks_of_the_last_and_no_offset_moves_before() {
    let (mut scene, dispatcher) = Scene::new();
    let test = async {
        scene.claim_beside().await;
        assert!(scene.asked.try_recv().is_err(), "one publication at a time");
        assert_eq!(scene.topic.committed(), BTreeMap::new());

        scene.tell.send(()).unwrap();
        assert_eq!(scene.asked.recv().await, Some(1));
        while scene.topic.committed().get(&0) != Some(&1) {
            tokio::task::yield_now().await;
        }
        scene.tell.send(()).unwrap();
        while scene.topic.committed().get(&0) != Some(&2) {
            tokio::task::yield_now().await;
        }
        scene.stop.cancel();
    };
    let (ended, ()) = tokio::join!(dispatcher.run(), test);
    ended.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_claimed_leaves_before_a_stop() {
    let (mut scene, dispatcher) = Scene::new();
    let test = async {
        scene.claim_beside().await;
        scene.stop.cancel();
        for _ in 0..2 {
            scene.tell.send(()).unwrap();
        }
    };
    let (ended, ()) = tokio::join!(dispatcher.run(), test);
    ended.unwrap();
    assert_eq!(scene.asked.recv().await, Some(1));
    assert_eq!(scene.topic.committed(), BTreeMap::from([(0, 2)]));
    assert!(scene.store.publications().values().all(|state| *state == PublicationState::Enqueued), "confirmed");
}

/// A source that gives one thing.
struct Breaks(Option<Arrival>);

impl Source for Breaks {
    type Error = Infallible;

    async fn next(&mut self) -> Arrival {
        match self.0.take() {
            Some(arrival) => arrival,
            None => std::future::pending().await,
        }
    }

    async fn start(&mut self, _: &[crate::intake::Start]) -> Result<(), Infallible> {
        Ok(())
    }

    async fn dead_letter(&mut self, _: &[Rejected]) -> Result<(), Infallible> {
        Ok(())
    }

    async fn commit(&mut self, _: &crate::intake::Offsets) -> Result<(), Infallible> {
        Ok(())
    }

    async fn reopen(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    async fn close(&mut self) {}
}

#[tokio::test]
async fn an_intake_that_breaks_off_ends_the_loop_with_an_error() {
    let broken =
        [(Arrival::Lost, IntakeFailed::Lost), (Arrival::Stalled, IntakeFailed::Stalled), (Arrival::Fenced, IntakeFailed::Fenced)];
    for (arrival, failed) in broken {
        let (_scene, Dispatcher { claims, queue, rules, terms, events, metrics, waits, stop, .. }) = Scene::new();
        let source = Breaks(Some(arrival));
        let dispatcher = Dispatcher { source, claims, queue, rules, terms, events, metrics, waits, stop };
        assert_eq!(dispatcher.run().await, Err(failed));
    }
}
