//! What every `TaskQueue` promises.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::future::join_all;
use std::time::Duration;

use jiff::Timestamp;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use trigger_dispatcher::config::{Broker, CeleryConfig};
use trigger_dispatcher::tasks::amqp::AmqpQueue;
use trigger_dispatcher::tasks::memory::MemoryQueue;
use trigger_dispatcher::tasks::redis::RedisQueue;
use trigger_dispatcher::tasks::{Publication, Task, TaskQueue};
use uuid::Uuid;

use crate::support::settings::config;
use crate::support::{service, unique};

macro_rules! conformance {
    ($broker:ident: $world:ident, $($test:ident)*) => {
        mod $broker {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(&<super::$world as super::World>::create().await).await;
            })*
        }
    };
}

conformance! {
    on_redis: Redis,
    all_tasks_of_a_publication_arrive_in_order
    publications_arrive_one_after_the_other
    publications_of_several_publishers_do_not_mix
    a_publication_without_tasks_is_fine
    ten_thousand_tasks_arrive_in_one_publication
    arguments_arrive_as_they_are
    a_repeated_publication_adds_nothing
}

conformance! {
    in_memory: Memory,
    all_tasks_of_a_publication_arrive_in_order
    publications_arrive_one_after_the_other
    publications_of_several_publishers_do_not_mix
    a_publication_without_tasks_is_fine
    ten_thousand_tasks_arrive_in_one_publication
    arguments_arrive_as_they_are
    a_repeated_publication_adds_nothing
}

// The documented difference: RabbitMQ has no guard, so a repeated publication is there twice, and the worker guard lets
// one start. Publishers share a queue message by message.
conformance! {
    on_rabbitmq: Amqp,
    all_tasks_of_a_publication_arrive_in_order
    publications_arrive_one_after_the_other
    a_publication_without_tasks_is_fine
    ten_thousand_tasks_arrive_in_one_publication
    arguments_arrive_as_they_are
    a_repeated_publication_adds_duplicates
}

/// A broker with an empty queue.
trait World: Sized {
    type Queue: TaskQueue;
    async fn create() -> Self;
    fn queue(&self) -> Self::Queue;
    /// Takes everything, in the order in which a worker would.
    async fn take_all(&self) -> Vec<Task>;
}

struct Redis {
    celery: CeleryConfig,
    link: Mutex<redis::aio::MultiplexedConnection>,
}

impl World for Redis {
    type Queue = RedisQueue;

    async fn create() -> Self {
        let url = service("TEST_REDIS_URL");
        let mut celery = config(&url, None).celery;
        celery.task_queue = unique("queue");
        // Ten thousand messages in one reply take longer than the half second of the default, beside other tests.
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
        let client = redis::Client::open(url).unwrap();
        let link = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
        Self { celery, link: Mutex::new(link) }
    }

    fn queue(&self) -> RedisQueue {
        let Broker::Redis(address) = &self.celery.broker else { panic!("not redis") };
        RedisQueue::new(address, &self.celery, Duration::from_secs(60), None).unwrap()
    }

    async fn take_all(&self) -> Vec<Task> {
        let mut link = self.link.lock().await;
        // kombu takes from the right.
        let (mut messages, _): (Vec<String>, i64) = redis::pipe()
            .atomic()
            .lrange(&self.celery.task_queue, 0, -1)
            .del(&self.celery.task_queue)
            .query_async(&mut *link)
            .await
            .unwrap();
        messages.reverse();
        let task = |message: &String| {
            let message: Value = serde_json::from_str(message).unwrap();
            let body = BASE64.decode(message["body"].as_str().unwrap()).unwrap();
            task_of(message["headers"]["id"].as_str().unwrap(), &body)
        };
        messages.iter().map(task).collect()
    }
}

struct Memory(MemoryQueue);

impl World for Memory {
    type Queue = MemoryQueue;

    async fn create() -> Self {
        Self(MemoryQueue::default())
    }

    fn queue(&self) -> MemoryQueue {
        self.0.clone()
    }

    async fn take_all(&self) -> Vec<Task> {
        std::iter::from_fn(|| self.0.try_pop()).collect()
    }
}

struct Amqp {
    celery: CeleryConfig,
    channel: Channel,
    _connection: Connection,
}

impl World for Amqp {
    type Queue = AmqpQueue;

