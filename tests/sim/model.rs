//! The protocol alone, small enough to be searched whole: two instances and two signals that both want the same two pipelines.
//! Every order of claim, publish, confirm, commit, sweep, crash, restart, hand-over and zombie is walked through, breadth first.
//!
//! A message is thrown away when its lease is over, so leases do not end here: that is the simulation's part.

use std::collections::{HashMap, VecDeque};

const INSTANCES: usize = 2;
const SIGNALS: usize = 2;
const PIPELINES: usize = 2;
/// How often processes die, partitions change hands, and replies get lost; more only repeats the same states.
const CRASHES: u8 = 2;
const REBALANCES: u8 = 2;
const LOST_REPLIES: u8 = 1;

/// What can be left out of the protocol, to see that the search finds what then goes wrong.
#[derive(Debug, Clone, Copy)]
struct Protocol {
    /// Decisions of a former owner are refused.
    fence: bool,
    /// The broker takes each publication once.
    guard: bool,
    /// Publications that nobody confirms are taken up.
    sweep: bool,
}

const OURS: Protocol = Protocol { fence: true, guard: true, sweep: true };

/// What an instance is about to do with its batch of one signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// Its process is gone.
    Dead,
    /// It owns nothing, as far as it knows.
    Idle,
    /// It has fetched a signal under this epoch, and is about to claim.
    Claim { signal: u8, epoch: u8 },
    /// The signal is decided, and pipelines were won.
    Publish { signal: u8 },
    /// The broker has answered.
    Confirm { signal: u8 },
    /// A former owner's batch was refused, or Kafka is next.
    Commit { signal: u8 },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Publication {
    claimed: bool,
    confirmed: bool,
    /// Messages that the broker got of it.
    pushes: u8,
    /// Whether a sweeper is about to push it, having looked.
    in_sweep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Slot {
    Free,
    /// Claimed for this signal, and not started.
    Held(u8),
    Running(u8),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    instances: [Step; INSTANCES],
    owner: u8,
    /// The fence.
    epoch: u8,
    opened: bool,
    next: u8,
    /// How often each signal was decided.
    decided: [u8; SIGNALS],
    committed: u8,
    /// Who may claim what: (slot) → the trigger in flight.
    slots: [Slot; PIPELINES],
    /// (pipeline, signal): triggers in the ledger, and starts.
    triggers: [[u8; SIGNALS]; PIPELINES],
    starts: [[bool; SIGNALS]; PIPELINES],
    /// Which pipelines a signal's publication is for.
    tasks: [u8; SIGNALS],
    publications: [Publication; SIGNALS],
    /// A slot had two triggers in flight.
    overlapped: bool,
    crashes: u8,
    rebalances: u8,
    lost_replies: u8,
}

impl State {
    fn first() -> Self {
        Self {
            instances: [Step::Idle; INSTANCES],
            owner: 0,
            epoch: 0,
            opened: false,
            next: 0,
            decided: [0; SIGNALS],
            committed: 0,
            slots: [Slot::Free; PIPELINES],
            triggers: [[0; SIGNALS]; PIPELINES],
            starts: [[false; SIGNALS]; PIPELINES],
            tasks: [0; SIGNALS],
            publications: [Publication::default(); SIGNALS],
            overlapped: false,
            crashes: 0,
            rebalances: 0,
            lost_replies: 0,
        }
    }

    /// Every state that can come next.
    fn successors(&self, protocol: Protocol) -> Vec<Self> {
        let mut next = Vec::new();
        for instance in 0..INSTANCES {
            self.step(instance, protocol, &mut next);
            self.trouble(instance, &mut next);
        }
        if protocol.sweep {
            self.sweep(protocol, &mut next);
        }
        self.work(&mut next);
        next
    }

    fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut next = self.clone();
        change(&mut next);
        next
    }

    fn step(&self, instance: usize, protocol: Protocol, next: &mut Vec<Self>) {
        match self.instances[instance] {
            Step::Dead => {}
            Step::Idle => {
                if usize::from(self.owner) != instance {
                    return;
                }
                if !self.opened {
                    next.push(self.with(|state| {
                        state.epoch += 1;
                        state.opened = true;
                    }));
                } else if usize::from(self.next) < SIGNALS {
                    let step = Step::Claim { signal: self.next, epoch: self.epoch };
                    next.push(self.with(|state| state.instances[instance] = step));
                }
            }
            Step::Claim { signal, epoch } => {
                let claimed = self.claim(instance, signal, epoch, protocol);
                if self.lost_replies < LOST_REPLIES {
                    // Decided, and we do not know: the request is made again.
                    next.push(claimed.with(|state| {
                        state.instances[instance] = self.instances[instance];
                        state.lost_replies += 1;
                    }));
                }
                next.push(claimed);
            }
            Step::Publish { signal } => {
                let published = self.with(|state| state.push(signal, protocol));
                if self.lost_replies < LOST_REPLIES {
                    next.push(published.with(|state| state.lost_replies += 1));
                }
                next.push(published.with(|state| state.instances[instance] = Step::Confirm { signal }));
            }
            Step::Confirm { signal } => next.push(self.with(|state| {
                state.publications[usize::from(signal)].confirmed = true;
                state.instances[instance] = Step::Commit { signal };
            })),
            Step::Commit { signal } => next.push(self.with(|state| {
                if usize::from(state.owner) == instance {
                    state.committed = state.committed.max(signal + 1);
                }
                state.instances[instance] = Step::Idle;
            })),
        }
    }

    /// One transaction: the fence, the slots, the ledger, the progress.
    fn claim(&self, instance: usize, signal: u8, epoch: u8, protocol: Protocol) -> Self {
        let at = usize::from(signal);
        self.with(|state| {
            let is_mine = epoch == state.epoch;
            if protocol.fence && (!is_mine || state.next != signal) {
                // Our own decision, whose reply was lost; or another one's.
                let repeated = is_mine && state.next > signal;
                let is_done = !repeated || state.tasks[at] == 0;
                state.instances[instance] = if is_done { Step::Idle } else { Step::Publish { signal } };
                return;
            }
            let mut won = 0;
            for pipeline in 0..PIPELINES {
                if state.triggers[pipeline][at] > 0 || state.slots[pipeline] != Slot::Free {
                    continue;
                }
                state.slots[pipeline] = Slot::Held(signal);
                state.triggers[pipeline][at] += 1;
                won |= 1 << pipeline;
            }
            state.next = state.next.max(signal + 1);
            state.decided[at] = (state.decided[at] + 1).min(2);
            state.tasks[at] |= won;
            state.publications[at].claimed |= won != 0;
            state.instances[instance] = if won == 0 { Step::Commit { signal } } else { Step::Publish { signal } };
        })
    }

    fn push(&mut self, signal: u8, protocol: Protocol) {
        let publication = &mut self.publications[usize::from(signal)];
        if !protocol.guard || publication.pushes == 0 {
            // More than three are as wrong as three.
            publication.pushes = (publication.pushes + 1).min(3);
        }
    }

    /// Processes die and come back; the group gives the partition to another one, who may be told late.
    fn trouble(&self, instance: usize, next: &mut Vec<Self>) {
        match self.instances[instance] {
            Step::Dead => next.push(self.with(|state| {
                state.instances[instance] = Step::Idle;
                state.opened &= usize::from(state.owner) != instance;
            })),
            _ if self.crashes < CRASHES => next.push(self.with(|state| {
                state.instances[instance] = Step::Dead;
                state.crashes += 1;
            })),
            _ => {}
        }
        // The former owner goes on with what it has: a zombie.
        if self.rebalances < REBALANCES && usize::from(self.owner) != instance && self.instances[instance] != Step::Dead {
            next.push(self.with(|state| {
                state.owner = u8::try_from(instance).unwrap();
                state.opened = false;
                state.rebalances += 1;
            }));
        }
    }

    /// Take-up, publish and confirm; a sweeper may die between any two, and several are one that begins again.
    fn sweep(&self, protocol: Protocol, next: &mut Vec<Self>) {
        for signal in 0..SIGNALS {
            let publication = self.publications[signal];
            if publication.in_sweep {
                next.push(self.with(|state| state.publications[signal].in_sweep = false));
                next.push(self.with(|state| {
                    state.push(u8::try_from(signal).unwrap(), protocol);
                    state.publications[signal].in_sweep = false;
                    state.publications[signal].confirmed = true;
                }));
                // The confirmation is lost.
                next.push(self.with(|state| {
                    state.push(u8::try_from(signal).unwrap(), protocol);
                    state.publications[signal].in_sweep = false;
                }));
            } else if publication.claimed && !publication.confirmed {
                next.push(self.with(|state| state.publications[signal].in_sweep = true));
            }
        }
    }

    /// A worker starts what the broker has, once a trigger, and ends it.
    fn work(&self, next: &mut Vec<Self>) {
        for pipeline in 0..PIPELINES {
            for signal in 0..SIGNALS {
                let number = u8::try_from(signal).unwrap();
                let has_task = self.publications[signal].pushes > 0 && self.tasks[signal] & (1 << pipeline) != 0;
                if has_task && !self.starts[pipeline][signal] {
                    next.push(self.with(|state| {
                        state.overlapped |= state.slots[pipeline] != Slot::Held(number);
                        state.starts[pipeline][signal] = true;
                        state.slots[pipeline] = Slot::Running(number);
                    }));
                }
                if self.slots[pipeline] == Slot::Running(number) {
                    next.push(self.with(|state| state.slots[pipeline] = Slot::Free));
                }
            }
        }
    }

    /// What is wrong here, if anything.
    fn wrong(&self) -> Option<&'static str> {
        if self.overlapped {
            return Some("two triggers in flight for a slot");
        }
        if self.triggers.iter().flatten().any(|count| *count > 1) {
            return Some("two triggers for a slot and a signal");
        }
        if self.decided.iter().any(|count| *count > 1) {
            return Some("a signal was decided twice");
        }
        if self.publications.iter().any(|publication| publication.pushes > 1) {
            return Some("two messages of a publication");
        }
        (self.committed > self.next).then_some("Kafka was told more than is decided")
    }

    /// Everything is decided, and every claim is published.
    fn is_complete(&self) -> bool {
        let is_published = |publication: &Publication| !publication.claimed || publication.pushes > 0;
        usize::from(self.next) == SIGNALS && self.publications.iter().all(is_published)
    }
}

