use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use secrecy::ExposeSecret as _;

use super::*;

const REQUIRED: [(&str, &str); 6] = [
    ("KAFKA_BOOTSTRAP_SERVERS", "kafka:9092"),
    ("POSTGRES_USER", "trader"),
    ("POSTGRES_PASSWORD", "pässword"),
    ("POSTGRES_HOST", "localhost"),
    ("POSTGRES_DB", "platform"),
    ("CELERY_BROKER_URL", "redis://localhost:6379/0"),
];

/// What is required, with these on top.
fn environment(changes: &[(&str, &str)]) -> Environment {
    REQUIRED.iter().chain(changes).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn read(changes: &[(&str, &str)]) -> Config {
    Config::read(&environment(changes)).unwrap_or_else(|problems| panic!("{changes:?}: {problems}"))
}

/// The names of the variables that are refused, in the order of the report.
fn refused(changes: &[(&str, &str)]) -> Vec<String> {
    match Config::read(&environment(changes)) {
        Ok(_) => Vec::new(),
        Err(Problems(problems)) => problems.into_iter().map(|problem| problem.name).collect(),
    }
}

mod defaults {
    use super::*;

    #[test]
    fn the_required_ones_are_all_missing_at_once_and_nothing_else_is() {
        let Problems(problems) = Config::read(&Environment::default()).unwrap_err();
        let names: BTreeSet<_> = problems.iter().map(|problem| problem.name.as_str()).collect();
        assert_eq!(names, REQUIRED.map(|(name, _)| name).into());
        assert_eq!(problems.len(), REQUIRED.len(), "each is told once");
        let marked = VARIABLES.iter().filter(|variable| variable.text.ends_with("Required")).map(|variable| variable.name);
        assert_eq!(names, marked.collect(), "--help and .env.example mark the same ones");
    }

    #[test]
    fn kafka_and_batches() {
        let config = read(&[]);
        assert_eq!(config.kafka.bootstrap_servers, "kafka:9092");
        assert_eq!(config.kafka.signal_topic, "trading-signals");
        assert_eq!(config.kafka.consumer_group, "trigger-dispatcher");
        assert_eq!(config.kafka.auto_offset_reset, OffsetReset::Earliest);
        assert_eq!(config.kafka.auto_offset_reset, OffsetReset::Earliest);
        assert_eq!(config.kafka.dead_letter_topic, "trading-signals.dead-letter");
        assert!(config.kafka.properties.is_empty());
        assert_eq!((config.batch.size, config.batch.timeout), (20, Duration::from_millis(500)));
        assert_eq!((config.batch.flush, config.batch.queries_per_second), (Flush::Eager, Some(30)));
    }

    #[test]
    fn postgres_and_triggers() {
        let config = read(&[]);
        assert_eq!((config.postgres.user.as_str(), config.postgres.hosts), ("trader", vec!["localhost".to_owned()]));
        assert_eq!(config.postgres.password.expose_secret(), "pässword");
        assert_eq!((config.postgres.port, config.postgres.database.as_str()), (5432, "platform"));
        assert_eq!((config.postgres.ssl_root_certificate, config.postgres.auto_migrate), (None, true));
        assert_eq!(config.trigger.scope, Scope::Pipeline);
        assert_eq!((config.trigger.lease, config.trigger.start_timeout), (Duration::from_mins(15), Duration::from_mins(2)));
        assert_eq!((config.trigger.max_attempts, config.trigger.worker_guard), (3, WorkerGuard::Auto));
        assert_eq!(config.trigger.max_signal_age, Some(Duration::from_hours(24)));
        assert_eq!(config.trigger.refresh_interval, Duration::from_secs(30));
        let active =
            "awaiting_approval communication_error monitoring needs_reconciliation paused pending queued retry running started";
        assert_eq!(config.trigger.active_statuses, active.split(' ').map(str::to_owned).collect());
        let over = "canceled cancelled completed error expired failed failure rejected revoked skipped succeeded success";
        assert_eq!(config.trigger.over_statuses, over.split(' ').map(str::to_owned).collect());
    }

    #[test]
    fn celery_and_the_process() {
        let config = read(&[]);
        let celery = &config.celery;
        assert!(matches!(celery.result_backend, ResultBackend::Unseen));
        assert_eq!(
            (celery.task_name.as_str(), celery.task_queue.as_str()),
            ("app.orchestration.tasks.execute_pipeline", "celery")
        );
        let all = [Argument::PipelineId, Argument::UserId, Argument::ExecutionId, Argument::Symbol, Argument::SignalContext];
        assert_eq!(celery.arguments, all);
        assert!(celery.extra_kwargs.is_empty() && celery.headers.is_empty());
        assert_eq!((celery.priority, celery.priority_steps.as_slice()), (0, [0, 3, 6, 9].as_slice()));
        assert_eq!((celery.priority_separator.as_str(), celery.global_keyprefix.as_str()), ("\u{6}\u{16}", ""));
        let process = &config.process;
        assert_eq!((process.log_format, process.log_level.as_str()), (LogFormat::Json, "info"));
        assert_eq!(process.log_signals_per_second, 100);
        assert_eq!(process.http_address, "127.0.0.1:8080".parse().unwrap());
        assert_eq!((process.shutdown_grace, process.stall), (Duration::from_secs(25), Some(Duration::from_mins(2))));
    }

    #[test]
    fn an_empty_or_blank_value_counts_as_not_set() {
        for variable in VARIABLES {
            for empty in ["", "  "] {
                let required = REQUIRED.iter().any(|(name, _)| *name == variable.name);
                let expected = if required { vec![variable.name.to_owned()] } else { vec![] };
                assert_eq!(refused(&[(variable.name, empty)]), expected, "{}", variable.name);
            }
        }
    }
}

mod limits {
    use super::*;

    #[test]
    fn numbers_hold_at_their_limits_and_are_refused_beyond() {
        for (name, good, bad) in [
            ("BATCH_SIZE", ["1", "1000000"], ["0", "1000001"]),
            ("BATCH_TIMEOUT_SECONDS", ["0.001", "60"], ["0.0009", "60.001"]),
            ("DB_QUERIES_PER_SECOND", ["0", "100000"], ["-1", "100001"]),
            ("POSTGRES_PORT", ["1", "65535"], ["0", "65536"]),
            ("CELERY_TASK_PRIORITY", ["0", "255"], ["-1", "256"]),
            ("TRIGGER_LEASE_SECONDS", ["1", "604800"], ["0.99", "604801"]),
            ("TRIGGER_START_TIMEOUT_SECONDS", ["1", "604800"], ["0.99", "604801"]),
            ("TRIGGER_MAX_ATTEMPTS", ["1", "100"], ["0", "101"]),
            ("MAX_SIGNAL_AGE_SECONDS", ["0", "1000000000"], ["-0.1", "1000000001"]),
            ("CACHE_REFRESH_INTERVAL_SECONDS", ["0.1", "86400"], ["0.09", "86401"]),
            ("LOG_SIGNALS_PER_SECOND", ["0", "1000000"], ["-1", "1000001"]),
            ("STALL_SECONDS", ["0", "86400"], ["-1", "86401"]),
            ("SHUTDOWN_GRACE_SECONDS", ["1", "3600"], ["0.9", "3601"]),
        ] {
            for value in good {
                assert_eq!(refused(&[(name, value)]), [""; 0], "{name}={value}");
            }
            for value in bad.into_iter().chain(["many", "NaN", "inf", "1,5", "0x10"]) {
                assert_eq!(refused(&[(name, value)]), [name], "{name}={value}");
            }
        }
    }

    #[test]
    fn a_zero_that_means_no_limit_is_none() {
        let config = read(&[("DB_QUERIES_PER_SECOND", "0"), ("MAX_SIGNAL_AGE_SECONDS", "0"), ("STALL_SECONDS", "0")]);
        assert_eq!((config.batch.queries_per_second, config.trigger.max_signal_age, config.process.stall), (None, None, None));
    }

    #[test]
    fn words_are_taken_in_any_case_and_no_others_are() {
        for (name, words) in [
            ("KAFKA_AUTO_OFFSET_RESET", &["earliest", "latest", "LATEST"][..]),
            ("BATCH_FLUSH", &["eager", "window", "Window"]),
            ("POSTGRES_SSLMODE", &["disable", "require", "verify-full", "VERIFY-FULL"]),
            ("AUTO_MIGRATE", &["true", "false", "False"]),
            ("TRIGGER_SCOPE", &["pipeline", "ticker", "Ticker"]),
            ("TRIGGER_WORKER_GUARD", &["auto", "yes", "no", "Auto"]),
            ("EXECUTIONS_HAVE_TRIGGER_IDS", &["auto", "yes", "no", "Auto"]),
            ("LOG_FORMAT", &["json", "text", "TEXT"]),
        ] {
            for word in words {
                assert_eq!(refused(&[(name, word)]), [""; 0], "{name}={word}");
            }
            for other in ["prefer", "on", "1"] {
                assert_eq!(refused(&[(name, other)]), [name], "{name}={other}");
            }
        }
        assert_eq!(read(&[("BATCH_FLUSH", "Window")]).batch.flush, Flush::Window);
        assert_eq!(read(&[("TRIGGER_SCOPE", "ticker")]).trigger.scope, Scope::Ticker);
        assert_eq!(read(&[("KAFKA_AUTO_OFFSET_RESET", "latest")]).kafka.auto_offset_reset, OffsetReset::Latest);
        assert!(!read(&[("AUTO_MIGRATE", "false")]).postgres.auto_migrate);
    }

    #[test]
    fn an_instance_keeps_the_name_it_is_given_or_the_one_of_its_pod_in_a_stateful_set() {
        let name = |variables: &[(&str, &str)]| read(variables).kafka.group_instance_id;
        let kubernetes = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");
        for (hostname, expected) in [("dispatcher-0", Some("dispatcher-0")), ("dispatcher-12", Some("dispatcher-12"))] {
            assert_eq!(name(&[kubernetes, ("HOSTNAME", hostname)]).as_deref(), expected);
        }
        // Pods of a Deployment, and hosts that may run several of us.
        for pod in ["dispatcher-7d9f8b6c5d-x2x4z", "dispatcher-7d9f8b6c5d-24579", "dispatcher", "-"] {
            assert_eq!(name(&[kubernetes, ("HOSTNAME", pod)]), None, "{pod}");
        }
        assert_eq!(name(&[("HOSTNAME", "dispatcher-0")]), None);
        let given = [("KAFKA_GROUP_INSTANCE_ID", "mine"), kubernetes, ("HOSTNAME", "dispatcher-0")];
        assert_eq!(name(&given).as_deref(), Some("mine"));
        let given = [("KAFKA_CONFIG_GROUP_INSTANCE_ID", "mine"), kubernetes, ("HOSTNAME", "dispatcher-0")];
        assert_eq!(name(&given), None, "the pod's name would outweigh it");
    }

    #[test]
    fn the_log_level_is_a_level_or_a_filter() {
        for good in ["warn", "info,trigger_dispatcher=debug"] {
            assert_eq!(read(&[("LOG_LEVEL", good)]).process.log_level, good);
        }
        for (python, ours) in
            [("WARNING", "warn"), ("CRITICAL", "error"), ("FATAL", "error"), ("Info, lapin=WARNING", "info,lapin=warn")]
        {
            assert_eq!(read(&[("LOG_LEVEL", python)]).process.log_level, ours);
        }
        // A word that is no level would name a library, and errors would fall silent with all else.
        for bad in ["info,=,x=loud", "verbose", "info,loud", "50"] {
            assert_eq!(refused(&[("LOG_LEVEL", bad)]), ["LOG_LEVEL"], "{bad}");
        }
    }

    #[test]
    fn a_name_that_is_misspelt_is_told_with_the_one_that_was_meant_and_others_are_left_alone() {
        let of = |names: &[&str]| {
            let set: Environment = names.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
            set.likely_typos().into_iter().map(|(name, meant)| format!("{name} {meant}")).collect::<Vec<_>>()
        };
        let misspelt =
            ["BATCH_SIZ", "KAFKA_CONSUMER_GROPU", "KAFKA_BOOTSTRAP_SERVER", "POSTGRES_PASWORD", "MAX_SIGNAL_AGE_SECOND"];
        let meant = [
            "BATCH_SIZ BATCH_SIZE",
            "KAFKA_BOOTSTRAP_SERVER KAFKA_BOOTSTRAP_SERVERS",
            "KAFKA_CONSUMER_GROPU KAFKA_CONSUMER_GROUP",
            "MAX_SIGNAL_AGE_SECOND MAX_SIGNAL_AGE_SECONDS",
            "POSTGRES_PASWORD POSTGRES_PASSWORD",
        ];
        assert_eq!(of(&misspelt), meant);
        assert_eq!(
            of(&["BATCH_SIZE", "KAFKA_CONFIG_SASL_USERNAME", "HOME", "REDIS_URL", "POSTGRES_POOL_SIZE", "LOGNAME", "LOG_DIR"]),
            [""; 0]
        );
    }

    #[test]
    fn the_http_address_is_an_address_with_a_port() {
        assert_eq!(read(&[("HTTP_ADDRESS", "[::]:80")]).process.http_address.port(), 80);
        for bad in ["8080", "localhost:8080", ":8080", "127.0.0.1"] {
            assert_eq!(refused(&[("HTTP_ADDRESS", bad)]), ["HTTP_ADDRESS"], "{bad}");
        }
    }

    #[test]
    fn a_time_zone_looks_like_the_name_of_one_and_is_not_repeated() {
        for good in ["UTC", "utc", "Asia/Tokyo", "America/Argentina/Buenos_Aires", "Etc/GMT+9"] {
            assert_eq!(read(&[("EXECUTIONS_TIME_ZONE", good)]).trigger.executions_time_zone, good);
        }
        for bad in ["+09:00", "Asia/Tokyo'; drop table executions", "7", "Zürich", "/etc/localtime", &"a".repeat(65)] {
            let problems = Config::read(&environment(&[("EXECUTIONS_TIME_ZONE", bad)])).unwrap_err().to_string();
            assert!(problems.starts_with("EXECUTIONS_TIME_ZONE: ") && !problems.contains(bad), "{problems}");
        }
    }

    #[test]
    fn statuses_are_lists_in_any_case_and_none_stands_in_both() {
        let config = read(&[("EXECUTION_ACTIVE_STATUSES", " Running, ,WAITING"), ("EXECUTION_OVER_STATUSES", "Done")]);
        assert_eq!(config.trigger.active_statuses, ["running".to_owned(), "waiting".to_owned()].into());
        assert_eq!(config.trigger.over_statuses, ["done".to_owned()].into());
        assert_eq!(refused(&[("EXECUTION_ACTIVE_STATUSES", "running,COMPLETED")]), ["EXECUTION_ACTIVE_STATUSES"]);
    }
}

mod kafka {
    use super::*;

    #[test]
    fn a_topic_has_a_name_that_kafka_takes() {
        for name in ["KAFKA_SIGNAL_TOPIC", "KAFKA_DEAD_LETTER_TOPIC"] {
            for bad in ["a b", "ä", "a/b", "a,b", ".", ".."] {
                assert_eq!(refused(&[(name, bad)]), [name], "{bad}");
            }
        }
        let longest = "t".repeat(249);
        let both = |topic: &'static str| [("KAFKA_SIGNAL_TOPIC", topic), ("KAFKA_DEAD_LETTER_TOPIC", "dead")];
        assert_eq!(read(&both(longest.leak())).kafka.signal_topic.len(), 249);
        assert_eq!(refused(&both("t".repeat(250).leak())), ["KAFKA_SIGNAL_TOPIC"]);
    }

    #[test]
    fn the_dead_letter_topic_follows_the_signal_topic_unless_it_is_named() {
        assert_eq!(read(&[("KAFKA_SIGNAL_TOPIC", "s")]).kafka.dead_letter_topic, "s.dead-letter");
        assert_eq!(read(&[("KAFKA_DEAD_LETTER_TOPIC", "d")]).kafka.dead_letter_topic, "d");
    }

    #[test]
    fn the_dead_letter_topic_must_be_another_one_and_not_too_long() {
        assert_eq!(refused(&[("KAFKA_DEAD_LETTER_TOPIC", "trading-signals")]), ["KAFKA_DEAD_LETTER_TOPIC"]);
        let signal_topic = "t".repeat(249 - ".dead-letter".len());
        assert_eq!(read(&[("KAFKA_SIGNAL_TOPIC", &signal_topic)]).kafka.dead_letter_topic.len(), 249);
        assert_eq!(refused(&[("KAFKA_SIGNAL_TOPIC", &format!("{signal_topic}t"))]), ["KAFKA_DEAD_LETTER_TOPIC"]);
    }

    #[test]
    fn properties_are_passed_on_as_librdkafka_writes_them() {
        let config = read(&[
            // As a file of a secret ends; and what is empty counts as not set, as with every variable.
            ("KAFKA_CONFIG_SASL_PASSWORD", " p=ä \n"),
            ("KAFKA_CONFIG_SASL_USERNAME", ""),
            ("KAFKA_CONFIG_CLIENT_RACK", " "),
            ("KAFKA_CONFIG_SECURITY_PROTOCOL", "SASL_SSL"),
            ("KAFKA_CONFIGURATION", "another program's"),
        ]);
        let properties: Vec<_> =
            config.kafka.properties.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
        assert_eq!(properties, [("sasl.password", " p=ä "), ("security.protocol", "SASL_SSL")]);
    }

    #[test]
    fn properties_that_the_promises_rest_on_are_refused_under_every_name_they_have() {
        for name in [
            "BOOTSTRAP_SERVERS",
            "METADATA_BROKER_LIST",
            "GROUP_ID",
            "AUTO_OFFSET_RESET",
            "ENABLE_AUTO_COMMIT",
            "AUTO_COMMIT_ENABLE",
            "ENABLE_AUTO_OFFSET_STORE",
            "ENABLE_PARTITION_EOF",
            "ENABLE_IDEMPOTENCE",
            "TRANSACTIONAL_ID",
            "ACKS",
            "REQUEST_REQUIRED_ACKS",
            "PARTITION_ASSIGNMENT_STRATEGY",
            "GROUP_PROTOCOL",
            "group_id",
        ] {
            let name = format!("KAFKA_CONFIG_{name}");
            assert_eq!(refused(&[(&name, "1")]), [name.as_str()]);
        }
    }
}

mod postgres {
    use super::*;

    #[test]
    fn tls_is_verified_unless_the_server_is_on_this_machine() {
        for local in ["localhost", "LocalHost", "127.0.0.1", "127.8.9.1", "::1", "[::1]", "/var/run/postgresql"] {
            assert_eq!(read(&[("POSTGRES_HOST", local)]).postgres.ssl_mode, SslMode::Disable, "{local}");
        }
        for remote in ["db.example", "10.0.0.5", "0.0.0.0", "localhost.example", "2001:db8::1", "127.0.0.1.example"] {
            assert_eq!(read(&[("POSTGRES_HOST", remote)]).postgres.ssl_mode, SslMode::VerifyFull, "{remote}");
        }
    }

    #[test]
    fn several_hosts_are_tried_in_their_order_and_an_ipv6_address_may_stand_in_brackets() {
        let hosts = |list| read(&[("POSTGRES_HOST", list)]).postgres;
        assert_eq!(hosts("a, b").hosts, ["a", "b"]);
        assert_eq!(hosts("[::1],localhost").hosts, ["::1", "localhost"]);
        assert_eq!(hosts("[::1],localhost").ssl_mode, SslMode::Disable);
        assert_eq!(hosts("localhost,b").ssl_mode, SslMode::VerifyFull);
        for bad in ["a,,b", "a,", "db:5432", "a b", "postgres://db", "user@db"] {
            assert_eq!(refused(&[("POSTGRES_HOST", bad)]), ["POSTGRES_HOST"], "{bad}");
        }
    }

    #[test]
    fn a_line_break_at_the_end_is_no_part_of_the_password() {
        for (set, password) in [("s\n", "s"), ("s\r\n", "s"), (" s \t", " s \t"), ("s\nt", "s\nt")] {
            assert_eq!(read(&[("POSTGRES_PASSWORD", set)]).postgres.password.expose_secret(), password, "{set:?}");
        }
    }

    #[test]
    fn the_mode_that_is_set_wins_over_the_hosts() {
        let mode = |host, mode| read(&[("POSTGRES_HOST", host), ("POSTGRES_SSLMODE", mode)]).postgres.ssl_mode;
        assert_eq!(mode("db.example", "disable"), SslMode::Disable);
        assert_eq!(mode("db.example", "require"), SslMode::Require);
        assert_eq!(mode("localhost", "verify-full"), SslMode::VerifyFull);
    }

    #[test]
    fn the_authorities_file_must_exist() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let config = read(&[("POSTGRES_SSLROOTCERT", path)]);
        assert_eq!(config.postgres.ssl_root_certificate.as_deref(), Some(file.path()));
        assert_eq!(refused(&[("POSTGRES_SSLROOTCERT", "/no/such/file.pem")]), ["POSTGRES_SSLROOTCERT"]);
    }
}

