//! Whether Redis may throw tasks away when its memory is full. Does IO. Asks and tells; never refuses, and never sets
//! anything.
//!
//! A warning and no refusal: whoever can change the policy can change it behind any check at the start, and a service that
//! stands still loses more signals than a Redis that has room left loses tasks.

use redis::aio::MultiplexedConnection;
use redis::{InfoDict, RedisResult};

use crate::telemetry::Seldom;

/// What happens to our keys when Redis has no memory left.
#[derive(Debug, PartialEq, Eq)]
enum Eviction {
    /// Nothing: it refuses the next task, and we wait.
    Nothing,
    /// Any key may go, the queue first of all: it is the biggest.
    Tasks(Memory),
    /// Keys with an end may go: the guards, without which a repeated publication is there twice.
    Guards(Memory),
    /// Redis does not say.
    Unknown,
}

#[derive(Debug, PartialEq, Eq)]
struct Memory {
    policy: String,
    most_bytes: u64,
}

impl Eviction {
    fn of(policy: Option<String>, most_bytes: Option<u64>) -> Self {
        match (policy, most_bytes) {
            // Without a limit, nothing is ever evicted.
            (_, Some(0)) => Self::Nothing,
            (Some(policy), _) if policy == "noeviction" => Self::Nothing,
            (Some(policy), Some(most_bytes)) if policy.starts_with("volatile-") => Self::Guards(Memory { policy, most_bytes }),
            (Some(policy), Some(most_bytes)) => Self::Tasks(Memory { policy, most_bytes }),
            (_, None) | (None, _) => Self::Unknown,
        }
    }

    fn tell(&self, address: &str, seldom: &Seldom) {
        match self {
            Self::Tasks(memory) if seldom.now("tasks") => tracing::error!(
                event = "redis_may_evict_tasks",
                address,
                maxmemory_policy = memory.policy,
                maxmemory = memory.most_bytes,
                text = "when its memory is full, this Redis throws queued tasks away: set maxmemory-policy noeviction"
            ),
            Self::Guards(memory) if seldom.now("guards") => tracing::warn!(
                event = "redis_may_evict_guards",
                address,
                maxmemory_policy = memory.policy,
                maxmemory = memory.most_bytes,
                text = "when its memory is full, this Redis forgets what was published, and a repeated publication is there \
                        twice: set maxmemory-policy noeviction"
            ),
            Self::Unknown if seldom.now("unknown") => tracing::warn!(
                event = "redis_eviction_unknown",
                address,
                text = "this Redis tells neither INFO memory nor CONFIG GET: make sure that its maxmemory-policy is noeviction"
            ),
            Self::Nothing | Self::Tasks(_) | Self::Guards(_) | Self::Unknown => {}
        }
    }
}

/// Asks on a connection that was made just now, and tells what may be lost: a failover may have led to another server.
///
/// # Errors
/// The connection is broken. A server that does not let us ask is no error.
pub(super) async fn look(connection: &mut MultiplexedConnection, address: &str, seldom: &Seldom) -> RedisResult<()> {
    let mut found = answered(from_info(connection).await)?.unwrap_or(Eviction::Unknown);
    if found == Eviction::Unknown {
        found = answered(from_config(connection).await)?.unwrap_or(Eviction::Unknown);
    }
    found.tell(address, seldom);
    Ok(())
}

async fn from_info(connection: &mut MultiplexedConnection) -> RedisResult<Eviction> {
    let memory: InfoDict = redis::cmd("INFO").arg("memory").query_async(connection).await?;
    Ok(Eviction::of(memory.get("maxmemory_policy"), memory.get("maxmemory")))
}

async fn from_config(connection: &mut MultiplexedConnection) -> RedisResult<Eviction> {
    let settings: Vec<String> = redis::cmd("CONFIG").arg("GET").arg("maxmemory*").query_async(connection).await?;
    let setting = |name: &str| settings.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone());
    Ok(Eviction::of(setting("maxmemory-policy"), setting("maxmemory").and_then(|bytes| bytes.parse().ok())))
}

/// `None` where the server answered that it will not tell: it may have renamed the command, or not allow it to us.
fn answered<T>(result: RedisResult<T>) -> RedisResult<Option<T>> {
    match result {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.code().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_limit_with_a_policy_that_evicts_loses_anything() {
        let memory = |policy: &str| Memory { policy: policy.to_owned(), most_bytes: 1 };
        for (policy, most_bytes, expected) in [
            (Some("noeviction"), Some(1), Eviction::Nothing),
            (Some("noeviction"), None, Eviction::Nothing),
            (Some("allkeys-lru"), Some(0), Eviction::Nothing),
            (None, Some(0), Eviction::Nothing),
            (Some("allkeys-lru"), Some(1), Eviction::Tasks(memory("allkeys-lru"))),
            (Some("of-tomorrow"), Some(1), Eviction::Tasks(memory("of-tomorrow"))),
            (Some("volatile-ttl"), Some(1), Eviction::Guards(memory("volatile-ttl"))),
            (Some("allkeys-lru"), None, Eviction::Unknown),
            (None, Some(1), Eviction::Unknown),
            (None, None, Eviction::Unknown),
        ] {
            assert_eq!(Eviction::of(policy.map(str::to_owned), most_bytes), expected, "{policy:?}, {most_bytes:?}");
        }
    }
}
