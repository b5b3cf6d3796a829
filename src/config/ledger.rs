//! How long the ledger is kept.

use std::fmt;

use super::TriggerConfig;
use super::environment::Reader;

const SECONDS_PER_DAY: f64 = 86_400.0;
const MOST_DAYS: u16 = 36_500;
/// Partitions that a retention is cut into: what is too old goes a partition at a time, and each claim looks into all of them,
/// which costs a few microseconds a slot for each (ADR 8).
const PARTITIONS: u16 = 4;
/// How long a partition of a ledger that is kept for ever is.
const DAYS_OF_A_PARTITION_FOR_EVER: u16 = 180;

/// A whole number of days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Days(u16);

/// How long the ledger is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerConfig {
    /// `None`: for ever.
    pub retention: Option<Days>,
}

impl Days {
    /// From 1 to a hundred years.
    pub fn new(days: u16) -> Option<Self> {
        (1..=MOST_DAYS).contains(&days).then_some(Self(days))
    }

    /// The number of days.
    pub fn get(self) -> i32 {
        i32::from(self.0)
    }

    /// What a ledger that is kept so long could do wrong, or nothing: a signal that comes again when its trigger is forgotten
    /// would be started again, so its record must be stale by then, and what it started must be over.
    pub fn too_few_for(self, trigger: &TriggerConfig) -> Option<String> {
        let Some(age) = trigger.max_signal_age else {
            return Some(
                "signals of any age are taken (MAX_SIGNAL_AGE_SECONDS=0), so the ledger has to be kept for ever".to_owned(),
            );
        };
        let least = age.max(trigger.lease).as_secs_f64() / SECONDS_PER_DAY;
        (f64::from(self.0) < least).then(|| {
            format!("must be at least {}, as long as MAX_SIGNAL_AGE_SECONDS and TRIGGER_LEASE_SECONDS say, or a signal that comes again starts again", least.ceil())
        })
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}d", self.0)
    }
}

impl LedgerConfig {
    /// How many days a new partition of the ledger is for.
    pub fn partition_days(&self) -> i32 {
        i32::from(self.retention.map_or(DAYS_OF_A_PARTITION_FOR_EVER, |days| days.0.div_ceil(PARTITIONS)))
    }

    pub(super) fn read(reader: &mut Reader<'_>, trigger: Option<&TriggerConfig>) -> Option<Self> {
        let retention = match reader.optional("LEDGER_RETENTION_DAYS") {
            Some(_) => Some(Days(reader.number("LEDGER_RETENTION_DAYS", 1, MOST_DAYS)?)),
            None => None,
        };
        if let Some(problem) = retention.zip(trigger).and_then(|(days, trigger)| days.too_few_for(trigger)) {
            reader.problem("LEDGER_RETENTION_DAYS", problem);
        }
        Some(Self { retention })
    }
}
