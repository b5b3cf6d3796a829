//! Notices a consumer that is stuck: Kafka gets records, and none comes to us (librdkafka #5153 and its like); or the group has
//! taken our partitions, and never says again whose they are, though Kafka answers. The chaos harness has seen the latter:
//! librdkafka stayed in its state `wait-unassign-to-complete` when the coordinator went away in a rebalance.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};

use super::client::IntakeContext;

/// How long Kafka may take to tell a partition's end.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Watches for records that Kafka has and we do not get.
#[derive(Debug)]
pub(super) struct StallWatch {
    limit: Option<Duration>,
    last_look: Instant,
    received: u64,
    received_before: u64,
    /// The sum of the partitions' ends when the last record had come.
    end_before: Option<i64>,
    behind_since: Option<Instant>,
    /// Since when the group has been silent after it took what we had, as far as Kafka answered.
    revoked_since: Option<Instant>,
}

impl StallWatch {
    pub(super) fn new(limit: Option<Duration>, now: Instant) -> Self {
        Self { limit, last_look: now, received: 0, received_before: 0, end_before: None, behind_since: None, revoked_since: None }
    }

    /// Records have come.
    pub(super) fn received(&mut self, records: usize) {
        self.received += records as u64;
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
        self.end_before = None;
        self.behind_since = None;
    }

    /// Whether we are stuck. Asks Kafka now and then, and only while no record comes.
    pub(super) fn is_stalled(
        &mut self,
        consumer: &BaseConsumer<IntakeContext>,
        topic: &str,
        reading: &[(i32, i64)],
        now: Instant,
    ) -> bool {
        let Some(limit) = self.limit else { return false };
        if now - self.last_look < limit / 4 || (reading.is_empty() && self.revoked_since.is_none()) {
            return false;
        }
        self.last_look = now;
        if self.revoked_since.is_some() {
            let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT);
            let answers = metadata.is_ok_and(|found| found.topics().first().is_some_and(|found| !found.partitions().is_empty()));
            return self.judge_silence(answers, now, limit);
        }
        let quiet = self.received == self.received_before;
        self.received_before = self.received;
        let end = reading
            .iter()
            .map(|(partition, _)| consumer.fetch_watermarks(topic, *partition, TIMEOUT).map(|(_, high)| high).ok())
            .sum();
        self.judge(quiet, end, now, limit)
    }

    /// While Kafka does not answer, or has no such topic, the group's silence is not our client's fault.
    fn judge_silence(&mut self, answers: bool, now: Instant, limit: Duration) -> bool {
        if !answers {
            self.revoked_since = Some(now);
        }
        self.revoked_since.is_some_and(|since| now - since >= limit)
    }

    /// `end` is unknown while Kafka does not answer: then it is Kafka that fails, not our client.
    fn judge(&mut self, quiet: bool, end: Option<i64>, now: Instant, limit: Duration) -> bool {
        let (Some(end), true) = (end, quiet) else {
            self.end_before = end;
            self.behind_since = None;
            return false;
        };
        if end <= *self.end_before.get_or_insert(end) {
            self.behind_since = None;
            return false;
        }
        now - *self.behind_since.get_or_insert(now) >= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const LIMIT: Duration = Duration::from_secs(100);

    fn judge(looks: &[(bool, Option<i64>)]) -> Vec<bool> {
        let start = clock::now();
        let mut watch = StallWatch::new(Some(LIMIT), start);
        let instants = (0_u32..).map(|look| start + Duration::from_secs(25) * look);
        looks.iter().zip(instants).map(|((quiet, end), now)| watch.judge(*quiet, *end, now, LIMIT)).collect()
    }

    #[test]
    fn records_that_arrive_in_kafka_and_not_here_are_a_stall_after_the_limit() {
        let looks = [(true, Some(10)), (true, Some(11)), (true, Some(11)), (true, Some(11)), (true, Some(12)), (true, Some(12))];
        assert_eq!(judge(&looks), [false, false, false, false, false, true]);
    }

    #[test]
    fn a_quiet_topic_and_a_kafka_that_is_down_are_no_stall() {
        assert!(!judge(&[(true, Some(10)); 12]).contains(&true));
        assert!(
            !judge(&[
                (true, Some(10)),
                (true, None),
                (true, None),
                (true, None),
                (true, None),
                (true, Some(99)),
                (true, Some(99))
            ])
            .contains(&true)
        );
    }

    #[test]
    fn a_record_that_comes_ends_the_suspicion() {
        let looks = [
            (true, Some(1)),
            (true, Some(2)),
            (true, Some(2)),
            (false, Some(3)),
            (true, Some(3)),
            (true, Some(3)),
            (true, Some(3)),
        ];
        assert!(!judge(&looks).contains(&true));
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
