//! What the deployments share: the slots, with every claim on them and every execution.

use std::collections::{HashMap, HashSet};

use anyhow::Context as _;
use uuid::Uuid;

use crate::check::Findings;
use crate::check::world::{Trigger, World, each};
use crate::platform::Platform;

/// The claims and the executions of all deployments.
#[derive(Debug)]
pub(super) struct Slots<'a> {
    /// The triggers of each pipeline, in the order of claims.
    pub(super) by_pipeline: HashMap<Uuid, Vec<&'a Trigger>>,
    /// Trigger to when its execution began and ended.
    pub(super) runs: HashMap<Uuid, (i64, Option<i64>)>,
    /// Trigger to the topic of its deployment.
    pub(super) topics: HashMap<Uuid, &'a str>,
}

impl<'a> Slots<'a> {
    pub(super) fn load(platform: &Platform, worlds: &'a [World]) -> anyhow::Result<Self> {
        let mut slots = Self { by_pipeline: HashMap::new(), runs: HashMap::new(), topics: HashMap::new() };
        for world in worlds {
            for trigger in &world.triggers {
                slots.by_pipeline.entry(trigger.pipeline).or_default().push(trigger);
                slots.topics.insert(trigger.id, &world.topic);
            }
        }
        slots.by_pipeline.values_mut().for_each(|triggers| triggers.sort_by_key(|trigger| trigger.claimed));
        let sql = "select id, status, (extract(epoch from at) * 1000000)::bigint from chaos.executions order by at";
        let mut client = platform.connect_in_time()?;
        client.batch_execute("set statement_timeout = '10min'; set work_mem = '64MB'")?;
        each(&mut client, sql, &[], |row| {
            let at = row.try_get(2)?;
            let run = slots.runs.entry(row.try_get(0)?).or_insert((at, None));
            if row.try_get::<_, &str>(1)? == "COMPLETED" {
                run.1.get_or_insert(at);
            }
            Ok(())
        })
        .context("the executions in PostgreSQL")?;
        Ok(slots)
    }

    /// Until when a trigger held its slot.
    pub(super) fn held_until(&self, trigger: &Trigger) -> i64 {
        match self.runs.get(&trigger.id) {
            Some((_, end)) => end.unwrap_or(i64::MAX),
            None => trigger.leased_until,
        }
    }
}

/// A signal starts its pipelines in each deployment that reads it. If none did, the run says nothing about their ids.
pub(super) fn in_both(worlds: &[World], findings: &mut Findings) {
    let [first, second] = worlds else { return };
    let claims = |world: &'_ World| -> HashSet<(Uuid, String)> {
        world.triggers.iter().map(|trigger| (trigger.pipeline, trigger.signal_id.clone())).collect()
    };
    findings.in_both = claims(first).intersection(&claims(second)).count() as u64;
    if findings.in_both == 0 {
        findings.violated("coverage", "no signal started a pipeline in both deployments: the run proves nothing about their ids");
    }
}
