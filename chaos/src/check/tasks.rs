//! Every claim starts (I1), once (I3), alone (I2), by one message (I3), and nothing else does (I7).

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::check::{Case, Findings};
use crate::options::Arm;
use crate::run::Witnesses;
use crate::signals::{Kind, ticker_name};
use crate::worker::{Delivery, Received};

pub(super) fn check(case: &Case<'_>, findings: &mut Findings) {
    let Case { all, witness, world, slots } = case;
    starts(case, findings);
    messages(case, findings);
    let known: HashMap<Uuid, Uuid> = world.triggers.iter().map(|trigger| (trigger.id, trigger.pipeline)).collect();
    for Received { delivery, .. } in &witness.seen.received {
        let trigger_id = delivery.trigger_id;
        if let Some(topic) = slots.topics.get(&trigger_id).filter(|topic| **topic != world.topic) {
            findings.strays += 1;
            findings.violated("I7", format!("the task of {trigger_id} came here, and its deployment reads {topic}"));
        } else if let Err(text) = justify(all, &known, delivery) {
            findings.violated("I7", format!("the message of {trigger_id}: {text}"));
        }
    }
    if witness.seen.expired > 0 {
        findings.violated("I7", format!("{} messages carried a lease that was over when they came", witness.seen.expired));
    }
    for message in &witness.seen.unreadable {
        findings.violated("I7", format!("a message that no worker can read: {message}"));
    }
}

fn starts(case: &Case<'_>, findings: &mut Findings) {
    let Case { witness, world, .. } = case;
    let mut started: HashMap<Uuid, u64> = HashMap::new();
    for start in &witness.seen.starts {
        *started.entry(start.trigger_id).or_default() += 1;
    }
    for (trigger, count) in started.iter().filter(|(_, count)| **count > 1) {
        findings.double_starts += count - 1;
        findings.violated("I3", format!("{trigger} was started {count} times"));
    }
    for trigger in &world.triggers {
        if !started.contains_key(&trigger.id) {
            findings.lost += 1;
            let how = if trigger.failed { "given up" } else { "never published, or lost" };
            findings.violated("I1", format!("{} was claimed and never started: {how}, attempt {}", trigger.id, trigger.attempt));
        }
    }
}

/// As the workers' own clock saw it, over all deployments.
pub(super) fn overlaps(witnesses: &Witnesses, findings: &mut Findings) {
    let mut by_pipeline: HashMap<Uuid, Vec<(f64, f64, Uuid)>> = HashMap::new();
    for start in witnesses.deployments.iter().flat_map(|witness| &witness.seen.starts) {
        let to = start.to.unwrap_or(f64::MAX);
        by_pipeline.entry(start.pipeline_id).or_default().push((start.from, to, start.trigger_id));
    }
    for runs in by_pipeline.values_mut() {
        runs.sort_by(|a, b| a.0.total_cmp(&b.0));
        for pair in runs.windows(2) {
            if pair[1].0 < pair[0].1 {
                findings.overlaps += 1;
                findings.violated("I2", format!("{} and {} ran at the same time", pair[0].2, pair[1].2));
            }
        }
    }
}

/// On RabbitMQ there may be more: promised is one at least.
fn messages(case: &Case<'_>, findings: &mut Findings) {
    let Case { all, witness, world, .. } = case;
    let mut received: HashMap<Uuid, Vec<&Received>> = HashMap::new();
    for message in &witness.seen.received {
        received.entry(message.delivery.trigger_id).or_default().push(message);
    }
    let attempts: HashMap<Uuid, u64> =
        world.triggers.iter().map(|trigger| (trigger.id, u64::from(trigger.attempt.unsigned_abs()))).collect();
    let kills = all.evidence.moments("redis kill -9");
    for (trigger, messages) in received {
        // Redis writes its file a little later than it answers: after a kill it may give out again what was taken.
        let again = messages.iter().enumerate().filter(|(position, message)| {
            let twin = messages[..*position].iter().rev().find(|before| before.delivery.digest == message.delivery.digest);
            twin.is_some_and(|twin| kills.iter().any(|(from, to)| twin.second <= *to && message.second >= *from))
        });
        let rolled_back = again.count() as u64;
        findings.rolled_back += rolled_back;
        let extra = (messages.len() as u64 - rolled_back).saturating_sub(attempts.get(&trigger).copied().unwrap_or(0));
        if extra > 0 {
            findings.extra += extra;
            if all.plan.arm == Arm::Redis {
                findings.violated("I3", format!("{trigger} came by {} messages", messages.len()));
            }
        }
    }
}

/// A message must trace back to a record, a rule and a claim.
fn justify(witnesses: &Witnesses, known: &HashMap<Uuid, Uuid>, delivery: &Delivery) -> Result<(), String> {
    let Kind::Signal { origin, tickers } = witnesses.signals.kind(delivery.number) else {
        return Err(format!("record {} is no signal", delivery.number));
    };
    if origin != delivery.number {
        return Err(format!("record {} would say that it is {origin}", delivery.number));
    }
    if witnesses.signals.signal_id(origin).is_some_and(|id| id != delivery.signal_id) {
        return Err(format!("another signal's id: {}", delivery.signal_id));
    }
    if !witnesses.platform.watchers(&tickers).contains(&delivery.pipeline_id) {
        return Err(format!("{} does not watch what record {origin} speaks of", delivery.pipeline_id));
    }
    if !delivery.tickers.contains(&delivery.symbol) || !tickers.iter().any(|ticker| ticker_name(*ticker) == delivery.symbol) {
        return Err(format!("the symbol {} of {:?}", delivery.symbol, delivery.tickers));
    }
    let told: HashSet<&String> = delivery.tickers.iter().collect();
    if told.len() != delivery.tickers.len() || Uuid::parse_str(&delivery.user_id).is_err() {
        return Err(format!("tickers {:?}, user {}", delivery.tickers, delivery.user_id));
    }
    match known.get(&delivery.trigger_id) {
        Some(pipeline) if *pipeline == delivery.pipeline_id => Ok(()),
        Some(pipeline) => Err(format!("the ledger says {pipeline}")),
        None => Err("the ledger does not know it".to_owned()),
    }
}