mod celery {
    use super::*;

    fn redis(url: &str) -> RedisAddress {
        RedisAddress::parse(url).unwrap_or_else(|problem| panic!("{url}: {problem}"))
    }

    /// Host and port or socket, user, password, database: each as kombu 5.7 reads it (asked, not remembered).
    #[test]
    fn redis_urls_mean_what_they_mean_to_kombu() {
        for (url, endpoint, user, password, database) in [
            ("redis://", "localhost:6379", None, None, 0),
            ("redis://h", "h:6379", None, None, 0),
            ("redis://h/", "h:6379", None, None, 0),
            ("redis://h//", "h:6379", None, None, 0),
            ("redis:///3", "localhost:6379", None, None, 3),
            ("redis://h:6390/5", "h:6390", None, None, 5),
            ("redis://:p%40s%2Fs@h", "h:6379", None, Some("p@s/s"), 0),
            ("redis://u:p@h/1", "h:6379", Some("u"), Some("p"), 1),
            ("redis://u@h", "h:6379", Some("u"), None, 0),
            ("redis://:p@/2", "localhost:6379", None, Some("p"), 2),
            ("redis://[::1]:7/2", "::1:7", None, None, 2),
            ("redis+socket:///tmp/a%20b.sock", "/tmp/a b.sock", None, None, 0),
            ("redis+socket:///tmp/x?virtual_host=2", "/tmp/x", None, None, 2),
            ("redis+socket://:pw@/tmp/x", "/tmp/x", None, Some("pw"), 0),
            ("redis+socket://u:pw@/tmp/x?virtual_host=1", "/tmp/x", Some("u"), Some("pw"), 1),
            ("redis+socket:///tmp/a@/b", "/tmp/a@/b", None, None, 0),
        ] {
            let address = redis(url);
            let read = match &address.endpoint {
                RedisEndpoint::Tcp { host, port, tls } => {
                    assert!(tls.is_none(), "{url}");
                    format!("{host}:{port}")
                }
                RedisEndpoint::Socket(path) => path.display().to_string(),
            };
            assert_eq!(read, endpoint, "{url}");
            let read_password = address.password.as_ref().map(secrecy::SecretString::expose_secret);
            assert_eq!((address.user.as_deref(), read_password, address.database), (user, password, database), "{url}");
        }
    }

