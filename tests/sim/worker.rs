//! Celery's workers with the worker guard: one start for each trigger, whatever is delivered again; too late is never.

use std::collections::{BTreeMap, VecDeque};
use std::sync::PoisonError;

use serde_json::Value;
use trigger_dispatcher::config::Scope;
use trigger_dispatcher::tasks::Task;
use uuid::Uuid;

use crate::clock;
use crate::faults::{Fault, Window};
use crate::plan::Plan;
use crate::seams::{Outcome, Services};

/// A message that a worker was given.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) trigger_id: Uuid,
    pub(crate) kwargs: String,
}

/// A run of a task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) pipeline_id: Uuid,
    /// Shown when it overlaps with another one.
    #[expect(dead_code, reason = "read by Debug")]
    begun_ms: i64,
    pub(crate) ended_ms: Option<i64>,
}

/// The workers, and what they have seen.
#[derive(Debug)]
pub(crate) struct Worker {
    services: Services,
    /// Whether an execution is about its symbol or about the whole pipeline.
    names_symbol: bool,
    /// How much of what it has the broker loses.
    message_loss: f64,
    /// How far the workers' clocks are behind, in milliseconds.
    behind_ms: i64,
    keeps_results: bool,
    /// Until when no worker takes a task.
    pub(crate) paused_until_ms: i64,
    /// Results on their way to the backend.
    late: Vec<(Uuid, Outcome)>,
    again: VecDeque<(Task, i64)>,
    running: Vec<Uuid>,
    /// Distinct messages that the broker handed out.
    pub(crate) messages: Vec<Message>,
    pub(crate) lost: Vec<Uuid>,
    pub(crate) expired: Vec<Uuid>,
    pub(crate) runs: BTreeMap<Uuid, Run>,
}

impl Worker {
    pub(crate) fn new(services: &Services, plan: &Plan) -> Self {
        Self {
            services: services.clone(),
            names_symbol: plan.scope == Scope::Ticker,
            message_loss: plan.message_loss,
            behind_ms: i64::try_from(plan.worker_behind.as_millis()).unwrap(),
            keeps_results: plan.results,
            paused_until_ms: 0,
            late: Vec::new(),
            again: VecDeque::new(),
            running: Vec::new(),
            messages: Vec::new(),
            lost: Vec::new(),
            expired: Vec::new(),
            runs: BTreeMap::new(),
        }
    }

    /// Takes one message; false when there is none.
    pub(crate) fn receive(&mut self) -> bool {
        let (task, expires_ms) = match self.services.broker.queue.try_receive() {
            Some((task, expires)) => {
                self.messages.push(Message { trigger_id: task.trigger_id, kwargs: task.kwargs.clone() });
                if self.services.chaos.strikes(Fault::MessageLost, self.message_loss) {
                    self.lost.push(task.trigger_id);
                    return true;
                }
                (task, expires.as_millisecond())
            }
            None => match self.again.pop_front() {
                Some(again) => again,
                None => return false,
            },
        };
        if self.services.chaos.strikes(Fault::MessageRedelivered, 0.2) {
            self.again.push_back((task.clone(), expires_ms));
        }
        self.start(&task, expires_ms);
        true
    }

    /// Writes a result, now or later.
    fn result(&mut self, task: Uuid, outcome: Outcome) {
        if !self.keeps_results {
            return;
        }
        if self.services.chaos.strikes(Fault::LateResult, 0.3) {
            self.late.push((task, outcome));
        } else {
            self.write(task, outcome);
        }
    }

    /// As Celery's backend, which never overwrites a success.
    fn write(&self, task: Uuid, outcome: Outcome) {
        let mut results = self.services.results.lock().unwrap_or_else(PoisonError::into_inner);
        let result = results.entry(task).or_insert(outcome);
        if *result != Outcome::Ended {
            *result = outcome;
        }
    }

    /// The oldest late result reaches the backend; false when there is none.
    pub(crate) fn deliver_result(&mut self) -> bool {
        if self.late.is_empty() {
            return false;
        }
        let (task, outcome) = self.late.remove(0);
        self.write(task, outcome);
        true
    }

    fn start(&mut self, task: &Task, expires_ms: i64) {
        let now_ms = clock::now_ms();
        if self.runs.contains_key(&task.trigger_id) {
            self.services.chaos.reached(Window::StartedBefore);
            return;
        }
        if expires_ms <= now_ms - self.behind_ms {
            self.services.chaos.reached(Window::Expired);
            self.expired.push(task.trigger_id);
            self.result(task.trigger_id, Outcome::Revoked);
            return;
        }
        let kwargs: Value = serde_json::from_str(&task.kwargs).unwrap();
        let pipeline_id: Uuid = kwargs["pipeline_id"].as_str().unwrap().parse().unwrap();
        let symbol = kwargs["symbol"].as_str().filter(|_| self.names_symbol);
        self.services.store.start_execution(task.trigger_id, pipeline_id, symbol);
        self.runs.insert(task.trigger_id, Run { pipeline_id, begun_ms: now_ms, ended_ms: None });
        self.running.push(task.trigger_id);
    }

    /// Ends the run at this position of the running ones; false when nothing runs.
    pub(crate) fn finish(&mut self, position: usize) -> bool {
        if self.running.is_empty() {
            return false;
        }
        let trigger_id = self.running.swap_remove(position % self.running.len());
        let run = self.runs.get_mut(&trigger_id).expect("what runs has begun");
        run.ended_ms = Some(clock::now_ms());
        self.services.store.finish_execution(trigger_id, run.pipeline_id);
        self.result(trigger_id, Outcome::Ended);
        true
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.running.is_empty()
    }
}
