//! The platform of a run: a database of its own with pipelines made from a seed, and a role for the dispatcher that may do
//! what docs/postgres-role.sql grants, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use postgres::{Client, NoTls};
use rand_chacha::rand_core::RngCore;
use url::Url;
use uuid::Uuid;

use crate::results::complain;
use crate::services::Services;
use crate::signals::{Draw, Spread, random, ticker};

/// What pipelines there are.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Shape {
    pub(crate) pipelines: u32,
    /// Tickers that each of them watches.
    pub(crate) tickers_each: u32,
    /// They choose among the first so many tickers; signals of the others are unmatched.
    pub(crate) watched: u32,
    /// How they choose.
    pub(crate) spread: Spread,
    /// The share of them that has a RUNNING execution from beginning to end.
    pub(crate) busy: f64,
    pub(crate) seed: u64,
}

/// What became of the records so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Progress {
    pub(crate) next_offsets: i64,
    pub(crate) consumed: i64,
    pub(crate) triggered: i64,
    pub(crate) busy: i64,
    pub(crate) unmatched: i64,
    pub(crate) merged: i64,
    /// redelivered, stale, invalid: nothing that a benchmark sends may end so.
    pub(crate) wrong: i64,
}

/// Dropped with everything that is in it.
pub(crate) struct Platform {
    /// The services' own database, where statements are counted.
    pub(crate) admin: Client,
    /// The run's database, as its owner.
    pub(crate) owner: Client,
    pub(crate) role: String,
    url: Url,
    password: String,
}

impl Platform {
    pub(crate) fn create(services: &Services, name: &str, shape: &Shape, program: &Path) -> anyhow::Result<Self> {
        let mut admin = connect(&services.postgres)?;
        let mut url = services.postgres.clone();
        url.set_path(name);
        admin.batch_execute(&format!("create database {name}")).context("PostgreSQL does not make a database")?;
        let owner = connect(&url)?;
        let password = Uuid::new_v4().simple().to_string();
        let mut platform = Self { admin, owner, role: format!("{name}_role"), url, password };
        platform.owner.batch_execute(include_str!("../../worker/src/trigger_dispatcher_worker/schema.sql"))?;
        platform.fill(shape)?;
        platform.migrate(program)?;
        platform.owner.batch_execute(include_str!("../../docs/postgres-role.sql")).context("docs/postgres-role.sql")?;
        let login = format!("create role {} login password '{}' in role trigger_dispatcher", platform.role, platform.password);
        platform.owner.batch_execute(&login)?;
        platform.owner.batch_execute("vacuum analyze")?;
        Ok(platform)
    }

    fn fill(&mut self, shape: &Shape) -> anyhow::Result<()> {
        let mut random = random(shape.seed, 2);
        let mut id = || {
            let mut bytes = [0; 16];
            random.fill_bytes(&mut bytes);
            uuid::Builder::from_random_bytes(bytes).into_uuid()
        };
        let ids: Vec<Uuid> = (0..shape.pipelines).map(|_| id()).collect();
        let users: Vec<Uuid> = (0..shape.pipelines).map(|_| id()).collect();
        let draw = Draw::new(shape.spread, shape.watched);
        let tickers: Vec<String> = (0..shape.pipelines)
            .map(|_| {
                let chosen: Vec<_> = choose(&draw, shape, &mut random).into_iter().map(ticker).collect();
                serde_json::Value::from(chosen).to_string()
            })
            .collect();
        self.owner.execute(
            "insert into pipelines (id, user_id, name, scanner_tickers)
             select id, user_id, 'pipeline ' || position, tickers::jsonb
             from unnest($1::uuid[], $2::uuid[], $3::text[]) with ordinality as p (id, user_id, tickers, position)",
            &[&ids, &users, &tickers],
        )?;
        self.owner.execute(
            "insert into executions (id, pipeline_id, status)
             select gen_random_uuid(), id, 'RUNNING' from unnest($1::uuid[]) with ordinality as p (id, position)
             where position <= round($2::float8 * cardinality($1::uuid[]))",
            &[&ids, &shape.busy],
        )?;
        Ok(())
    }

