//! `offsets set`: refuses while somebody reads the partition, says what will happen, asks, and does it.
#![expect(clippy::print_stdout, reason = "the command's answer")]

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, bail, ensure};
use rdkafka::consumer::Consumer as _;
use rdkafka::{Offset, TopicPartitionList};

use super::owners::owner;
use super::plan::{Effect, Found, Known, Plan, plan};
use super::{To, Topic};
use crate::commands::KAFKA_TIMEOUT;
use crate::intake::kafka::is_corrupt;

impl Topic<'_> {
    pub(super) async fn set(&self, partition: i32, to: To, is_agreed: bool) -> anyhow::Result<()> {
        let (group, name) = (self.group, self.name);
        let found = self.found(partition)?;
        let Some(known) = self.known(partition).await? else {
            bail!("nothing of {name}/{partition} was ever decided by the group {group}: there is nothing to set")
        };
        self.ensure_free(partition, &known, &found)?;
        let Found { low, high, committed, .. } = found;
        let offset = match (to, committed) {
            (To::Earliest, _) => low,
            (To::Latest, _) => high,
            (To::Committed, Some(committed)) => committed,
            (To::Committed, None) => bail!("Kafka has no committed offset of the group {group} for {name}/{partition}"),
            (To::Offset(offset), _) => offset,
        };
        ensure!((low..=high).contains(&offset), "Kafka has {low} to {high} of {name}/{partition}, not {offset}");
        let plan = plan(&known, &found, offset);
        if matches!(plan.effect, Effect::Decides { now: 0, .. }) {
            bail!(
                "every offset of {name}/{partition} from {offset} on is decided already, and what is decided stays as it is: \
                 setting it back would change nothing"
            )
        }
        println!("{name}/{partition}: {}", describe(&plan, known.next_offset));
        if !is_agreed {
            ensure!(std::io::stdin().is_terminal(), "nobody can be asked here: add --yes to set {name}/{partition}");
            ensure!(confirmed()?, "nothing was changed");
            // Somebody may have started an instance meanwhile.
            self.ensure_free(partition, &known, &found)?;
        }
        self.apply(partition, &plan, &known, &found).await?;
        println!("Set. An instance that has stopped the partition goes on within 30 s.");
        Ok(())
    }

    /// A partition that somebody reads would go on from the old place for a while, and be fenced at some moment.
    fn ensure_free(&self, partition: i32, known: &Known, found: &Found) -> anyhow::Result<()> {
        let Some(owner) = owner(&self.consumer, self.group, self.name, partition)? else { return Ok(()) };
        let is_stopped = known.stopped(found).is_some() || self.is_corrupt(partition, known, found)?;
        ensure!(
            is_stopped,
            "{}/{partition} is being read by {owner}, a member of the group {}: stop its instances first",
            self.name,
            self.group
        );
        Ok(())
    }

    /// Whether Kafka sends corrupt data at the next offset; then whoever has the partition has stopped it.
    fn is_corrupt(&self, partition: i32, known: &Known, found: &Found) -> anyhow::Result<bool> {
        let Some(next) = known.next_offset.filter(|next| *next < found.high) else { return Ok(false) };
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(self.name, partition, Offset::Offset(next))?;
        self.consumer.assign(&list)?;
        let first = self.consumer.poll(KAFKA_TIMEOUT);
        let error = first.and_then(Result::err).is_some_and(|error| is_corrupt(&error));
        self.consumer.unassign()?;
        Ok(error)
    }

    async fn apply(&self, partition: i32, plan: &Plan, known: &Known, found: &Found) -> anyhow::Result<()> {
        let skip = plan.skip.clone().unwrap_or(0..0);
        // A new epoch: whoever has the partition is fenced, and asks again.
        let rows = self
            .connection
            .query(
                "update dispatcher.progress p
                 set next_offset = $4, epoch = p.epoch + 1, parts = '{}', parts_until = null, decided_to = $5,
                     skipped = case when $6 then '{}' else p.skipped end + int8multirange(int8range($7, $8)),
                     cluster_id = coalesce($9, case when not $6 then p.cluster_id end),
                     topic_id = coalesce($10, case when not $6 then p.topic_id end),
                     committed_seen = $11, updated_at = now()
                 where consumer_group = $1 and topic = $2 and partition = $3
                     and next_offset is not distinct from $12 and decided_to is not distinct from $13
                 returning partition",
                &[
                    &self.group,
                    &self.name,
                    &partition,
                    &plan.next_offset,
                    &plan.decided_to,
                    &plan.is_new_log,
                    &skip.start,
                    &skip.end,
                    &found.identity.cluster_id,
                    &found.identity.topic_id,
                    &found.committed,
                    &known.next_offset,
                    &known.decided_to,
                ],
            )
            .await?;
        ensure!(!rows.is_empty(), "{}/{partition} has moved on meanwhile, and was not changed: try again", self.name);
        Ok(())
    }
}

fn describe(plan: &Plan, before: Option<i64>) -> String {
    let to = plan.next_offset;
    let moved = before.map_or_else(|| format!("→ {to}"), |before| format!("{before} → {to}"));
    match plan.effect {
        _ if plan.is_new_log => format!("{moved}; this is another log, of which nothing was decided"),
        Effect::Skips(offsets) => format!("{moved}; {offsets} offsets are not decided"),
        Effect::Decides { now, kept } => {
            format!("{moved}; {now} offsets that were skipped are decided now, {kept} keep their disposition")
        }
        Effect::Stays => format!("{moved}; this offset counts, whatever Kafka has committed"),
    }
}

fn confirmed() -> anyhow::Result<bool> {
    print!("Go on? [y/N] ");
    std::io::stdout().flush().context("the terminal")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("the terminal")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
