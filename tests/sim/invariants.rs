//! What must hold, judged from outside: what was produced, the ledger, the broker's messages, the workers' runs, the dead
//! letters, the group's offsets and the sums.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use trigger_dispatcher::store::GivenUp;
use trigger_dispatcher::store::memory::{Progress, PublicationState, Trigger};
use uuid::Uuid;

use crate::clock;
use crate::plan::{Plan, Produced};
use crate::seams::Services;
use crate::sweeper::START_TIMEOUT;
use crate::worker::Worker;

/// The promises, by their numbers in docs/reliability.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Invariant {
    /// Every record is decided, and every claim reaches a start.
    I1NoLoss,
    /// A slot has one trigger in flight.
    I2OneInFlight,
    /// One trigger for each (slot, signal), one message for each attempt.
    I3OneClaim,
    /// A slot that was wanted was triggered, and what nobody watches was not.
    I4Completeness,
    /// The sums agree.
    I5Conservation,
    /// No offset beyond what is decided, none beyond an unwritten dead letter.
    I6Order,
    /// Every task has its record and its rule.
    I7Traceable,
    /// After the last fault everything comes to its end.
    I8Liveness,
    /// A message carries the lease that is in force when it reaches the broker, and is of the deployment that published it.
    I9InForce,
}

#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) invariant: Invariant,
    pub(crate) text: String,
}

/// A record in the topic.
#[derive(Debug)]
pub(crate) struct Record {
    place: (i32, i64),
    signal: String,
    tickers: Vec<&'static str>,
    directions: Vec<&'static str>,
}

impl Record {
    pub(crate) fn new(produced: &Produced, offset: usize) -> Self {
        let place = (i32::try_from(produced.partition).unwrap(), i64::try_from(offset).unwrap());
        Self {
            place,
            signal: produced.signal.clone(),
            tickers: produced.tickers.clone(),
            directions: produced.directions.clone(),
        }
    }

    fn is_bad(&self) -> bool {
        self.tickers.is_empty()
    }
}

/// What was seen from outside.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    records: BTreeMap<(i32, i64), Record>,
    /// Records that another service of the group has decided before ours moved its offset past them, and when.
    others: BTreeMap<(i32, i64), i64>,
    /// What that service has committed.
    committed: BTreeMap<i32, i64>,
    violations: Vec<Violation>,
}

impl Evidence {
    pub(crate) fn produced(&mut self, record: Record) {
        self.records.insert(record.place, record);
    }

    /// Another service of the group has committed `until`, when ours had decided up to `ours`.
    pub(crate) fn decided_by_another(&mut self, partition: i32, ours: i64, until: i64) {
        self.others.extend((ours..until).map(|offset| ((partition, offset), clock::now_ms())));
        self.committed.insert(partition, until);
    }

    fn check(&mut self, holds: bool, invariant: Invariant, text: impl FnOnce() -> String) {
        // One of a kind says enough.
        if !holds && self.violations.iter().all(|known| known.invariant != invariant) {
            self.violations.push(Violation { invariant, text: text() });
        }
    }

    /// What must hold at every moment.
    pub(crate) fn look(&mut self, services: &Services) {
        let progress = services.progress();
        let next = |partition: i32| progress.get(&partition).and_then(|progress| progress.next_offset).unwrap_or(0);
        for (partition, committed) in services.topic.committed() {
            let decided = next(partition).max(self.committed.get(&partition).copied().unwrap_or(0));
            self.check(committed <= decided, Invariant::I6Order, || {
                format!("partition {partition}: Kafka was told {committed}, decided is {decided}")
            });
        }
        let ours = |place: &(i32, i64)| !self.others.contains_key(place);
        let bad: Vec<_> =
            self.records.values().filter(|record| record.is_bad()).map(|record| record.place).filter(ours).collect();
        if bad.is_empty() {
            return;
        }
        let written: BTreeSet<_> = services.topic.dead_letters().iter().map(|letter| (letter.partition, letter.offset)).collect();
        for (partition, offset) in bad {
            let is_beyond = next(partition) > offset;
            self.check(!is_beyond || written.contains(&(partition, offset)), Invariant::I6Order, || {
                format!("progress is beyond the bad record at {partition}/{offset}, and there is no dead letter")
            });
        }
    }

