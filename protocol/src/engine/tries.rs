//! How often and where a job is tried again: the slots for a larger machine, and how often one branch may try what its
//! machines spoil. Which slots there are is a function of the records; whether this machine is large enough it judges
//! itself, as it does of everything that it is.

use std::collections::{BTreeMap, BTreeSet};

use crate::blame::{LARGER, LARGER_SLOTS, TRIES_MAX, attempt_of, is_larger, larger_slot};
use crate::graph::Limits;
use crate::id::OperatorId;
use crate::record::Payload;
use crate::record::payload::{LEASES_PER_NODE_MAX, LeaseRef, SlotNo};
use crate::table::Place;
use crate::verdict::Branch;

use super::Engine;
use super::lease::SlotState;
use super::settle::{ActionState, Attested, Demand};

/// Builds of one attempt that gave no vote, by branch.
#[derive(Default)]
pub(super) struct Tries {
    wasted: BTreeMap<Branch, usize>,
}

impl Tries {
    /// Counts a wasted build; whether the branch has had its tries.
    pub fn waste(&mut self, branch: Branch) -> bool {
        let count = self.wasted.entry(branch).or_default();
        *count += 1;
        *count >= TRIES_MAX
    }
}

/// `limits` with [`LARGER`] times the memory, disk and time.
fn enlarged(limits: &Limits) -> Limits {
    Limits {
        memory: limits.memory.saturating_mul(LARGER.into()),
        disk: limits.disk.saturating_mul(LARGER.into()),
        wall: limits.wall.saturating_mul(LARGER),
        silent: limits.silent,
    }
}

impl ActionState {
    /// Whether the job failed for lack of memory, disk or time, and no larger machine has tried it.
    pub(super) fn wants_larger(&self) -> bool {
        self.verdicts.iter().any(|(_, found)| found.soft)
    }

    /// Whether somebody in the attempt that begins at `first` lacked memory, disk or time.
    fn lacked_room(&self, first: u16) -> bool {
        self.attested.iter().any(|attested| attested.lacked_room && attempt_of(attested.slot) == first)
    }
}

impl Engine {
    /// The slots for a larger machine, in order: offered while the failures stand, and whoever has one keeps it.
    pub(super) fn larger_slots(&self, first: u16, state: &ActionState, claimed: impl Fn(SlotNo) -> bool) -> impl Iterator<Item = SlotNo> {
        let wanted = state.wants_larger();
        let slots: Vec<SlotNo> =
            (0..LARGER_SLOTS).map(|index| larger_slot(first, index)).take_while(|slot| wanted || claimed(*slot)).collect();
        slots.into_iter()
    }

    /// Whether as many branches as a quorum wants found their machines too small in the newest attempt: nobody else need find
    /// that out. One branch alone can't keep small machines from a job.
    fn is_large(&self, place: Place, demand: &Demand) -> bool {
        let first = self.attempt_first_slot(&self.board.action_id(place));
        let Some(state) = self.state(place) else { return false };
        let small = state.attested.iter().filter(|said| said.lacked_room && attempt_of(said.slot) == first && !is_larger(said.slot));
        let voices = small.map(|said| self.voice(said.author)).filter(|voice| demand.admits(voice));
        let branches: BTreeSet<Branch> = voices.filter_map(|voice| voice.branch.or(voice.operator)).collect();
        branches.len() >= demand.quorum()
    }

    /// The limits under which this node builds a slot: larger ones after somebody lacked memory, disk or time. In ordinary
    /// slots as far as the machine goes, until a quorum has been too small; after that, and in a slot for a larger machine, it
    /// needs all of it.
    pub(super) fn limits_of(&self, place: Place, slot: SlotNo, demand: &Demand) -> Limits {
        let large = enlarged(&demand.limits);
        if is_larger(slot) {
            return large;
        }
        let first = self.attempt_first_slot(&self.board.action_id(place));
        if self.state(place).is_none_or(|state| !state.lacked_room(first)) {
            return demand.limits.clone();
        }
        if self.is_large(place, demand) && !slot.is_arbiter() {
            return large;
        }
        let memory = large.memory.min(self.config.lend.memory).max(demand.limits.memory);
        Limits { memory, ..large }
    }

