//! What the promises cost: each part that keeps one, beside what would do the same work without it, in one run on the real
//! PostgreSQL and Redis. The statement and the script are the dispatcher's own text, the messages those that one has left in Redis.

mod claim;
mod publish;

pub(crate) use claim::Claims;

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::arms::shape;
use crate::clock::{now, wait_for};
use crate::instance::Setting;
use crate::kafka::{Preload, Topic};
use crate::platform::Platform;
use crate::queue::{self, List};
use crate::results::{median, round};
use crate::signals::Spread;
use crate::subject::Subject;
use crate::suite::{Bench, Case, Tell, name};

/// Slots of a statement, and messages of a publication.
const SIZES: [usize; 3] = [20, 200, 1_000];

/// The claim against a query that only asks who is idle, and the guarded publish against a plain LPUSH.
pub(crate) struct Promises {
    pub(crate) seed: u64,
    /// How often each is timed; the median counts.
    pub(crate) rounds: u32,
}

/// Times of one thing with a promise and without it, in seconds, and what they left in the WAL.
#[derive(Default)]
pub(crate) struct Timed {
    pub(crate) with: Vec<f64>,
    without: Vec<f64>,
    wal_bytes: Vec<f64>,
    won: Vec<f64>,
}

impl Timed {
    fn figures(&self, size: usize) -> Value {
        let (with, without) = (median(&self.with), median(&self.without));
        let wal = (!self.wal_bytes.is_empty()).then(|| round(median(&self.wal_bytes) / size as f64, 0));
        json!({
            "with_ms": round(with * 1e3, 3),
            "without_ms": round(without * 1e3, 3),
            "difference_us_each": round((with - without) / size as f64 * 1e6, 2),
            "wal_bytes_each": wal,
            "won_percent": (!self.won.is_empty()).then(|| round(median(&self.won) / size as f64 * 100.0, 0)),
            "rounds": self.with.len(),
        })
    }
}

impl Case for Promises {
    fn arm(&self) -> &'static str {
        "cost"
    }

    fn title(&self) -> String {
        "claim and publish, with and without their promises".to_owned()
    }

    fn measure(&self, bench: &mut Bench, tell: Tell<'_>) -> anyhow::Result<()> {
        let (services, name) = (&bench.services, name());
        let ours = Subject::ours();
        let mut platform = Platform::create(services, &name, &shape(10_000, self.seed), &ours.migrate)?;
        let _list = List { services, name: &name };
        let preload =
            Preload { signals: 500, partitions: 1, compression: "lz4".into(), spread: Spread::Uniform, seed: self.seed };
        let topic = Topic::filled(services, &name, &preload)?;
        let mut instance = Setting::new(services, &platform, &topic, &name, &ours).start()?;
        wait_for("lag 0", Duration::from_secs(60), || {
            instance.check()?;
            Ok((platform.progress()?.next_offsets >= 500).then_some(()))
        })?;
        instance.stop()?;
        let tasks = queue::len(services, &name)?;
        platform.audit(preload.signals, tasks)?;

        let kwargs = platform.owner.query_one("select kwargs::text from dispatcher.triggers limit 1", &[])?.get(0);
        let mut claims = Claims::prepare(&mut platform, &name, kwargs)?;
        for size in SIZES {
            let mut timed = Timed::default();
            for _ in 0..self.rounds {
                claims.time(size, &mut timed)?;
            }
            tell(&format!("claim of {size} slots / asking who is idle"), timed.figures(size))?;
        }
        let mut publishing = publish::Publishing::prepare(services, &name)?;
        for size in SIZES {
            let mut timed = Timed::default();
            for _ in 0..self.rounds {
                publishing.time(size, &mut timed)?;
            }
            tell(&format!("guarded publish of {size} tasks / plain LPUSH"), timed.figures(size))?;
        }
        Ok(())
    }
}

/// Seconds that something takes, and what it gives.
fn seconds<T>(act: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(f64, T)> {
    let began = now();
    let given = act().context("what is timed")?;
    Ok(((now() - began).as_secs_f64(), given))
}