    async fn create() -> Self {
        let mut celery = config(&service("TEST_AMQP_URL"), None).celery;
        celery.task_queue = unique("queue");
        let Broker::Amqp(address) = &celery.broker else { panic!("not amqp") };
        let connection = Connection::connect(address.expose(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        // Gone with this connection.
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(celery.task_queue.as_str().into(), options, FieldTable::default()).await.unwrap();
        Self { celery, channel, _connection: connection }
    }

    fn queue(&self) -> AmqpQueue {
        let Broker::Amqp(address) = &self.celery.broker else { panic!("not amqp") };
        AmqpQueue::new(address, &self.celery)
    }

    async fn take_all(&self) -> Vec<Task> {
        let mut tasks = Vec::new();
        let options = BasicGetOptions { no_ack: true };
        while let Some(message) = self.channel.basic_get(self.celery.task_queue.as_str().into(), options).await.unwrap() {
            let id = message.delivery.properties.correlation_id().clone().unwrap();
            tasks.push(task_of(id.as_str(), &message.delivery.data));
        }
        tasks
    }
}

/// A task out of its id and its message's body.
fn task_of(id: &str, body: &[u8]) -> Task {
    let body: Value = serde_json::from_slice(body).unwrap();
    Task { trigger_id: id.parse().unwrap(), kwargs: body[1].to_string() }
}

fn publication(tasks: usize) -> Publication {
    let task = |number| {
        let trigger_id = Uuid::new_v4();
        let kwargs = json!({"execution_id": trigger_id, "number": number}).to_string();
        Task { trigger_id, kwargs }
    };
    Publication {
        id: Uuid::new_v4(),
        expires: Timestamp::from_second(4_000_000_000).unwrap(),
        publish_by: trigger_dispatcher::clock::timer() + Duration::from_secs(300),
        tasks: (0..tasks).map(task).collect(),
    }
}

async fn all_tasks_of_a_publication_arrive_in_order<W: World>(world: &W) {
    let publication = publication(100);
    world.queue().enqueue(&publication).await.unwrap();
    assert_eq!(world.take_all().await, publication.tasks);
}

async fn publications_arrive_one_after_the_other<W: World>(world: &W) {
    let (first, second) = (publication(3), publication(4));
    let mut queue = world.queue();
    queue.enqueue(&first).await.unwrap();
    queue.enqueue(&second).await.unwrap();
    assert_eq!(world.take_all().await, [first.tasks, second.tasks].concat());
}

async fn publications_of_several_publishers_do_not_mix<W: World>(world: &W) {
    let publications: Vec<_> = (0..8).map(|_| publication(700)).collect();
    let mut queues: Vec<_> = publications.iter().map(|_| world.queue()).collect();
    let enqueued = join_all(queues.iter_mut().zip(&publications).map(|(queue, publication)| queue.enqueue(publication))).await;
    for result in enqueued {
        result.unwrap();
    }
    let mut rest = world.take_all().await;
    while let Some(first) = rest.first() {
        let publication =
            publications.iter().find(|publication| publication.tasks[0] == *first).expect("the start of a publication");
        assert_eq!(rest.drain(..700).collect::<Vec<_>>(), publication.tasks);
    }
}

async fn a_publication_without_tasks_is_fine<W: World>(world: &W) {
    let mut queue = world.queue();
    queue.enqueue(&publication(0)).await.unwrap();
    assert_eq!(world.take_all().await, []);
    // And nothing is amiss with the queue afterwards.
    let next = publication(1);
    queue.enqueue(&next).await.unwrap();
    assert_eq!(world.take_all().await, next.tasks);
}

async fn ten_thousand_tasks_arrive_in_one_publication<W: World>(world: &W) {
    let publication = publication(10_000);
    world.queue().enqueue(&publication).await.unwrap();
    // So many need not keep their order: on Redis they go out in parts.
    let sorted = |mut tasks: Vec<Task>| {
        tasks.sort_by_key(|task| task.trigger_id);
        tasks
    };
    let (arrived, wanted) = (sorted(world.take_all().await), sorted(publication.tasks));
    assert_eq!(arrived.len(), 10_000);
    assert!(arrived == wanted, "other tasks");
}

async fn arguments_arrive_as_they_are<W: World>(world: &W) {
    let texts = ["Zürich 東京 🚀", "quote \" backslash \\ tab \t line \n", "\u{1}\u{1f}\u{7f}\u{2028}", ""];
    let big = "x".repeat(200_000);
    let kwargs =
        json!({"texts": texts, "big": big, "numbers": [0, -1, 85.5, 1e-9, 9_007_199_254_740_993_i64], "null": null}).to_string();
    let publication = Publication { tasks: vec![Task { trigger_id: Uuid::new_v4(), kwargs }], ..publication(0) };
    world.queue().enqueue(&publication).await.unwrap();
    assert_eq!(world.take_all().await, publication.tasks);
}

async fn a_repeated_publication_adds_nothing<W: World>(world: &W) {
    let publication = publication(5);
    let mut queue = world.queue();
    for _ in 0..3 {
        queue.enqueue(&publication).await.unwrap();
    }
    // Another publisher, a sweeper for one.
    world.queue().enqueue(&publication).await.unwrap();
    assert_eq!(world.take_all().await, publication.tasks);
    // Also when workers have taken the tasks already.
    queue.enqueue(&publication).await.unwrap();
    assert_eq!(world.take_all().await, []);
}

async fn a_repeated_publication_adds_duplicates<W: World>(world: &W) {
    let publication = publication(5);
    let mut queue = world.queue();
    queue.enqueue(&publication).await.unwrap();
    queue.enqueue(&publication).await.unwrap();
    assert_eq!(world.take_all().await, [publication.tasks.clone(), publication.tasks].concat());
}
