//! What the RabbitMQ queue promises beyond the conformance suite: no message without a queue, and none that a restart
//! of the broker forgets.

use std::time::Duration;

use jiff::Timestamp;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use trigger_dispatcher::config::{AmqpAddress, Broker, CeleryConfig};
use trigger_dispatcher::tasks::amqp::{AmqpQueue, Error};
use trigger_dispatcher::tasks::{Publication, Task, TaskQueue as _};
use url::Url;
use uuid::Uuid;

use crate::support::settings::config;
use crate::support::wire::Wire;
use crate::support::{service, unique};

fn publication(tasks: usize) -> Publication {
    let task = |_| Task { trigger_id: Uuid::new_v4(), kwargs: "{}".to_owned() };
    Publication {
        id: Uuid::new_v4(),
        expires: Timestamp::from_second(4_000_000_000).unwrap(),
        publish_by: trigger_dispatcher::clock::timer() + Duration::from_secs(300),
        tasks: (0..tasks).map(task).collect(),
    }
}

/// A queue's name, and a channel to look into it.
struct World {
    celery: CeleryConfig,
    channel: Channel,
    _connection: Connection,
}

impl World {
    async fn create() -> Self {
        let mut celery = config(&service("TEST_AMQP_URL"), None).celery;
        celery.task_queue = unique("queue");
        let connection = Connection::connect(address(&celery).expose(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Self { celery, channel, _connection: connection }
    }

    /// Gone with the connection.
    async fn declare(&self, arguments: FieldTable) {
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(self.celery.task_queue.as_str().into(), options, arguments).await.unwrap();
    }

    fn queue(&self) -> AmqpQueue {
        AmqpQueue::new(address(&self.celery), &self.celery)
    }

    async fn take(&self) -> Option<BasicGetMessage> {
        self.channel.basic_get(self.celery.task_queue.as_str().into(), BasicGetOptions { no_ack: true }).await.unwrap()
    }

    /// The ids of all tasks, in the order in which a worker would take them.
    async fn take_all(&self) -> Vec<Uuid> {
        let mut ids = Vec::new();
        while let Some(message) = self.take().await {
            let id = message.delivery.properties.correlation_id().clone().unwrap();
            ids.push(id.as_str().parse().unwrap());
        }
        ids
    }
}

fn address(celery: &CeleryConfig) -> &AmqpAddress {
    match &celery.broker {
        Broker::Amqp(address) => address,
        Broker::Redis(_) => panic!("not amqp"),
    }
}

fn ids(publication: &Publication) -> Vec<Uuid> {
    publication.tasks.iter().map(|task| task.trigger_id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_queue_is_an_error_until_it_is_declared() {
    let world = World::create().await;
    let mut queue = world.queue();
    let publication = publication(3);
    for _ in 0..2 {
        let error = queue.enqueue(&publication).await.unwrap_err();
        assert!(matches!(&error, Error::NoQueue(name) if *name == world.celery.task_queue), "{error}");
    }
    world.declare(FieldTable::default()).await;
    queue.enqueue(&publication).await.unwrap();
    assert_eq!(world.take_all().await, ids(&publication));
}

/// The client library takes an address in brackets for `localhost`: another server would get the password.
#[tokio::test(flavor = "multi_thread")]
async fn an_ipv6_address_is_connected_to() {
    let mut world = World::create().await;
    world.declare(FieldTable::default()).await;
    let target = Url::parse(&service("TEST_AMQP_URL")).unwrap();
    let wire = Wire::start("::1", 0, &format!("{}:{}", target.host_str().unwrap(), target.port().unwrap()));
    world.celery.broker = config(&format!("amqp://guest:guest@[::1]:{}//", wire.port), None).celery.broker;
    let publication = publication(1);
    world.queue().enqueue(&publication).await.unwrap();
    assert_eq!((world.take_all().await, wire.accepted()), (ids(&publication), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_meanwhile_is_an_error() {
    let world = World::create().await;
    world.declare(FieldTable::default()).await;
    let mut queue = world.queue();
    queue.enqueue(&publication(1)).await.unwrap();
    world.channel.queue_delete(world.celery.task_queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    assert!(matches!(queue.enqueue(&publication(1)).await, Err(Error::NoQueue(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_persistent_and_say_what_workers_require() {
    let mut world = World::create().await;
    world.celery.priority = 7;
    world.declare(FieldTable::default()).await;
    let publication = publication(1);
    world.queue().enqueue(&publication).await.unwrap();
    let delivery = world.take().await.unwrap().delivery;
    let properties = &delivery.properties;
    assert_eq!(*properties.delivery_mode(), Some(2), "persistent");
    assert_eq!(*properties.priority(), Some(7));
    assert_eq!(properties.content_type().as_ref().map(lapin::types::ShortString::as_str), Some("application/json"));
    assert_eq!(properties.content_encoding().as_ref().map(lapin::types::ShortString::as_str), Some("utf-8"));
    let headers = properties.headers().clone().unwrap();
    let text = |text: &str| Some(AMQPValue::LongString(text.into()));
    assert_eq!(headers.inner().get("id").cloned(), text(&publication.tasks[0].trigger_id.to_string()));
    assert_eq!(headers.inner().get("task").cloned(), text(&world.celery.task_name));
    assert_eq!(headers.inner().get("expires").cloned(), text("2096-10-02T07:06:40.000000+00:00"));
    assert_eq!(headers.inner().get("eta"), Some(&AMQPValue::Void));
    let body = br#"[[], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;
    assert_eq!(delivery.data, body);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_priority_runs_first_where_the_queue_heeds_them() {
    let mut world = World::create().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-priority".into(), AMQPValue::LongInt(10));
    world.declare(arguments).await;
    let mut by_priority = Vec::new();
    for priority in [1, 9, 5] {
        world.celery.priority = priority;
        let publication = publication(2);
        world.queue().enqueue(&publication).await.unwrap();
        by_priority.push((priority, ids(&publication)));
    }
    by_priority.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
    let expected: Vec<_> = by_priority.into_iter().flat_map(|(_, ids)| ids).collect();
    assert_eq!(world.take_all().await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rabbitmq_that_is_not_there_is_an_error_without_credentials() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let celery = config(&format!("amqp://user:hunter2@127.0.0.1:{closed}/vhost"), None).celery;
    let error = AmqpQueue::new(address(&celery), &celery).enqueue(&publication(1)).await.unwrap_err().to_string();
    assert!(error.contains(&format!("127.0.0.1:{closed}")), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}
