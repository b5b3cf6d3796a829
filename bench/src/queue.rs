//! The workers' side: takes tasks out of the Redis list, notes when, and ends their executions some time later, so that
//! the pipelines are idle again.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use postgres::Client;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde::de::IgnoredAny;
use uuid::Uuid;

use crate::clock;
use crate::platform::Platform;
use crate::services::Services;
use crate::signals::{below, due_ns, random};

/// Tasks taken at once.
const TAKEN: u32 = 1_000;
/// Executions that end are noted at this interval, as many workers would with a statement each.
const NOTED: Duration = Duration::from_millis(10);

/// From 1 µs to an hour, with three digits.
pub(crate) fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are constants")
}

/// Everything that was taken.
pub(crate) struct Taken {
    pub(crate) tasks: u64,
    /// Tasks that came for each pipeline.
    pub(crate) pipelines: HashMap<Uuid, u32>,
    /// From when a signal was due to its task in the reader's hands, in microseconds, within the measured time.
    pub(crate) latency: Histogram<u64>,
}

/// What workers leave in the table of executions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trace {
    /// A finished execution when the task is over: the least that frees a pipeline of the dispatcher.
    AtEnd,
    /// A running execution from the task's start on, which a contender needs to see that a pipeline is busy.
    FromStart,
}

/// Which signals count, and since when they are timed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) start: Instant,
    /// Nanoseconds after the start.
    pub(crate) from_ns: u64,
    pub(crate) to_ns: u64,
}

/// Takes and ends tasks in threads of its own.
pub(crate) struct Workers {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<anyhow::Result<Taken>>,
    beginner: Option<JoinHandle<anyhow::Result<()>>>,
    ender: JoinHandle<anyhow::Result<u64>>,
}

impl Workers {
    pub(crate) fn start(
        services: &Services,
        platform: &Platform,
        list: &str,
        window: Window,
        (execution, trace): (Duration, Trace),
    ) -> anyhow::Result<Self> {
        let connection = redis::Client::open(services.redis.as_str())?.get_connection()?;
        let client = platform.another()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (tasks, mut received) = channel();
        let beginner = match trace {
            Trace::AtEnd => None,
            Trace::FromStart => {
                let (forward, begun) = channel();
                let taken = std::mem::replace(&mut received, begun);
                let client = platform.another()?;
                Some(std::thread::Builder::new().name("beginner".into()).spawn(move || begin(client, &taken, &forward))?)
            }
        };
        let random = random(1, 4);
        let reader = Reader { connection, list: list.to_owned(), window, execution, random, stop: Arc::clone(&stop), tasks };
        let reader = std::thread::Builder::new().name("reader".into()).spawn(move || reader.run())?;
        let ender = std::thread::Builder::new().name("ender".into()).spawn(move || end(client, &received, trace))?;
        Ok(Self { stop, reader, beginner, ender })
    }

    /// Fails if a thread has ended by itself.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.reader.is_finished() && !self.ender.is_finished(), "the workers ended by themselves");
        Ok(())
    }

    /// Waits until the list is empty and every task has ended.
    pub(crate) fn finish(self) -> anyhow::Result<Taken> {
        self.stop.store(true, Ordering::Release);
        let ended = join(self.ender);
        let taken = join(self.reader)?;
        self.beginner.map_or(Ok(()), join)?;
        let ended = ended?;
        anyhow::ensure!(ended == taken.tasks, "{} tasks were taken, {ended} ended", taken.tasks);
        Ok(taken)
    }
}

fn join<T>(thread: JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of the workers broke off")))
}

struct Reader {
    connection: redis::Connection,
    list: String,
    window: Window,
    /// How long an execution takes on average.
    execution: Duration,
    random: ChaCha8Rng,
    stop: Arc<AtomicBool>,
    tasks: Sender<Task>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Task {
    ends: Instant,
    execution_id: Uuid,
    pipeline_id: Uuid,
}

impl Reader {
    fn run(mut self) -> anyhow::Result<Taken> {
        let mut taken = Taken { tasks: 0, pipelines: HashMap::new(), latency: new_histogram() };
        loop {
            // Read before we ask: what was pushed before we were told to stop is there then.
            let last = self.stop.load(Ordering::Acquire);
            let mut command = redis::cmd("BLMPOP");
            command.arg(0.1).arg(1).arg(&self.list).arg("RIGHT").arg("COUNT").arg(TAKEN);
            let answer: Option<(String, Vec<Vec<u8>>)> = command.query(&mut self.connection).context("the reader")?;
            let now = clock::now();
            let Some((_, messages)) = answer else {
                if last {
                    return Ok(taken);
                }
                continue;
            };
            for message in &messages {
                self.take(message, now, &mut taken).context("a task that no worker could read")?;
            }
        }
    }

    /// From half to one and a half of the average. If all took the same, what began in one batch would end in one and be idle at
    /// once, for ever: no latency would be measured but that of these floods.
    fn length(&mut self) -> Duration {
        self.execution / 2 + self.execution * below(&mut self.random, 1_000) / 1_000
    }