    #[test]
    fn rediss_checks_the_certificate_unless_the_url_gives_that_up() {
        for (query, check) in [
            ("", CertificateCheck::Full),
            ("?ssl_cert_reqs=required", CertificateCheck::Full),
            ("?ssl_cert_reqs=CERT_REQUIRED", CertificateCheck::Full),
            ("?ssl_cert_reqs=none", CertificateCheck::None),
            ("?ssl_cert_reqs=CERT_NONE", CertificateCheck::None),
            // In Python a client that is told so checks the certificate too.
            ("?ssl_cert_reqs=optional", CertificateCheck::Full),
        ] {
            let address = redis(&format!("rediss://h:6380/1{query}"));
            let RedisEndpoint::Tcp { tls: Some(tls), port: 6380, .. } = address.endpoint else { panic!("{query}") };
            assert_eq!(tls.check, check, "{query}");
        }
        let address = redis("rediss://h?ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem");
        let RedisEndpoint::Tcp { tls: Some(tls), .. } = address.endpoint else { panic!("no TLS") };
        assert_eq!(tls.authorities, Some("/ca.pem".into()));
        assert_eq!(tls.identity, Some(("/c.pem".into(), "/k.pem".into())));
    }

    #[test]
    fn amqp_virtual_hosts_mean_what_they_mean_to_kombu() {
        for (url, path) in [
            ("amqp://h", "/%2F"),
            ("amqp://h/", "/%2F"),
            ("amqp://h//", "/%2F"),
            ("amqp://h/%2f", "/%2F"),
            ("amqp://h/vh", "/vh"),
            ("amqp://h//vh", "/%2Fvh"),
            ("amqp://h/a/b", "/a%2Fb"),
            ("amqp://h/a%20b", "/a%20b"),
            ("amqp://h/a+b", "/a%2Bb"),
            ("pyamqp://h/vh", "/vh"),
        ] {
            let Ok(Broker::Amqp(address)) = Broker::parse(url) else { panic!("{url}") };
            assert_eq!(address.expose(), format!("amqp://h{path}"), "{url}");
            assert_eq!(address.redacted, format!("amqp://h:5672{path}"), "{url}");
        }
        let Ok(Broker::Amqp(address)) = Broker::parse("amqps://u:p%40@h/vh?heartbeat=30") else { panic!("amqps") };
        assert_eq!((address.expose(), address.redacted.as_str()), ("amqps://u:p%40@h/vh?heartbeat=30", "amqps://h:5671/vh"));
    }

