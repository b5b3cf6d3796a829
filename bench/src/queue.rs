//! The workers' side: takes tasks out of the Redis list, notes when, and ends their executions some time later, so that
//! the pipelines are idle again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use postgres::Client;
use serde::Deserialize;
use serde::de::IgnoredAny;
use uuid::Uuid;

use crate::clock;
use crate::platform::Platform;
use crate::services::Services;
use crate::signals::due_ns;

/// Tasks taken at once.
const TAKEN: u32 = 1_000;

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
    ender: JoinHandle<anyhow::Result<u64>>,
}

impl Workers {
    pub(crate) fn start(
        services: &Services,
        platform: &Platform,
        list: &str,
        window: Window,
        execution: Duration,
    ) -> anyhow::Result<Self> {
        let connection = redis::Client::open(services.redis.as_str())?.get_connection()?;
        let client = platform.another()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (tasks, received) = channel();
        let reader = Reader { connection, list: list.to_owned(), window, execution, stop: Arc::clone(&stop), tasks };
        let reader = std::thread::Builder::new().name("reader".into()).spawn(move || reader.run())?;
        let ender = std::thread::Builder::new().name("ender".into()).spawn(move || end(client, &received))?;
        Ok(Self { stop, reader, ender })
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
    /// How long an execution takes.
    execution: Duration,
    stop: Arc<AtomicBool>,
    tasks: Sender<Task>,
}

#[derive(Debug, Clone, Copy)]
struct Task {
    execution_id: Uuid,
    pipeline_id: Uuid,
    ends: Instant,
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

    fn take(&self, message: &[u8], now: Instant, taken: &mut Taken) -> anyhow::Result<()> {
        let message: Message<'_> = serde_json::from_slice(message)?;
        let body = BASE64.decode(message.body)?;
        let (_, kwargs, _): (IgnoredAny, Kwargs, IgnoredAny) = serde_json::from_slice(&body)?;
        let due = due_ns(&kwargs.signal_context.signal_id).context("the id of a signal that is not ours")?;
        if (self.window.from_ns..self.window.to_ns).contains(&due) {
            let due = crate::kafka::Due { start: self.window.start, ns: due };
            taken.latency.saturating_record(due.elapsed_us(now).max(1));
        }
        taken.tasks += 1;
        *taken.pipelines.entry(kwargs.pipeline_id).or_default() += 1;
        // Nobody ends tasks any more: its error is told when it is joined.
        let ends = now + self.execution;
        self.tasks.send(Task { execution_id: kwargs.execution_id, pipeline_id: kwargs.pipeline_id, ends }).ok();
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
    execution_id: Uuid,
    signal_context: Context,
}

#[derive(Deserialize)]
struct Context {
    signal_id: String,
}

/// Ends tasks until the reader is gone, in their order; each statement takes all that are due. An execution that was ended
/// already breaks the primary key: a second task for it would not go unseen.
fn end(mut client: Client, tasks: &Receiver<Task>) -> anyhow::Result<u64> {
    let mut ended = 0;
    let mut next = None;
    while let Some(first) = next.take().or_else(|| tasks.recv().ok()) {
        std::thread::sleep(first.ends.saturating_duration_since(clock::now()));
        let (mut executions, mut pipelines) = (vec![first.execution_id], vec![first.pipeline_id]);
        let now = clock::now();
        for task in tasks.try_iter().take(5_000) {
            if task.ends > now {
                next = Some(task);
                break;
            }
            executions.push(task.execution_id);
            pipelines.push(task.pipeline_id);
        }
        ended += client
            .execute(
                "insert into executions (id, pipeline_id, status) select id, pipeline_id, 'COMPLETED' from unnest($1::uuid[], $2::uuid[]) as e (id, pipeline_id)",
                &[&executions, &pipelines],
            )
            .context("executions cannot be ended")?;
    }
    Ok(ended)
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
