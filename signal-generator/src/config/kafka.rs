//! `KAFKA_CONFIG_<PROPERTY>`: `KAFKA_CONFIG_SASL_USERNAME` is librdkafka's `sasl.username`.

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use super::Environment;

const PREFIX: &str = "KAFKA_CONFIG_";

/// What our promises rest on, or what has an option of its own.
const RESERVED: [(&str, &str); 6] = [
    ("bootstrap.servers", "use KAFKA_BOOTSTRAP_SERVERS"),
    ("acks", "it is always all"),
    ("enable.idempotence", "it is always true"),
    ("transactional.id", "it follows from --topic and --source"),
    ("isolation.level", "it is always read_committed"),
    ("enable.auto.commit", "nothing is ever committed for a group"),
];

/// Asks librdkafka about each one by itself, so that all mistakes are found; never repeats a value.
pub(super) fn properties(environment: &Environment, mistakes: &mut Vec<String>) -> Vec<(String, String)> {
    let mut properties = Vec::new();
    for (name, value) in environment {
        let Some(property) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let property = property.to_ascii_lowercase().replace('_', ".");
        if let Some((_, reason)) = RESERVED.iter().find(|(reserved, _)| *reserved == property) {
            mistakes.push(format!("{name} cannot be set: {reason}"));
        } else if let Err(reason) = accepted(&property, value) {
            mistakes.push(format!("{name}: {reason}"));
        } else {
            properties.push((property, value.clone()));
        }
    }
    properties
}

fn accepted(property: &str, value: &str) -> Result<(), String> {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Emerg).set(property, value);
    match config.create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            Err(format!("librdkafka has no property {property}"))
        }
        Err(_) => Err(format!("this build of librdkafka does not take that value ({} bytes) for {property}", value.len())),
    }
}
