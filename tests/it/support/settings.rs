//! The service's configuration, as a value.

use trigger_dispatcher::config::{Config, Environment};

use super::database::TestDatabase;

/// Every default, with the given broker and database.
pub(crate) fn config(broker: &str, database: Option<&TestDatabase>) -> Config {
    let variables = database.map(TestDatabase::variables).unwrap_or_default();
    let value = |name: &str, unused: &'static str| {
        let found = variables.iter().find(|(known, _)| known == name);
        found.map_or_else(|| unused.to_owned(), |(_, value)| value.clone())
    };
    let environment = Environment::from([
        ("KAFKA_BOOTSTRAP_SERVERS", std::env::var("TEST_KAFKA").unwrap_or_else(|_| "unused:1".to_owned()).as_str()),
        ("CELERY_BROKER_URL", broker),
        ("POSTGRES_USER", &value("POSTGRES_USER", "unused")),
        ("POSTGRES_PASSWORD", &value("POSTGRES_PASSWORD", "unused")),
        ("POSTGRES_HOST", &value("POSTGRES_HOST", "localhost")),
        ("POSTGRES_PORT", &value("POSTGRES_PORT", "1")),
        ("POSTGRES_DB", &value("POSTGRES_DB", "unused")),
    ]);
    Config::read(&environment).unwrap()
}
