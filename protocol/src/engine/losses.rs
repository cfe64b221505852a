//! Jobs that machines do not come back from. A builder whose machine died and came back says that it was lost, and
//! [`crate::verdict`] counts that. Here are those that never say a word: after [`POISON_SILENT`] branches took the job and
//! fell silent, and as many more for each that came through it, nobody else gets it.

use std::collections::BTreeSet;

use crate::blame::POISON_SILENT;
use crate::id::OperatorId;
use crate::time::Timestamp;
use crate::verdict::Branch;

use super::lease::{ClaimView, Rules, walk};

/// Who held a slot and let the lease lapse without a word: no result, nothing handed back.
pub(super) fn silent(mut claims: Vec<ClaimView>, now: Timestamp, rules: Rules) -> Vec<OperatorId> {
    let mut silent = Vec::new();
    walk(&mut claims, rules, |link| {
        if link.claim.committed.is_none() && link.claim.handed_back.is_none() && link.had_ended(now, rules) {
            silent.push(link.claim.operator);
        }
    });
    silent
}

/// The silence around an action, over all slots of an attempt.
#[derive(Default)]
pub(super) struct Silence {
    branches: BTreeSet<Branch>,
}

impl Silence {
    /// Adds those who fell silent in one slot.
    pub fn add(&mut self, branches: impl Iterator<Item = Branch>) {
        self.branches.extend(branches);
    }

    /// Whether the job is poison by it, though so many branches say that they have come through.
    pub fn is_poison(&self, through: usize) -> bool {
        self.branches.len() >= POISON_SILENT * (through + 1)
    }
}
