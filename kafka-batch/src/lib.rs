//! A consumer that takes records many at a time, by librdkafka's batch call (`rd_kafka_consume_batch_queue`). The safe
//! bindings' `poll` makes an event and a counted pointer for each record, which costs about as much as all else that
//! librdkafka does for it.
//!
//! The batch call must not be used on the consumer's own queue: it would serve a rebalance itself, for which the bindings set
//! no callback, and give the partitions back. So the partitions' records are forwarded to a queue that only we know, and all
//! else (rebalances, commits, errors of no partition) still comes from [`BatchConsumer::poll`].

mod queue;
mod record;
#[cfg(test)]
mod tests;
mod topic_id;

use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, DefaultConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::BorrowedMessage;

use self::queue::{Array, Queue};
pub use self::record::Record;
use self::topic_id::Asked;
pub use self::topic_id::{TopicId, answering_broker, topic_id};

/// The most records that one [`BatchConsumer::take`] gives. More would not stay in the processor's cache until they are
/// read, and given back.
pub const MOST: usize = 1_000;

/// A consumer whose partitions' records are taken many at a time.
pub struct BatchConsumer<C: ConsumerContext = DefaultConsumerContext> {
    // Dropped in this order: no queue outlives its consumer.
    asked: Option<Asked>,
    partitions: Vec<Queue>,
    queue: Queue,
    array: Array,
    consumer: BaseConsumer<C>,
}

impl<C: ConsumerContext> BatchConsumer<C> {
    /// Takes a consumer over, before it has partitions.
    pub fn new(consumer: BaseConsumer<C>) -> KafkaResult<Self> {
        let queue = Queue::new(consumer.client()).ok_or_else(|| KafkaError::ClientCreation("no queue".to_owned()))?;
        Ok(Self { asked: None, partitions: Vec::new(), queue, array: Array::new(MOST), consumer })
    }

    /// The consumer, for all but its records. Its own `assign` with partitions in it would let their records come from `poll`,
    /// unless they have been assigned here before.
    pub fn consumer(&self) -> &BaseConsumer<C> {
        &self.consumer
    }

    /// Reads these partitions, and no others.
    pub fn assign(&mut self, list: &TopicPartitionList) -> KafkaResult<()> {
        // The list of an empty assignment must not be looked into (rust-rdkafka #681).
        let elements = if list.count() == 0 { Vec::new() } else { list.elements() };
        let queue = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
            let (topic, partition) = (element.topic(), element.partition());
            Queue::of_partition(self.consumer.client(), topic, partition)
                .ok_or_else(|| KafkaError::Subscription(format!("no queue of partition {partition} of {topic}")))
        };
        self.partitions = elements.iter().map(queue).collect::<KafkaResult<_>>()?;
        // Before: librdkafka forwards a partition to the consumer's queue when it starts to read it, unless we have.
        self.forward();
        self.consumer.assign(list)?;
        // After: when librdkafka has stopped to read a partition, it has dissolved what it was forwarded to.
        self.forward();
        Ok(())
    }

    /// Serves all that is no record, above all rebalances: to be called every now and then, also while records come. Gives what
    /// [`BaseConsumer::poll`] gives.
    pub fn poll(&self, patience: Duration) -> Option<KafkaResult<BorrowedMessage<'_>>> {
        // A partition that was read before may have been stopped late, after `assign`.
        self.forward();
        self.consumer.poll(patience)
    }

    /// Asks Kafka for a topic's id, without waiting: [`BatchConsumer::answer`] has it later. Any broker can tell; without one the
    /// controller is asked, and a Kafka without a controller never answers.
    pub fn ask(&mut self, topic: &str, broker: Option<i32>, patience: Duration) {
        self.asked = Asked::new(self.consumer.client(), topic, broker, patience);
    }

    /// The answer to the last question. It is given once; without a question it is unknown.
    pub fn answer(&mut self, patience: Duration) -> TopicId {
        let answer = self.asked.as_ref().map_or(TopicId::Unknown, |asked| asked.answer(patience));
        if answer != TopicId::NotYet {
            self.asked = None;
        }
        answer
    }

    /// Waits for a record, and lends it with all others that are there, up to [`MOST`], one by one. Returns how many there were.
    pub fn take(&mut self, patience: Duration, each: impl FnMut(&Record<'_>)) -> usize {
        // With a time-out the call waits until its array is full: so we wait for one record, and for the others not at all.
        let taken = self.queue.fill(&mut self.array, 0..1, patience);
        let taken = if taken == 0 { 0 } else { 1 + self.queue.fill(&mut self.array, 1..MOST, Duration::ZERO) };
        self.array.lend(taken, each);
        taken
    }

    /// Does nothing where it is so already.
    fn forward(&self) {
        for partition in &self.partitions {
            partition.forward(Some(&self.queue));
        }
    }
}

impl<C: ConsumerContext> Drop for BatchConsumer<C> {
    fn drop(&mut self) {
        for partition in &self.partitions {
            partition.forward(None);
        }
    }
}
