//! The platform of a run: a database of its own with pipelines made from the seed, and a history that triggers keep.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use postgres::{Client, NoTls};
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use crate::clock;
use crate::dice::Dice;
use crate::services::Services;
use crate::signals::{TICKERS, ticker_name};

/// Pipelines that there are.
const PIPELINES: u64 = 150;

/// The database of a run.
#[derive(Debug, Clone)]
pub(crate) struct Platform {
    url: Url,
    pub(crate) name: String,
    /// Ticker to the pipelines that watch it.
    watchers: HashMap<u64, Vec<Uuid>>,
}

impl Platform {
    /// Makes the database with the platform's tables and its pipelines.
    pub(crate) fn create(services: &Services, name: &str, seed: u64) -> anyhow::Result<Self> {
        connect(&services.postgres)?.batch_execute(&format!("create database {name}"))?;
        let mut url = services.postgres.clone();
        url.set_path(name);
        let mut platform = Self { url, name: name.to_owned(), watchers: HashMap::new() };
        let mut client = platform.connect()?;
        client.batch_execute(include_str!("../../worker/src/trigger_dispatcher_worker/schema.sql"))?;
        let mut dice = Dice::new(seed, 2);
        let mut transaction = client.transaction()?;
        for number in 0..PIPELINES {
            let id = Uuid::from_u64_pair(dice.next(), dice.next());
            let first = dice.below(TICKERS * 2 / 3);
            let second = (first + 1 + dice.below(TICKERS * 2 / 3 - 1)) % (TICKERS * 2 / 3);
            let tickers = Value::from(vec![ticker_name(first), ticker_name(second)]);
            let user = Uuid::from_u64_pair(dice.next(), dice.next());
            transaction.execute(
                "insert into pipelines (id, user_id, name, scanner_tickers) values ($1, $2, $3, $4)",
                &[&id, &user, &format!("pipeline {number}"), &tickers],
            )?;
            for ticker in [first, second] {
                platform.watchers.entry(ticker).or_default().push(id);
            }
        }
        transaction.commit()?;
        Ok(platform)
    }

    /// Starts the history; the dispatcher's schema must be there.
    pub(crate) fn keep_history(&self) -> anyhow::Result<()> {
        self.connect()?.batch_execute(include_str!("history.sql")).context("the history")
    }

    /// The pipelines that any of the tickers concerns, each once.
    pub(crate) fn watchers(&self, tickers: &[u64]) -> Vec<Uuid> {
        let mut found: Vec<Uuid> = tickers.iter().filter_map(|ticker| self.watchers.get(ticker)).flatten().copied().collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    pub(crate) fn connect(&self) -> anyhow::Result<Client> {
        connect(&self.url)
    }

    /// A session as soon as PostgreSQL gives one.
    pub(crate) fn connect_in_time(&self) -> anyhow::Result<Client> {
        clock::wait_for(Duration::from_secs(60), || Ok(self.connect().ok()))?.context("PostgreSQL gives no session within 60 s")
    }

    /// The dispatcher's variables, with the port of a proxy.
    pub(crate) fn variables(&self, port: u16) -> Vec<(&'static str, String)> {
        vec![
            ("POSTGRES_USER", self.url.username().to_owned()),
            ("POSTGRES_PASSWORD", self.password().to_owned()),
            ("POSTGRES_HOST", "127.0.0.1".to_owned()),
            ("POSTGRES_PORT", port.to_string()),
            ("POSTGRES_DB", self.name.clone()),
        ]
    }

    /// What no log may say.
    pub(crate) fn password(&self) -> &str {
        self.url.password().unwrap_or_default()
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.url.port().unwrap_or(5432))
    }
}

fn connect(url: &Url) -> anyhow::Result<Client> {
    let mut config: postgres::Config = url.as_str().parse().context("the address of PostgreSQL")?;
    config.connect_timeout(Duration::from_secs(5)).options("-c statement_timeout=30s -c timezone=UTC");
    config.connect(NoTls).context("PostgreSQL")
}