    /// Triggers of which it is not settled whether they start.
    pub(crate) fn unresolved(services: &Services, worker: &Worker) -> Vec<Uuid> {
        let now_ms = clock::now_ms();
        let open = |(id, trigger): &(Uuid, Trigger)| {
            !worker.runs.contains_key(id) && trigger.given_up.is_none() && trigger.leased_until_ms > now_ms
        };
        services.ledger().into_iter().filter(open).map(|(id, _)| id).collect()
    }

    /// What must hold in the end of one deployment.
    fn judge(mut self, plan: &Plan, services: &Services, worker: &Worker) -> Vec<Violation> {
        let (progress, ledger) = (services.progress(), services.ledger());
        self.decisions(plan, services, &progress, &ledger);
        self.starts(services, worker, &ledger);
        self.messages(plan, services, worker, &ledger);
        let wrong = services.broker.wrong();
        self.check(wrong.is_empty(), Invariant::I9InForce, || wrong.join("\n"));
        let again = services.asked_again();
        self.check(again.is_empty(), Invariant::I8Liveness, || again.join("\n"));
        self.violations
    }

    fn decisions(
        &mut self,
        plan: &Plan,
        services: &Services,
        progress: &BTreeMap<i32, Progress>,
        ledger: &BTreeMap<Uuid, Trigger>,
    ) {
        for (partition, end) in (0..).zip(services.topic.ends()) {
            let now = progress.get(&partition).copied().unwrap_or_default();
            let next = now.next_offset.unwrap_or(0);
            self.check(next == end, Invariant::I8Liveness, || format!("partition {partition} stands at {next} of {end}"));
            if next != end {
                continue;
            }
            let others = i64::try_from(self.others.range((partition, 0)..(partition, i64::MAX)).count()).unwrap();
            let ours = end - others;
            self.check(now.consumed >= ours, Invariant::I1NoLoss, || {
                format!("partition {partition}: {} of {ours} records were decided", now.consumed)
            });
            self.check(now.consumed <= ours, Invariant::I5Conservation, || {
                format!("partition {partition}: {ours} records were decided {} times", now.consumed)
            });
            let sum = now.triggered + now.busy + now.redelivered + now.merged + now.unmatched + now.stale + now.invalid;
            self.check(now.consumed == sum, Invariant::I5Conservation, || format!("partition {partition}: {now:?}"));
            let is_here = |record: &&Record| record.place.0 == partition && !self.others.contains_key(&record.place);
            let here: Vec<&Record> = self.records.values().filter(is_here).collect();
            let count =
                |test: &dyn Fn(&Record) -> bool| i64::try_from(here.iter().filter(|record| test(record)).count()).unwrap();
            let bad = count(&Record::is_bad);
            let unmatched = count(&|record| !record.is_bad() && watchers(plan, record) == 0);
            let leads: BTreeSet<_> = ledger.values().map(|trigger| (trigger.partition, trigger.offset)).collect();
            let triggered = count(&|record| leads.contains(&record.place));
            self.check(now.invalid == bad, Invariant::I5Conservation, || format!("{} of {bad} bad records", now.invalid));
            self.check(now.unmatched == unmatched, Invariant::I4Completeness, || format!("{} of {unmatched}", now.unmatched));
            self.check(now.triggered == triggered, Invariant::I5Conservation, || format!("{} of {triggered}", now.triggered));
        }
        // By whichever deployment: they share the pipelines.
        let triggered: BTreeSet<Uuid> = services.store.ledger().values().map(|trigger| trigger.pipeline_id).collect();
        for (pipeline_id, tickers) in &plan.watched {
            let mut ours = self.records.values().filter(|record| !self.others.contains_key(&record.place));
            let wanted = ours.any(|record| record.tickers.iter().any(|ticker| tickers.contains(ticker)));
            self.check(!wanted || triggered.contains(pipeline_id), Invariant::I4Completeness, || {
                format!("{pipeline_id} was idle and wanted, and never triggered")
            });
        }
    }

