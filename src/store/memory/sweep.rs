//! What the sweepers ask of the store: the twin of [`crate::store::sweep`].

use std::collections::HashMap;
use std::time::Duration;

use uuid::Uuid;

use super::{MemoryStore, State, Trigger, milliseconds, timestamp};
use crate::store::sweep::Retried;
use crate::tasks::{Publication, Task};

/// Publications that one round takes up at most.
const TAKEN: usize = 50;

/// How far the tasks of a batch have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicationState {
    /// Claimed; whether the broker has it is not known.
    Claimed,
    /// The broker has it.
    Enqueued,
    /// Given up: all its slots had passed on to newer triggers.
    Lapsed,
}

#[derive(Debug)]
struct Row {
    /// The order of claims.
    number: usize,
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
    pub(super) fn claimed(&mut self, id: Uuid, now_ms: i64) {
        let number = self.0.len();
        let row = Row { number, claimed_at_ms: now_ms, swept_at_ms: None, enqueued_at_ms: None, lapsed: false };
        self.0.entry(id).or_insert(row);
    }

    pub(super) fn confirm(&mut self, ids: &[Uuid], now_ms: i64) {
        for id in ids {
            if let Some(row) = self.0.get_mut(id) {
                row.enqueued_at_ms.get_or_insert(now_ms);
            }
        }
    }

    /// Unconfirmed since before `due_ms`, oldest first.
    fn due(&self, due_ms: i64) -> Vec<Uuid> {
        let is_due = |row: &Row| {
            let waits = row.enqueued_at_ms.is_none() && !row.lapsed;
            waits && row.claimed_at_ms < due_ms && row.swept_at_ms.is_none_or(|at| at < due_ms)
        };
        let mut due: Vec<_> = self.0.iter().filter(|(_, row)| is_due(row)).map(|(id, row)| (row.number, *id)).collect();
        due.sort_unstable();
        due.into_iter().take(TAKEN).map(|(_, id)| id).collect()
    }
}

impl State {
    /// Whether the trigger still holds its slot.
    fn holds(&self, trigger_id: Uuid) -> bool {
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

    fn take_up(&mut self, id: Uuid, now_ms: i64, leased_until_ms: i64) -> Publication {
        let mut held: Vec<_> = self
            .triggers
            .iter()
            .filter(|(trigger_id, trigger)| trigger.publication_id == id && self.holds(**trigger_id))
            .map(|(trigger_id, trigger)| ((trigger.pipeline_id, trigger.ticker.clone()), *trigger_id))
            .collect();
        held.sort_unstable();
        let tasks: Vec<_> = held.into_iter().filter_map(|(_, trigger_id)| self.renew(trigger_id, leased_until_ms)).collect();
        if let Some(row) = self.publications.0.get_mut(&id) {
            row.swept_at_ms = Some(now_ms);
            row.lapsed = tasks.is_empty();
        }
        Publication { id, expires: timestamp(leased_until_ms), tasks }
    }
}

impl MemoryStore {
    /// Marks publications that the broker has.
    pub fn confirm(&self, publications: &[Uuid]) {
        let now_ms = (self.now_ms)();
        self.state().publications.confirm(publications, now_ms);
    }

    /// Publications that nobody has confirmed for `patience`, with their leases renewed. One without tasks has lapsed.
    pub fn take_up(&self, patience: Duration, lease: Duration) -> Vec<Publication> {
        let now_ms = (self.now_ms)();
        let mut state = self.state();
        let due = state.publications.due(now_ms.saturating_sub(milliseconds(patience)));
        due.into_iter().map(|id| state.take_up(id, now_ms, now_ms.saturating_add(milliseconds(lease)))).collect()
    }

    /// Triggers that were enqueued longer than `patience` ago and left no trace of a start, with the attempt that was seen.
    pub fn unstarted(&self, patience: Duration) -> Vec<(Uuid, i32)> {
        let now_ms = (self.now_ms)();
        let due_ms = now_ms.saturating_sub(milliseconds(patience));
        let state = self.state();
        let mut found = Vec::new();
        for slot in state.slots.values().filter(|slot| slot.leased_until_ms > now_ms && !slot.answered) {
            let Some(trigger) = state.triggers.get(&slot.trigger_id).filter(|trigger| !trigger.failed) else { continue };
            let row = state.publications.0.get(&trigger.publication_id);
            if row.and_then(|row| row.enqueued_at_ms).is_some_and(|at| at < due_ms) {
                found.push((slot.trigger_id, trigger.attempt));
            }
        }
        found
    }

    /// A new attempt for each of `seen`, or its end after `max_attempts`.
    pub fn retry(&self, seen: &[(Uuid, i32)], lease: Duration, max_attempts: i32) -> Retried {
        let now_ms = (self.now_ms)();
        let leased_until_ms = now_ms.saturating_add(milliseconds(lease));
        let id = Uuid::new_v4();
        let mut state = self.state();
        let publication = Publication { id, expires: timestamp(leased_until_ms), tasks: Vec::new() };
        let mut retried = Retried { publication, failed: Vec::new() };
        for (trigger_id, attempt) in seen {
            let is_held = state.holds(*trigger_id);
            let is_due = |trigger: &&mut Trigger| is_held && !trigger.failed && trigger.attempt == *attempt;
            let Some(trigger) = state.triggers.get_mut(trigger_id).filter(is_due) else { continue };
            if trigger.attempt < max_attempts {
                trigger.attempt += 1;
                trigger.publication_id = id;
                retried.publication.tasks.extend(state.renew(*trigger_id, leased_until_ms));
            } else {
                // It keeps its slot until its lease ends: the last task may still start.
                trigger.failed = true;
                retried.failed.push(*trigger_id);
            }
        }
        if !retried.publication.tasks.is_empty() {
            state.publications.claimed(id, now_ms);
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
