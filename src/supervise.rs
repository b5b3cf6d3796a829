//! The only place that starts tasks: named, owned, and never detached.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

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
                std::process::exit(130);
            }
            asked = true;
            stop.cancel();
        }
    }))
}
