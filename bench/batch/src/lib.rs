//! librdkafka's batch call (`rd_kafka_consume_batch_queue`): the fastest way out of librdkafka, and so the highest ceiling
//! that a consumer can be measured against.
//!
//! For a consumer with partitions assigned by hand only. With a subscription the call would serve the rebalance itself, for
//! which the Rust bindings set no callback, and the consumer would lose its partitions.

use std::ptr;
use std::time::Duration;

use rdkafka::bindings;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

/// Records asked for in one call.
const MOST: usize = 10_000;

/// A consumer's queue. Ends with the consumer.
pub struct Batches<'a> {
    queue: ptr::NonNull<bindings::rd_kafka_queue_t>,
    records: Vec<*mut bindings::rd_kafka_message_t>,
    _consumer: &'a BaseConsumer,
}

/// What one call gave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Records.
    pub records: u64,
    /// The size of their payloads.
    pub bytes: u64,
}

impl<'a> Batches<'a> {
    /// The queue of a consumer whose partitions were assigned by hand; `None` when librdkafka has none.
    #[must_use]
    pub fn of(consumer: &'a BaseConsumer) -> Option<Self> {
        // SAFETY: the pointer is the consumer's own, which outlives the call.
        let queue = unsafe { bindings::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        Some(Self { queue: ptr::NonNull::new(queue)?, records: vec![ptr::null_mut(); MOST], _consumer: consumer })
    }

    /// Counts what is there; waits up to `patience` where nothing is.
    ///
    /// # Errors
    /// The code that librdkafka gives instead of a record.
    pub fn next(&mut self, patience: Duration) -> Result<Counted, i32> {
        let counted = self.take(Duration::ZERO)?;
        if counted.records > 0 {
            return Ok(counted);
        }
        // With a time-out the call waits until its array is full: so wait for one record, and for all others not at all.
        self.take_some(1, patience)
    }

    fn take(&mut self, patience: Duration) -> Result<Counted, i32> {
        self.take_some(MOST, patience)
    }

    fn take_some(&mut self, most: usize, patience: Duration) -> Result<Counted, i32> {
        let milliseconds = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        let records = &mut self.records[..most];
        // SAFETY: the queue lives until we are dropped, and the array has room for as many pointers as we say.
        let taken = unsafe {
            bindings::rd_kafka_consume_batch_queue(self.queue.as_ptr(), milliseconds, records.as_mut_ptr(), records.len())
        };
        let Ok(taken) = usize::try_from(taken) else { return Err(-1) };
        let mut counted = Counted::default();
        let mut failed = None;
        for record in &records[..taken] {
            // SAFETY: librdkafka has filled in so many pointers, and each record is ours until we give it back.
            let (code, bytes) = unsafe { ((**record).err as i32, (**record).len) };
            if code == 0 {
                counted.records += 1;
                counted.bytes += bytes as u64;
            } else {
                failed = Some(code);
            }
            // SAFETY: given back once, and not read again.
            unsafe { bindings::rd_kafka_message_destroy(*record) };
        }
        failed.map_or(Ok(counted), Err)
    }
}

impl Drop for Batches<'_> {
    fn drop(&mut self) {
        // SAFETY: our own reference to the queue, given back once.
        unsafe { bindings::rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}