    fn take(&mut self, message: &[u8], now: Instant, taken: &mut Taken) -> anyhow::Result<()> {
        let message: Message<'_> = serde_json::from_slice(message)?;
        let body = BASE64.decode(message.body)?;
        let (_, kwargs, _): (IgnoredAny, Kwargs, IgnoredAny) = serde_json::from_slice(&body)?;
        // A contender may give its executions no id.
        let execution_id = kwargs.execution_id.unwrap_or_else(Uuid::new_v4);
        let due = due_ns(&kwargs.signal_context.signal_id).context("the id of a signal that is not ours")?;
        if (self.window.from_ns..self.window.to_ns).contains(&due) {
            let due = crate::kafka::Due { start: self.window.start, ns: due };
            taken.latency.saturating_record(due.elapsed_us(now).max(1));
        }
        taken.tasks += 1;
        *taken.pipelines.entry(kwargs.pipeline_id).or_default() += 1;
        // Nobody ends tasks any more: its error is told when it is joined.
        let ends = now + self.length();
        self.tasks.send(Task { ends, execution_id, pipeline_id: kwargs.pipeline_id }).ok();
        Ok(())
    }
}

#[derive(Deserialize)]
struct Message<'a> {
    body: &'a str,
}

#[derive(Deserialize)]
struct Kwargs {
    pipeline_id: Uuid,
    execution_id: Option<Uuid>,
    signal_context: Context,
}

#[derive(Deserialize)]
struct Context {
    signal_id: String,
}

/// Notes tasks as running until the reader is gone, and hands them on to their end.
fn begin(mut client: Client, tasks: &Receiver<Task>, begun: &Sender<Task>) -> anyhow::Result<()> {
    while let Ok(first) = tasks.recv() {
        let batch: Vec<Task> = std::iter::once(first).chain(tasks.try_iter().take(5_000)).collect();
        let (executions, pipelines) = columns(&batch);
        client
            .execute(
                "insert into executions (id, pipeline_id, status) select id, pipeline_id, 'RUNNING' from unnest($1::uuid[], $2::uuid[]) as e (id, pipeline_id)",
                &[&executions, &pipelines],
            )
            .context("executions cannot begin")?;
        // Nobody ends tasks any more: its error is told when it is joined.
        for task in batch {
            begun.send(task).ok();
        }
    }
    Ok(())
}

/// Ends tasks, each when it is over, until nobody hands any on. An execution that began or ended already breaks the primary key: a
/// second task for it would not go unseen.
fn end(mut client: Client, tasks: &Receiver<Task>, trace: Trace) -> anyhow::Result<u64> {
    let sql = match trace {
        Trace::AtEnd => {
            "insert into executions (id, pipeline_id, status) select id, pipeline_id, 'COMPLETED' from unnest($1::uuid[], $2::uuid[]) as e (id, pipeline_id)"
        }
        Trace::FromStart => {
            "update executions x set status = 'COMPLETED', finished_at = now() from unnest($1::uuid[], $2::uuid[]) as e (id, pipeline_id) where x.id = e.id"
        }
    };
    let statement = client.prepare(sql)?;
    let (mut ended, mut noted, mut are_more) = (0, clock::now(), true);
    let mut running = BinaryHeap::new();
    while are_more || !running.is_empty() {
        noted += NOTED;
        while are_more {
            match tasks.recv_timeout(noted.saturating_duration_since(clock::now())) {
                Ok(task) => running.push(Reverse(task)),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => are_more = false,
            }
            if clock::now() >= noted {
                break;
            }
        }
        crate::clock::sleep_until(noted)?;
        let now = clock::now();
        if now > noted + NOTED {
            noted = now;
        }
        let mut over = Vec::new();
        while let Some(Reverse(task)) = running.peek().copied().filter(|Reverse(task)| task.ends <= now) {
            over.push(task);
            running.pop();
        }
        if !over.is_empty() {
            let (executions, pipelines) = columns(&over);
            ended += client.execute(&statement, &[&executions, &pipelines]).context("executions cannot be ended")?;
        }
    }
    Ok(ended)
}

fn columns(tasks: &[Task]) -> (Vec<Uuid>, Vec<Uuid>) {
    tasks.iter().map(|task| (task.execution_id, task.pipeline_id)).unzip()
}

/// Tasks that wait in a list.
pub(crate) fn len(services: &Services, list: &str) -> anyhow::Result<u64> {
    let mut connection = redis::Client::open(services.redis.as_str())?.get_connection()?;
    Ok(redis::cmd("LLEN").arg(list).query(&mut connection)?)
}

/// A list that is deleted when the run is over.
pub(crate) struct List<'a> {
    pub(crate) services: &'a Services,
    pub(crate) name: &'a str,
}

impl Drop for List<'_> {
    fn drop(&mut self) {
        let deleted = redis::Client::open(self.services.redis.as_str())
            .and_then(|client| client.get_connection())
            .and_then(|mut connection| redis::cmd("DEL").arg(self.name).query::<()>(&mut connection));
        if let Err(error) = deleted {
            crate::results::complain(&format!("the list {} stays behind in Redis: {error}", self.name));
        }
    }
}
