//! A database of a test's own, with the sample platform's tables.

use serde_json::Value;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row};
use url::Url;
use uuid::Uuid;

use super::cleanup::after_success;
use super::{service, unique};

pub(crate) struct TestDatabase {
    pub(crate) name: String,
    pub(crate) client: Client,
    url: Url,
    /// Another server goes with all that is in it.
    is_shared: bool,
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if !self.is_shared {
            return;
        }
        let name = self.name.clone();
        after_success(async move {
            let admin = service("TEST_POSTGRES_URL");
            let (client, connection) = tokio_postgres::connect(&admin, NoTls).await.map_err(|error| error.to_string())?;
            let drop = async {
                let dropped = client.batch_execute(&format!("drop database {name} with (force)")).await;
                std::mem::drop(client);
                dropped
            };
            let (dropped, ended) = tokio::join!(drop, connection);
            dropped.and(ended).map_err(|error| error.to_string())
        });
    }
}

impl TestDatabase {
    /// An empty database with the platform's tables (the worker package's sample schema).
    pub(crate) async fn create() -> Self {
        Self::create_in("UTF8").await
    }

    /// The same in another encoding.
    pub(crate) async fn create_in(encoding: &str) -> Self {
        let mut created = Self::create_on(Url::parse(&service("TEST_POSTGRES_URL")).unwrap(), encoding).await;
        created.is_shared = true;
        created
    }

    /// The same on another server.
    pub(crate) async fn create_on(admin: Url, encoding: &str) -> Self {
        let name = unique("it");
        connect(&admin)
            .await
            .batch_execute(&format!(
                "create database {name} encoding '{encoding}' template template0 lc_collate 'C' lc_ctype 'C'"
            ))
            .await
            .unwrap();
        let mut url = admin;
        url.set_path(&name);
        let client = connect(&url).await;
        client.batch_execute(include_str!("../../../worker/src/trigger_dispatcher_worker/schema.sql")).await.unwrap();
        Self { name, client, url, is_shared: false }
    }

    /// One of PostgreSQL's own programs, told of this database.
    pub(crate) fn program(&self, name: &str) -> std::process::Command {
        let mut command = std::process::Command::new(super::private_postgres::newest_bin().join(name));
        command.args(["-d", self.url.as_str()]);
        command
    }

    /// Another session.
    pub(crate) async fn another(&self) -> Client {
        connect(&self.url).await
    }

    /// The service's variables for this database.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let values = [
            ("POSTGRES_USER", self.url.username().to_owned()),
            ("POSTGRES_PASSWORD", self.url.password().unwrap_or_default().to_owned()),
            ("POSTGRES_HOST", self.url.host_str().unwrap_or_default().to_owned()),
            ("POSTGRES_PORT", self.url.port().unwrap_or(5432).to_string()),
            ("POSTGRES_DB", self.name.clone()),
        ];
        values.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    /// A role of the test's own that has every right which the service needs, and no other. The schema must be there.
    pub(crate) async fn role(&self) -> String {
        let role = unique("role");
        self.run(&format!(
            "create role {role} login password '{role}';
             grant select on pipelines, scanners, executions to {role};
             grant usage on schema dispatcher to {role};
             grant select, insert, update, delete on all tables in schema dispatcher to {role};
             grant execute on all functions in schema dispatcher to {role}"
        ))
        .await;
        role
    }

    /// Runs statements.
    pub(crate) async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    /// Ends every session of the service, so that it needs new ones.
    pub(crate) async fn end_sessions(&self) {
        let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity
            where datname = current_database() and application_name = 'trigger-dispatcher'";
        assert!(self.number(sql).await > 0, "the service has no session");
    }

    /// An active signal pipeline.
    pub(crate) async fn pipeline(&self, name: &str, tickers: &[&str]) -> Uuid {
        let id = Uuid::new_v4();
        let tickers = Value::from(tickers.to_vec());
        let sql = "insert into pipelines (id, user_id, name, scanner_tickers) values ($1, $2, $3, $4)";
        self.client.execute(sql, &[&id, &Uuid::new_v4(), &name, &tickers]).await.unwrap();
        id
    }

    /// An execution in some status.
    pub(crate) async fn execution(&self, pipeline: Uuid, status: &str) -> Uuid {
        let id = Uuid::new_v4();
        let sql = "insert into executions (id, pipeline_id, status) values ($1, $2, $3)";
        self.client.execute(sql, &[&id, &pipeline, &status]).await.unwrap();
        id
    }

    pub(crate) async fn rows(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        self.client.query(sql, values).await.unwrap()
    }

    /// One number.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }
}

pub(super) async fn connect(url: &Url) -> Client {
    let (client, connection) = tokio_postgres::connect(url.as_str(), NoTls).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test's session ends with its runtime")]
    tokio::spawn(connection);
    client
}
