//! How a trigger's id is made: the ledger and the tasks share it. Pure.

use uuid::Uuid;

/// Names our ids. A new one would make every signal new, so it never changes.
pub(crate) const NAMESPACE: Uuid = Uuid::from_u128(0x7f3d_2c4e_51a8_5b0d_9a67_3c1e_84f0_d2b6);

/// The namespace of a deployment's trigger ids. Deployments on two topics that carry the same signal id start an execution each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdSpace(Uuid);

impl IdSpace {
    /// The ids of the versions that knew no deployments.
    pub const FORMER: Self = Self(NAMESPACE);

    /// The ids of a topic: the same signal id on another topic is another signal. Not of a consumer group: a group that is made anew, or
    /// renamed, reads the same signals again and must start nothing again.
    pub fn of(topic: &str) -> Self {
        Self(Uuid::new_v5(&NAMESPACE, topic.as_bytes()))
    }

    /// The ids of deployments that an operator tells apart, whatever their topics are called (`TRIGGER_ID_SPACE`).
    pub fn named(name: &str) -> Self {
        // No topic's name has a space.
        Self(Uuid::new_v5(&NAMESPACE, format!("space {name}").as_bytes()))
    }

    /// The trigger that a signal makes of a slot: always the same, so that a redelivered signal finds its own.
    pub fn trigger_id(self, pipeline_id: Uuid, slot: &str, signal_id: &str) -> Uuid {
        let mut name = Vec::with_capacity(24 + slot.len() + signal_id.len());
        name.extend_from_slice(pipeline_id.as_bytes());
        // The length keeps slot and signal apart, whatever characters they have.
        name.extend_from_slice(&(slot.len() as u64).to_be_bytes());
        name.extend_from_slice(slot.as_bytes());
        name.extend_from_slice(signal_id.as_bytes());
        Uuid::new_v5(&self.0, &name)
    }
}

/// A trigger's id as the versions made it that knew no deployments.
pub fn trigger_id(pipeline_id: Uuid, slot: &str, signal_id: &str) -> Uuid {
    IdSpace::FORMER.trigger_id(pipeline_id, slot, signal_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_has_ids_of_its_own_which_never_change() {
        let pipeline = Uuid::from_u128(1);
        let id = |ids: IdSpace| ids.trigger_id(pipeline, "", "s-1").to_string();
        let of = [id(IdSpace::FORMER), id(IdSpace::of("signals")), id(IdSpace::of("staging-signals"))];
        // As Python's uuid5 makes them.
        let known = [
            "f971b187-61dd-51ec-bf36-a29774f4e088",
            "18dad2a1-86ee-527b-9c04-320291d5842f",
            "1e0b52b1-b3dc-57a3-97e5-b50bbd50ce11",
        ];
        assert_eq!(of, known, "every old signal would be new");
    }
}
