//! librdkafka's queues, and the array that its batch call fills. All that is `unsafe` about them.

use std::ffi::CString;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings;
use rdkafka::client::Client;

use crate::record::Record;

/// Our reference to a queue. Whoever has it drops it before the client.
pub(crate) struct Queue(NonNull<bindings::rd_kafka_queue_t>);

// SAFETY: librdkafka's queues have locks of their own, and may be used from any thread.
unsafe impl Send for Queue {}

impl Queue {
    /// A new queue, to forward others to.
    pub(crate) fn new<C: ClientContext>(client: &Client<C>) -> Option<Self> {
        // SAFETY: the client lives during the call. The result is ours to destroy.
        NonNull::new(unsafe { bindings::rd_kafka_queue_new(client.native_ptr()) }).map(Self)
    }

    /// Where librdkafka puts a partition's records.
    pub(crate) fn of_partition<C: ClientContext>(client: &Client<C>, topic: &str, partition: i32) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        // SAFETY: the client and the name live during the call, which copies the name. The result is ours to destroy.
        NonNull::new(unsafe { bindings::rd_kafka_queue_get_partition(client.native_ptr(), topic.as_ptr(), partition) }).map(Self)
    }

    /// For calls of librdkafka. The pointer is good as long as the queue.
    pub(crate) fn as_ptr(&self) -> *mut bindings::rd_kafka_queue_t {
        self.0.as_ptr()
    }

    /// Sends what is in the queue, and what will be, to another one; or keeps it.
    pub(crate) fn forward(&self, to: Option<&Self>) {
        let to = to.map_or_else(ptr::null_mut, |to| to.0.as_ptr());
        // SAFETY: both are alive, for we have references; librdkafka takes one of its own to where it forwards.
        unsafe { bindings::rd_kafka_queue_forward(self.0.as_ptr(), to) }
    }

    /// Fills places of the array with records, and returns how many. Waits until all are full, or time is up.
    pub(crate) fn fill(&self, array: &mut Array, places: Range<usize>, patience: Duration) -> usize {
        let milliseconds = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        let places = &mut array.0[places];
        // SAFETY: the queue is alive, and the array has room for as many pointers as we say.
        let taken =
            unsafe { bindings::rd_kafka_consume_batch_queue(self.0.as_ptr(), milliseconds, places.as_mut_ptr(), places.len()) };
        // It gives -1 for a queue that was never a consumer's only.
        usize::try_from(taken).unwrap_or(0)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: our own reference, given back once.
        unsafe { bindings::rd_kafka_queue_destroy(self.0.as_ptr()) };
    }
}

/// Room for the records of one call.
pub(crate) struct Array(Vec<*mut bindings::rd_kafka_message_t>);

// SAFETY: between two calls the pointers mean nothing; they are never read before librdkafka has written them again.
unsafe impl Send for Array {}

impl Array {
    pub(crate) fn new(room: usize) -> Self {
        Self(vec![ptr::null_mut(); room])
    }

    /// Lends the first `taken` records one after the other, and gives each back to librdkafka while it is still in the cache.
    /// They must have been filled in since the last call.
    pub(crate) fn lend(&mut self, taken: usize, mut each: impl FnMut(&Record<'_>)) {
        let mut rest = Rest(self.0[..taken].iter());
        while let Some(message) = rest.0.next().and_then(|message| NonNull::new(*message)) {
            let lent = Lent(message);
            // SAFETY: librdkafka has filled it in, and nobody else knows it; `lent` ends after the view, at the end of this turn.
            each(&unsafe { Record::new(&lent.0) });
        }
    }
}

/// A record that is given back when its turn is over, also by a panic.
struct Lent(NonNull<bindings::rd_kafka_message_t>);

impl Drop for Lent {
    fn drop(&mut self) {
        // SAFETY: filled in by librdkafka, given back once, and not read again.
        unsafe { bindings::rd_kafka_message_destroy(self.0.as_ptr()) };
    }
}

/// Records whose turn has not come; a panic gives them back.
struct Rest<'a>(std::slice::Iter<'a, *mut bindings::rd_kafka_message_t>);

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        for message in self.0.by_ref().filter_map(|message| NonNull::new(*message)) {
            drop(Lent(message));
        }
    }
}
