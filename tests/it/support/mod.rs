//! What the tests on real services share.

pub(crate) mod amqp;
pub(crate) mod cleanup;
pub(crate) mod cutter;
pub(crate) mod database;
pub(crate) mod dispatcher;
pub(crate) mod drill;
pub(crate) mod gate;
pub(crate) mod names;
pub(crate) mod partitions;
pub(crate) mod pgbouncer;
pub(crate) mod private_postgres;
pub(crate) mod private_rabbitmq;
pub(crate) mod private_redis;
pub(crate) mod proxy;
pub(crate) mod queue;
pub(crate) mod request;
pub(crate) mod rights;
pub(crate) mod scene;
pub(crate) mod settings;
pub(crate) mod topic;
pub(crate) mod wire;
pub(crate) mod worker;

use std::time::{Duration, Instant};

/// A service's address, or one clear line on how to get it.
pub(crate) fn service(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/test, or eval \"$(scripts/services env)\""))
}

/// `host:port` of a service's URL.
pub(crate) fn host_and_port(url: &str) -> String {
    let url = url::Url::parse(url).unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
}

/// A name that no other test has.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}_{}", &uuid::Uuid::new_v4().simple().to_string()[..12])
}

/// Seconds that are enough for anything that comes at last, also on a machine where much else runs. Only a failure takes them.
pub(crate) const PATIENCE: u64 = 180;

/// Asks again until `probe` gives something, or fails the test after `seconds`.
pub(crate) fn wait_for<T>(what: &str, seconds: u64, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {seconds} s in vain for {what}");
        // Only between two questions: the condition decides, not the time.
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// [`wait_for`] with a question that waits itself.
pub(crate) async fn wait_until<T>(what: &str, seconds: u64, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {seconds} s in vain for {what}");
        // Only between two questions: the condition decides, not the time.
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// How long something took.
pub(crate) fn stopwatch() -> impl Fn() -> Duration {
    let start = Instant::now();
    move || start.elapsed()
}
