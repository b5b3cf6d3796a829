//! Any values are a configuration, or problems that never repeat a secret.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trigger_dispatcher::config::{Broker, Config, Environment};

fuzz_target!(|values: [String; 6]| {
    let [broker, results, password, steps, extra, statuses] = &values;
    let environment = Environment::from([
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"),
        ("POSTGRES_USER", "user"),
        ("POSTGRES_PASSWORD", password.as_str()),
        ("POSTGRES_HOST", "localhost"),
        ("POSTGRES_DB", "db"),
        ("CELERY_BROKER_URL", broker.as_str()),
        ("CELERY_RESULT_BACKEND", results.as_str()),
        ("CELERY_PRIORITY_STEPS", steps.as_str()),
        ("CELERY_TASK_EXTRA_KWARGS", extra.as_str()),
        ("EXECUTION_OVER_STATUSES", statuses.as_str()),
    ]);
    match Config::read(&environment) {
        Ok(config) => {
            let shown = format!("{config:?}");
            // Short values occur by chance.
            assert!(password.trim().len() < 24 || !shown.contains(password.trim()));
        }
        Err(problems) => {
            let shown = problems.to_string();
            for secret in [broker, results, password] {
                assert!(secret.trim().len() < 24 || !shown.contains(secret.trim()));
            }
        }
    }
    let _parsed = Broker::parse(broker);
});
