//! Notices a consumer that is stuck. Kafka has records, and none comes to us (librdkafka #5153 and its like). Or the group has
//! taken our partitions, and never says again whose they are, though Kafka answers. The chaos harness has seen the latter:
//! librdkafka stayed in its state `wait-unassign-to-complete` when the coordinator went away in a rebalance.
//!
//! Whether Kafka has records is not to be told from offsets: a partition may end in a transaction's marker, which never comes to
//! us. librdkafka says when it is at a partition's end; what it was not told to be at the end of, it owes us something of.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::assignment::Reading;
use super::client::IntakeContext;
use super::extents::has_topic;

/// How long Kafka may take to tell a partition's end.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Watches for records that Kafka has and we do not get.
#[derive(Debug)]
pub(super) struct StallWatch {
    limit: Option<Duration>,
    last_look: Instant,
    /// Records and ends of partitions that have come, and how many there were at the last look.
    heard: u64,
    heard_before: u64,
    /// The partitions that have given us all they had.
    at_end: HashSet<i32>,
    /// Whose record came last. Records come in runs of one partition, and only the first of a run has anything to change.
    run: Option<i32>,
    /// Kafka has said that we may not read; then it is not our client that is stuck.
    is_refused: bool,
    /// The sum of the partitions' ends when the last record had come.
    end_before: Option<i64>,
    behind_since: Option<Instant>,
    /// Since when the group has been silent after it took what we had, as far as Kafka answered.
    revoked_since: Option<Instant>,
}

impl StallWatch {
    pub(super) fn new(limit: Option<Duration>, now: Instant) -> Self {
        Self {
            limit,
            last_look: now,
            heard: 0,
            heard_before: 0,
            at_end: HashSet::new(),
            run: None,
            is_refused: false,
            end_before: None,
            behind_since: None,
            revoked_since: None,
        }
    }

    /// A record of the partition has come. Called for each record.
    #[inline]
    pub(super) fn record(&mut self, partition: i32) {
        if self.run != Some(partition) {
            self.run = Some(partition);
            self.at_end.remove(&partition);
            self.heard += 1;
            self.is_refused = false;
        }
    }

    /// The partition has given us all it had.
    pub(super) fn end(&mut self, partition: i32) {
        self.run = None;
        self.at_end.insert(partition);
        self.heard += 1;
        self.is_refused = false;
    }

    /// Reading has failed.
    pub(super) fn failed(&mut self, error: &KafkaError) {
        // Told once, not at each attempt; what comes next ends it.
        self.is_refused |= error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed);
    }

    /// The group has taken everything; it will say whose it is now, be it nobody's.
    pub(super) fn revoked(&mut self, now: Instant) {
        self.revoked_since.get_or_insert(now);
    }

    /// The group has spoken.
    pub(super) fn assigned(&mut self) {
        self.revoked_since = None;
    }

    /// What was read is read no more.
    pub(super) fn reset(&mut self) {
        self.at_end.clear();
        self.run = None;
        self.is_refused = false;
        self.end_before = None;
        self.behind_since = None;
    }

    /// Whether we are stuck. Asks Kafka now and then, and only while nothing comes.
    pub(super) fn is_stalled(
        &mut self,
        consumer: &BaseConsumer<IntakeContext>,
        topic: &str,
        reading: &[Reading],
        now: Instant,
    ) -> bool {
        let Some(limit) = self.limit else { return false };
        if now - self.last_look < limit / 4 {
            return false;
        }
        let read: Vec<i32> = reading.iter().filter(|reading| !reading.is_blocked).map(|reading| reading.partition).collect();
        if read.is_empty() && self.revoked_since.is_none() {
            return false;
        }
        self.last_look = now;
        if self.revoked_since.is_some() {
            let answers = consumer.fetch_metadata(Some(topic), TIMEOUT).is_ok_and(|metadata| has_topic(&metadata));
            return self.judge_silence(answers, now, limit);
        }
        let look = Look {
            is_quiet: self.is_quiet(),
            is_owed: read.iter().any(|partition| !self.at_end.contains(partition)),
            end: read
                .iter()
                .map(|partition| consumer.fetch_watermarks(topic, *partition, TIMEOUT).map(|(_, high)| high).ok())
                .sum(),
        };
        self.judge(look, now, limit)
    }

    /// Whether nothing has come since this was asked before.
    fn is_quiet(&mut self) -> bool {
        // The run may go on: its next record counts as well.
        self.run = None;
        let is_quiet = self.heard == self.heard_before;
        self.heard_before = self.heard;
        is_quiet
    }

    /// While Kafka does not answer, or has no such topic, the group's silence is not our client's fault.
    fn judge_silence(&mut self, answers: bool, now: Instant, limit: Duration) -> bool {
        if !answers {
            self.revoked_since = Some(now);
        }
        self.revoked_since.is_some_and(|since| now - since >= limit)
    }

    fn judge(&mut self, look: Look, now: Instant, limit: Duration) -> bool {
        let (Some(end), true, false) = (look.end, look.is_quiet, self.is_refused) else {
            self.end_before = look.end;
            self.behind_since = None;
            return false;
        };
        let has_grown = end > *self.end_before.get_or_insert(end);
        if !has_grown && !look.is_owed {
            self.behind_since = None;
            return false;
        }
        now - *self.behind_since.get_or_insert(now) >= limit
    }
}