    #[test]
    fn urls_that_no_worker_could_share_are_refused() {
        for bad in [
            "localhost:6379",
            "redis//h",
            "http://h",
            "sentinel://h:26379/0",
            "unix:///tmp/x",
            "redis://h/abc",
            "redis://h/-1",
            "redis://h:99999",
            "redis://:%zz@h",
            "redis+socket:///tmp/x?virtual_host=x",
            "rediss://h?ssl_cert_reqs=maybe",
            "rediss://h?ssl_certfile=/c.pem",
            "amqp://",
            "amqp://h:port/",
            "amqp://h/%ff",
            "amqp://h/?heartbeat=often",
            "amqp://%ff:p@h/",
            // Lists, and passwords of which a part would be taken for a host, a port or a path.
            "amqp://u:p@h//;amqp://u:p@i//",
            "amqp://h;i",
            "redis://:p@h;redis://:p@i",
            "redis+socket:///x;redis+socket:///y",
            "amqp://u:p/w@h//",
            "amqp://u:1/w@h//",
            "amqp://u:1?w@h//",
            "amqp://u:1#w@h//",
            "redis://u:1#w@h/0",
            "redis://u:1/w@h/0",
            "redis+socket://u/w@/tmp/x",
            "redis://u:p\tw@h/0",
        ] {
            assert_eq!(refused(&[("CELERY_BROKER_URL", bad)]), ["CELERY_BROKER_URL"], "{bad}");
        }
    }

