//! Notices a topic that is deleted and made again while it is read: its offsets begin anew, and ours mean other records. Asks
//! Kafka now and then, and never waits for the answer.

use std::time::{Duration, Instant};

use kafka_batch::{BatchConsumer, TopicId};

use super::client::IntakeContext;
use crate::intake::Identity;

/// How often Kafka is asked.
const EVERY: Duration = Duration::from_secs(30);
/// How often after an error, which may have come from a topic that is gone; and for how long.
const SUSPICIOUS: Duration = Duration::from_secs(1);
const SUSPICION: Duration = Duration::from_secs(60);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// When Kafka is asked next.
#[derive(Debug)]
pub(super) struct IdentityWatch {
    next: Instant,
    suspicious_until: Instant,
    is_asked: bool,
}

impl IdentityWatch {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now + EVERY, suspicious_until: now, is_asked: false }
    }

    /// Reading has failed.
    pub(super) fn failed(&mut self, now: Instant) {
        self.suspicious_until = now + SUSPICION;
        self.next = self.next.min(now + SUSPICIOUS);
    }

    /// The positions were resolved, and Kafka asked for it.
    pub(super) fn reset(&mut self, now: Instant) {
        (self.is_asked, self.next) = (false, now + EVERY);
    }

    /// Whether the topic is another one than at the start.
    pub(super) fn has_changed(
        &mut self,
        consumer: &mut BatchConsumer<IntakeContext>,
        topic: &str,
        known: &Identity,
        now: Instant,
    ) -> bool {
        if !self.is_asked {
            if now >= self.next {
                consumer.ask(topic, None, PATIENCE);
                self.is_asked = true;
            }
            return false;
        }
        let answer = consumer.answer(Duration::ZERO);
        if answer == TopicId::NotYet {
            return false;
        }
        self.is_asked = false;
        self.next = now + if now < self.suspicious_until { SUSPICIOUS } else { EVERY };
        // An id that was unknown at the start is stored by a new one.
        matches!(answer, TopicId::Is(id) if known.topic_id.as_ref() != Some(&id))
    }
}
