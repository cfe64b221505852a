//! The policy: how much agreement a result needs. A versioned document that the maintainers sign; a batch pins its digest.

use serde::{Deserialize, Serialize};

use crate::id::BlobHash;

/// How good a result must be before others build upon it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standard {
    /// Revealed by one operator who may vote.
    Candidate,
    /// The quorum agrees.
    CrossVerified,
}

/// Whose attestations count as votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Voters {
    /// Only operators that the maintainers trust.
    Trusted,
    /// Founders, and operators that were invited (by a chain that begins at a founder).
    Invited,
}

impl std::fmt::Display for Standard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Candidate => "candidate",
            Self::CrossVerified => "cross-verified",
        })
    }
}

impl std::fmt::Display for Voters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Trusted => "trusted operators",
            Self::Invited => "founders and invited operators",
        })
    }
}

/// Rules for verdicts and releases. JSON; its BLAKE3 is what a batch pins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Policy {
    /// The preset it began as, for people.
    pub name: String,
    /// k: equal results of operators in distinct branches that make a result cross-verified.
    pub quorum: u16,
    /// Independent builds offered from the start; at least the quorum, at most [`SLOTS_MAX`].
    pub slots: u16,
    /// Whose attestations count.
    pub voters: Voters,
    /// How good inputs must be before dependants bind.
    pub inputs: Standard,
    /// How good a result must be before it may be signed.
    pub release: Standard,
    /// Whether every action in a release's input closure needs a matching reveal by a trusted operator.
    pub release_needs_trusted: bool,
}

/// The most slots a policy may offer from the start.
pub const SLOTS_MAX: u16 = 32;

/// Why a policy can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not JSON of the wanted form.
    #[error("not a policy: {0}")]
    Parse(String),
    /// A quorum of nobody.
    #[error("the quorum is 0; at least 1 is wanted")]
    NoQuorum,
    /// Fewer slots than the quorum needs, or too many.
    #[error("{slots} slots for a quorum of {quorum}; {quorum} to {SLOTS_MAX} are wanted")]
    Slots {
        /// Slots offered.
        slots: u16,
        /// The quorum.
        quorum: u16,
    },
}

/// All of it in one line, for people who sign it. The name is quoted: it is what somebody wrote.
impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, quorum, slots, voters, inputs, release, release_needs_trusted } = self;
        write!(f, "{name:?}: {quorum} equal results of {voters} in distinct branches, {slots} builds offered; ")?;
        write!(f, "inputs must be {inputs}, releases {release}")?;
        f.write_str(if *release_needs_trusted { ", all of it also built by a trusted operator" } else { "" })
    }
}

impl Policy {
    /// Own builders are trusted and one result is enough: useful on day one.
    pub fn solo() -> Self {
        Self {
            name: "solo".into(),
            quorum: 1,
            slots: 1,
            voters: Voters::Trusted,
            inputs: Standard::CrossVerified,
            release: Standard::CrossVerified,
            release_needs_trusted: true,
        }
    }

    /// Two distinct operators must agree; founders vote at once and every operator that a maintainer invites begins a
    /// branch; candidates may feed dependants.
    pub fn small() -> Self {
        Self {
            name: "small".into(),
            quorum: 2,
            slots: 2,
            voters: Voters::Invited,
            inputs: Standard::Candidate,
            release: Standard::CrossVerified,
            release_needs_trusted: false,
        }
    }

    /// The preset of that name.
    pub fn preset(name: &str) -> Option<Self> {
        match name {
            "solo" => Some(Self::solo()),
            "small" => Some(Self::small()),
            _ => None,
        }
    }

    /// Checks that the policy can be met.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn check(&self) -> Result<(), PolicyError> {
        if self.quorum == 0 {
            return Err(PolicyError::NoQuorum);
        }
        if self.slots < self.quorum || self.slots > SLOTS_MAX {
            return Err(PolicyError::Slots { slots: self.slots, quorum: self.quorum });
        }
        Ok(())
    }

    /// The canonical JSON bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // A struct of names and numbers always serialises.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// What a batch pins.
    pub fn hash(&self) -> BlobHash {
        BlobHash::of(&self.to_bytes())
    }

    /// The checked policy in `bytes`.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PolicyError> {
        let policy: Self = serde_json::from_slice(bytes).map_err(|e| PolicyError::Parse(e.to_string()))?;
        policy.check()?;
        Ok(policy)
    }
}
