//! The seals that are known, and which of them follow one another from the first on.
//!
//! A seal may come before the one that it names; then it waits. Which seals are in the chain depends on the set of seals
//! alone. Whether a sealer says two things in one round is the matter of fraud proofs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::id::RecordId;
use crate::record::payload::{Seal, SealFault};
use crate::record::{Payload, Record, SharedRecord};

/// How far back a sealer's last seal is looked for. One that was silent for longer, days, begins another hash chain.
const SILENCE_MAX: usize = 1 << 16;

/// The seals of a network.
#[derive(Debug, Default)]
pub(super) struct Seals {
    rounds: BTreeMap<u64, BTreeMap<RecordId, SharedRecord>>,
    /// Seal → its round.
    round_of: BTreeMap<RecordId, u64>,
    /// Seal → those that name it as the one before.
    next: BTreeMap<RecordId, BTreeSet<(u64, RecordId)>>,
    /// Those of which all before are known, and follow rightly, by round.
    chained: BTreeSet<(u64, RecordId)>,
}

fn seal(record: &Record) -> Option<&Seal> {
    match record.payload() {
        Payload::Seal(seal) => Some(seal),
        _ => None,
    }
}

impl Seals {
    /// All of a round, chained or not.
    pub fn of_round(&self, round: u64) -> impl Iterator<Item = &SharedRecord> {
        self.rounds.get(&round).into_iter().flat_map(BTreeMap::values)
    }

    fn find(&self, round: u64, id: &RecordId) -> Option<&SharedRecord> {
        self.rounds.get(&round)?.get(id)
    }

    /// The last seal of the chain; of several in a round the one with the lowest id.
    pub fn head(&self) -> Option<&SharedRecord> {
        let (last, _) = self.chained.last()?;
        let (round, id) = self.chained.range((*last, RecordId([0; 32]))..).next()?;
        self.find(*round, id)
    }

    /// Adds a seal; returns those that turn out not to follow the one that they name, with the reason.
    pub fn add(&mut self, record: &SharedRecord) -> Vec<(RecordId, SealFault)> {
        let Some(added) = seal(record) else { return Vec::new() };
        self.rounds.entry(added.round).or_default().insert(record.id(), record.clone());
        self.round_of.insert(record.id(), added.round);
        if let Some(previous) = added.previous {
            self.next.entry(previous).or_default().insert((added.round, record.id()));
        }
        self.chain(added.round, record.id())
    }

    /// Puts a seal into the chain if it follows, and then all that waited for it.
    fn chain(&mut self, round: u64, id: RecordId) -> Vec<(RecordId, SealFault)> {
        let mut faults = Vec::new();
        let mut waiting = VecDeque::from([(round, id)]);
        while let Some((round, id)) = waiting.pop_front() {
            match self.check(round, &id) {
                Ok(true) => {
                    self.chained.insert((round, id));
                    waiting.extend(self.next.get(&id).into_iter().flatten().copied());
                }
                Ok(false) => {}
                Err(fault) => faults.push((id, fault)),
            }
        }
        faults
    }

    /// Whether the chain reaches it; not yet, where the one before is not known or not in the chain itself.
    fn check(&self, round: u64, id: &RecordId) -> Result<bool, SealFault> {
        let Some((record, this)) = self.find(round, id).and_then(|record| Some((record, seal(record)?))) else { return Ok(false) };
        let Some(previous) = this.previous else { return Ok(true) };
        let known = self.round_of.get(&previous).and_then(|before| Some((*before, seal(self.find(*before, &previous)?)?)));
        let Some((before, seal_before)) = known else { return Ok(false) };
        this.follows(seal_before, self.last_of(&record.author_key(), round, previous))?;
        Ok(self.chained.contains(&(before, previous)))
    }

    /// The last seal of an author, going back from the seal before `round`.
    fn last_of(&self, author: &[u8; 32], round: u64, previous: RecordId) -> Option<&Seal> {
        let (mut round, mut id) = (round, previous);
        for _ in 0..SILENCE_MAX {
            round = round.checked_sub(1)?;
            let record = self.find(round, &id)?;
            if record.author_key() == *author {
                return seal(record);
            }
            id = seal(record)?.previous?;
        }
        None
    }

    /// Takes a seal out. What follows it stays in the chain: it was there when that was looked at, and seals end after
    /// everything else.
    pub fn remove(&mut self, record: &Record) {
        let (Some(removed), id) = (seal(record), record.id()) else { return };
        if let Some(of) = self.rounds.get_mut(&removed.round) {
            of.remove(&id);
            if of.is_empty() {
                self.rounds.remove(&removed.round);
            }
        }
        self.round_of.remove(&id);
        if let Some(previous) = removed.previous
            && let Some(of) = self.next.get_mut(&previous)
        {
            of.remove(&(removed.round, id));
            if of.is_empty() {
                self.next.remove(&previous);
            }
        }
        self.chained.remove(&(removed.round, id));
    }
}
