//! What came of a build, and what an operator says beside it.
//!
//! Two builders agree when their [`Outcome::hash`] is equal. Times, logs and the machine's fingerprint differ between
//! honest builders, so they stand in [`Particulars`], beside the outcome and outside its hash.

use std::sync::LazyLock;

use blake3::hazmat::{ContextKey, HasherExt as _, hash_derive_key_context};
use serde::{Deserialize, Serialize};

use crate::bounded::BoundedString;
use crate::id::{BlobHash, OperatorId, OutcomeHash};

/// Why a build gave no output. The list is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// A source or input could not be fetched.
    Fetch,
    /// An archive could not be unpacked.
    Unpack,
    /// A step of the recipe failed.
    Build,
    /// The recipe's `check` step failed, or an output is missing.
    Check,
    /// The memory limit was reached.
    OutOfMemory,
    /// The limit on disk or output size was reached.
    OutOfDisk,
    /// The wall time limit was reached.
    Timeout,
    /// No output and no CPU time for as long as `silent` allows.
    NoProgress,
    /// The sandbox could not be set up or was broken.
    Sandbox,
    /// Outputs could not be stored.
    Upload,
    /// The machine died, or was restarted, in the middle of the build.
    Lost,
}

impl FailureClass {
    /// Whether the machine and not the job is at fault: such outcomes are never votes, and the slot is built again.
    pub const fn is_infrastructure(self) -> bool {
        matches!(crate::blame::rule(self).job, crate::blame::Job::Nothing | crate::blame::Job::Poison)
    }
}

impl std::fmt::Display for FailureClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fetch => "fetch",
            Self::Unpack => "unpack",
            Self::Build => "build",
            Self::Check => "check",
            Self::OutOfMemory => "out of memory",
            Self::OutOfDisk => "out of disk",
            Self::Timeout => "timeout",
            Self::NoProgress => "no progress",
            Self::Sandbox => "sandbox",
            Self::Upload => "upload",
            Self::Lost => "lost",
        })
    }
}

/// What came of a build, as far as independent builders can be expected to agree on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All steps passed.
    Success {
        /// The manifest of the outputs: the BLAKE3 of [`crate::tree::Tree::to_bytes`].
        tree: BlobHash,
    },
    /// A step failed, or the build could not be done.
    Failure {
        /// In which way.
        class: FailureClass,
        /// The step that ran, or the part of the work (`sources`, `outputs`).
        stage: BoundedString<64>,
    },
}

/// Domain of [`Outcome::hash`].
static OUTCOME_DOMAIN: LazyLock<ContextKey> = LazyLock::new(|| hash_derive_key_context("barnraiser 2026 outcome v1"));
/// Domain of [`Outcome::commitment`].
static COMMITMENT_DOMAIN: LazyLock<ContextKey> = LazyLock::new(|| hash_derive_key_context("barnraiser 2026 commitment v1"));

/// [`blake3::derive_key`] in a domain whose own hash is at hand: every look at an action asks for some of these.
fn derive(domain: &ContextKey, material: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new_from_context_key(domain).update(material).finalize().as_bytes()
}

impl Outcome {
    /// What two builders must share to agree: keyed BLAKE3 of the canonical bytes.
    pub fn hash(&self) -> OutcomeHash {
        OutcomeHash(derive(&OUTCOME_DOMAIN, &crate::codec::encode(self)))
    }

    /// What is published before the outcome is: hash(outcome, operator, salt) (DESIGN section 8.1), where somebody built
    /// twice hash(outcome, second outcome, operator, salt): all pieces have one length, so neither form can be read as the
    /// other. The operator is in it, so that nobody can commit to what another has committed to.
    pub fn commitment(&self, again: Option<&Self>, operator: &OperatorId, salt: &[u8; 32]) -> [u8; 32] {
        let mut material = Vec::with_capacity(4 * 32);
        material.extend_from_slice(&self.hash().0);
        if let Some(again) = again {
            material.extend_from_slice(&again.hash().0);
        }
        material.extend_from_slice(operator.as_bytes());
        material.extend_from_slice(salt);
        derive(&COMMITMENT_DOMAIN, &material)
    }

    /// The manifest of the outputs, where there are any.
    pub const fn tree(&self) -> Option<BlobHash> {
        match self {
            Self::Success { tree } => Some(*tree),
            Self::Failure { .. } => None,
        }
    }

    /// Whether this outcome says something of the job, and so can be a vote.
    pub const fn is_vote(&self) -> bool {
        match self {
            Self::Success { .. } => true,
            Self::Failure { class, .. } => !class.is_infrastructure(),
        }
    }
}

/// What an operator says beside an outcome. Not compared between builders. Who built twice says it of both builds:
/// times are added, and the log holds one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Particulars {
    /// The log, as a blob; absent where nothing ran.
    pub log: Option<BlobHash>,
    /// Length of the log in bytes.
    pub log_length: u64,
    /// Time from the first step's start to the last one's end, in milliseconds.
    pub wall_ms: u64,
    /// CPU time of all steps, in milliseconds.
    pub cpu_ms: u64,
    /// Greatest resident memory, in bytes; 0 where the machine can't tell.
    pub memory_peak: u64,
    /// Operating system, kernel, CPU and toolchain, for `host` environments.
    pub fingerprint: BoundedString<256>,
    /// How the build was fenced in, for example `bwrap, seccomp, cgroup v1` or `none`.
    pub sandbox: BoundedString<64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is hashed ahead is no other domain.
    #[test]
    fn hashes_are_those_of_their_domains() {
        let outcome = Outcome::Success { tree: BlobHash([7; 32]) };
        let hash = blake3::derive_key("barnraiser 2026 outcome v1", &crate::codec::encode(&outcome));
        assert_eq!(outcome.hash().0, hash);
        let material = [hash, [1; 32], [2; 32]].concat();
        let commitment = blake3::derive_key("barnraiser 2026 commitment v1", &material);
        assert_eq!(outcome.commitment(None, &OperatorId([1; 32]), &[2; 32]), commitment);
    }
}