/// What a look finds.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// Nothing has come since the last look.
    is_quiet: bool,
    /// Of a partition that is read, the end has not come: neither since the start nor since its last record.
    is_owed: bool,
    /// The sum of the partitions' ends; unknown while Kafka does not answer: then it is Kafka that fails, not our client.
    end: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const LIMIT: Duration = Duration::from_secs(100);

    /// Nothing comes, and all that there was has come.
    const fn quiet(end: i64) -> Look {
        Look { is_quiet: true, is_owed: false, end: Some(end) }
    }

    /// Nothing comes, and there is more.
    const fn owed(end: i64) -> Look {
        Look { is_owed: true, ..quiet(end) }
    }

    const SILENT: Look = Look { end: None, ..quiet(0) };

    fn watch() -> (StallWatch, Instant) {
        let start = clock::now();
        (StallWatch::new(Some(LIMIT), start), start)
    }

    /// What each look finds, a quarter of the limit apart.
    fn judge(looks: &[Look]) -> Vec<bool> {
        let (mut watch, start) = watch();
        let instants = (0_u32..).map(|look| start + LIMIT / 4 * look);
        looks.iter().zip(instants).map(|(look, now)| watch.judge(*look, now, LIMIT)).collect()
    }

    #[test]
    fn records_that_arrive_in_kafka_and_not_here_are_a_stall_after_the_limit() {
        let looks = [quiet(10), quiet(11), quiet(11), quiet(11), quiet(12), quiet(12)];
        assert_eq!(judge(&looks), [false, false, false, false, false, true]);
    }

    #[test]
    fn records_that_were_there_before_we_looked_are_a_stall_after_the_limit() {
        assert_eq!(judge(&[owed(10); 6]), [false, false, false, false, true, true]);
    }

    #[test]
    fn a_quiet_topic_and_a_kafka_that_is_down_are_no_stall() {
        assert!(!judge(&[quiet(10); 12]).contains(&true));
        assert!(!judge(&[quiet(10), SILENT, SILENT, SILENT, SILENT, quiet(99), quiet(99)]).contains(&true));
        assert!(!judge(&[owed(10), SILENT, owed(10), owed(10), SILENT, owed(10), owed(10), owed(10), owed(10)]).contains(&true));
    }

    #[test]
    fn a_record_that_comes_ends_the_suspicion() {
        for look in [quiet, owed] {
            let comes = Look { is_quiet: false, ..look(3) };
            let looks = [look(1), look(2), look(2), comes, quiet(3), quiet(3), quiet(3), quiet(3)];
            assert!(!judge(&looks).contains(&true));
        }
    }

    #[test]
    fn a_partition_is_owed_until_its_end_comes_and_again_after_each_record() {
        let (mut watch, _) = watch();
        let owed = |watch: &StallWatch| [0, 1].map(|partition| !watch.at_end.contains(&partition));
        assert_eq!(owed(&watch), [true, true], "nothing has come yet");
        watch.record(0);
        watch.record(0);
        watch.end(0);
        assert_eq!(owed(&watch), [false, true]);
        watch.end(1);
        watch.record(0);
        assert_eq!(owed(&watch), [true, false], "though the record before was of the same partition");
        watch.end(0);
        watch.reset();
        assert_eq!(owed(&watch), [true, true], "what is read anew has its end to come");
    }

    #[test]
    fn every_look_hears_of_what_has_come_since_the_last() {
        let (mut watch, _) = watch();
        assert!(watch.is_quiet());
        watch.record(0);
        assert!(!watch.is_quiet());
        watch.record(0);
        assert!(!watch.is_quiet(), "the run goes on");
        watch.end(0);
        assert!(!watch.is_quiet(), "a transaction's marker has come: no record, but an end");
        assert!(watch.is_quiet());
    }

    #[test]
    fn a_kafka_that_does_not_let_us_read_is_no_stall_until_it_does() {
        let (mut watch, start) = watch();
        let stalls = |watch: &mut StallWatch| (0..12).any(|look| watch.judge(owed(9), start + LIMIT / 4 * look, LIMIT));
        watch.failed(&KafkaError::MessageConsumption(RDKafkaErrorCode::TopicAuthorizationFailed));
        assert!(!stalls(&mut watch));
        watch.record(0);
        assert!(stalls(&mut watch));
    }

    fn silent(looks: &[bool]) -> Vec<bool> {
        let start = clock::now();
        let mut watch = StallWatch::new(Some(LIMIT), start);
        watch.revoked(start);
        let instants = (1_u32..).map(|look| start + Duration::from_secs(25) * look);
        looks.iter().zip(instants).map(|(answers, now)| watch.judge_silence(*answers, now, LIMIT)).collect()
    }

    #[test]
    fn a_group_that_never_says_whose_the_partitions_are_is_a_stall_after_the_limit() {
        assert_eq!(silent(&[true; 5]), [false, false, false, true, true]);
    }

    #[test]
    fn a_kafka_that_is_down_in_a_rebalance_is_no_stall_and_has_the_whole_limit_again() {
        assert_eq!(silent(&[true, true, false, true, true, true, true]), [false, false, false, false, false, false, true]);
        assert!(!silent(&[false; 12]).contains(&true));
    }

    #[test]
    fn a_group_that_has_spoken_is_not_silent() {
        let start = clock::now();
        let mut watch = StallWatch::new(Some(LIMIT), start);
        watch.revoked(start);
        watch.assigned();
        assert_eq!(watch.revoked_since, None, "also where it gave us nothing");
    }
}
