//! A node's disk: what was synced survives a crash, of what was only written a beginning does, as with a journal.

use std::collections::BTreeMap;

use barnraiser_protocol::engine::OwnResult;
use barnraiser_protocol::id::RecordId;
use barnraiser_protocol::record::SharedRecord;
use barnraiser_protocol::record::payload::LeaseRef;

use crate::dice::Dice;

/// Something that is written.
#[derive(Debug)]
pub enum Write {
    /// Keeps a record.
    Record(SharedRecord),
    /// Forgets a record.
    Forget(RecordId),
    /// Keeps a result that is not revealed yet.
    Result(Box<OwnResult>),
    /// Forgets a result.
    ForgetResult(LeaseRef),
}

/// The disk of a node.
#[derive(Debug, Default)]
pub struct Disk {
    records: BTreeMap<RecordId, SharedRecord>,
    results: BTreeMap<LeaseRef, OwnResult>,
    /// Written and not synced, oldest first.
    journal: Vec<Write>,
}

/// How much is written without a sync at the most, before the system does it by itself.
const JOURNAL_MAX: usize = 2000;

impl Disk {
    /// Writes; a crash may undo it, together with all that was written later.
    pub fn write(&mut self, write: Write) {
        self.journal.push(write);
        if self.journal.len() > JOURNAL_MAX {
            self.sync();
        }
    }

    /// Everything that was written survives from now on.
    pub fn sync(&mut self) {
        let journal = std::mem::take(&mut self.journal);
        journal.into_iter().for_each(|write| self.apply(write));
    }

    /// Power is lost: of what was not synced, the first so many writes are kept.
    pub fn crash(&mut self, dice: &mut Dice) {
        let kept = dice.below(self.journal.len() + 1);
        self.journal.truncate(kept);
        self.sync();
    }

    fn apply(&mut self, write: Write) {
        match write {
            Write::Record(record) => drop(self.records.insert(record.id(), record)),
            Write::Forget(id) => drop(self.records.remove(&id)),
            Write::Result(result) => drop(self.results.insert(result.lease, *result)),
            Write::ForgetResult(lease) => drop(self.results.remove(&lease)),
        }
    }

    /// What is read after a crash.
    pub fn contents(&self) -> (Vec<SharedRecord>, Vec<OwnResult>) {
        (self.records.values().cloned().collect(), self.results.values().cloned().collect())
    }
}
