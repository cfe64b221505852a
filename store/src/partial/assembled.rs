//! Units that were put together of other files and of bytes without proof.

use crate::error::PartialError;
use crate::geometry::unit_range;
use crate::hashing::TreeBuilder;
use crate::outline::{Outline, pairs_before};

use super::PartialBlob;
use super::decode::{Proven, join_runs};

impl PartialBlob {
    /// Adds a unit (counted from 0) whose bytes came from anywhere. They are proven first, by the outline; of bytes that are
    /// not, nothing is kept. A unit that is here already is checked no more.
    ///
    /// # Errors
    /// [`PartialError::Proof`]: these are not the unit's bytes. [`PartialError::NotAUnit`] where the outline is that of another
    /// blob or the blob has no such unit, [`PartialError::Ended`]: the caller. [`PartialError::Fault`]: this machine.
    pub fn write_assembled(&self, unit: u64, bytes: Vec<u8>, outline: &Outline) -> Result<(), PartialError> {
        let state = &*self.state;
        let range = unit_range(unit, state.length);
        let same = outline.hash() == &state.hash && outline.length() == state.length;
        let Some(expected) = outline.unit(unit).filter(|_| same) else {
            return Err(PartialError::NotAUnit { start: range.start, end: range.end, length: state.length });
        };
        if self.is_here(unit)? {
            return Ok(());
        }
        let refuse = |reason: &str| PartialError::Proof { hash: state.hash, start: range.start, end: range.end, reason: reason.into() };
        if bytes.len() as u64 != range.end - range.start {
            return Err(refuse("they are too few or too many"));
        }
        let mut builder = TreeBuilder::of_unit(unit, Vec::new());
        let built = builder.update(&bytes).and_then(|()| builder.finish_subtree());
        // Memory does not fail to be written.
        let (found, pairs) = built.map_err(|error| refuse(&error.to_string()))?;
        if found != *expected {
            return Err(refuse("the unit has another hash"));
        }
        let mut runs = outline.path(unit);
        runs.push((pairs_before(unit), pairs));
        self.keep(unit, &range, &Proven { bytes: vec![&bytes], pairs: join_runs(runs) })
    }
}
