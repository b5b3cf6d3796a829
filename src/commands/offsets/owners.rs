//! Which members of a consumer group read a partition. Does IO.

use anyhow::{Context as _, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::groups::GroupMemberInfo;

use crate::commands::KAFKA_TIMEOUT;

/// Names the member of the group that has the partition, if one has.
pub(super) fn owner(consumer: &BaseConsumer, group: &str, topic: &str, partition: i32) -> anyhow::Result<Option<String>> {
    let groups = consumer.fetch_group_list(Some(group), KAFKA_TIMEOUT).with_context(|| format!("Kafka: group {group}"))?;
    let Some(found) = groups.groups().iter().find(|found| found.name() == group) else { return Ok(None) };
    if found.state().contains("Rebalance") {
        bail!("the group {group} shares its partitions out at this moment: try again in a few seconds")
    }
    let has = |member: &&GroupMemberInfo| {
        member.assignment().is_some_and(|bytes| partitions(bytes, topic).is_some_and(|list| list.contains(&partition)))
    };
    let name = |member: &GroupMemberInfo| format!("{} at {}", member.client_id(), member.client_host().trim_start_matches('/'));
    Ok(found.members().iter().find(has).map(name))
}

/// The partitions of a topic in an assignment of Kafka's consumer protocol; `None` where it is not one.
fn partitions(bytes: &[u8], topic: &str) -> Option<Vec<i32>> {
    let mut rest = bytes;
    let _version = take(&mut rest, 2)?;
    let mut found = Vec::new();
    for _ in 0..number(&mut rest)? {
        let length = u16::from_be_bytes(take(&mut rest, 2)?.try_into().ok()?);
        let is_it = take(&mut rest, usize::from(length))? == topic.as_bytes();
        for _ in 0..number(&mut rest)? {
            let partition = number(&mut rest)?;
            if is_it {
                found.push(partition);
            }
        }
    }
    Some(found)
}

fn number(rest: &mut &[u8]) -> Option<i32> {
    Some(i32::from_be_bytes(take(rest, 4)?.try_into().ok()?))
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(bytes)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partitions_of_the_topic_are_found_among_others() {
        let mut bytes = vec![0, 1];
        bytes.extend(2_i32.to_be_bytes());
        for (topic, list) in [("other", &[7_i32][..]), ("signals", &[0, 3])] {
            bytes.extend(u16::try_from(topic.len()).unwrap().to_be_bytes());
            bytes.extend(topic.as_bytes());
            bytes.extend(i32::try_from(list.len()).unwrap().to_be_bytes());
            bytes.extend(list.iter().flat_map(|partition| partition.to_be_bytes()));
        }
        bytes.extend((-1_i32).to_be_bytes());
        assert_eq!(partitions(&bytes, "signals"), Some(vec![0, 3]));
        assert_eq!(partitions(&bytes, "another"), Some(vec![]));
        for cut in 0..bytes.len() - 4 {
            assert_eq!(partitions(&bytes[..cut], "signals"), None, "{cut}");
        }
    }
}