#[derive(Debug)]
struct Searched {
    states: usize,
    wrong: Option<(&'static str, State)>,
    /// A state from which no complete one can be reached.
    stuck: Option<State>,
}

/// Walks through every state.
fn search(protocol: Protocol) -> Searched {
    let mut numbers = HashMap::from([(State::first(), 0_usize)]);
    let mut waiting = VecDeque::from([0]);
    let mut states = vec![State::first()];
    let mut before: Vec<Vec<usize>> = vec![Vec::new()];
    while let Some(number) = waiting.pop_front() {
        let state = states[number].clone();
        if let Some(text) = state.wrong() {
            return Searched { states: states.len(), wrong: Some((text, state)), stuck: None };
        }
        for next in state.successors(protocol) {
            let at = *numbers.entry(next).or_insert_with_key(|next| {
                states.push(next.clone());
                before.push(Vec::new());
                waiting.push_back(states.len() - 1);
                states.len() - 1
            });
            before[at].push(number);
        }
    }
    // Backwards from the complete ones: what is not met cannot get there.
    let mut reaches: Vec<bool> = states.iter().map(State::is_complete).collect();
    let mut waiting: Vec<usize> = (0..states.len()).filter(|number| reaches[*number]).collect();
    while let Some(number) = waiting.pop() {
        for &earlier in &before[number] {
            if !std::mem::replace(&mut reaches[earlier], true) {
                waiting.push(earlier);
            }
        }
    }
    let stuck = reaches.iter().position(|reaches| !reaches).map(|number| states[number].clone());
    Searched { states: states.len(), wrong: None, stuck }
}

#[test]
fn no_order_of_events_breaks_the_protocol() {
    let found = search(OURS);
    println!("the model has {} states", found.states);
    assert!(found.wrong.is_none() && found.stuck.is_none(), "{found:?}");
    assert!(found.states > 100_000, "{} states: the model has become too small to prove much", found.states);
}

#[test]
fn without_the_fence_a_former_owner_decides_a_signal_again() {
    let found = search(Protocol { fence: false, ..OURS });
    assert_eq!(found.wrong.map(|(text, _)| text), Some("a signal was decided twice"));
}

#[test]
fn without_the_guard_a_lost_reply_publishes_twice() {
    let found = search(Protocol { guard: false, ..OURS });
    assert_eq!(found.wrong.map(|(text, _)| text), Some("two messages of a publication"));
}

#[test]
fn without_the_sweeper_a_crash_leaves_a_claim_unpublished() {
    let found = search(Protocol { sweep: false, ..OURS });
    assert!(found.wrong.is_none(), "{:?}", found.wrong);
    assert!(found.stuck.is_some(), "every state still reaches a complete one");
}
