//! What the sweepers ask of the store: the twin of [`crate::store::sweep`].

use std::collections::HashMap;
use std::time::Duration;

use uuid::Uuid;

use super::{MemoryStore, MemoryTerms, State, milliseconds, timestamp};
use crate::clock;
use crate::store::sweep::{PATIENCE, Retried};
use crate::store::{GivenUp, Renewal, TakenUp};
use crate::tasks::{Publication, Task, publish_by};

/// Publications that one round takes up at most.
const TAKEN: usize = 50;

/// How far the tasks of a batch have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicationState {
    /// Claimed; whether the broker has it is not known.
    Claimed,
    /// The broker has it.
    Enqueued,
    /// Given up: its slots had passed on to newer triggers, or its signals were too old.
    Lapsed,
}

#[derive(Debug)]
struct Row {
    /// The order of claims.
    number: usize,
    deployment: i32,
    claimed_at_ms: i64,
    swept_at_ms: Option<i64>,
    /// When the broker had it, if that is known.
    enqueued_at_ms: Option<i64>,
    lapsed: bool,
}

/// The tasks of each batch, which reach the broker together or not at all.
#[derive(Debug, Default)]
pub(super) struct Publications(HashMap<Uuid, Row>);

impl Publications {
    pub(super) fn claimed(&mut self, id: Uuid, deployment: i32, now_ms: i64) {
        let number = self.0.len();
        let row = Row { number, deployment, claimed_at_ms: now_ms, swept_at_ms: None, enqueued_at_ms: None, lapsed: false };
        self.0.entry(id).or_insert(row);
    }

    pub(super) fn confirm(&mut self, ids: &[Uuid], now_ms: i64) {
        for id in ids {
            if let Some(row) = self.0.get_mut(id) {
                row.enqueued_at_ms.get_or_insert(now_ms);
            }
        }
    }

    pub(super) fn was_swept(&self, id: Uuid) -> bool {
        self.0.get(&id).is_some_and(|row| row.swept_at_ms.is_some())
    }

    /// Whether it still waits to be published.
    fn waits(&self, id: Uuid) -> bool {
        self.0.get(&id).is_some_and(|row| row.enqueued_at_ms.is_none() && !row.lapsed)
    }

    /// The deployment's, unconfirmed since before `due_ms`, oldest first.
    fn due(&self, deployment: i32, due_ms: i64) -> Vec<Uuid> {
        let is_due = |row: &Row| {
            let waits = row.deployment == deployment && row.enqueued_at_ms.is_none() && !row.lapsed;
            waits && row.claimed_at_ms < due_ms && row.swept_at_ms.is_none_or(|at| at < due_ms)
        };
        let mut due: Vec<_> = self.0.iter().filter(|(_, row)| is_due(row)).map(|(id, row)| (row.number, *id)).collect();
        due.sort_unstable();
        due.into_iter().take(TAKEN).map(|(_, id)| id).collect()
    }
}

impl State {
    /// Whether the trigger still holds its slot.
    pub(super) fn holds(&self, trigger_id: Uuid) -> bool {
        self.triggers.get(&trigger_id).is_some_and(|trigger| {
            let slot = self.slots.get(&(trigger.pipeline_id, trigger.ticker.clone()));
            slot.is_some_and(|slot| slot.trigger_id == trigger_id)
        })
    }

    /// A new lease for the trigger and its slot, and the task to be published.
    fn renew(&mut self, trigger_id: Uuid, leased_until_ms: i64) -> Option<Task> {
        let trigger = self.triggers.get_mut(&trigger_id)?;
        trigger.leased_until_ms = leased_until_ms;
        if let Some(slot) = self.slots.get_mut(&(trigger.pipeline_id, trigger.ticker.clone())) {
            slot.leased_until_ms = leased_until_ms;
        }
        Some(Task { trigger_id, kwargs: trigger.kwargs.clone() })
    }

