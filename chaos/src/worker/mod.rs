//! The workers' side: takes messages as a guarded Celery worker would, lets one start happen for each trigger, runs it for a
//! short while, and records every message, start and end.
//!
//! It reads each message itself, with none of the dispatcher's code, and it loses or repeats one now and then, as Celery does.

mod guard;
mod message;
mod queue;

use std::collections::{BinaryHeap, HashMap, HashSet};
use std::io::{BufWriter, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use uuid::Uuid;

use self::guard::{Begun, Guard};
pub(crate) use self::message::Delivery;
use self::queue::{Message, Queue};
use crate::broker::Broker;
use crate::clock;
use crate::dice::Dice;
use crate::evidence::Evidence;
use crate::platform::Platform;

/// A message that was taken from the queue.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) delivery: Delivery,
    /// Since the run began.
    pub(crate) second: f64,
}

/// A start that the guard let happen.
#[derive(Debug, Clone)]
pub(crate) struct Started {
    pub(crate) trigger_id: Uuid,
    pub(crate) pipeline_id: Uuid,
    pub(crate) from: f64,
    /// When it ended.
    pub(crate) to: Option<f64>,
}

/// Everything that the workers saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) received: Vec<Received>,
    pub(crate) starts: Vec<Started>,
    /// Messages whose start was refused: the trigger had started before.
    pub(crate) refused: u64,
    /// Messages thrown away because their lease was over.
    pub(crate) expired: u64,
    /// Messages that a worker took and died with before it started them.
    pub(crate) lost: u64,
    /// Messages that no worker could read.
    pub(crate) unreadable: Vec<String>,
}

/// A worker in a thread of its own.
pub(crate) struct Worker {
    control: Arc<Control>,
    thread: JoinHandle<anyhow::Result<Seen>>,
}

#[derive(Debug, Default)]
struct Control {
    /// Messages to lose next.
    lose: AtomicU64,
    stop: Mutex<bool>,
    /// Tasks that run.
    running: AtomicU64,
}

/// How the workers are.
#[derive(Debug, Clone)]
pub(crate) struct Habits {
    pub(crate) broker: Broker,
    pub(crate) queue: String,
    pub(crate) seed: u64,
    /// Of a thousand messages, how many a worker dies with.
    pub(crate) loses: u64,
}

impl Worker {
    pub(crate) fn start(platform: &Platform, habits: Habits, evidence: &Arc<Evidence>) -> anyhow::Result<Self> {
        let control = Arc::new(Control::default());
        let working = Working {
            guard: Guard::new(platform.clone()),
            dice: Dice::new(habits.seed, 4),
            queue: Queue::new(habits.broker.clone(), habits.queue.clone()),
            control: Arc::clone(&control),
            messages: BufWriter::new(evidence.file(&format!("messages-{}.jsonl", habits.queue))?),
            habits,
            evidence: Arc::clone(evidence),
            seen: Seen::default(),
            places: HashMap::new(),
            ends: BinaryHeap::new(),
            lost_once: HashSet::new(),
        };
        let thread = std::thread::Builder::new().name("worker".into()).spawn(move || working.run())?;
        Ok(Self { control, thread })
    }

    /// The next messages are lost.
    pub(crate) fn lose(&self, messages: u64) {
        self.control.lose.fetch_add(messages, Ordering::AcqRel);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.control.running.load(Ordering::Acquire) == 0
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }

    pub(crate) fn finish(self) -> anyhow::Result<Seen> {
        *self.control.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.thread.join().map_err(|_| anyhow::anyhow!("the worker broke off"))?
    }
}

struct Working {
    queue: Queue,
    guard: Guard,
    dice: Dice,
    habits: Habits,
    control: Arc<Control>,
    messages: BufWriter<std::fs::File>,
    evidence: Arc<Evidence>,
    seen: Seen,
    /// Trigger to its place in `seen.starts`.
    places: HashMap<Uuid, usize>,
    /// What ends when, the next first.
    ends: BinaryHeap<std::cmp::Reverse<(Instant, Uuid)>>,
    lost_once: HashSet<Uuid>,
}

