//! The only place that starts tasks: named, owned, and never detached.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::telemetry;

/// A task that ends with its owner.
#[derive(Debug)]
pub struct Companion(JoinHandle<()>);

impl Companion {
    /// Starts a task that is aborted when the companion is dropped.
    #[expect(clippy::disallowed_methods, reason = "the owner holds the handle and aborts")]
    pub fn start(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs what takes the processor for long on a thread of its own, so that no task has to wait for it.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Runs a future on a thread and a runtime of its own, to its end. What it connects to is driven by that thread too: an answer from a
/// server wakes one thread, and not first one that reads it and then another that waits for it.
///
/// # Errors
/// The system gives no thread, or the future panicked.
pub async fn alone<T, F>(name: &'static str, work: impl FnOnce() -> F + Send + 'static) -> anyhow::Result<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let (ended, end) = oneshot::channel();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let thread = move || {
        let result = runtime.block_on(work());
        // Nobody waits for it any more where the shutdown took too long.
        drop(ended.send(result));
        runtime.shutdown_background();
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(thread)?;
    end.await.map_err(|_| anyhow::anyhow!("the thread {name} broke off"))
}

/// A named task of the service. When one ends, for whatever reason, all are told to stop.
#[derive(Debug)]
pub struct Task {
    name: &'static str,
    handle: JoinHandle<anyhow::Result<()>>,
}

impl Task {
    /// Starts a task whose end, a panic included, cancels `stop`.
    #[expect(clippy::disallowed_methods, reason = "the owner joins the task")]
    pub fn start(
        name: &'static str,
        stop: &CancellationToken,
        future: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) -> Self {
        let guard = stop.clone().drop_guard();
        let handle = tokio::spawn(async move {
            let _guard = guard;
            future.await
        });
        Self { name, handle }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It failed or panicked.
    pub async fn join(self) -> anyhow::Result<()> {
        let name = self.name;
        match self.handle.await {
            Ok(result) => result.map_err(|error| error.context(format!("the task {name} failed"))),
            Err(error) => Err(anyhow::anyhow!("the task {name} broke off: {error}")),
        }
    }
}

/// Runs `all` to its end, but after `stop` at most `grace` longer.
///
/// # Errors
/// `all` failed, or did not end in time.
pub async fn within_grace(
    stop: &CancellationToken,
    grace: Duration,
    all: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let patience = async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        result = all => result,
        () = patience => Err(anyhow::anyhow!("the shutdown took longer than {grace:?}")),
    }
}

/// Cancels `stop` at the first SIGTERM or Ctrl-C; leaves the process at the second.
///
/// # Errors
/// The system does not let us listen to signals.
pub fn stop_on_signal(stop: CancellationToken) -> std::io::Result<Companion> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(Companion::start(async move {
        let mut asked = false;
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(event = "signal_to_stop", name, at_once = asked);
            if asked {
                telemetry::finish_logs();
                std::process::exit(130);
            }
            asked = true;
            stop.cancel();
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_alone_has_its_connections_on_its_own_thread() {
        let name = || std::thread::current().name().map(str::to_owned);
        let both = alone("by itself", async move || {
            let (tell, told) = oneshot::channel();
            // As a client library does with the driver of a connection.
            let _driver = Companion::start(async move { drop(tell.send(name())) });
            (name(), told.await.unwrap())
        });
        let (own, driver) = both.await.unwrap();
        assert_eq!(own.as_deref(), Some("by itself"));
        assert_eq!(driver, own);
    }

    #[tokio::test]
    async fn a_panic_on_its_own_thread_is_an_error_that_names_it() {
        let error = alone("by itself", async || panic!("on purpose")).await.unwrap_err();
        assert_eq!(error.to_string(), "the thread by itself broke off");
    }
}