    /// The free memory that a slot needs at the least, in bytes.
    pub(super) fn memory_for(&self, place: Place, slot: SlotNo, demand: &Demand) -> u64 {
        let large = is_larger(slot) || !slot.is_arbiter() && self.is_large(place, demand);
        if large { enlarged(&demand.limits).memory } else { demand.limits.memory }
    }

    /// What the holder of a slot said, if that says nothing of the job: its machine spoilt the build or was too small.
    pub(super) fn void<'a>(&self, state: &'a ActionState, slot: SlotNo, of: &SlotState) -> Option<&'a Attested> {
        let SlotState::Closed(tenure) = of else { return None };
        let of_holder =
            |said: &&Attested| said.slot == slot && said.epoch == tenure.epoch && self.voice(said.author).operator == Some(tenure.operator);
        state.attested.iter().find(of_holder).filter(|said| !said.counts && (said.spoilt || said.lacked_room))
    }

    /// Whether a slot keeps `me` from taking another one of the action: it holds it or has filled it, or has had all its
    /// tries. A machine that was too small tries once more if it can give more than it did.
    pub(super) fn stands_in_the_way(&self, state: &ActionState, me: OperatorId, (slot, of): (SlotNo, &SlotState), demand: &Demand) -> bool {
        let mine = |of: &SlotState| of.tenure().is_some_and(|tenure| tenure.operator == me);
        if slot.is_arbiter() || !mine(of) {
            return false;
        }
        let Some(said) = self.void(state, slot, of) else { return true };
        let alike = |other: &Attested| if said.spoilt { other.spoilt } else { other.lacked_room };
        let tries = state.slots.iter().filter(|(slot, of)| mine(of) && self.void(state, *slot, of).is_some_and(alike)).count();
        if said.spoilt { tries >= TRIES_MAX } else { tries > 1 || self.config.lend.memory < enlarged(&demand.limits).memory }
    }

    /// Branches that can't settle a dispute: they committed to something that was not spoilt by their machines, or have had
    /// their tries.
    pub(super) fn no_arbiters(&self, place: Place, state: &ActionState) -> BTreeSet<Branch> {
        let (mut none, mut tries) = (BTreeSet::new(), Tries::default());
        for (author, record) in self.board.about(place) {
            let (Payload::Commitment(said), Some(operator)) = (record.payload(), self.voice(author).operator) else { continue };
            let LeaseRef { slot, epoch, .. } = said.lease;
            let spoilt = state.attested.iter().any(|word| word.spoilt && word.author == author && word.slot == slot && word.epoch == epoch);
            let branch = self.branch(&operator);
            if !spoilt || slot.is_arbiter() && tries.waste(branch) {
                none.insert(branch);
            }
        }
        none
    }

    /// How many machines that are present have room for the try on a larger one.
    pub(super) fn larger_machines(&self, demand: &Demand) -> usize {
        let Some(facts) = demand.facts() else { return 0 };
        let memory = enlarged(&demand.limits).memory;
        let able = self.board.presences().filter(|(node, _, said)| {
            let voice = self.board.author(&node.0).map(|author| self.voice(author));
            said.accepting
                && !said.arbiter_only
                && said.cores >= facts.cores
                && u64::from(said.free_memory_mib) << 20 >= memory
                && crate::platform::Facts::met_by(said, &facts.environment)
                && voice.is_some_and(|voice| demand.admits(&voice))
        });
        able.take(LEASES_PER_NODE_MAX).count()
    }

    /// Whether a failure for lack of memory, disk or time may yet be none: a larger machine is at it, or one is present.
    pub(super) fn awaits_larger(&self, place: Place) -> bool {
        let Some(state) = self.state(place).filter(|state| state.wants_larger()) else { return false };
        let mut larger = state.slots.iter().filter(|(slot, _)| is_larger(*slot));
        larger.any(|(_, slot)| match slot {
            SlotState::Held(_) => true,
            SlotState::Open { .. } => self.demand(place).is_some_and(|demand| self.larger_machines(&demand) > 0),
            SlotState::Closed(_) => false,
        })
    }
}
