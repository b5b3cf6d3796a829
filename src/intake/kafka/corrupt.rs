//! Data that Kafka sends and nobody can read: a checksum that is wrong, a compression that fails, a format from the future.
//! librdkafka reports it once and goes on behind it, so without us its records would be skipped in silence.

use std::collections::HashMap;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// How often the same place is read before the partition stops: a fault on the way may pass, one on a disk stays.
const MOST_READS: u32 = 3;

/// Whether an error says that fetched data cannot be read.
pub fn is_corrupt(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{BadCompression, BadMessage, InvalidMessage, NotImplemented};
    matches!(error.rdkafka_error_code(), Some(BadMessage | BadCompression | NotImplemented | InvalidMessage))
}

/// The corrupt place of each partition, and how often it was read.
#[derive(Debug, Default)]
pub(super) struct Corrupt(HashMap<i32, (i64, u32)>);

impl Corrupt {
    /// Whether to read again from the store's offset, after an error at this place.
    pub(super) fn is_worth_another(&mut self, partition: i32, offset: i64) -> bool {
        let (place, reads) = self.0.entry(partition).or_insert((offset, 0));
        if *place != offset {
            (*place, *reads) = (offset, 0);
        }
        *reads = reads.saturating_add(1);
        *reads < MOST_READS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_place_is_read_three_times_and_another_place_counts_anew() {
        let mut corrupt = Corrupt::default();
        let mut read = |partition, offset| corrupt.is_worth_another(partition, offset);
        assert_eq!([read(0, 7), read(0, 7), read(1, 7), read(0, 7), read(0, 7)], [true, true, true, false, false]);
        assert_eq!([read(0, 9), read(0, 9), read(0, 9)], [true, true, false]);
    }
}
