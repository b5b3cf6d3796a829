//! A queue in memory, for the demo and the seeded simulation: the twin of [`super::redis`].

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;
use uuid::Uuid;

use super::{Publication, Task, TaskQueue, TooLate};
use crate::clock;

/// A queue shared by its publisher and its workers.
#[derive(Debug, Clone, Default)]
pub struct MemoryQueue {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    tasks: VecDeque<(Task, Timestamp)>,
    published: HashSet<Uuid>,
}

impl MemoryQueue {
    /// Takes the oldest task, if there is one.
    pub fn try_pop(&self) -> Option<Task> {
        self.try_receive().map(|(task, _)| task)
    }

    /// Takes the oldest task and the instant from which on it must not start, if there is one.
    pub fn try_receive(&self) -> Option<(Task, Timestamp)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).tasks.pop_front()
    }

    /// Takes the oldest task, waiting for one.
    pub async fn pop(&self) -> Task {
        loop {
            let changed = self.changed.notified();
            if let Some(task) = self.try_pop() {
                // Others may wait for the rest.
                self.changed.notify_one();
                return task;
            }
            changed.await;
        }
    }
}

impl TaskQueue for MemoryQueue {
    type Error = TooLate;

    async fn enqueue(&mut self, publication: &Publication) -> Result<(), TooLate> {
        if clock::timer() > publication.publish_by {
            return Err(TooLate);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.published.insert(publication.id) {
            state.tasks.extend(publication.tasks.iter().map(|task| (task.clone(), publication.expires)));
        }
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    async fn has(&mut self, publication: Uuid) -> Result<Option<bool>, TooLate> {
        Ok(Some(self.state.lock().unwrap_or_else(PoisonError::into_inner).published.contains(&publication)))
    }
}
