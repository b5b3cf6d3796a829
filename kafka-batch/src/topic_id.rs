//! Asks Kafka for a topic's id, which is another one after the topic was deleted and made again. The safe bindings do not wrap
//! the call (`rd_kafka_DescribeTopics`). All that is `unsafe` about it.

use std::ffi::{CStr, CString};
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings::{self, rd_kafka_resp_err_t};
use rdkafka::client::Client;
use rdkafka::metadata::Metadata;

use crate::queue::Queue;

/// The id of all zeros: a broker that knows no ids of topics.
const NONE: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// What Kafka says about a topic's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicId {
    /// The answer has not come yet.
    NotYet,
    /// Kafka does not tell: the topic is not there, we may not ask, or the broker is old.
    Unknown,
    /// The id, as Kafka's tools show it.
    Is(String),
}

/// Asks, and waits for the answer. `None`: Kafka does not tell.
pub fn topic_id<C: ClientContext>(client: &Client<C>, topic: &str, patience: Duration) -> Option<String> {
    let broker = answering_broker(&client.fetch_metadata(Some(topic), patience).ok()?);
    match Asked::new(client, topic, broker, patience)?.answer(patience) {
        TopicId::Is(id) => Some(id),
        TopicId::NotYet | TopicId::Unknown => None,
    }
}

/// A broker that answers: the one that has sent this, or else any that it names.
pub fn answering_broker(metadata: &Metadata) -> Option<i32> {
    let named = metadata.brokers().iter().map(rdkafka::metadata::MetadataBroker::id);
    std::iter::once(metadata.orig_broker_id()).chain(named).find(|id| *id >= 0)
}

/// A question that is under way. It is dropped before its client.
pub(crate) struct Asked(Queue);

impl Asked {
    /// Without a broker librdkafka asks the controller, and waits for as long as there is none.
    pub(crate) fn new<C: ClientContext>(
        client: &Client<C>,
        topic: &str,
        broker: Option<i32>,
        patience: Duration,
    ) -> Option<Self> {
        let queue = Queue::new(client)?;
        let topic = CString::new(topic).ok()?;
        let milliseconds = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        let kind = bindings::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        // SAFETY: the client lives during the call. The options are ours to destroy.
        let options = NonNull::new(unsafe { bindings::rd_kafka_AdminOptions_new(client.native_ptr(), kind) })?;
        // A time out of range leaves librdkafka's default.
        // SAFETY: the options are alive, and no text is wanted of an error.
        unsafe { bindings::rd_kafka_AdminOptions_set_request_timeout(options.as_ptr(), milliseconds, ptr::null_mut(), 0) };
        if let Some(broker) = broker {
            // A number out of range leaves the controller.
            // SAFETY: as above.
            unsafe { bindings::rd_kafka_AdminOptions_set_broker(options.as_ptr(), broker, ptr::null_mut(), 0) };
        }
        let mut names = [topic.as_ptr()];
        // SAFETY: the name lives during the call, which copies it. The collection is ours to destroy.
        let topics = unsafe { bindings::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()) };
        if !topics.is_null() {
            // SAFETY: all four are alive during the call, which copies names and options. The queue takes the answer.
            unsafe { bindings::rd_kafka_DescribeTopics(client.native_ptr(), topics, options.as_ptr(), queue.as_ptr()) };
            // SAFETY: ours, and given back once.
            unsafe { bindings::rd_kafka_TopicCollection_destroy(topics) };
        }
        // SAFETY: ours, and given back once.
        unsafe { bindings::rd_kafka_AdminOptions_destroy(options.as_ptr()) };
        (!topics.is_null()).then_some(Self(queue))
    }

    /// The answer, if it comes in time.
    pub(crate) fn answer(&self, patience: Duration) -> TopicId {
        let milliseconds = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is alive. The event is ours to destroy.
        let event = unsafe { bindings::rd_kafka_queue_poll(self.0.as_ptr(), milliseconds) };
        let Some(event) = NonNull::new(event).map(Event) else { return TopicId::NotYet };
        event.topic_id().filter(|id| id != NONE).map_or(TopicId::Unknown, TopicId::Is)
    }
}

/// An event that is given back when it has been read.
struct Event(NonNull<bindings::rd_kafka_event_t>);

impl Event {
    fn topic_id(&self) -> Option<String> {
        // SAFETY: the event lives. The result is null for an event of another kind, and lives as long as the event.
        let result = NonNull::new(unsafe { bindings::rd_kafka_event_DescribeTopics_result(self.0.as_ptr()) }.cast_mut())?;
        let mut count = 0;
        // SAFETY: the result lives, and the count has its place.
        let topics = unsafe { bindings::rd_kafka_DescribeTopics_result_topics(result.as_ptr(), &raw mut count) };
        if topics.is_null() || count == 0 {
            return None;
        }
        // SAFETY: there is at least one, and it lives as long as the event.
        let topic = unsafe { *topics };
        // SAFETY: the description lives; its error is null or lives as long. A null error counts as none.
        let code = unsafe { bindings::rd_kafka_error_code(bindings::rd_kafka_TopicDescription_error(topic)) };
        if code != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        // SAFETY: the description lives.
        let id = NonNull::new(unsafe { bindings::rd_kafka_TopicDescription_topic_id(topic) }.cast_mut())?;
        // SAFETY: the id lives as long as the event, and keeps its text.
        let text = NonNull::new(unsafe { bindings::rd_kafka_Uuid_base64str(id.as_ptr()) }.cast_mut())?;
        // SAFETY: librdkafka ends the text with NUL.
        Some(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: ours, and given back once.
        unsafe { bindings::rd_kafka_event_destroy(self.0.as_ptr()) };
    }
}
