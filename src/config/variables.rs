//! The list of every variable: its default, its unit, what it is for. `--help` and `.env.example` are made from it.

use std::fmt::Write as _;

/// One variable.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it is when it is not set; `None`: see its text.
    pub default: Option<&'static str>,
    /// What the value is counted in, or how it looks.
    pub unit: &'static str,
    /// What it is for.
    pub text: &'static str,
}

const fn variable(name: &'static str, default: Option<&'static str>, unit: &'static str, text: &'static str) -> Variable {
    Variable { name, default, unit, text }
}

/// The thirteen of the platform first, then ours by concern.
#[rustfmt::skip]
pub const VARIABLES: &[Variable] = &[
    variable("KAFKA_BOOTSTRAP_SERVERS", None, "host:port,…", "Kafka. Required"),
    variable("KAFKA_SIGNAL_TOPIC", Some("trading-signals"), "topic", "where signals arrive"),
    variable("KAFKA_CONSUMER_GROUP", Some("trigger-dispatcher"), "group", "shared by all instances"),
    variable("BATCH_SIZE", Some("20"), "signals", "a batch leaves at the latest when it holds this many"),
    variable("BATCH_TIMEOUT_SECONDS", Some("0.5"), "seconds", "… or when its oldest signal is this old"),
    variable("CACHE_REFRESH_INTERVAL_SECONDS", Some("30"), "seconds", "how often the pipelines are read again"),
    variable("POSTGRES_USER", None, "role", "Required"),
    variable("POSTGRES_PASSWORD", None, "secret", "a line break at its end is not part of it. Required"),
    variable("POSTGRES_HOST", None, "host,… or folder of a socket", "of several hosts the first that takes writes. Required"),
    variable("POSTGRES_PORT", Some("5432"), "port", "TCP port, or the socket's number"),
    variable("POSTGRES_DB", None, "database", "Required"),
    variable("CELERY_BROKER_URL", None, "URL, secret", "redis://, rediss://, redis+socket://, amqp:// or amqps://. Required"),
    variable("CELERY_RESULT_BACKEND", None, "URL, secret", "a Redis URL tells when a task is over; any other is not read"),

    variable("KAFKA_GROUP_INSTANCE_ID", None, "name", "this instance's name in the consumer group, another one for each instance: restarted within the session (6 s), it gets its partitions back without a rebalance. The pod's name in a Kubernetes StatefulSet when not set"),
    variable("KAFKA_AUTO_OFFSET_RESET", Some("earliest"), "earliest|latest", "where a partition starts that nobody has read"),
    variable("KAFKA_DEAD_LETTER_TOPIC", None, "topic", "where bad records go; <signal topic>.dead-letter when not set"),
    variable("MAX_SIGNAL_AGE_SECONDS", Some("86400"), "seconds, 0 = no limit", "records older than this are counted as stale"),
    variable("BATCH_FLUSH", Some("eager"), "eager|window", "eager: a batch leaves as soon as one may; window: always at size or age"),
    variable("DB_QUERIES_PER_SECOND", Some("30"), "1/s, 0 = no limit", "claim statements a second and instance"),
    variable("POSTGRES_SSLMODE", None, "disable|require|verify-full", "verify-full when not set and the host is not this machine"),
    variable("POSTGRES_SSLROOTCERT", None, "PEM file", "authorities to trust; the system's when not set"),
    variable("AUTO_MIGRATE", Some("true"), "true|false", "whether `run` makes the schema `dispatcher`"),
    variable("CELERY_TASK_NAME", Some("app.orchestration.tasks.execute_pipeline"), "name", "the task that runs a pipeline"),
    variable("CELERY_TASK_QUEUE", Some("celery"), "queue", "where the workers listen"),
    variable("CELERY_TASK_ARGUMENTS", Some("pipeline_id,user_id,execution_id,symbol,signal_context"), "names", "keyword arguments the task takes"),
    variable("CELERY_TASK_EXTRA_KWARGS", Some("{}"), "JSON object", "constants added to the keyword arguments"),
    variable("CELERY_TASK_HEADERS", Some("{}"), "JSON object", "constants added to the message's headers"),
    variable("CELERY_TASK_PRIORITY", Some("0"), "0-255", "Redis runs low numbers first, RabbitMQ high ones"),
    variable("CELERY_PRIORITY_STEPS", Some("0,3,6,9"), "numbers", "Redis: the workers' transport option priority_steps"),
    variable("CELERY_PRIORITY_SEPARATOR", None, "text", "Redis: the workers' transport option sep; bytes 06 16 when not set"),
    variable("CELERY_GLOBAL_KEYPREFIX", None, "text", "Redis: the workers' transport option global_keyprefix"),
    variable("CELERY_RESULT_GLOBAL_KEYPREFIX", None, "text", "the workers' result_backend_transport_options global_keyprefix"),
    variable("TRIGGER_SCOPE", Some("pipeline"), "pipeline|ticker", "what may have one execution in flight"),
    variable("TRIGGER_ID_SPACE", None, "text", "a signal id that comes again within it starts nothing; the topic when not set. Set it, before the first start, where two deployments read topics of one name and each shall start its own executions"),
    variable("TRIGGER_LEASE_SECONDS", Some("900"), "seconds", "how long a claim holds when nothing tells that its task is over"),
    variable("TRIGGER_LEASE_MARGIN_SECONDS", None, "seconds", "so long before the end of its lease a task expires; more than workers' clocks may be behind; a tenth of the lease when not set"),
    variable("TRIGGER_START_TIMEOUT_SECONDS", Some("120"), "seconds", "a task that left no trace of a start for so long is enqueued again (needs the worker guard)"),
    variable("TRIGGER_MAX_ATTEMPTS", Some("3"), "times", "how often a task is enqueued at most before its trigger counts as failed"),
    variable("TRIGGER_WORKER_GUARD", Some("auto"), "auto|yes|no", "whether workers let one start happen for each task; auto: when most of our newest triggers have a mark in dispatcher.starts"),
    variable("EXECUTION_ACTIVE_STATUSES", Some("pending,queued,running,started,retry,monitoring,paused,awaiting_approval,communication_error,needs_reconciliation"), "names", "statuses that keep a pipeline busy; so does any unknown one"),
    variable("EXECUTION_OVER_STATUSES", Some("completed,succeeded,success,failed,failure,error,cancelled,canceled,skipped,revoked,expired,rejected"), "names", "statuses of an execution that is over"),
    variable("EXECUTION_MAX_AGE_SECONDS", None, "seconds", "an active execution that was made longer ago keeps no pipeline busy any more: its worker must be dead. No limit when not set"),
    variable("EXECUTIONS_TIME_ZONE", Some("UTC"), "time zone", "the zone of the times in executions.created_at, where the column is a timestamp without time zone"),
    variable("EXECUTIONS_HAVE_TRIGGER_IDS", Some("auto"), "auto|yes|no", "whether workers give their executions the id of the task; auto: when an execution of our newest triggers has it. Then no other execution frees a slot whose task waits"),
    variable("LEDGER_RETENTION_DAYS", None, "days", "how long triggers are remembered; `run` forgets older ones by and by, and none when not set"),
    variable("SHUTDOWN_GRACE_SECONDS", Some("25"), "seconds", "how long a shutdown may take"),
    variable("STALL_SECONDS", Some("120"), "seconds, 0 = never", "leave, to be started again, when Kafka has records and none comes for so long"),
    variable("HTTP_ADDRESS", Some("127.0.0.1:8080"), "address:port", "GET /healthz, /readyz, /metrics"),
    variable("LOG_FORMAT", Some("json"), "json|text", "how log lines look"),
    variable("LOG_SIGNALS_PER_SECOND", Some("100"), "1/s", "lines a second of each event that comes once per signal; the rest is counted"),
    variable("LOG_LEVEL", Some("info"), "level or filter", "what is logged"),
];