    /// Makes the schema `dispatcher`, as the owner of the platform does.
    fn migrate(&self, program: &Path) -> anyhow::Result<()> {
        let (user, password) = (self.url.username(), self.url.password().unwrap_or_default());
        let mut command = Command::new(program);
        command.arg("migrate").env_clear().current_dir(std::env::temp_dir()).envs(self.variables_of(user, password));
        // It reads the whole configuration; what it does not use need not exist.
        command.env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9").env("CELERY_BROKER_URL", "redis://127.0.0.1:9/0");
        let output = command.output().with_context(|| format!("cannot run {}", program.display()))?;
        anyhow::ensure!(
            output.status.success(),
            "trigger-dispatcher migrate failed: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// The dispatcher's variables for this database, as its own role.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        self.variables_of(&self.role, &self.password)
    }

    fn variables_of(&self, user: &str, password: &str) -> Vec<(&'static str, String)> {
        vec![
            ("POSTGRES_USER", user.to_owned()),
            ("POSTGRES_PASSWORD", password.to_owned()),
            ("POSTGRES_HOST", self.url.host_str().unwrap_or_default().to_owned()),
            ("POSTGRES_PORT", self.url.port().unwrap_or(5432).to_string()),
            ("POSTGRES_DB", self.url.path().trim_start_matches('/').to_owned()),
        ]
    }

    /// Another session of the owner.
    pub(crate) fn another(&self) -> anyhow::Result<Client> {
        connect(&self.url)
    }

    /// Partitions that the dispatcher has opened.
    pub(crate) fn partitions(&mut self) -> anyhow::Result<i64> {
        Ok(self.owner.query_one("select count(*) from dispatcher.progress", &[])?.get(0))
    }

    /// Claims in the ledger.
    pub(crate) fn claims(&mut self) -> anyhow::Result<i64> {
        Ok(self.owner.query_one("select count(*) from dispatcher.triggers", &[])?.get(0))
    }

    /// Claims in the ledger, each signal counted once for each slot.
    pub(crate) fn distinct_claims(&mut self) -> anyhow::Result<i64> {
        let sql = "select count(*) from (select distinct pipeline_id, ticker, signal_id from dispatcher.triggers) as claims";
        Ok(self.owner.query_one(sql, &[])?.get(0))
    }

    /// What became of the records so far, over all partitions.
    pub(crate) fn progress(&mut self) -> anyhow::Result<Progress> {
        let row = self.owner.query_one(
            "select coalesce(sum(next_offset), 0)::bigint, coalesce(sum(consumed), 0)::bigint, coalesce(sum(triggered), 0)::bigint,
                 coalesce(sum(busy), 0)::bigint, coalesce(sum(unmatched), 0)::bigint, coalesce(sum(merged), 0)::bigint,
                 coalesce(sum(redelivered + stale + invalid), 0)::bigint
             from dispatcher.progress",
            &[],
        )?;
        Ok(Progress {
            next_offsets: row.get(0),
            consumed: row.get(1),
            triggered: row.get(2),
            busy: row.get(3),
            unmatched: row.get(4),
            merged: row.get(5),
            wrong: row.get(6),
        })
    }

    /// Fails unless everything that was sent is decided and accounted for, and all tasks were published.
    pub(crate) fn audit(&mut self, sent: u64, tasks: u64) -> anyhow::Result<Progress> {
        let sums = self.audit_part(tasks)?;
        anyhow::ensure!(sums.consumed == i64::try_from(sent)?, "{sent} signals were sent, {} decided", sums.consumed);
        Ok(sums)
    }

    /// Fails unless everything that is decided is accounted for once, and all tasks were published.
    pub(crate) fn audit_part(&mut self, tasks: u64) -> anyhow::Result<Progress> {
        let sums = self.progress()?;
        anyhow::ensure!(
            sums.consumed == sums.next_offsets,
            "{} signals were decided, by the offsets it were {}",
            sums.consumed,
            sums.next_offsets
        );
        let reasons = sums.triggered + sums.busy + sums.unmatched + sums.merged + sums.wrong;
        anyhow::ensure!(sums.consumed == reasons, "{} signals have {reasons} reasons", sums.consumed);
        anyhow::ensure!(sums.wrong == 0, "{} signals were redelivered, stale or invalid", sums.wrong);
        let triggers = self.claims()?;
        anyhow::ensure!(triggers == i64::try_from(tasks)?, "{triggers} triggers in the ledger, {tasks} tasks in Redis");
        Ok(sums)
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        let name = self.url.path().trim_start_matches('/');
        for sql in [format!("drop database if exists {name} with (force)"), format!("drop role if exists {}", self.role)] {
            if let Err(error) = self.admin.batch_execute(&sql) {
                complain(&format!("left behind: {sql}: {error}"));
            }
        }
    }
}

/// Tickers of one pipeline, no one twice.
fn choose(draw: &Draw, shape: &Shape, random: &mut rand_chacha::ChaCha8Rng) -> Vec<u32> {
    if shape.watched <= shape.tickers_each {
        return (0..shape.watched).collect();
    }
    let (mut seen, mut chosen) = (BTreeSet::new(), Vec::new());
    while chosen.len() < shape.tickers_each as usize {
        let number = draw.next(random);
        if seen.insert(number) {
            chosen.push(number);
        }
    }
    chosen
}

fn connect(url: &Url) -> anyhow::Result<Client> {
    Client::connect(url.as_str(), NoTls).context("PostgreSQL does not answer")
}
