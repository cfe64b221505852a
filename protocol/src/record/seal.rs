//! Seals: a sealer's signed rounds over new records, each naming the one before (DESIGN section 8.3). They give order,
//! age, and randomness that nobody knows beforehand.

use serde::{Deserialize, Serialize};

use crate::id::RecordId;

/// One round of a sealer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// 1 for the first of the network.
    pub round: u64,
    /// The seal of the round before; absent in the first.
    pub previous: Option<RecordId>,
    /// The next of the sealer's hash chain: its BLAKE3 ([`chain_link`]) is the preimage of this sealer's seal before.
    pub preimage: [u8; 32],
    /// [`merkle_root`] of the ids of the records that are sealed.
    pub root: [u8; 32],
    /// How many records are sealed.
    pub records: u32,
}

/// Why a seal does not follow the one that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealFault {
    /// A round that does not follow.
    #[error("the round does not follow that of the seal before")]
    Round,
    /// A preimage that is not the next of the sealer's chain.
    #[error("the preimage is not the next one of the sealer's hash chain")]
    Preimage,
    /// A first round with a seal before it, or a later one without.
    #[error("the first round, and only that, has no seal before it")]
    First,
}

impl Seal {
    /// Checks what a seal says by itself.
    ///
    /// # Errors
    /// [`SealFault::First`], or [`SealFault::Round`] for a round that is none.
    pub const fn check(&self) -> Result<(), SealFault> {
        match (self.round, &self.previous) {
            (0, _) => Err(SealFault::Round),
            (1, Some(_)) | (2.., None) => Err(SealFault::First),
            _ => Ok(()),
        }
    }

    /// Checks that it follows `previous`, whose id it names, and that its preimage follows that of `own`, the last seal
    /// before it in the chain that is by the same sealer; where there is none, a hash chain begins.
    ///
    /// # Errors
    /// [`SealFault`].
    pub fn follows(&self, previous: &Self, own: Option<&Self>) -> Result<(), SealFault> {
        if previous.round.checked_add(1) != Some(self.round) {
            return Err(SealFault::Round);
        }
        if own.is_some_and(|own| chain_link(&self.preimage) != own.preimage) {
            return Err(SealFault::Preimage);
        }
        Ok(())
    }

    /// Whether it seals just these records, in this order.
    pub fn seals(&self, ids: &[RecordId]) -> bool {
        u32::try_from(ids.len()).is_ok_and(|count| count == self.records) && merkle_root(ids) == self.root
    }
}

/// The element of a hash chain that is published before `preimage`.
pub fn chain_link(preimage: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key("barnraiser 2026 seal chain v1", preimage)
}

/// The root of the Merkle tree over record ids in their order: leaves and nodes are hashed in different domains (as in
/// RFC 9162), the left half of n leaves is the greatest power of two below n. Of no ids: the hash of nothing.
pub fn merkle_root(ids: &[RecordId]) -> [u8; 32] {
    match ids {
        [] => *blake3::hash(&[]).as_bytes(),
        [id] => *blake3::Hasher::new().update(&[0]).update(&id.0).finalize().as_bytes(),
        _ => {
            let half = ids.len().next_power_of_two() / 2;
            let (left, right) = ids.split_at(half);
            *blake3::Hasher::new().update(&[1]).update(&merkle_root(left)).update(&merkle_root(right)).finalize().as_bytes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: u8) -> Vec<RecordId> {
        (0..count).map(|n| RecordId([n; 32])).collect()
    }

    /// Neither another order, nor another set, nor an inner node read as a leaf has the same root.
    #[test]
    fn root_names_the_records_and_their_order() {
        let mut roots: Vec<[u8; 32]> = (0..9).map(|count| merkle_root(&ids(count))).collect();
        let mut turned = ids(5);
        turned.swap(0, 4);
        roots.push(merkle_root(&turned));
        roots.push(merkle_root(&[RecordId(merkle_root(&ids(2))), RecordId([2; 32])]));
        let distinct: std::collections::BTreeSet<_> = roots.iter().collect();
        assert_eq!(distinct.len(), roots.len());
        let pair = |left: [u8; 32], right: [u8; 32]| *blake3::hash(&[&[1], left.as_slice(), &right].concat()).as_bytes();
        assert_eq!(merkle_root(&ids(3)), pair(merkle_root(&ids(2)), *blake3::hash(&[&[0], [2; 32].as_slice()].concat()).as_bytes()));
    }

    #[test]
    fn seal_follows_by_round_and_by_hash_chain() {
        let last = [7; 32];
        let seal = |round, preimage| Seal { round, previous: Some(RecordId([1; 32])), preimage, root: merkle_root(&ids(2)), records: 2 };
        let (first, second) = (seal(4, chain_link(&last)), seal(5, last));
        assert_eq!(second.follows(&first, Some(&first)), Ok(()));
        assert_eq!(seal(6, last).follows(&first, Some(&first)), Err(SealFault::Round));
        assert_eq!(seal(5, [8; 32]).follows(&first, Some(&first)), Err(SealFault::Preimage));
        assert_eq!(seal(5, [8; 32]).follows(&first, None), Ok(()), "another sealer takes over");
        assert_eq!(Seal { previous: None, ..second.clone() }.check(), Err(SealFault::First));
        assert!(second.seals(&ids(2)) && !second.seals(&ids(3)));
    }
}
