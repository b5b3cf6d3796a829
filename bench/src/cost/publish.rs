//! The guarded publish, by the dispatcher's own script, against a plain LPUSH of the same messages.

use anyhow::Context as _;
use redis::Connection;
use uuid::Uuid;

use super::{Timed, seconds};
use crate::services::Services;

/// Long after this run, in microseconds since 1970.
const UNTIL: i64 = 4_000_000_000_000_000;
const SCRIPT: &str = include_str!("../../../src/tasks/publish.lua");

pub(super) struct Publishing {
    connection: Connection,
    script: String,
    messages: Vec<Vec<u8>>,
    /// Where they go; deleted after each time.
    list: String,
}

impl Publishing {
    /// Takes messages out of the list that a dispatcher has filled.
    pub(super) fn prepare(services: &Services, list: &str) -> anyhow::Result<Self> {
        let mut connection = redis::Client::open(services.redis.as_str())?.get_connection()?;
        let messages: Vec<Vec<u8>> = redis::cmd("LRANGE").arg(list).arg(0).arg(-1).query(&mut connection)?;
        let script = redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query(&mut connection).context("src/tasks/publish.lua")?;
        Ok(Self { connection, script, messages, list: format!("{list}_cost") })
    }

    /// Times one publication of so many messages, each way.
    pub(super) fn time(&mut self, size: usize, timed: &mut Timed) -> anyhow::Result<()> {
        let messages = self.messages.get(..size).with_context(|| format!("only {} messages", self.messages.len()))?;
        let guard = format!("{}_{}", self.list, Uuid::new_v4().simple());
        let mut guarded = redis::cmd("EVALSHA");
        // As in the flow: with a limit of time, and the guard of the publication before, which is settled.
        let before = format!("{guard}_before");
        guarded.arg(&self.script).arg(3).arg(&self.list).arg(&guard).arg(&before);
        guarded.arg(60).arg(1).arg(UNTIL).arg(60).arg(messages);
        let mut plain = redis::cmd("LPUSH");
        plain.arg(&self.list).arg(messages);
        let connection = &mut self.connection;
        let (with, pushed) = seconds(|| Ok(guarded.query::<i64>(connection)?))?;
        anyhow::ensure!(usize::try_from(pushed)? == size, "the script pushed {pushed} of {size}");
        redis::cmd("DEL").arg(&self.list).arg(&guard).query::<()>(connection)?;
        let (without, pushed) = seconds(|| Ok(plain.query::<i64>(connection)?))?;
        anyhow::ensure!(usize::try_from(pushed)? == size, "LPUSH left {pushed} of {size}");
        redis::cmd("DEL").arg(&self.list).query::<()>(connection)?;
        timed.with.push(with);
        timed.without.push(without);
        Ok(())
    }
}
