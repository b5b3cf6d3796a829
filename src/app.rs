//! The composition root: configuration, parts, run.

use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::config::{Broker, Config, ResultBackend};
use crate::dispatch::{Dispatcher, MOST_SLOTS, Terms, WAITED_FOR, Waits};
use crate::intake::kafka::{KafkaSource, ends, letters_topic};
use crate::retry::{Backoff, until_done};
use crate::store::deployment::{Deployment, DeploymentKey, register};
use crate::store::notify::{Notice, notices};
use crate::store::postgres::{ClaimTerms, PostgresClaims};
use crate::store::refresh::Refresher;
use crate::store::sweep::{LeaseTerms, Sweeper};
use crate::store::upkeep::Upkeep;
use crate::store::{Database, StoreError, migrate};
use crate::supervise::{Task, alone, within_grace};
use crate::tasks::Queue;
use crate::tasks::amqp::AmqpQueue;
use crate::tasks::redis::{RedisQueue, Results};
use crate::telemetry::{Dependency, Events, Metrics};
use crate::web;

/// Runs the service until `stop`.
///
/// # Errors
/// The configuration is refused by a client library, a task failed, or the shutdown took too long.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::default());
    let database = Database::new(&config.postgres);
    // Everything that can be wrong without asking a server is told before the first server is asked.
    let queue = queue(&config)?;
    let outbox = (self::queue(&config)?, results(&config)?);
    let terms = ClaimTerms::new(&config);
    let listener = web::bind(config.process.http_address).await?;
    tracing::info!(
        event = "starting",
        version = env!("CARGO_PKG_VERSION"),
        topic = config.kafka.signal_topic,
        group = config.kafka.consumer_group
    );

    let http = web::serve(listener, Arc::clone(&metrics), stop.clone());
    let http = Task::start("http", &stop, async {
        http.await;
        Ok(())
    });
    let all = async {
        let flow = flow(&config, database, terms, queue, outbox, metrics, &stop).await;
        stop.cancel();
        flow.and(http.join().await)
    };
    within_grace(&stop, config.process.shutdown_grace, all).await
}

/// Prepares the store, reads the rules, then runs the loop beside the refresh, the sweeper and the upkeep.
async fn flow(
    config: &Config,
    database: Database,
    terms: ClaimTerms,
    queue: Queue,
    (sweepers_queue, results): (Queue, Option<Results>),
    metrics: Arc<Metrics>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut not_ready = Backoff::new("store_not_ready").watched(&metrics, Dependency::postgresql);
    let prepared = until_done(&mut not_ready, stop, async || match prepare(config, &database).await {
        Err(error) if error.is_final() => Ok(Err(error)),
        other => other.map(Ok),
    });
    let Ok(prepared) = prepared.await else { return Ok(()) };
    let deployment = prepared?;
    let mut refresher = Refresher::new(database.clone(), config.trigger.refresh_interval, Arc::clone(&metrics));
    let loaded = until_done(&mut Backoff::new("rules_not_read").watched(&metrics, Dependency::postgresql), stop, async || {
        refresher.refresh().await
    })
    .await;
    let Ok(()) = loaded else { return Ok(()) };
    // Only now join the group: an instance without rules would call every signal unmatched.
    let ids = deployment.ids;
    let lease_terms = LeaseTerms::new(deployment, &config.trigger, terms.evidence.clone());
    let sweeper =
        Sweeper::new(database.clone(), sweepers_queue, results, lease_terms, config.trigger.clone(), Arc::clone(&metrics));
    let upkeep = Upkeep::new(database.clone(), config.ledger, &config.trigger);
    let source =
        KafkaSource::connect(&config.kafka, &config.batch, config.trigger.max_signal_age, config.process.stall, &metrics)?;
    let ends = Task::start("ends", stop, ends::watch(config.kafka.clone(), Arc::clone(&metrics), stop.clone()));
    let letters = letters_topic::keep(config.kafka.clone(), Arc::clone(&metrics), stop.clone());
    let letters = Task::start("letters-topic", stop, letters);
    let mut dispatcher = Dispatcher {
        source,
        claims: PostgresClaims::new(database, terms),
        queue,
        rules: refresher.rules(),
        terms: Terms {
            topic: config.kafka.signal_topic.clone(),
            ids,
            scope: config.trigger.scope,
            lease: config.trigger.lease,
            margin: config.trigger.lease_margin,
            celery: config.celery.clone(),
            most_slots: MOST_SLOTS,
            waited_for: WAITED_FOR,
        },
        events: Events::new(&config.kafka.signal_topic, config.process.log_signals_per_second),
        metrics,
        waits: Waits::default(),
        stop: stop.clone(),
    };
    let refresh = Task::start("refresh", stop, refresher.run(stop.clone()));
    let sweep = Task::start("sweep", stop, sweeper.run(stop.clone()));
    let upkeep = Task::start("upkeep", stop, upkeep.run(stop.clone()));
    let flow = alone("loop", async move || {
        if let Err(error) = dispatcher.queue.prepare().await {
            // No reason to wait: signals are read and decided, and the first task waits for the broker.
            tracing::warn!(event = "broker_not_ready", %error);
        }
        dispatcher.run().await
    });
    let flow = flow.await;
    stop.cancel();
    let others =
        refresh.join().await.and(sweep.join().await).and(upkeep.join().await).and(ends.join().await).and(letters.join().await);
    flow??;
    others
}

async fn prepare(config: &Config, database: &Database) -> Result<Deployment, StoreError> {
    let version = if config.postgres.auto_migrate {
        let migrated = migrate::migrate(database).await?;
        let migrate::Migrated { from, to } = migrated;
        let event = if from == to { "schema_ready" } else { "migrated" };
        tracing::info!(event, from = (from != to).then_some(from), version = to);
        to
    } else {
        migrate::check(database).await?
    };
    if version > migrate::KNOWN {
        let text = "a newer trigger-dispatcher made the schema, and this one can work with it; it is left as it is";
        tracing::warn!(event = "schema_newer", version, known = migrate::KNOWN, text);
    }
    let key = DeploymentKey::new(config);
    let connection = database.connect().await?;
    for (table, notice) in notices(&connection).await? {
        if notice == Notice::ToldByColumns {
            tracing::warn!(event = "notify_triggers_outdated", table, text = notice.text());
        } else {
            tracing::info!(event = "rule_changes", table, text = notice.text());
        }
    }
    let deployment = register(&connection, &key).await?;
    tracing::info!(event = "deployment", id = deployment.id, group = key.group, topic = key.topic, target = key.target);
    Ok(deployment)
}

/// The queue that the broker's URL names.
///
/// # Errors
/// A certificate file cannot be read.
pub fn queue(config: &Config) -> anyhow::Result<Queue> {
    Ok(match &config.celery.broker {
        Broker::Redis(address) => Queue::Redis(Box::new(
            RedisQueue::new(address, &config.celery, config.trigger.lease, config.trigger.max_signal_age)
                .context("CELERY_BROKER_URL")?,
        )),
        Broker::Amqp(address) => Queue::Amqp(Box::new(AmqpQueue::new(address, &config.celery))),
    })
}

fn results(config: &Config) -> anyhow::Result<Option<Results>> {
    match &config.celery.result_backend {
        ResultBackend::Redis(address) => {
            let prefix = &config.celery.result_key_prefix;
            Ok(Some(Results::new(address, prefix).context("CELERY_RESULT_BACKEND")?))
        }
        ResultBackend::Unseen => Ok(None),
    }
}