    fn take_up(&mut self, terms: &MemoryTerms, id: Uuid, now_ms: i64) -> TakenUp {
        let mut all: Vec<_> = self
            .triggers
            .iter()
            .filter(|(_, trigger)| trigger.publication_id == id && trigger.given_up.is_none())
            .map(|(trigger_id, trigger)| ((trigger.pipeline_id, trigger.ticker.clone()), *trigger_id))
            .collect();
        all.sort_unstable();
        let (held, gone): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, trigger_id)| self.holds(*trigger_id));
        let (started, gone): (Vec<_>, Vec<_>) =
            gone.into_iter().map(|(_, trigger_id)| trigger_id).partition(|trigger_id| self.has_started(*trigger_id));
        let leased_until_ms = now_ms.saturating_add(milliseconds(terms.lease));
        let mut taken = TakenUp {
            publication: terms.publication(id, leased_until_ms),
            stale: Vec::new(),
            gone,
            is_started: !started.is_empty(),
            // The queue in memory forgets no guard.
            is_old: false,
        };
        for (_, trigger_id) in held {
            if self.has_started(trigger_id) {
                taken.is_started = true;
            } else if self.is_stale(terms, trigger_id, now_ms) {
                taken.stale.push(trigger_id);
            } else {
                taken.publication.tasks.extend(self.renew(trigger_id, leased_until_ms));
            }
        }
        if let Some(row) = self.publications.0.get_mut(&id) {
            let is_left = !taken.publication.tasks.is_empty() || !taken.stale.is_empty();
            row.swept_at_ms = Some(now_ms);
            row.lapsed = !is_left && !taken.is_started;
            if !is_left && taken.is_started {
                row.enqueued_at_ms.get_or_insert(now_ms);
            }
        }
        taken
    }

    fn has_started(&self, trigger_id: Uuid) -> bool {
        self.over.contains(&trigger_id) || self.active.values().flatten().any(|(id, _)| *id == trigger_id)
    }

    fn is_stale(&self, terms: &MemoryTerms, trigger_id: Uuid, now_ms: i64) -> bool {
        let oldest_ms = clock::oldest_ms(now_ms, terms.max_age);
        self.triggers.get(&trigger_id).is_some_and(|trigger| trigger.record_time_ms < oldest_ms)
    }
}

impl MemoryTerms {
    /// An empty publication with a lease that is asked for now.
    fn publication(&self, id: Uuid, leased_until_ms: i64) -> Publication {
        let expires = timestamp(leased_until_ms.saturating_sub(milliseconds(self.margin)));
        Publication { id, expires, publish_by: publish_by(clock::timer(), self.lease), tasks: Vec::new() }
    }
}

impl MemoryStore {
    /// Marks publications that the broker has.
    pub fn confirm(&self, publications: &[Uuid]) {
        let now_ms = (self.now_ms)();
        self.state().publications.confirm(publications, now_ms);
    }

    /// The deployment's entries that nobody has confirmed for a while, with their leases renewed. One with nothing in it has lapsed.
    pub fn take_up(&self, terms: &MemoryTerms) -> Vec<TakenUp> {
        let now_ms = (self.now_ms)();
        let mut state = self.state();
        let due = state.publications.due(terms.deployment, now_ms.saturating_sub(milliseconds(PATIENCE)));
        due.into_iter().map(|id| state.take_up(terms, id, now_ms)).collect()
    }

    /// What is to be published of one entry now.
    pub(super) fn renew(&self, terms: &MemoryTerms, id: Uuid) -> Renewal {
        let now_ms = (self.now_ms)();
        let mut state = self.state();
        let is_aged = state.triggers.iter().any(|(trigger_id, trigger)| {
            trigger.publication_id == id && state.holds(*trigger_id) && state.is_stale(terms, *trigger_id, now_ms)
        });
        if state.publications.waits(id) && !is_aged { Renewal::Taken(state.take_up(terms, id, now_ms)) } else { Renewal::Over }
    }