    fn starts(&mut self, services: &Services, worker: &Worker, ledger: &BTreeMap<Uuid, Trigger>) {
        let unresolved = Self::unresolved(services, worker);
        self.check(unresolved.is_empty(), Invariant::I1NoLoss, || format!("neither started nor given up: {unresolved:?}"));
        let waiting = services.store.publications().values().filter(|state| **state == PublicationState::Claimed).count();
        self.check(waiting == 0, Invariant::I8Liveness, || format!("{waiting} publications are not confirmed"));
        let publications = services.store.publications();
        for (id, trigger) in ledger {
            let has_run = worker.runs.contains_key(id);
            let is_lapsed = publications.get(&trigger.publication_id) == Some(&PublicationState::Lapsed);
            if trigger.given_up == Some(GivenUp::Stale) && is_lapsed && trigger.attempt == 1 {
                // The broker was asked first. (One that had the task already may let it start until the lease ends.)
                self.check(!has_run, Invariant::I1NoLoss, || format!("{id} was given up as stale, and ran: {trigger:?}"));
                let is_old = services
                    .terms
                    .max_age
                    .is_some_and(|age| clock::now_ms() - trigger.record_time_ms > i64::try_from(age.as_millis()).unwrap());
                self.check(is_old, Invariant::I1NoLoss, || format!("{id} was given up as stale, and is not: {trigger:?}"));
            } else if !has_run {
                // Given up only for a reason that the outside can see too: the broker lost it, or a worker met it after its lease. That
                // the lease was in force when the message arrived is I9.
                let lost = worker.lost.iter().filter(|lost| *lost == id).count();
                let is_excused = lost > 0 || worker.expired.contains(id) || passed_on(services, *id);
                self.check(is_excused, Invariant::I1NoLoss, || {
                    format!("{id} never started, and the broker lost {lost}: {trigger:?}")
                });
            }
        }
    }

    fn messages(&mut self, plan: &Plan, services: &Services, worker: &Worker, ledger: &BTreeMap<Uuid, Trigger>) {
        let mut seen: BTreeMap<Uuid, i32> = BTreeMap::new();
        // A part of its batch may have claimed it before.
        let is_twice = |trigger: &&Trigger| {
            let other = self.others.get(&(trigger.partition, trigger.offset));
            other.is_some_and(|decided_ms| trigger.claimed_at_ms > *decided_ms)
        };
        let twice = ledger.values().find(is_twice);
        self.check(twice.is_none(), Invariant::I3OneClaim, || format!("another service has decided the record of {twice:?}"));
        for message in &worker.messages {
            *seen.entry(message.trigger_id).or_default() += 1;
            let trigger = ledger.get(&message.trigger_id);
            self.check(
                trigger.is_some_and(|trigger| is_traceable(plan, &self.records, trigger, &message.kwargs)),
                Invariant::I7Traceable,
                || format!("{message:?} comes of {trigger:?}"),
            );
        }
        for (id, count) in seen {
            let attempts = ledger.get(&id).map_or(0, |trigger| trigger.attempt);
            self.check(count <= attempts, Invariant::I3OneClaim, || format!("{id}: {count} messages in {attempts} attempts"));
        }
        let patience = i64::try_from(START_TIMEOUT.as_millis()).unwrap();
        for (id, pushed) in services.broker.pushed() {
            let is_patient = pushed.windows(2).all(|pair| pair[1].1 - pair[0].1 >= patience);
            self.check(is_patient, Invariant::I3OneClaim, || format!("{id} was attempted anew too soon: {pushed:?}"));
        }
    }
}

/// Whether a trigger was never published because its lease ended and its slot passed on: nobody lived to renew it.
fn passed_on(services: &Services, id: Uuid) -> bool {
    let was_pushed = services.broker.pushed().contains_key(&id);
    !was_pushed && !services.store.holds_slot(id)
}

/// What must hold in the end, of each deployment and of all together.
pub(crate) fn judge(plan: &Plan, sites: Vec<(Evidence, Services, Worker)>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut shared = Evidence::default();
    shared.slots(&sites);
    for (evidence, services, worker) in sites {
        violations.extend(evidence.judge(plan, &services, &worker));
    }
    violations.extend(shared.violations);
    violations
}

