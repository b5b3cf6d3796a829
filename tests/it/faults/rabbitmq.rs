//! Faults of RabbitMQ as a broker. Each task is there at least once in the end; where no confirm was lost, once.

use std::time::Duration;

use lapin::options::{BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use url::Url;
use uuid::Uuid;

use super::trial::{CANARY, Tasks, Trial};
use crate::support::dispatcher::Setting;
use crate::support::names::{Names, address};
use crate::support::private_rabbitmq::PrivateRabbitmq;
use crate::support::wire::{Flow, Wire};
use crate::support::{service, unique, wait_until};

/// A worker that takes everything at once.
struct Taken {
    url: String,
    queue: String,
    channel: Option<(Connection, Channel)>,
    ids: Vec<Uuid>,
}

/// The virtual host as AMQP clients want it.
fn for_a_client(url: &str) -> String {
    url.strip_suffix("//").map_or_else(|| url.to_owned(), |rest| format!("{rest}/%2f"))
}

impl Taken {
    async fn connect(url: &str) -> Result<(Connection, Channel), lapin::Error> {
        let connection = Connection::connect(&for_a_client(url), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }

    async fn channel(&self) -> (Connection, Channel) {
        Self::connect(&self.url).await.unwrap()
    }

    /// As a Celery worker does, or with other arguments.
    async fn declare(&self, arguments: FieldTable) {
        let (_connection, channel) = self.channel().await;
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(self.queue.as_str().into(), options, arguments).await.unwrap();
    }

    async fn delete(&self) {
        let (_connection, channel) = self.channel().await;
        channel.queue_delete(self.queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    }

    async fn take(&mut self) -> Result<(), lapin::Error> {
        let (connection, channel) = match self.channel.take() {
            Some(open) => open,
            None => Self::connect(&self.url).await?,
        };
        let options = BasicGetOptions { no_ack: true };
        while let Some(message) = channel.basic_get(self.queue.as_str().into(), options).await? {
            self.ids.push(message.delivery.properties.correlation_id().clone().unwrap().as_str().parse().unwrap());
        }
        self.channel = Some((connection, channel));
        Ok(())
    }
}

impl Tasks for Taken {
    async fn arrived(&mut self) -> Vec<Uuid> {
        // While RabbitMQ is down or the queue is gone there is nothing new; the next look connects again.
        self.take().await.ok();
        self.ids.clone()
    }
}

/// The service reaches the RabbitMQ at `url` as `broker` says.
async fn trial_at(url: &str, broker: &str, arguments: FieldTable) -> Trial<Taken> {
    let tasks = async |setting: &Setting| {
        let taken = Taken { url: url.to_owned(), queue: setting.queue.clone(), channel: None, ids: Vec::new() };
        taken.declare(arguments).await;
        taken
    };
    Trial::new(broker, tasks).await
}

async fn trial(broker: &str) -> Trial<Taken> {
    trial_at(&service("TEST_AMQP_URL"), broker, FieldTable::default()).await
}

/// The shared RabbitMQ, from `host` on.
fn wire(host: &str, port: u16) -> Wire {
    let url = Url::parse(&service("TEST_AMQP_URL")).unwrap();
    Wire::start(host, port, &format!("{}:{}", url.host_str().unwrap(), url.port().unwrap()))
}

/// The shared RabbitMQ behind a wire.
fn behind(wire: &Wire, host: &str, user: &str, password: &str) -> String {
    format!("amqp://{user}:{password}@{host}:{}//", wire.port)
}

fn behind_as_guest(wire: &Wire) -> String {
    behind(wire, "127.0.0.1", "guest", "guest")
}

/// One order to the shared RabbitMQ, in Erlang: `rabbitmqctl` takes seconds to start, whatever it then does.
fn order(erlang: &str) {
    let output = std::process::Command::new(service("TEST_RABBITMQCTL")).args(["eval", erlang]).output().unwrap();
    assert!(output.status.success(), "{erlang}: {}", String::from_utf8_lossy(&output.stderr));
}

fn add_user(user: &str, password: &str) {
    order(&format!(
        "ok = rabbit_auth_backend_internal:add_user(<<\"{user}\">>, <<\"{password}\">>, <<\"test\">>), {}",
        permit(user, ".*")
    ));
}

fn permit(user: &str, what: &str) -> String {
    let what = format!("<<\"{what}\">>");
    format!("rabbit_auth_backend_internal:set_permissions(<<\"{user}\">>, <<\"/\">>, {what}, {what}, {what}, <<\"test\">>).")
}

#[tokio::test]
async fn a_rabbitmq_that_is_down_at_start_and_goes_away_for_a_while_costs_one_line_a_fault_and_no_task() {
    let wire = wire("127.0.0.1", 0);
    wire.set(Flow::Cut);
    let mut trial = trial(&behind_as_guest(&wire)).await;
    let dispatcher = trial.scene.setting.start();
    trial.send(20);
    dispatcher.wait_for_event("enqueue_failed");
    trial.healed(async || wire.set(Flow::Free)).await;
    trial.struck(&dispatcher, async || wire.set(Flow::Cut)).await;
    // Longer than the sweepers' patience: they leave the tasks to the loop, which renews their lease.
    trial.swept_over().await;
    assert_eq!(dispatcher.events("sweep_failed").len(), 0);
    trial.healed(async || wire.set(Flow::Free)).await;
    trial.assert_tasks(false).await;
    Trial::<Taken>::assert_calm(dispatcher, 2);
}

#[tokio::test]
async fn a_rabbitmq_cut_off_again_and_again_under_load_gets_each_task() {
    let wire = wire("127.0.0.1", 0);
    let mut trial = trial(&behind_as_guest(&wire)).await;
    let dispatcher = trial.scene.setting.start();
    for _ in 0..5 {
        trial.send(30);
        wire.set(Flow::Cut);
        trial.send(30);
        wire.set(Flow::Free);
    }
    trial.arrived().await;
    trial.assert_tasks(false).await;
    Trial::<Taken>::assert_calm(dispatcher, 5);
}

#[tokio::test]
async fn a_rabbitmq_that_takes_seconds_to_answer_gets_each_task_once() {
    let wire = wire("127.0.0.1", 0);
    let mut trial = trial(&behind_as_guest(&wire)).await;
    let dispatcher = trial.scene.setting.start();
    trial.send(3);
    trial.arrived().await;
    wire.set(Flow::Late(Duration::from_secs(1)));
    trial.send(20);
    trial.arrived().await;
    wire.set(Flow::Free);
    trial.assert_tasks(true).await;
    assert_eq!(dispatcher.events("enqueue_failed").len(), 0);
    Trial::<Taken>::assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_rabbitmq_that_never_answers_is_left_and_tried_again_without_piling_up_connections() {
    let wire = wire("127.0.0.1", 0);
    let mut trial = trial(&behind_as_guest(&wire)).await;
    let dispatcher = trial.scene.setting.start();
    let mut made = 0;
    trial
        .struck(&dispatcher, async || {
            made = wire.accepted();
            wire.set(Flow::Held);
        })
        .await;
    wait_until("more attempts", 60, async || Some(()).filter(|()| wire.accepted() >= made + 2)).await;
    let open = || Some(wire.open()).filter(|open| *open <= 2);
    wait_until("old connections to be ended", 10, async || open()).await;
    trial.healed(async || wire.set(Flow::Free)).await;
    trial.assert_tasks(false).await;
    Trial::<Taken>::assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_rabbitmq_that_answers_nobody_for_longer_than_the_sweepers_wait_gets_each_task_once() {
    let wire = wire("127.0.0.1", 0);
    wire.set(Flow::Held);
    let mut trial = trial(&behind_as_guest(&wire)).await;
    // So many tasks leave beside the next claim, whose own tasks then wait behind them.
    let many = "insert into pipelines (id, user_id, name, scanner_tickers)
        select gen_random_uuid(), gen_random_uuid(), 'watches', '[\"T0\"]' from generate_series(1, 150)";
    trial.scene.database.client.batch_execute(many).await.unwrap();
    let dispatcher = trial.scene.setting.start();
    trial.send(1);
    let claimed = "select count(*) from dispatcher.publications";
    let database = &trial.scene.database;
    wait_until("the first entry", 60, async || Some(database.number(claimed).await).filter(|count| *count == 1)).await;
    trial.send(10);
    // The loop is still at its first attempt. A sweeper that took the entries up would publish them as soon as RabbitMQ answers.
    trial.swept_over().await;
    trial.healed(async || wire.set(Flow::Free)).await;
    trial.assert_tasks(true).await;
    assert_eq!(dispatcher.events("publication_swept").len(), 0);
    Trial::<Taken>::assert_calm(dispatcher, 2);
}

#[tokio::test]
async fn a_password_of_rabbitmq_that_becomes_right_is_enough() {
    let user = unique("user");
    add_user(&user, "another");
    let wire = wire("127.0.0.1", 0);
    let mut trial = trial(&behind(&wire, "127.0.0.1", &user, CANARY)).await;
    let dispatcher = trial.scene.setting.start();
    trial.send(20);
    dispatcher.wait_for_event("enqueue_failed");
    let change = format!("ok = rabbit_auth_backend_internal:change_password(<<\"{user}\">>, <<\"{CANARY}\">>, <<\"test\">>).");
    trial.healed(async || order(&change)).await;
    trial.assert_tasks(true).await;
    Trial::<Taken>::assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_permission_of_rabbitmq_that_is_revoked_and_given_back_costs_no_task() {
    let user = unique("user");
    add_user(&user, CANARY);
    let wire = wire("127.0.0.1", 0);
    let mut trial = trial(&behind(&wire, "127.0.0.1", &user, CANARY)).await;
    let dispatcher = trial.scene.setting.start();
    let revoke = async || {
        order(&permit(&user, "^$"));
        // A channel goes on with the permissions that it has seen.
        wire.cut();
    };
    trial.struck(&dispatcher, revoke).await;
    trial.healed(async || order(&permit(&user, ".*"))).await;
    trial.assert_tasks(true).await;
    Trial::<Taken>::assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_queue_that_is_full_gets_each_task_once_there_is_room() {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(5));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let url = service("TEST_AMQP_URL");
    let mut trial = trial_at(&url, &url, arguments).await;
    let dispatcher = trial.scene.setting.start();
    // 20 tasks, and room for 5.
    trial.struck(&dispatcher, async || ()).await;
    assert!(dispatcher.wait_for_event("enqueue_failed").to_string().contains("it may be full"));
    // Workers make room for five at a time, and what was taken is not sent again.
    trial.arrived().await;
    trial.assert_tasks(true).await;
    Trial::<Taken>::assert_calm(dispatcher, 3);
}

#[tokio::test]
async fn a_queue_that_is_deleted_and_declared_otherwise_costs_no_task() {
    let url = service("TEST_AMQP_URL");
    let mut trial = trial(&url).await;
    let dispatcher = trial.scene.setting.start();
    let other = Taken { url: url.clone(), queue: trial.scene.setting.queue.clone(), channel: None, ids: Vec::new() };
    trial.struck(&dispatcher, async || other.delete().await).await;
    assert!(dispatcher.wait_for_event("enqueue_failed").to_string().contains(&other.queue), "it says which");
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-priority".into(), AMQPValue::LongInt(10));
    trial.healed(async || other.declare(arguments).await).await;
    trial.assert_tasks(true).await;
    Trial::<Taken>::assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_name_that_points_to_another_rabbitmq_address_is_followed() {
    let old = wire("127.0.0.2", 0);
    let mut trial = trial(&behind(&old, "broker.test", "guest", "guest")).await;
    let names = Names::give(&mut trial.scene.setting, "broker.test", address("127.0.0.2"));
    let dispatcher = trial.scene.setting.start();
    trial.struck(&dispatcher, async || old.set(Flow::Cut)).await;
    let new = wire("127.0.0.3", old.port);
    trial.healed(async || names.point("broker.test", address("127.0.0.3"))).await;
    assert!(new.accepted() > 0);
    trial.assert_tasks(false).await;
    Trial::<Taken>::assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_rabbitmq_short_of_memory_and_then_killed_gets_each_task() {
    let rabbitmq = PrivateRabbitmq::start();
    let mut trial = trial_at(&rabbitmq.url, &rabbitmq.url, FieldTable::default()).await;
    let dispatcher = trial.scene.setting.start();
    trial.struck(&dispatcher, async || rabbitmq.order(&["set_vm_memory_high_watermark", "absolute", "1MB"])).await;
    trial.healed(async || rabbitmq.order(&["set_vm_memory_high_watermark", "0.6"])).await;
    // The alarm outlasts the sweeper's patience, so the batch under way may be there twice.
    trial.assert_tasks(false).await;
    trial.struck(&dispatcher, async || rabbitmq.kill()).await;
    trial.healed(async || rabbitmq.up()).await;
    trial.assert_tasks(false).await;
    Trial::<Taken>::assert_calm(dispatcher, 2);
}
