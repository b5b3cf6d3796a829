//! Records as librdkafka lends them, on their way into a batch.

use std::time::Instant;

use rdkafka::message::{BorrowedMessage, Headers as _, Message as _, Timestamp};

use super::assignment::Assignment;
use crate::clock;
use crate::intake::{Batch, Record, TIME_HEADER};

/// A record's time in milliseconds since 1970. Where the broker sets the time, a record that was sent again says its own.
fn time_ms((stated, is_append_time): (Option<i64>, bool), headers: &dyn Fn() -> Vec<(String, Option<Vec<u8>>)>) -> i64 {
    // A record without a time is as old as its arrival.
    let time = || stated.unwrap_or_else(clock::unix_ms);
    if is_append_time { header_time(&headers()).unwrap_or_else(time) } else { time() }
}

fn header_time(headers: &[(String, Option<Vec<u8>>)]) -> Option<i64> {
    let (_, value) = headers.iter().rfind(|(name, _)| name == TIME_HEADER)?;
    std::str::from_utf8(value.as_deref()?).ok()?.parse().ok()
}

/// Adds a record of the batch call.
pub(super) fn push_lent(
    batch: &mut Batch,
    assignment: &Assignment,
    record: &kafka_batch::Record<'_>,
    oldest_ms: i64,
    now: Instant,
) {
    let headers = || record.headers();
    let lent = Record {
        partition: record.partition(),
        offset: record.offset(),
        time_ms: time_ms(record.time(), &headers),
        key: record.key(),
        payload: record.payload(),
        headers: &headers,
    };
    push(batch, assignment, &lent, oldest_ms, now);
}

/// Adds a record that came another way.
pub(super) fn push_message(batch: &mut Batch, assignment: &Assignment, message: &BorrowedMessage<'_>, now: Instant) {
    let headers = || {
        message.headers().map_or_else(Vec::new, |headers| {
            headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
        })
    };
    let timestamp = message.timestamp();
    let is_append_time = matches!(timestamp, Timestamp::LogAppendTime(_));
    let record = Record {
        partition: message.partition(),
        offset: message.offset(),
        time_ms: time_ms((timestamp.to_millis(), is_append_time), &headers),
        key: message.key(),
        payload: message.payload(),
        headers: &headers,
    };
    push(batch, assignment, &record, i64::MIN, now);
}

fn push(batch: &mut Batch, assignment: &Assignment, record: &Record<'_>, oldest_ms: i64, now: Instant) {
    // A record of a partition that we no longer read is its new owner's.
    let Some(reading) = assignment.find(record.partition) else { return };
    if reading.is_decided(record.offset) {
        batch.pass_over(record.partition, reading.epoch, record.offset, now);
    } else {
        batch.push(record, reading.epoch, oldest_ms, now);
    }
}
