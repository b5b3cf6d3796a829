//! Where signals come from.

use secrecy::SecretString;

use super::environment::{Reader, without_line_end};

/// Properties that the promises rest on, under each name that librdkafka takes: the service sets them, nobody else may.
const OURS: [&str; 14] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "group.id",
    "auto.offset.reset",
    "enable.auto.commit",
    "auto.commit.enable",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "enable.idempotence",
    // A producer that has one takes no record outside of a transaction: no bad record would reach the dead-letter topic.
    "transactional.id",
    "acks",
    "request.required.acks",
    "partition.assignment.strategy",
    "group.protocol",
];

/// Where a partition starts that nobody has read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetReset {
    /// With the oldest record that Kafka has (bounded by `MAX_SIGNAL_AGE_SECONDS`).
    Earliest,
    /// With the next record to arrive; what came before is not looked at.
    Latest,
}

/// Where signals come from.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// `host:port`, comma separated.
    pub bootstrap_servers: String,
    /// The topic of signals.
    pub signal_topic: String,
    /// The consumer group; several instances share one.
    pub consumer_group: String,
    /// This instance's name in the consumer group (static membership). Restarted within the session, it gets its partitions back without a
    /// rebalance.
    pub group_instance_id: Option<String>,
    /// Where an unread partition starts.
    pub auto_offset_reset: OffsetReset,
    /// Where bad records go.
    pub dead_letter_topic: String,
    /// librdkafka properties, passed on as they are.
    pub properties: Vec<(String, SecretString)>,
}

impl KafkaConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let bootstrap_servers = reader.required("KAFKA_BOOTSTRAP_SERVERS");
        let signal_topic = topic(reader, "KAFKA_SIGNAL_TOPIC");
        let consumer_group = reader.required("KAFKA_CONSUMER_GROUP");
        let group_instance_id = reader.optional("KAFKA_GROUP_INSTANCE_ID");
        let auto_offset_reset =
            reader.choice("KAFKA_AUTO_OFFSET_RESET", &[("earliest", OffsetReset::Earliest), ("latest", OffsetReset::Latest)]);
        let dead_letter_topic = match reader.optional("KAFKA_DEAD_LETTER_TOPIC") {
            Some(_) => topic(reader, "KAFKA_DEAD_LETTER_TOPIC"),
            None => {
                signal_topic.as_ref().and_then(|topic| legal(reader, "KAFKA_DEAD_LETTER_TOPIC", &format!("{topic}.dead-letter")))
            }
        };
        if dead_letter_topic.is_some() && dead_letter_topic == signal_topic {
            reader.problem("KAFKA_DEAD_LETTER_TOPIC", "is the signal topic: bad records would come back for ever");
        }
        let mut properties = Vec::new();
        for (name, value) in reader.prefixed("KAFKA_CONFIG_") {
            // As with every variable, an empty value counts as not set.
            if value.trim().is_empty() {
                continue;
            }
            let property = name.to_ascii_lowercase().replace('_', ".");
            if OURS.contains(&property.as_str()) {
                reader.problem(&format!("KAFKA_CONFIG_{name}"), format!("{property} is set by the service itself; remove it"));
            }
            properties.push((property, SecretString::from(without_line_end(value))));
        }
        // Librdkafka's own name for it counts too: what the operator says outweighs what we guess.
        let is_named = properties.iter().any(|(property, _)| property == "group.instance.id");
        let group_instance_id = group_instance_id.or_else(|| reader.stateful_pod().filter(|_| !is_named));
        Some(Self {
            bootstrap_servers: bootstrap_servers?.to_owned(),
            signal_topic: signal_topic?,
            consumer_group: consumer_group?.to_owned(),
            group_instance_id: group_instance_id.map(str::to_owned),
            auto_offset_reset: auto_offset_reset?,
            dead_letter_topic: dead_letter_topic?,
            properties,
        })
    }
}

fn topic(reader: &mut Reader<'_>, name: &str) -> Option<String> {
    let value = reader.required(name)?;
    legal(reader, name, value)
}

/// Kafka's own rule for topic names.
fn legal(reader: &mut Reader<'_>, name: &str, topic: &str) -> Option<String> {
    let is_legal = topic.len() <= 249
        && !matches!(topic, "." | "..")
        && topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if !is_legal {
        reader.problem(name, "a topic's name has at most 249 characters out of a-z, A-Z, 0-9, '.', '_' and '-'");
    }
    is_legal.then(|| topic.to_owned())
}
