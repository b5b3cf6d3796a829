//! A topic in memory with a consumer group, for the seeded simulation: the twin of [`super::kafka`].

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{Arrival, Batch, Due, FlushPolicy, Offsets, Position, Record, Rejected, Source, Start, committed_ahead};
use crate::clock;
use crate::config::BatchConfig;

/// A record as it lies in the topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryRecord {
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its payload.
    pub payload: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Its timestamp in milliseconds since 1970.
    pub time_ms: i64,
}

#[derive(Debug, Default)]
struct State {
    partitions: Vec<Vec<MemoryRecord>>,
    committed: BTreeMap<i32, i64>,
    dead_letters: Vec<Rejected>,
    members: Vec<u64>,
    last_member: u64,
    generation: u64,
}

/// A topic in memory, shared by producers and the members of one consumer group.
#[derive(Debug, Clone)]
pub struct MemoryTopic {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl MemoryTopic {
    /// An empty topic.
    pub fn new(partitions: usize) -> Self {
        let state = State { partitions: vec![Vec::new(); partitions], ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::new(Notify::new()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a record, and returns its offset.
    pub fn produce(&self, partition: usize, record: MemoryRecord) -> usize {
        let mut state = self.state();
        let log = &mut state.partitions[partition];
        log.push(record);
        let offset = log.len() - 1;
        drop(state);
        self.changed.notify_waiters();
        offset
    }

    /// The group's committed offsets.
    pub fn committed(&self) -> BTreeMap<i32, i64> {
        self.state().committed.clone()
    }

    /// Another member of the group, such as a former service, has decided a partition up to this offset and commits it.
    pub fn commit_for_another(&self, partition: i32, next_offset: i64) {
        self.state().committed.insert(partition, next_offset);
    }

    /// Another service of the group commits an offset, while none of ours is a member.
    pub fn commit_as_another(&self, partition: i32, offset: i64) {
        self.state().committed.insert(partition, offset);
    }

    /// What was written to the dead-letter topic.
    pub fn dead_letters(&self) -> Vec<Rejected> {
        self.state().dead_letters.clone()
    }

    /// The group takes a member for dead; the others are assigned anew. Should it live, it joins again when it next asks.
    pub fn evict(&self, member: u64) {
        let mut state = self.state();
        let before = state.members.len();
        state.members.retain(|other| *other != member);
        if state.members.len() < before {
            state.generation += 1;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Records in each partition.
    pub fn ends(&self) -> Vec<i64> {
        self.state().partitions.iter().map(|log| i64::try_from(log.len()).unwrap_or(i64::MAX)).collect()
    }

    /// A new member of the group; every member is assigned anew.
    pub fn join(&self, batch: &BatchConfig) -> MemorySource {
        let mut state = self.state();
        state.last_member += 1;
        state.generation += 1;
        let member = state.last_member;
        state.members.push(member);
        drop(state);
        self.changed.notify_waiters();
        MemorySource {
            topic: self.clone(),
            member,
            generation: 0,
            started: Vec::new(),
            unstored: Vec::new(),
            pending: Batch::default(),
            policy: FlushPolicy::new(batch, clock::now()),
        }
    }
}

/// A member of the group.
#[derive(Debug)]
pub struct MemorySource {
    topic: MemoryTopic,
    member: u64,
    generation: u64,
    /// What we read, and the offset that comes next.
    started: Vec<(Start, usize)>,
    /// What the loop is to have stored before it gets records.
    unstored: Vec<Position>,
    pending: Batch,
    policy: FlushPolicy,
}

impl MemorySource {
    /// Which member of the group this is.
    pub fn member(&self) -> u64 {
        self.member
    }

    /// What the group gives this member, if that has changed.
    fn reassigned(&mut self, state: &mut State) -> Option<Vec<i32>> {
        if !state.members.contains(&self.member) {
            state.members.push(self.member);
            state.generation += 1;
            self.topic.changed.notify_waiters();
        }
        if self.generation == state.generation {
            return None;
        }
        self.generation = state.generation;
        self.started.clear();
        self.unstored.clear();
        self.pending = Batch::default();
        let position = state.members.iter().position(|member| *member == self.member)?;
        let mine = (0..state.partitions.len()).filter(|partition| partition % state.members.len() == position);
        Some(mine.filter_map(|partition| i32::try_from(partition).ok()).collect())
    }

    fn take(&mut self, state: &State) {
        for (start, position) in &mut self.started {
            let log = &state.partitions[usize::try_from(start.partition).unwrap_or_default()];
            for record in log.iter().skip(*position) {
                let offset = i64::try_from(*position).unwrap_or(i64::MAX);
                *position += 1;
                if start.decided.iter().any(|range| range.contains(&offset)) {
                    self.pending.pass_over(start.partition, start.epoch, offset, clock::now());
                    continue;
                }
                let headers = || record.headers.clone();
                let record = Record {
                    partition: start.partition,
                    offset,
                    time_ms: record.time_ms,
                    key: record.key.as_deref(),
                    payload: record.payload.as_deref(),
                    headers: &headers,
                };
                self.pending.push(&record, start.epoch, i64::MIN, clock::now());
            }
        }
    }
}

/// Where a partition goes on.
fn position(start: &Start, state: &State) -> Position {
    let committed = state.committed.get(&start.partition).copied();
    let ahead = committed_ahead(start, committed);
    Position {
        partition: start.partition,
        epoch: start.epoch,
        next_offset: ahead.or(start.next_offset).or(committed).unwrap_or(0),
        overtaken_at: start.next_offset.filter(|_| ahead.is_some()),
        ..Position::default()
    }
}

impl Source for MemorySource {
    type Error = Infallible;

    async fn next(&mut self) -> Arrival {
        let topic = self.topic.clone();
        loop {
            let changed = topic.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = topic.state();
                match self.reassigned(&mut state) {
                    Some(partitions) if !partitions.is_empty() => return Arrival::Assigned(partitions),
                    _ if !self.unstored.is_empty() => return Arrival::Positioned(std::mem::take(&mut self.unstored)),
                    _ => self.take(&state),
                }
            }
            let now = clock::now();
            match self.pending.oldest.map(|oldest| self.policy.due(self.pending.records(), oldest, now)) {
                Some(Due::Now) => {
                    self.policy.spend(now);
                    return Arrival::Batch(std::mem::take(&mut self.pending));
                }
                // Time running out is the point of waiting here, not a failure.
                Some(Due::At(at)) => drop(tokio::time::timeout_at(at.into(), changed).await),
                None => changed.await,
            }
        }
    }

    async fn start(&mut self, starts: &[Start]) -> Result<(), Infallible> {
        let topic = self.topic.clone();
        let state = topic.state();
        if self.generation == state.generation {
            let positions: Vec<Position> = starts.iter().map(|start| position(start, &state)).collect();
            let first = |position: &Position| usize::try_from(position.next_offset).unwrap_or_default();
            self.started = starts.iter().cloned().zip(positions.iter().map(first)).collect();
            let news = positions.into_iter().zip(starts).filter(|(position, start)| position.is_news(start));
            self.unstored = news.map(|(position, _)| position).collect();
        }
        Ok(())
    }

    async fn dead_letter(&mut self, rejected: &[Rejected]) -> Result<(), Infallible> {
        self.topic.state().dead_letters.extend_from_slice(rejected);
        Ok(())
    }

    async fn commit(&mut self, offsets: &Offsets) -> Result<(), Infallible> {
        let mut state = self.topic.state();
        if self.generation == state.generation {
            state.committed.extend(offsets.spans().iter().map(|span| (span.partition, span.next_offset)));
        }
        Ok(())
    }

    async fn reopen(&mut self) -> Result<(), Infallible> {
        // Older than any generation: the next call announces what this member has.
        self.generation = 0;
        Ok(())
    }

    async fn close(&mut self) {
        let mut state = self.topic.state();
        state.members.retain(|member| *member != self.member);
        state.generation += 1;
        drop(state);
        self.topic.changed.notify_waiters();
    }
}
