//! How a request is decided in memory: as `sql/claim.sql` does.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{MemoryTerms, Slot, State, Trigger, is_for, milliseconds, positions, timestamp};
use crate::store::{ClaimRequest, Claimed, Verdict, Wanted};

impl State {
    /// Frees the slot if the trigger holds it.
    pub(super) fn free(&mut self, id: Uuid) -> bool {
        let slot = self.triggers.get(&id).map(|trigger| (trigger.pipeline_id, trigger.ticker.clone()));
        let is_held = self.holds(id);
        slot.filter(|_| is_held).and_then(|slot| self.slots.remove(&slot)).is_some()
    }

    /// Whether nothing keeps the slot from a new trigger.
    pub(super) fn is_idle(&self, pipeline_id: Uuid, ticker: &str, now_ms: i64) -> bool {
        let runs = self
            .active
            .get(&pipeline_id)
            .is_some_and(|active| active.iter().any(|(_, symbol)| is_for(symbol.as_deref(), ticker)));
        let held = self
            .slots
            .get(&(pipeline_id, ticker.to_owned()))
            .is_some_and(|slot| slot.leased_until_ms > now_ms && !slot.answered && !self.over.contains(&slot.trigger_id));
        !runs && !held
    }

    /// Whether the wanted trigger was claimed before. Of a slot that another trigger keeps busy that is not asked: nothing can start.
    pub(super) fn knows(&self, wanted: &Wanted, now_ms: i64) -> bool {
        let id = &wanted.text.trigger_id;
        self.slots.get(&(wanted.pipeline_id, wanted.ticker.clone())).is_some_and(|slot| slot.trigger_id == *id)
            || (self.is_idle(wanted.pipeline_id, &wanted.ticker, now_ms) && self.triggers.contains_key(id))
    }

    pub(super) fn decide(&mut self, request: &ClaimRequest, terms: &MemoryTerms, now_ms: i64) -> Verdict {
        let MemoryTerms { deployment, lease, .. } = *terms;
        let state_of = |partition: i32| self.progress.get(&(deployment, partition)).copied().unwrap_or_default();
        let mut repeated = true;
        let mut fenced = Vec::new();
        for (span, _) in &request.spans {
            let progress = state_of(span.partition);
            let mine = progress.epoch == span.epoch;
            let is_begun =
                self.parts.get(&(deployment, span.partition)).is_some_and(|parts| parts.contains(&request.publication_id));
            if !mine || progress.next_offset.is_some_and(|next| next > span.first_offset) {
                fenced.push(span.partition);
            }
            repeated &= mine && (is_begun || progress.next_offset.is_some_and(|next| next >= span.next_offset));
        }
        let leased_until_ms = now_ms.saturating_add(milliseconds(lease));
        let leased_until = timestamp(leased_until_ms);
        if repeated {
            let ours = |id: &Uuid| self.triggers.get(id).is_some_and(|trigger| trigger.publication_id == request.publication_id);
            let won = positions(request, |wanted| ours(&wanted.text.trigger_id));
            // No task may outlive its lease, so the one that ends first counts for all.
            let leases = won.iter().filter_map(|position| self.triggers.get(&request.wanted[*position].text.trigger_id));
            let leased_until = leases.map(|trigger| timestamp(trigger.leased_until_ms)).min().unwrap_or(leased_until);
            let known = positions(request, |wanted| {
                let id = &wanted.text.trigger_id;
                request.goes_on && self.triggers.contains_key(id) && !ours(id)
            });
            return Verdict::Claimed(Claimed { won, known, leased_until, is_repeated: true, unknown_statuses: Vec::new() });
        }
        if !fenced.is_empty() {
            return Verdict::Fenced(fenced);
        }
        let known = positions(request, |wanted| self.knows(wanted, now_ms));
        if known.iter().any(|position| request.wanted[*position].shared) {
            return Verdict::Known(known);
        }
        let mut won = Vec::new();
        for (position, wanted) in request.wanted.iter().enumerate() {
            let trigger_id = wanted.text.trigger_id;
            if known.binary_search(&position).is_ok() || !self.is_idle(wanted.pipeline_id, &wanted.ticker, now_ms) {
                continue;
            }
            self.slots.insert((wanted.pipeline_id, wanted.ticker.clone()), Slot { trigger_id, leased_until_ms, answered: false });
            self.triggers.insert(trigger_id, Trigger::new(wanted, request, deployment, now_ms, leased_until_ms));
            won.push(position);
        }
        if !won.is_empty() {
            self.publications.claimed(request.publication_id, deployment, now_ms);
        }
        if request.goes_on {
            self.begin(request, deployment);
        } else {
            self.count(request, deployment, &won, &known);
        }
        Verdict::Claimed(Claimed { won, known, leased_until, is_repeated: false, unknown_statuses: Vec::new() })
    }

    /// Notes that a part is decided; the records are counted with the last one.
    fn begin(&mut self, request: &ClaimRequest, deployment: i32) {
        for (span, _) in &request.spans {
            let parts = self.parts.entry((deployment, span.partition)).or_default();
            parts.push(request.publication_id);
            let progress = self.progress.entry((deployment, span.partition)).or_default();
            let until = progress.begun.map_or(span.next_offset, |(_, until)| until.max(span.next_offset));
            progress.begun = Some((parts.len(), until));
        }
    }

    fn count(&mut self, request: &ClaimRequest, deployment: i32, won: &[usize], known: &[usize]) {
        // A record is triggered if it leads any trigger, redelivered if the ledger knows it everywhere, else busy.
        let mut records: BTreeMap<(i32, i64), (bool, bool)> = BTreeMap::new();
        for (position, wanted) in request.wanted.iter().enumerate() {
            let record = records.entry((wanted.partition, wanted.offset)).or_insert((false, true));
            record.0 |= won.binary_search(&position).is_ok();
            record.1 &= known.binary_search(&position).is_ok();
        }
        for (span, counts) in &request.spans {
            let progress = self.progress.entry((deployment, span.partition)).or_default();
            progress.next_offset = Some(span.next_offset);
            progress.consumed += span.consumed;
            progress.redelivered += counts.redelivered;
            progress.triggered += counts.triggered;
            progress.busy += counts.busy;
            progress.merged += counts.merged;
            progress.unmatched += counts.unmatched;
            progress.stale += span.stale;
            progress.invalid += span.invalid;
            // A batch that was begun before a crash may have gone further than this one.
            if progress.begun.is_some_and(|(_, until)| until <= span.next_offset) {
                progress.begun = None;
                self.parts.remove(&(deployment, span.partition));
            }
            for (_, outcome) in records.range((span.partition, i64::MIN)..=(span.partition, i64::MAX)) {
                match outcome {
                    (true, _) => progress.triggered += 1,
                    (false, true) => progress.redelivered += 1,
                    (false, false) => progress.busy += 1,
                }
            }
        }
    }
}
