//! Why this instance could not decide now: the reasons behind `/readyz`. Whoever meets trouble reports it here, and its end too.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelValue;
use serde::Serialize;

use crate::clock;

/// What a decision needs from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(non_camel_case_types, reason = "the values of a metric's label")]
pub enum Dependency {
    /// Claims, progress and rules.
    postgresql,
    /// Where tasks go.
    broker,
    /// Where signals come from.
    kafka,
    /// Where bad records go.
    dead_letter_topic,
}

impl Dependency {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::postgresql, Self::broker, Self::kafka, Self::dead_letter_topic];
}

/// A reason not to be ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// The event that the log has of it, or what is missing.
    pub reason: &'static str,
    /// Who fails; none where nobody does.
    pub dependency: Option<Dependency>,
    /// For how long.
    pub seconds: u64,
}

type Known = BTreeMap<&'static str, (Option<Dependency>, Instant)>;

/// The reasons not to be ready.
#[derive(Debug, Default)]
pub struct Health(Mutex<Known>);

impl Health {
    /// Something is not as a decision needs it.
    pub fn failed(&self, reason: &'static str, dependency: Option<Dependency>) {
        self.lock().entry(reason).or_insert_with(|| (dependency, clock::now()));
    }

    /// It is again.
    pub fn works(&self, reason: &'static str) {
        self.lock().remove(reason);
    }

    /// Which of these reasons holds, if any: they exclude each other.
    pub fn only(&self, all: &[&'static str], holds: Option<&'static str>) {
        let mut known = self.lock();
        known.retain(|reason, _| holds == Some(*reason) || !all.contains(reason));
        if let Some(reason) = holds {
            known.entry(reason).or_insert_with(|| (None, clock::now()));
        }
    }

    /// The reasons now. None: this instance could decide.
    pub fn troubles(&self) -> Vec<Trouble> {
        let now = clock::now();
        let trouble = |(reason, (dependency, since)): (&&'static str, &(Option<Dependency>, Instant))| Trouble {
            reason,
            dependency: *dependency,
            seconds: now.saturating_duration_since(*since).as_secs(),
        };
        self.lock().iter().map(trouble).collect()
    }

    /// Whether nobody reports a failure of the dependency.
    pub fn is_up(&self, dependency: Dependency) -> bool {
        self.lock().values().all(|(failed, _)| *failed != Some(dependency))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(health: &Health) -> Vec<&'static str> {
        health.troubles().into_iter().map(|trouble| trouble.reason).collect()
    }

    #[test]
    fn a_dependency_is_up_when_all_that_failed_on_it_work_again() {
        let health = Health::default();
        health.failed("claim_failed", Some(Dependency::postgresql));
        health.failed("sweep_failed", Some(Dependency::postgresql));
        health.failed("claim_failed", Some(Dependency::postgresql));
        health.works("claim_failed");
        assert_eq!((reasons(&health), health.is_up(Dependency::postgresql)), (vec!["sweep_failed"], false));
        assert!(health.is_up(Dependency::broker));
        health.works("sweep_failed");
        assert_eq!((reasons(&health), health.is_up(Dependency::postgresql)), (vec![], true));
    }

    #[test]
    fn of_reasons_that_exclude_each_other_the_last_one_holds() {
        let (health, all) = (Health::default(), ["one", "two"]);
        health.failed("other", None);
        health.only(&all, Some("one"));
        health.only(&all, Some("two"));
        assert_eq!(reasons(&health), ["other", "two"]);
        health.only(&all, None);
        assert_eq!(reasons(&health), ["other"]);
    }
}
