//! Where a partition goes on: what the store knows of it, and what Kafka says. Pure.

use std::ops::Range;

/// Which Kafka cluster, and which topic of that name: a topic that is deleted and made again has another id. `None` where
/// Kafka does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id.
    pub cluster_id: Option<String>,
    /// The topic's id.
    pub topic_id: Option<String>,
}

/// What is not the same any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// It is another cluster.
    Cluster,
    /// The topic was deleted and made again.
    Topic,
}

impl Identity {
    /// How `now` differs from what is known. An id that is not known differs from none.
    pub fn difference(&self, now: &Self) -> Option<Difference> {
        let differs = |known: &Option<String>, now: &Option<String>| known.is_some() && now.is_some() && known != now;
        if differs(&self.cluster_id, &now.cluster_id) {
            Some(Difference::Cluster)
        } else if differs(&self.topic_id, &now.topic_id) {
            Some(Difference::Topic)
        } else {
            None
        }
    }

    /// Whether `now` tells an id that is not known yet.
    pub fn lacks(&self, now: &Self) -> bool {
        self.cluster_id.is_none() && now.cluster_id.is_some() || self.topic_id.is_none() && now.topic_id.is_some()
    }
}

/// An assigned partition, as the store knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    /// The partition.
    pub partition: i32,
    /// The fence: only decisions that carry the newest epoch of a partition count.
    pub epoch: i64,
    /// The next offset to decide; `None` when the partition was never opened.
    pub next_offset: Option<i64>,
    /// Which log the offsets are of.
    pub identity: Identity,
    /// The offset that Kafka had committed for the group when an operator last set ours.
    pub committed_seen: Option<i64>,
    /// Offsets from `next_offset` on that are decided: an operator has set the partition back. In order.
    pub decided: Vec<Range<i64>>,
}

/// Where a partition is read from, for the store to keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// The partition.
    pub partition: i32,
    /// The epoch of its [`Start`].
    pub epoch: i64,
    /// The first offset that is read.
    pub next_offset: i64,
    /// Which log the offset is of.
    pub identity: Identity,
    /// Our next offset, if another member of the group has decided the records from there to `next_offset`.
    pub overtaken_at: Option<i64>,
    /// The oldest record that Kafka has, if reading begins at the end and passes it over.
    pub skips_from: Option<i64>,
    /// Kafka has been told our offset, so what was committed before (`committed_seen`) does not matter any more.
    pub is_told: bool,
}

impl Position {
    /// Whether the store does not know all of this yet.
    pub fn is_news(&self, start: &Start) -> bool {
        start.next_offset != Some(self.next_offset) || start.identity.lacks(&self.identity) || self.is_told
    }
}

/// The offset to go on at because another member of the group has decided all records before it: Kafka's committed offset, if it
/// is ahead of our own and of what an operator has seen. `None`: our own offset counts (docs/adr/0012-committed-ahead.md).
pub fn committed_ahead(start: &Start, committed: Option<i64>) -> Option<i64> {
    let known = start.next_offset?.max(start.committed_seen.unwrap_or(i64::MIN));
    committed.filter(|committed| *committed > known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(cluster: Option<&str>, topic: Option<&str>) -> Identity {
        Identity { cluster_id: cluster.map(str::to_owned), topic_id: topic.map(str::to_owned) }
    }

    #[test]
    fn only_ids_that_both_sides_know_can_differ() {
        let known = identity(Some("c1"), Some("t1"));
        for (now, expected) in [
            (known.clone(), None),
            (identity(None, None), None),
            (identity(Some("c1"), None), None),
            (identity(Some("c2"), Some("t1")), Some(Difference::Cluster)),
            (identity(Some("c2"), Some("t2")), Some(Difference::Cluster)),
            (identity(None, Some("t2")), Some(Difference::Topic)),
        ] {
            assert_eq!(known.difference(&now), expected, "{now:?}");
            assert_eq!(Identity::default().difference(&now), None);
        }
        assert!(identity(Some("c1"), None).lacks(&known) && !known.lacks(&known) && !known.lacks(&Identity::default()));
    }

    #[test]
    fn a_committed_offset_counts_only_beyond_ours_and_beyond_what_an_operator_saw() {
        let start = |next_offset, committed_seen| Start { next_offset, committed_seen, ..Start::default() };
        for (next_offset, seen, committed, expected) in [
            (Some(10), None, None, None),
            (Some(10), None, Some(9), None),
            (Some(10), None, Some(10), None),
            (Some(10), None, Some(11), Some(11)),
            // Set back from 20: what was committed then says nothing.
            (Some(10), Some(20), Some(20), None),
            (Some(10), Some(20), Some(21), Some(21)),
            // Never opened: Kafka's offset is the only one there is.
            (None, None, Some(11), None),
        ] {
            assert_eq!(committed_ahead(&start(next_offset, seen), committed), expected, "{next_offset:?} {seen:?} {committed:?}");
        }
    }
}