    #[test]
    fn a_result_backend_is_read_where_it_is_redis_and_passed_over_elsewhere() {
        let backend = |url| read(&[("CELERY_RESULT_BACKEND", url)]).celery.result_backend;
        assert!(matches!(backend("redis://h/4"), ResultBackend::Redis(RedisAddress { database: 4, .. })));
        assert!(matches!(backend("rpc://"), ResultBackend::Unseen));
        assert!(matches!(backend("db+postgresql://u:p@h/d"), ResultBackend::Unseen));
        assert_eq!(refused(&[("CELERY_RESULT_BACKEND", "redis://h/four")]), ["CELERY_RESULT_BACKEND"]);
    }

    #[test]
    fn a_task_takes_the_arguments_that_are_named_each_once() {
        let config = read(&[("CELERY_TASK_ARGUMENTS", "symbol, pipeline_id ,symbol")]);
        assert_eq!(config.celery.arguments, [Argument::Symbol, Argument::PipelineId]);
        assert_eq!(refused(&[("CELERY_TASK_ARGUMENTS", "pipeline_id,ticker")]), ["CELERY_TASK_ARGUMENTS"]);
    }

    #[test]
    fn constants_are_json_objects_that_do_not_shadow_ours() {
        let config = read(&[("CELERY_TASK_EXTRA_KWARGS", r#"{"mode": "paper"}"#), ("CELERY_TASK_HEADERS", r#"{"tenant": 7}"#)]);
        assert_eq!((&config.celery.extra_kwargs["mode"], &config.celery.headers["tenant"]), (&"paper".into(), &7.into()));
        for (name, bad) in [
            ("CELERY_TASK_EXTRA_KWARGS", "[]"),
            ("CELERY_TASK_EXTRA_KWARGS", "{"),
            ("CELERY_TASK_EXTRA_KWARGS", r#"{"symbol": "X"}"#),
            ("CELERY_TASK_HEADERS", "7"),
            ("CELERY_TASK_HEADERS", r#"{"expires": null}"#),
        ] {
            assert_eq!(refused(&[(name, bad)]), [name], "{bad}");
        }
    }

    #[test]
    fn priority_steps_ascend_from_zero() {
        assert_eq!(read(&[("CELERY_PRIORITY_STEPS", "0, 5,255")]).celery.priority_steps, [0, 5, 255]);
        for bad in ["1,2", "0,3,3", "0,9,6", "0,256", "0,,3", "low"] {
            assert_eq!(refused(&[("CELERY_PRIORITY_STEPS", bad)]), ["CELERY_PRIORITY_STEPS"], "{bad}");
        }
        let config = read(&[("CELERY_PRIORITY_SEPARATOR", ":"), ("CELERY_GLOBAL_KEYPREFIX", "p:")]);
        assert_eq!((config.celery.priority_separator.as_str(), config.celery.global_keyprefix.as_str()), (":", "p:"));
    }
}

mod problems {
    use super::*;

    /// A wrong value for each variable that can be wrong.
    const WRONG: [(&str, &str); 34] = [
        ("KAFKA_SIGNAL_TOPIC", "a b"),
        ("KAFKA_AUTO_OFFSET_RESET", "x"),
        ("KAFKA_DEAD_LETTER_TOPIC", "a b"),
        ("KAFKA_CONFIG_ACKS", "0"),
        ("BATCH_SIZE", "x"),
        ("BATCH_TIMEOUT_SECONDS", "x"),
        ("BATCH_FLUSH", "x"),
        ("DB_QUERIES_PER_SECOND", "x"),
        ("POSTGRES_PORT", "x"),
        ("POSTGRES_SSLMODE", "x"),
        ("POSTGRES_SSLROOTCERT", "/x"),
        ("AUTO_MIGRATE", "x"),
        ("CELERY_BROKER_URL", "x"),
        ("CELERY_RESULT_BACKEND", "redis://h/x"),
        ("CELERY_TASK_ARGUMENTS", "x"),
        ("CELERY_TASK_EXTRA_KWARGS", "x"),
        ("CELERY_TASK_HEADERS", "x"),
        ("CELERY_TASK_PRIORITY", "x"),
        ("CELERY_PRIORITY_STEPS", "x"),
        ("TRIGGER_SCOPE", "x"),
        ("TRIGGER_WORKER_GUARD", "x"),
        ("TRIGGER_MAX_ATTEMPTS", "x"),
        ("TRIGGER_START_TIMEOUT_SECONDS", "x"),
        ("LOG_SIGNALS_PER_SECOND", "x"),
        ("TRIGGER_LEASE_SECONDS", "x"),
        ("MAX_SIGNAL_AGE_SECONDS", "x"),
        ("CACHE_REFRESH_INTERVAL_SECONDS", "x"),
        ("EXECUTION_ACTIVE_STATUSES", "error"),
        ("EXECUTIONS_TIME_ZONE", "7"),
        ("EXECUTIONS_HAVE_TRIGGER_IDS", "x"),
        ("LOG_LEVEL", "=,x=loud"),
        ("HTTP_ADDRESS", "x"),
        ("SHUTDOWN_GRACE_SECONDS", "x"),
        ("STALL_SECONDS", "x"),
    ];

    #[test]
    fn all_of_them_are_told_at_once_each_on_a_line_of_its_own() {
        let names: BTreeSet<_> = refused(&WRONG).into_iter().collect();
        assert_eq!(names, WRONG.map(|(name, _)| name.to_owned()).into());
        let text = Config::read(&environment(&WRONG)).unwrap_err().to_string();
        assert_eq!(text.lines().count(), WRONG.len());
        assert!(text.lines().all(|line| line.split_once(": ").is_some_and(|(_, rest)| !rest.is_empty())), "{text}");
    }

    #[test]
    fn a_wrong_one_hides_no_other_section() {
        for (name, value) in WRONG {
            let mut expected = vec![name.to_owned(), "POSTGRES_DB".to_owned()];
            let mut found = refused(&[(name, value), ("POSTGRES_DB", "")]);
            expected.sort();
            found.sort();
            assert_eq!(found, expected);
        }
    }

    /// Shapes in which a secret may stand in the wrong variable.
    const DISGUISES: [&str; 12] = [
        "{}",
        "{}=,x=loud",
        "12{}",
        "redis://user:{}@host:99999/0",
        "redis://user:{}@host/{}",
        "rediss://:{}@host?ssl_cert_reqs={}",
        "amqp://user:{}@:5672/",
        "amqp://user:{}@host:port/{}",
        "{}://host",
        r#"{"symbol": "{}", "expires": "{}"}"#,
        "/secret/{}.pem",
        "0,3,{}",
    ];
    const CANARY: &str = "cAnArYbIrD";

    #[test]
    fn no_value_of_any_variable_is_ever_told() {
        let names: Vec<_> = VARIABLES.iter().map(|variable| variable.name).chain(["KAFKA_CONFIG_GROUP_ID"]).collect();
        for disguise in DISGUISES {
            let value = disguise.replace("{}", CANARY);
            let all: Vec<_> = names.iter().map(|name| (*name, value.as_str())).collect();
            let problems = Config::read(&environment(&all)).unwrap_err();
            assert!(problems.0.len() > 10, "{disguise} was hardly refused: {problems}");
            for text in [problems.to_string(), format!("{problems:?}")] {
                assert!(!text.to_lowercase().contains(&CANARY.to_lowercase()), "{disguise}: {text}");
            }
        }
    }

    #[test]
    fn a_line_of_the_file_that_cannot_be_read_is_told_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        std::fs::write(&path, format!("# a comment\n\nBATCH_SIZE=7\n\n{CANARY} 'no equals sign\n")).unwrap();
        let text = Environment::load(&path).unwrap_err().to_string();
        assert!(text.contains("line 5") && !text.contains(CANARY), "{text}");
    }

    #[test]
    fn no_secret_is_in_the_debug_output_of_a_configuration() {
        for broker in ["rediss://user:{}@host/1", "redis+socket://:{}@/tmp/x", "amqp://user:{}@host/vh"] {
            let url = broker.replace("{}", CANARY);
            let config = read(&[
                ("POSTGRES_PASSWORD", CANARY),
                ("CELERY_BROKER_URL", &url),
                ("CELERY_RESULT_BACKEND", &format!("redis://:{CANARY}@host/2")),
                ("KAFKA_CONFIG_SASL_PASSWORD", CANARY),
            ]);
            assert!(!format!("{config:?}").contains(CANARY));
        }
    }

    proptest! {
        #[test]
        fn a_shape_never_tells_the_value(value in "[a-zA-Z0-9:/@.é_-]{8,40}") {
            prop_assert!(!super::super::environment::shape(&value).contains(&value));
        }

        #[test]
        fn no_url_makes_the_parser_panic_or_talk(rest in r"[\PC]{0,40}", scheme in "(redis|rediss|redis\\+socket|amqp|amqps|pyamqp|x)") {
            if let Err(problem) = Broker::parse(&format!("{scheme}://{CANARY}{rest}")) {
                prop_assert!(!problem.contains(CANARY), "{problem}");
            }
        }
    }
}

mod ledger {
    use super::*;

    #[test]
    fn it_is_kept_for_ever_unless_told_otherwise() {
        assert_eq!(read(&[]).ledger.retention, None);
        assert_eq!(read(&[("LEDGER_RETENTION_DAYS", "30")]).ledger.retention, Days::new(30));
    }

    #[test]
    fn a_retention_is_some_four_partitions_long_of_whole_days() {
        for (retention, expected) in [("1", 1), ("4", 1), ("5", 2), ("30", 8), ("365", 92), ("36500", 9125)] {
            let days = read(&[("LEDGER_RETENTION_DAYS", retention)]).ledger.partition_days();
            assert_eq!(days, expected, "{retention}");
        }
        assert_eq!(read(&[]).ledger.partition_days(), 180);
    }

    #[test]
    fn a_signal_must_be_stale_and_a_lease_over_before_they_are_forgotten() {
        let retention = ("LEDGER_RETENTION_DAYS", "2");
        let refusals = |changes: &[(&str, &str)]| refused(&[&[retention], changes].concat());
        assert_eq!(refusals(&[]), [""; 0]);
        assert_eq!(refusals(&[("MAX_SIGNAL_AGE_SECONDS", "172800"), ("TRIGGER_LEASE_SECONDS", "172800")]), [""; 0]);
        for change in [("MAX_SIGNAL_AGE_SECONDS", "172801"), ("TRIGGER_LEASE_SECONDS", "172801"), ("MAX_SIGNAL_AGE_SECONDS", "0")]
        {
            assert_eq!(refusals(&[change]), ["LEDGER_RETENTION_DAYS"], "{change:?}");
        }
    }
}

mod list_of_variables {
    use super::*;

    #[test]
    fn the_env_example_is_made_from_it() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/.env.example");
        let file = std::fs::read_to_string(path).unwrap_or_default();
        assert!(file == env_example(), ".env.example is not up to date: cargo run -- variables > .env.example");
    }

    #[test]
    fn the_env_example_is_a_file_that_can_be_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        let uncommented: String = env_example()
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| is_assignment(rest)).unwrap_or(line).to_owned() + "\n")
            .collect();
        std::fs::write(&path, uncommented).unwrap();
        let loaded = Environment::load(&path).unwrap();
        for variable in VARIABLES.iter().filter(|variable| std::env::var_os(variable.name).is_none()) {
            let values = loaded.reader().prefixed(variable.name);
            assert_eq!(values.first(), Some(&("", variable.default.unwrap_or_default())), "{} as the file has it", variable.name);
        }
    }

