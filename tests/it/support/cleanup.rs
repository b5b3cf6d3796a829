//! A test takes away what it has made on the shared services, or hundreds of databases and topics would slow down the tests after it.
//! After a failure everything stays, to be looked at.

/// Does the work on a thread of its own and waits for it, unless the test has failed.
pub(crate) fn after_success(work: impl Future<Output = Result<(), String>> + Send + 'static) {
    if std::thread::panicking() {
        return;
    }
    let cleaner = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        runtime.block_on(work)
    });
    if let Err(error) = cleaner.join().expect("cleaning up does not panic") {
        #[expect(clippy::print_stderr, reason = "the test has passed, but its reader should know")]
        {
            eprintln!("something of this test stays: {error}");
        }
    }
}