impl Working {
    fn run(mut self) -> anyhow::Result<Seen> {
        loop {
            let last = *self.control.stop.lock().unwrap_or_else(PoisonError::into_inner);
            clock::check()?;
            // Something is about to end: look there soon.
            let patience = Duration::from_millis(if self.ends.is_empty() { 50 } else { 10 });
            let messages = self.queue.take(patience);
            let idle = messages.is_empty();
            let mut deliveries = Vec::new();
            for message in &messages {
                self.receive(message, &mut deliveries)?;
            }
            self.begin(&deliveries)?;
            self.end()?;
            if last && idle && self.ends.is_empty() {
                self.messages.flush()?;
                self.write_starts()?;
                return Ok(self.seen);
            }
        }
    }

    fn receive(&mut self, message: &Message, deliveries: &mut Vec<Delivery>) -> anyhow::Result<()> {
        let second = self.evidence.seconds();
        let delivery = match Delivery::read(message) {
            Ok(delivery) => delivery,
            Err(error) => {
                self.seen.unreadable.push(format!("{error:#}: {message}"));
                return Ok(());
            }
        };
        let trigger_id = delivery.trigger_id;
        writeln!(self.messages, "{}", json!({"second": second, "trigger_id": trigger_id, "digest": delivery.digest}))?;
        self.seen.received.push(Received { delivery: delivery.clone(), second });
        let ordered = self.control.lose.load(Ordering::Acquire) > 0;
        if (ordered || self.dice.chance(self.habits.loses)) && self.lost_once.insert(trigger_id) {
            if ordered {
                self.control.lose.fetch_sub(1, Ordering::AcqRel);
            }
            self.seen.lost += 1;
            return Ok(());
        }
        // Celery delivers again what it believes unfinished.
        if self.dice.chance(10) {
            deliveries.push(delivery.clone());
        }
        deliveries.push(delivery);
        Ok(())
    }

    fn begin(&mut self, deliveries: &[Delivery]) -> anyhow::Result<()> {
        if deliveries.is_empty() {
            return Ok(());
        }
        for (delivery, begun) in deliveries.iter().zip(self.guard.begin(deliveries)?) {
            match begun {
                Begun::Ours => {
                    let (trigger_id, pipeline_id, from) = (delivery.trigger_id, delivery.pipeline_id, self.evidence.seconds());
                    self.places.insert(trigger_id, self.seen.starts.len());
                    self.seen.starts.push(Started { trigger_id, pipeline_id, from, to: None });
                    self.ends.push(std::cmp::Reverse((clock::now() + self.dice.between(50, 400), trigger_id)));
                }
                Begun::Before => self.seen.refused += 1,
                Begun::Expired => self.seen.expired += 1,
            }
        }
        self.control.running.store(self.ends.len() as u64, Ordering::Release);
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        let now = clock::now();
        let mut over = Vec::new();
        while let Some(std::cmp::Reverse((at, trigger_id))) = self.ends.peek().copied() {
            if at > now {
                break;
            }
            self.ends.pop();
            if let Some(place) = self.places.get(&trigger_id) {
                self.seen.starts[*place].to = Some(self.evidence.seconds());
            }
            over.push(trigger_id);
        }
        if !over.is_empty() {
            self.guard.complete(&over)?;
        }
        self.control.running.store(self.ends.len() as u64, Ordering::Release);
        Ok(())
    }

    fn write_starts(&self) -> anyhow::Result<()> {
        let mut file = BufWriter::new(self.evidence.file(&format!("starts-{}.jsonl", self.habits.queue))?);
        for start in &self.seen.starts {
            let line =
                json!({"trigger_id": start.trigger_id, "pipeline_id": start.pipeline_id, "from": start.from, "to": start.to});
            writeln!(file, "{line}")?;
        }
        file.flush().context("the file of starts")
    }
}