/// The variables for `--help`.
pub fn help() -> String {
    let mut text = String::from("Environment (a .env file in the working folder is read too; the environment wins):\n");
    for variable in VARIABLES {
        let default = variable.default.map(|default| format!(" [{default}]")).unwrap_or_default();
        line(&mut text, format_args!("  {:<31} {} ({}){default}", variable.name, variable.text, variable.unit));
    }
    line(
        &mut text,
        format_args!("  {:<31} any librdkafka property, e.g. KAFKA_CONFIG_SECURITY_PROTOCOL=SASL_SSL", "KAFKA_CONFIG_<PROPERTY>"),
    );
    text
}

/// The text of `.env.example`.
pub fn env_example() -> String {
    let mut text = String::from(
        "# Every variable of trigger-dispatcher. Copy to .env; the environment wins over the file.\n\
         # Made by `trigger-dispatcher variables`; a test compares.\n",
    );
    for variable in VARIABLES {
        line(&mut text, format_args!("\n# {} ({})", variable.text, variable.unit));
        let mark = if variable.text.ends_with("Required") { "" } else { "# " };
        line(&mut text, format_args!("{mark}{}={}", variable.name, variable.default.unwrap_or_default()));
    }
    line(&mut text, format_args!("\n# any librdkafka property (its dots as underscores)\n# KAFKA_CONFIG_SECURITY_PROTOCOL="));
    text
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("writing to a String cannot fail");
}
