//! Crashes at named points, wrong clocks, and bugs on purpose: only in builds with the feature `chaos`, for `scripts/chaos`.
//!
//! In every other build these functions are constants that the compiler removes.

/// The points at which a process can be told to die (`CHAOS_CRASH=<point>:<n>`: at its n-th passing).
pub const POINTS: [&str; 20] = [
    "after_fetch",
    "before_dead_letter",
    "after_dead_letter",
    "before_claim",
    "after_claim",
    "before_publish",
    "after_publish",
    "before_commit",
    "after_commit",
    "before_confirm",
    "after_confirm",
    "before_open",
    "after_open",
    "on_assign",
    "on_revoke",
    "sweep_after_take_up",
    "sweep_after_publish",
    "sweep_after_confirm",
    "retry_after_take_up",
    "retry_after_publish",
];

/// Bugs that can be planted (`CHAOS_BUG=<name>`), to see that the harness finds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Kafka and the store move on before the broker has the tasks, and nobody sweeps.
    CommitBeforePublish,
    /// An error of the broker is taken for success.
    PublishErrorSwallowed,
    /// The ledger's key no longer makes a redelivered signal find its own trigger.
    NoConflictKey,
    /// The sweeper publishes whatever it once saw, without looking again.
    SweepWithoutCompare,
    /// A publication is confirmed before the broker has it.
    MarkBeforePublish,
    /// The offset moves before the dead letter is acknowledged.
    DeadLetterNotAwaited,
    /// An unread partition starts at its end.
    LatestReset,
    /// A decision of a former owner counts.
    EpochIgnored,
    /// The loop publishes with the lease of its claim, however old that is.
    OldExpires,
    /// A sweeper takes up entries of other deployments too.
    SweepOfOthers,
    /// A result frees the slot whichever attempt it is of.
    ResultById,
    /// Records that another member of the group has decided are decided again.
    CommittedIgnored,
    /// A known signal is skipped by its position, so that n records with one id cost n claims.
    SkipByPosition,
    /// A log line waits for whoever reads the log.
    LogLineBlocks,
}

impl Bug {
    /// Every bug, with its name.
    pub const ALL: [(&'static str, Self); 14] = [
        ("commit_before_publish", Self::CommitBeforePublish),
        ("publish_error_swallowed", Self::PublishErrorSwallowed),
        ("no_conflict_key", Self::NoConflictKey),
        ("sweep_without_compare", Self::SweepWithoutCompare),
        ("mark_before_publish", Self::MarkBeforePublish),
        ("dead_letter_not_awaited", Self::DeadLetterNotAwaited),
        ("latest_reset", Self::LatestReset),
        ("epoch_ignored", Self::EpochIgnored),
        ("old_expires", Self::OldExpires),
        ("sweep_of_others", Self::SweepOfOthers),
        ("result_by_id", Self::ResultById),
        ("committed_ignored", Self::CommittedIgnored),
        ("skip_by_position", Self::SkipByPosition),
        ("log_line_blocks", Self::LogLineBlocks),
    ];
}

#[cfg(feature = "chaos")]
mod armed {
    use std::collections::HashMap;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use super::Bug;

    static CRASH: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let value = std::env::var("CHAOS_CRASH").ok()?;
        let (point, count) = value.split_once(':')?;
        Some((point.to_owned(), count.parse().ok()?))
    });
    static CLOCK_OFFSET_MS: LazyLock<i64> =
        LazyLock::new(|| std::env::var("CHAOS_CLOCK_OFFSET_MS").ok().and_then(|value| value.parse().ok()).unwrap_or(0));
    static PASSED: LazyLock<Mutex<HashMap<&'static str, u64>>> = LazyLock::new(Mutex::default);
    static BUG: LazyLock<Option<Bug>> = LazyLock::new(|| {
        let value = std::env::var("CHAOS_BUG").ok()?;
        Bug::ALL.iter().find(|(name, _)| *name == value).map(|(_, bug)| *bug)
    });

    /// Dies here if told so: at once, with nothing flushed or closed, as by `kill -9`.
    pub(crate) fn point(name: &'static str) {
        debug_assert!(super::POINTS.contains(&name), "{name} is missing in the list of points");
        let Some((point, count)) = &*CRASH else { return };
        if point != name {
            return;
        }
        let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
        let passing = passed.entry(name).or_default();
        *passing += 1;
        if *passing == *count {
            // For the harness, which counts that the crash has hit.
            tracing::error!(event = "chaos_crash", point = name);
            crate::telemetry::finish_logs();
            std::process::abort();
        }
    }

    /// How wrong the wall clock is (`CHAOS_CLOCK_OFFSET_MS`).
    pub(crate) fn clock_offset_ms() -> i64 {
        *CLOCK_OFFSET_MS
    }

    /// Whether the bug is planted.
    pub(crate) fn bug(bug: Bug) -> bool {
        *BUG == Some(bug)
    }
}

#[cfg(feature = "chaos")]
pub(crate) use armed::{bug, clock_offset_ms, point};

/// Does nothing.
#[cfg(not(feature = "chaos"))]
#[inline]
pub(crate) fn point(_name: &'static str) {}

/// The wall clock is as it is.
#[cfg(not(feature = "chaos"))]
#[inline]
pub(crate) fn clock_offset_ms() -> i64 {
    0
}

/// Never.
#[cfg(not(feature = "chaos"))]
#[inline]
pub(crate) fn bug(_bug: Bug) -> bool {
    false
}
