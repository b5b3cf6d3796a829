//! One dispatcher takes a topic that is full already, and everything about it is measured.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::MAX_GAP_SECONDS;
use super::flow::Flow;
use super::preload::preload;
use crate::clock;
use crate::drills::history::History;
use crate::evidence::Evidence;
use crate::instances::Instances;
use crate::kafka::Topics;
use crate::options::Arm;
use crate::platform::Platform;
use crate::services::Services;
use crate::worker::{Habits, Seen, Worker};

/// How long nothing may move before the drill gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long everything that was claimed may take to start, once all is decided.
const SETTLE: Duration = Duration::from_secs(120);

/// The topic and the database of one flow.
pub(super) struct Ground {
    pub(super) flow: Flow,
    pub(super) topics: Topics,
    pub(super) platform: Platform,
    services: Services,
    evidence: Arc<Evidence>,
    seed: u64,
}

/// How it went.
pub(super) struct Drained {
    pub(super) seen: Seen,
    /// From the start of the process to the first decision.
    pub(super) first: f64,
    /// From the first decision to the last.
    pub(super) seconds: f64,
    pub(super) per_second: f64,
    /// The longest time without a decision in between, and when it began.
    pub(super) longest_gap: f64,
    pub(super) gap_at: f64,
    /// Gaps that were too long.
    pub(super) stalls: usize,
    /// The most resident memory, in MB, by the kernel's own mark.
    pub(super) resident: f64,
}

impl Ground {
    pub(super) fn prepare(name: &str, flow: Flow, seed: u64) -> anyhow::Result<Self> {
        let services = Services::from_environment(Arm::Redis)?;
        let unique = format!("drill_{seed}_{}", clock::unix_ms());
        let evidence = Arc::new(Evidence::create(name)?);
        let platform = Platform::create(&services, &unique, seed)?;
        let topics = Topics::create(&services, &unique)?;
        preload(&topics, flow)?;
        Ok(Self { flow, topics, platform, services, evidence, seed })
    }

    /// Runs one dispatcher and the workers until everything is decided and started.
    pub(super) fn drain(&self) -> anyhow::Result<Drained> {
        let instances = Instances::new(0..1, self.variables()?, &self.evidence)?;
        instances.migrate()?;
        self.platform.keep_history()?;
        let habits =
            Habits { broker: self.services.broker.clone(), queue: self.topics.signals.clone(), seed: self.seed, loses: 0 };
        let worker = Worker::start(&self.platform, habits, &self.evidence)?;
        let began = clock::unix_ms() * 1000;
        instances.start(0, None)?;
        self.await_decisions(&instances).with_context(|| format!("see {}", self.evidence.folder().display()))?;
        self.await_starts(&worker)?;
        let (pid, _) = instances.ages().first().copied().context("the instance is gone")?;
        let resident = peak(pid)?;
        instances.stop(0)?;
        let seen = worker.finish()?;
        measured(&History::load(&self.platform)?, began, resident, seen)
    }

    /// With what an operator gets who sets nothing.
    fn variables(&self) -> anyhow::Result<Vec<(String, String)>> {
        let port = self.platform.address().rsplit(':').next().and_then(|port| port.parse().ok()).context("PostgreSQL's port")?;
        let own = [
            ("KAFKA_BOOTSTRAP_SERVERS", self.topics.servers.clone()),
            ("KAFKA_SIGNAL_TOPIC", self.topics.signals.clone()),
            ("KAFKA_DEAD_LETTER_TOPIC", self.topics.dead_letters.clone()),
            ("KAFKA_CONSUMER_GROUP", self.topics.group.clone()),
            ("CELERY_BROKER_URL", self.services.broker.url.to_string()),
            ("CELERY_TASK_QUEUE", self.topics.signals.clone()),
            ("HTTP_ADDRESS", "127.0.0.1:0".to_owned()),
        ];
        let all = own.into_iter().chain(self.platform.variables(port));
        Ok(all.map(|(name, value)| (name.to_owned(), value)).collect())
    }

    fn await_decisions(&self, instances: &Instances) -> anyhow::Result<()> {
        let mut client = self.platform.connect()?;
        let mut decided = 0;
        loop {
            let more = clock::wait_for(PATIENCE, || {
                instances.check()?;
                let now: i64 =
                    client.query_one("select coalesce(sum(consumed), 0)::bigint from dispatcher.progress", &[])?.try_get(0)?;
                Ok((now > decided).then_some(now))
            })?;
            decided = more.with_context(|| format!("it stands still after {decided} of {} records", self.flow.count))?;
            if u64::try_from(decided)? >= self.flow.count {
                return Ok(());
            }
        }
    }

    /// Until every trigger has started and no task runs.
    fn await_starts(&self, worker: &Worker) -> anyhow::Result<()> {
        let mut client = self.platform.connect()?;
        let mut left = 0;
        let done = clock::wait_for(SETTLE, || {
            anyhow::ensure!(worker.is_alive(), "the worker ended by itself");
            left = client
                .query_one(
                    "select (select count(*) from dispatcher.triggers) - (select count(*) from dispatcher.starts)
                         + (select count(*) from dispatcher.publications where enqueued_at is null)",
                    &[],
                )?
                .try_get::<_, i64>(0)?;
            Ok((left == 0 && worker.is_idle()).then_some(()))
        })?;
        done.with_context(|| format!("{left} triggers are not started or not confirmed after {} s", SETTLE.as_secs()))
    }

    /// Frees the disk; the evidence stays when something was wrong.
    pub(super) fn leave(self, held: bool) -> anyhow::Result<()> {
        self.topics.delete()?;
        if held && let Ok(evidence) = Arc::try_unwrap(self.evidence) {
            evidence.discard()?;
        }
        Ok(())
    }
}

fn measured(history: &History, began: i64, resident: f64, seen: Seen) -> anyhow::Result<Drained> {
    let decisions = history.decisions();
    let (Some((first, records)), Some((last, _))) = (decisions.first(), decisions.last()) else {
        anyhow::bail!("nothing was decided")
    };
    let all: i64 = decisions.iter().map(|(_, records)| records).sum();
    let (gap, gap_at) = history.longest_gap();
    let seconds = |micros: i64| micros as f64 / 1e6;
    let stalls = decisions.windows(2).filter(|pair| seconds(pair[1].0 - pair[0].0) > MAX_GAP_SECONDS).count();
    Ok(Drained {
        seen,
        first: seconds(first - began),
        seconds: seconds(last - first),
        per_second: (all - records) as f64 / seconds((last - first).max(1)),
        longest_gap: seconds(gap),
        gap_at: seconds(gap_at - first),
        stalls,
        resident,
    })
}

/// The most memory that a process has had, in MB.
fn peak(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the kernel tells no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
