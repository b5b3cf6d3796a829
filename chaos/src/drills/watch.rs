//! Asks the services themselves while a drill runs: when the broken one answered, and how much Redis was given.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postgres::NoTls;

use super::history::Window;
use crate::clock;
use crate::options::Dependency;
use crate::services::Services;

/// How often is asked.
const EVERY: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(2);

/// What was answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers {
    /// When the dependency answered, in microseconds since 1970.
    at: Vec<i64>,
    /// How many pushes Redis had done, and when it said so.
    pub(super) pushes: Vec<(i64, u64)>,
}

impl Answers {
    /// Asks until told to stop.
    pub(super) fn gather(services: &Services, dependency: Dependency, stop: &AtomicBool) -> anyhow::Result<Self> {
        let redis = redis::Client::open(services.broker.url.as_str())?;
        let mut connection = None;
        let mut answers = Self::default();
        while !stop.load(Ordering::Acquire) {
            // No answer while it is down, as planned.
            if let Ok(pushes) = pushes(&redis, &mut connection) {
                let now = clock::unix_ms() * 1000;
                answers.pushes.push((now, pushes));
                if dependency == Dependency::Redis {
                    answers.at.push(now);
                }
            }
            if dependency == Dependency::Postgres && session(services).is_ok() {
                answers.at.push(clock::unix_ms() * 1000);
            }
            clock::pause(EVERY)?;
        }
        Ok(answers)
    }

    /// From the last answer before the outage to the first one after it.
    pub(super) fn outage(&self) -> Option<Window> {
        let gaps = self.at.windows(2).map(|pair| Window { from: pair[0], to: pair[1] });
        gaps.max_by_key(|gap| gap.to - gap.from)
    }
}

/// How often values were pushed to a list since Redis was started; also from within scripts.
fn pushes(client: &redis::Client, connection: &mut Option<redis::Connection>) -> redis::RedisResult<u64> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => {
            let open = client.get_connection_with_timeout(TIMEOUT)?;
            open.set_read_timeout(Some(TIMEOUT))?;
            open
        }
    };
    let text: String = redis::cmd("INFO").arg("commandstats").query(&mut open)?;
    *connection = Some(open);
    Ok(lpush_calls(&text))
}

fn lpush_calls(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_lpush:calls="));
    line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
}

fn session(services: &Services) -> anyhow::Result<()> {
    let mut config: postgres::Config = services.postgres.as_str().parse()?;
    config.connect_timeout(TIMEOUT);
    config.connect(NoTls)?.simple_query("select 1")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushes_are_read_from_what_redis_says_about_its_commands() {
        let text = "# Commandstats\r\ncmdstat_lpush:calls=1234,usec=1,usec_per_call=1.00\r\ncmdstat_lpushx:calls=9,usec=1\r\n";
        assert_eq!(lpush_calls(text), 1234);
        assert_eq!(lpush_calls("# Commandstats\r\n"), 0);
    }

    #[test]
    fn the_outage_is_the_longest_silence() {
        let answers = Answers { at: vec![1, 2, 4, 34, 35], pushes: Vec::new() };
        assert_eq!(answers.outage(), Some(Window { from: 4, to: 34 }));
        assert_eq!(Answers::default().outage(), None);
    }
}
