//! Questions about what operators said for the record: names of environments, testers' words, new keys, seals. Nothing
//! here changes anything.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{BlobHash, OperatorId, RecordId};
use crate::record::payload::{EnvironmentName, TestReport, Withdraw};
use crate::record::{Kind, Payload, SharedRecord};
use crate::time::Timestamp;
use crate::trust::members::CHAIN_MAX;

use super::Engine;

/// A tester's word, with who said it and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tested {
    /// Who.
    pub operator: OperatorId,
    /// When.
    pub at: Timestamp,
    /// What.
    pub report: TestReport,
}

impl Engine {
    /// Whether a record was taken back by whoever wrote it.
    fn is_withdrawn(&self, record: &SharedRecord) -> bool {
        self.board.of_kind(Kind::Withdraw).any(|other| {
            let names = matches!(other.payload(), Payload::Withdraw(Withdraw { record: named }) if *named == record.id());
            names && other.author_key() == record.author_key()
        })
    }

    /// Records of a type that were not taken back, the earliest first; the same everywhere.
    fn standing(&self, kind: Kind) -> Vec<&SharedRecord> {
        let mut standing: Vec<&SharedRecord> = self.board.of_kind(kind).filter(|record| !self.is_withdrawn(record)).collect();
        standing.sort_by_key(|record| (record.issued(), record.id()));
        standing
    }

    /// The environments that have names: (name, version) → its digest. Of two maintainers who gave one name and version
    /// the one who did first is right.
    pub fn environments(&self) -> BTreeMap<(String, u32), BlobHash> {
        let mut named = BTreeMap::new();
        for record in self.standing(Kind::EnvironmentName) {
            let Payload::EnvironmentName(name) = record.payload() else { continue };
            let EnvironmentName { name, version, rootfs } = &**name;
            if self.members.check_authority(record).is_ok() {
                named.entry((name.to_string(), *version)).or_insert(*rootfs);
            }
        }
        named
    }

    /// What testers say of an image: of each operator and device the latest word.
    pub fn test_reports(&self, image: &BlobHash) -> Vec<Tested> {
        let mut latest: BTreeMap<(OperatorId, String), Tested> = BTreeMap::new();
        for record in self.standing(Kind::TestReport) {
            let Payload::TestReport(report) = record.payload() else { continue };
            let operator = OperatorId(record.author_key());
            if report.image == *image {
                let tested = Tested { operator, at: record.issued(), report: (**report).clone() };
                latest.insert((operator, report.device.to_string()), tested);
            }
        }
        latest.into_values().collect()
    }

    /// The key under which an operator goes on, after all its rotations; its own where it has not changed it. Of two
    /// rotations of one key the first counts.
    pub fn successor_of(&self, operator: &OperatorId) -> OperatorId {
        let mut rotations: BTreeMap<OperatorId, OperatorId> = BTreeMap::new();
        for record in self.standing(Kind::Rotation) {
            let Payload::Rotation(rotation) = record.payload() else { continue };
            rotations.entry(OperatorId(record.author_key())).or_insert(rotation.successor);
        }
        let (mut key, mut seen) = (*operator, BTreeSet::from([*operator]));
        while let Some(next) = rotations.get(&key).filter(|_| seen.len() <= CHAIN_MAX as usize) {
            if !seen.insert(*next) {
                break;
            }
            key = *next;
        }
        key
    }

    /// The last seal of the chain, and its round.
    pub fn last_seal(&self) -> Option<(u64, RecordId)> {
        let record = self.seals.head()?;
        match record.payload() {
            Payload::Seal(seal) => Some((seal.round, record.id())),
            _ => None,
        }
    }
}