    fn is_assignment(text: &str) -> bool {
        text.split_once('=')
            .is_some_and(|(name, _)| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
    }

    #[test]
    fn help_names_each_variable_with_its_default() {
        let help = help();
        for variable in VARIABLES {
            let line = help.lines().find(|line| line.split_whitespace().next() == Some(variable.name));
            let line = line.unwrap_or_else(|| panic!("{} is not in the help", variable.name));
            assert!(variable.default.is_none_or(|default| line.contains(&format!("[{default}]"))), "{line}");
        }
    }

    #[test]
    fn each_name_stands_there_once() {
        let names: BTreeSet<_> = VARIABLES.iter().map(|variable| variable.name).collect();
        assert_eq!(names.len(), VARIABLES.len());
    }

    #[test]
    fn what_is_read_and_what_is_listed_are_the_same() {
        let sources = [
            include_str!("kafka.rs"),
            include_str!("batch.rs"),
            include_str!("postgres.rs"),
            include_str!("celery.rs"),
            include_str!("trigger.rs"),
            include_str!("ledger.rs"),
            include_str!("process.rs"),
        ];
        let read: BTreeSet<_> =
            sources.iter().flat_map(|source| source.split('"').skip(1).step_by(2)).filter(|text| is_name(text)).collect();
        let listed: BTreeSet<_> = VARIABLES.iter().map(|variable| variable.name).collect();
        assert_eq!(read, listed);
    }

    /// Looks like a variable's name; `KAFKA_CONFIG_` is only the beginning of one.
    fn is_name(text: &str) -> bool {
        text.contains('_') && !text.ends_with('_') && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    }

    #[test]
    fn a_value_reaches_the_configuration_under_each_name() {
        // A different value must make a different configuration; those that fall silent would be lost settings.
        let usual = format!("{:?} {:?}", read(&[]), secrets(&read(&[])));
        let file = tempfile::NamedTempFile::new().unwrap();
        for variable in VARIABLES {
            let value = match variable.name {
                "BATCH_TIMEOUT_SECONDS" => "0.25",
                "BATCH_FLUSH" => "window",
                "KAFKA_AUTO_OFFSET_RESET" => "latest",
                "POSTGRES_SSLMODE" => "require",
                "POSTGRES_SSLROOTCERT" => file.path().to_str().unwrap(),
                "AUTO_MIGRATE" => "false",
                "CELERY_BROKER_URL" => "amqp://h/",
                "CELERY_RESULT_BACKEND" => "redis://h/",
                "CELERY_TASK_ARGUMENTS" => "symbol",
                "CELERY_TASK_EXTRA_KWARGS" | "CELERY_TASK_HEADERS" => r#"{"a": 1}"#,
                "CELERY_PRIORITY_STEPS" => "0",
                "TRIGGER_SCOPE" => "ticker",
                "TRIGGER_WORKER_GUARD" | "EXECUTIONS_HAVE_TRIGGER_IDS" => "yes",
                "EXECUTIONS_TIME_ZONE" => "Asia/Tokyo",
                "LOG_FORMAT" => "text",
                "LOG_LEVEL" => "warn",
                "HTTP_ADDRESS" => "127.0.0.1:7",
                _ => "7",
            };
            let config = read(&[(variable.name, value)]);
            assert_ne!(format!("{config:?} {:?}", secrets(&config)), usual, "{} changes nothing", variable.name);
        }
    }

    fn secrets(config: &Config) -> &str {
        config.postgres.password.expose_secret()
    }
}
