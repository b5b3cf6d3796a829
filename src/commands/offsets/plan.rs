//! What setting an offset means for the records between the old place and the new one. Pure.

use std::ops::Range;

use crate::intake::{Difference, Identity, Start, committed_ahead};

/// What the store knows of a partition.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) next_offset: Option<i64>,
    /// Offsets below it were decided or skipped.
    pub(super) decided_to: Option<i64>,
    /// Of these, the ones that were skipped. In order, apart from each other.
    pub(super) skipped: Vec<Range<i64>>,
    pub(super) identity: Identity,
    pub(super) committed_seen: Option<i64>,
}

/// What Kafka has of a partition now.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) identity: Identity,
    pub(super) low: i64,
    pub(super) high: i64,
    pub(super) committed: Option<i64>,
}

/// What setting an offset does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) next_offset: i64,
    pub(super) decided_to: i64,
    /// Offsets that are passed over now, and were not before.
    pub(super) skip: Option<Range<i64>>,
    /// The offsets that the store knows are of another log: nothing of them counts any more.
    pub(super) is_new_log: bool,
    pub(super) effect: Effect,
}

/// How many offsets are treated how. There may be fewer records than offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Forwards: so many are not decided.
    Skips(i64),
    /// Backwards: so many are decided now, and so many keep their disposition.
    Decides { now: i64, kept: i64 },
    /// The same place.
    Stays,
}

impl Known {
    /// Why nothing is read from here, if Kafka has what it has; `None` when it goes on.
    pub(super) fn stopped(&self, found: &Found) -> Option<&'static str> {
        match self.identity.difference(&found.identity) {
            Some(Difference::Cluster) => return Some("another Kafka cluster"),
            Some(Difference::Topic) => return Some("the topic was made anew"),
            None => {}
        }
        let first = self.ahead(found).or(self.next_offset).or(found.committed)?;
        if first < found.low {
            Some("retention ran over it")
        } else if first > found.high {
            Some("the topic was made anew")
        } else {
            None
        }
    }

    /// Where Kafka is, if another member of the group has decided records that we have not.
    pub(super) fn ahead(&self, found: &Found) -> Option<i64> {
        let (next_offset, committed_seen) = (self.next_offset, self.committed_seen);
        committed_ahead(&Start { next_offset, committed_seen, ..Start::default() }, found.committed)
    }

    fn is_new_log(&self, found: &Found) -> bool {
        self.identity.difference(&found.identity).is_some() || self.next_offset.is_some_and(|next| next > found.high)
    }

    /// Offsets of a range that were skipped.
    fn skipped_in(&self, range: &Range<i64>) -> i64 {
        self.skipped.iter().map(|skipped| length(skipped.start.max(range.start)..skipped.end.min(range.end))).sum()
    }
}

fn length(range: Range<i64>) -> i64 {
    (range.end - range.start).max(0)
}

/// Setting a partition to an offset.
pub(super) fn plan(known: &Known, found: &Found, to: i64) -> Plan {
    let is_new_log = known.is_new_log(found);
    let next = if is_new_log { None } else { known.next_offset };
    let Some(next) = next else {
        // Nothing of this log was decided: what lies before is passed over, and may be decided later.
        let skip = Some(found.low..to).filter(|range| !range.is_empty());
        let effect = Effect::Skips(length(found.low..to));
        return Plan { next_offset: to, decided_to: to, skip, is_new_log, effect };
    };
    let decided_to = known.decided_to.map_or(next, |decided_to| decided_to.max(next));
    let skip = Some(decided_to..to).filter(|range| !range.is_empty());
    let effect = match to.cmp(&next) {
        std::cmp::Ordering::Equal => Effect::Stays,
        std::cmp::Ordering::Greater => Effect::Skips(known.skipped_in(&(next..to.min(decided_to))) + length(decided_to..to)),
        std::cmp::Ordering::Less => {
            let now = known.skipped_in(&(to..next));
            Effect::Decides { now, kept: next - to - now }
        }
    };
    Plan { next_offset: to, decided_to: decided_to.max(to), skip, is_new_log, effect }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KAFKA: Found = Found { identity: Identity { cluster_id: None, topic_id: None }, low: 10, high: 200, committed: None };

    fn known(next: i64, decided_to: Option<i64>, skipped: &[(i64, i64)]) -> Known {
        Known {
            next_offset: Some(next),
            decided_to,
            skipped: skipped.iter().map(|(from, to)| *from..*to).collect(),
            ..Known::default()
        }
    }

    #[test]
    fn forwards_skips_what_was_not_decided_before() {
        let forwards = plan(&known(100, None, &[]), &KAFKA, 150);
        assert_eq!((forwards.effect, forwards.skip, forwards.decided_to), (Effect::Skips(50), Some(100..150), 150));
        // Set back from 150 to 100 before: only what was skipped then, and what lies beyond.
        let again = plan(&known(100, Some(150), &[(120, 130)]), &KAFKA, 160);
        assert_eq!((again.effect, again.skip, again.decided_to), (Effect::Skips(20), Some(150..160), 160));
        let within = plan(&known(100, Some(150), &[(120, 130)]), &KAFKA, 125);
        assert_eq!((within.effect, within.skip, within.decided_to), (Effect::Skips(5), None, 150));
    }

    #[test]
    fn backwards_decides_only_what_was_skipped() {
        let none = plan(&known(100, None, &[]), &KAFKA, 40);
        assert_eq!((none.effect, none.skip, none.decided_to), (Effect::Decides { now: 0, kept: 60 }, None, 100));
        let some = plan(&known(100, None, &[(20, 50), (90, 95)]), &KAFKA, 40);
        assert_eq!((some.effect, some.decided_to), (Effect::Decides { now: 15, kept: 45 }, 100));
        let further = plan(&known(60, Some(100), &[(20, 50), (90, 95)]), &KAFKA, 40);
        assert_eq!((further.effect, further.decided_to), (Effect::Decides { now: 10, kept: 10 }, 100));
    }

    #[test]
    fn offsets_of_another_log_count_for_nothing() {
        let of = |topic: &str| Identity { cluster_id: None, topic_id: Some(topic.to_owned()) };
        let found = Found { identity: of("new"), ..KAFKA };
        let known = Known { identity: of("old"), ..known(100, Some(150), &[(20, 30)]) };
        let plan = plan(&known, &found, 40);
        assert_eq!(
            plan,
            Plan { next_offset: 40, decided_to: 40, skip: Some(10..40), is_new_log: true, effect: Effect::Skips(30) }
        );
        assert_eq!(known.stopped(&found), Some("the topic was made anew"));
        assert_eq!(known.stopped(&KAFKA), None, "what Kafka does not tell differs from nothing");
    }

    #[test]
    fn a_place_beyond_the_end_is_of_another_log_though_nobody_knows_its_id() {
        let known = known(300, None, &[]);
        assert_eq!(known.stopped(&KAFKA), Some("the topic was made anew"));
        let plan = plan(&known, &KAFKA, 10);
        assert_eq!((plan.is_new_log, plan.effect, plan.skip), (true, Effect::Skips(0), None));
    }
}