impl Evidence {
    /// Slots are shared by all deployments.
    fn slots(&mut self, sites: &[(Self, Services, Worker)]) {
        let Some((_, services, _)) = sites.first() else { return };
        let ledger = services.store.ledger();
        let run = |id: &Uuid| sites.iter().find_map(|(_, _, worker)| worker.runs.get(id));
        let mut slots: BTreeMap<(Uuid, &str), Vec<(&Uuid, &Trigger)>> = BTreeMap::new();
        let mut signals = BTreeSet::new();
        for (id, trigger) in &ledger {
            slots.entry((trigger.pipeline_id, &trigger.ticker)).or_default().push((id, trigger));
            let of = sites.iter().find(|(_, services, _)| services.terms.deployment == trigger.deployment);
            let record = of.and_then(|(evidence, ..)| evidence.records.get(&(trigger.partition, trigger.offset)));
            let signal = record.map_or_else(String::new, |record| record.signal.clone());
            let is_new = signals.insert((trigger.deployment, trigger.pipeline_id, trigger.ticker.clone(), signal.clone()));
            self.check(is_new, Invariant::I3OneClaim, || format!("{signal} triggered {} twice", trigger.pipeline_id));
        }
        for triggers in slots.values_mut() {
            triggers.sort_by_key(|(_, trigger)| trigger.claimed_at_ms);
            for (position, (first, earlier)) in triggers.iter().enumerate() {
                // A trigger that never ran took nothing; one that did must have ended before any later one was claimed.
                let Some(ended) = run(first).map(|run| run.ended_ms.unwrap_or(i64::MAX)) else { continue };
                let Some((second, claim)) = triggers.get(position + 1) else { continue };
                self.check(ended <= claim.claimed_at_ms, Invariant::I2OneInFlight, || {
                    format!(
                        "{second} was claimed at {}, while {first} was in flight: {:?}, {earlier:?}",
                        claim.claimed_at_ms,
                        run(first)
                    )
                });
            }
        }
    }
}

fn watchers(plan: &Plan, record: &Record) -> usize {
    plan.watched.values().filter(|watched| record.tickers.iter().any(|ticker| watched.contains(ticker))).count()
}

fn is_traceable(plan: &Plan, records: &BTreeMap<(i32, i64), Record>, trigger: &Trigger, kwargs: &str) -> bool {
    let Some(record) = records.get(&(trigger.partition, trigger.offset)) else { return false };
    let Ok(told) = serde_json::from_str::<Value>(kwargs) else { return false };
    let symbol = told["symbol"].as_str().unwrap_or_default();
    kwargs == trigger.kwargs
        && told["pipeline_id"].as_str() == Some(&trigger.pipeline_id.to_string())
        && told["signal_context"]["signal_id"].as_str() == Some(&record.signal)
        && record.tickers.contains(&symbol)
        && tells_no_opposites(records, record, &told["signal_context"])
        && plan.watched.get(&trigger.pipeline_id).is_some_and(|watched| watched.contains(&symbol))
}

/// A task tells of each ticker what one of its signals says, and of none two opposite things.
fn tells_no_opposites(records: &BTreeMap<(i32, i64), Record>, leading: &Record, context: &Value) -> bool {
    let Some(signals) = context["signals"].as_array() else { return false };
    let names: BTreeSet<_> = signals.iter().map(|told| told["ticker"].as_str()).collect();
    let is_said = |told: &Value| {
        let mut said = records.values().filter(|record| told["signal_id"].as_str() == Some(&record.signal));
        let at = |record: &Record| record.tickers.iter().position(|ticker| told["ticker"].as_str() == Some(ticker));
        let direction = told["signal"].as_str().unwrap_or_default();
        said.any(|record| at(record).is_some_and(|at| record.directions[at] == direction))
    };
    let bias = context["bias"].as_str().unwrap_or_default();
    // The newest mention of the first ticker may come from another signal, but never with the opposite direction.
    let first = signals.first().and_then(|told| told["signal"].as_str()).unwrap_or_default();
    let is_one = bias.is_empty() || first.is_empty() || first == bias;
    names.len() == signals.len() && signals.iter().all(is_said) && is_one && bias == leads(leading, context)
}

/// What the leading signal says of its first ticker that matched.
fn leads(leading: &Record, context: &Value) -> &'static str {
    let first = context["tickers"][0].as_str();
    let at = leading.tickers.iter().position(|ticker| first == Some(*ticker));
    at.map_or("nothing", |at| leading.directions[at])
}