    /// Gives up triggers of an entry whose signal is too old by now: see [`crate::store::sweep::give_up`].
    pub fn give_up(&self, entry: Uuid, triggers: &[Uuid], is_absent: bool, is_last: bool) {
        let mut state = self.state();
        for id in triggers {
            let is_held = state.holds(*id);
            let of_entry = |trigger: &&mut super::Trigger| trigger.publication_id == entry && trigger.given_up.is_none();
            let Some(trigger) = state.triggers.get_mut(id).filter(of_entry) else { continue };
            trigger.given_up = Some(GivenUp::Stale);
            let slot = (trigger.pipeline_id, trigger.ticker.clone());
            // Of a later attempt the broker may still have an earlier one.
            if is_absent && is_held && trigger.attempt == 1 {
                state.slots.remove(&slot);
            }
        }
        if let Some(row) = state.publications.0.get_mut(&entry).filter(|row| is_last && row.enqueued_at_ms.is_none()) {
            row.lapsed = true;
        }
    }

    /// The deployment's triggers that were enqueued longer than `patience` ago and left no trace of a start, with the attempt that was
    /// seen.
    pub fn unstarted(&self, terms: &MemoryTerms, patience: Duration) -> Vec<(Uuid, i32)> {
        let now_ms = (self.now_ms)();
        let due_ms = now_ms.saturating_sub(milliseconds(patience));
        let state = self.state();
        let mut found = Vec::new();
        for slot in state.slots.values().filter(|slot| slot.leased_until_ms > now_ms && !slot.answered) {
            let is_open = |trigger: &&super::Trigger| trigger.given_up.is_none() && trigger.deployment == terms.deployment;
            let Some(trigger) = state.triggers.get(&slot.trigger_id).filter(is_open) else { continue };
            let row = state.publications.0.get(&trigger.publication_id);
            if row.and_then(|row| row.enqueued_at_ms).is_some_and(|at| at < due_ms) {
                found.push((slot.trigger_id, trigger.attempt));
            }
        }
        found
    }

    /// A new attempt for each of `seen`, or its end after `max_attempts`, or when its signal is too old.
    pub fn retry(&self, terms: &MemoryTerms, seen: &[(Uuid, i32)], max_attempts: i32) -> Retried {
        let now_ms = (self.now_ms)();
        let leased_until_ms = now_ms.saturating_add(milliseconds(terms.lease));
        let id = Uuid::new_v4();
        let mut state = self.state();
        let mut retried = Retried { publication: terms.publication(id, leased_until_ms), failed: Vec::new() };
        for (trigger_id, attempt) in seen {
            let (is_held, is_stale) = (state.holds(*trigger_id), state.is_stale(terms, *trigger_id, now_ms));
            let is_due = |trigger: &&mut super::Trigger| is_held && trigger.given_up.is_none() && trigger.attempt == *attempt;
            let Some(trigger) = state.triggers.get_mut(trigger_id).filter(is_due) else { continue };
            if trigger.attempt < max_attempts && !is_stale {
                trigger.attempt += 1;
                trigger.publication_id = id;
                retried.publication.tasks.extend(state.renew(*trigger_id, leased_until_ms));
            } else {
                // It keeps its slot until its lease ends: the last task may still start.
                let why = if is_stale { GivenUp::Stale } else { GivenUp::NeverStarted };
                trigger.given_up = Some(why);
                retried.failed.push((*trigger_id, why));
            }
        }
        if !retried.publication.tasks.is_empty() {
            state.publications.claimed(id, terms.deployment, now_ms);
            if let Some(row) = state.publications.0.get_mut(&id) {
                row.swept_at_ms = Some(now_ms);
            }
        }
        retried
    }

    /// How far the tasks of each batch have come.
    pub fn publications(&self) -> HashMap<Uuid, PublicationState> {
        let state_of = |row: &Row| match row {
            Row { lapsed: true, .. } => PublicationState::Lapsed,
            Row { enqueued_at_ms: Some(_), .. } => PublicationState::Enqueued,
            _ => PublicationState::Claimed,
        };
        self.state().publications.0.iter().map(|(id, row)| (*id, state_of(row))).collect()
    }
}
