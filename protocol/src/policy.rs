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
    /// R: on so many holders what is released is kept, or on all where there are fewer; at most [`HOLDERS_MAX`]. Written only
    /// where it is not [`HOLDERS`].
    #[serde(default = "holders", skip_serializing_if = "is_usual")]
    pub holders: u16,
}

/// On so many holders what is released is kept if the policy says nothing.
pub const HOLDERS: u16 = 3;
/// The most copies that a policy may want: more protect against nothing.
pub const HOLDERS_MAX: u16 = 16;

const fn holders() -> u16 {
    HOLDERS
}

// Serde hands the field by reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_usual(holders: &u16) -> bool {
    *holders == HOLDERS
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
    /// More copies than are of use.
    #[error("{0} holders for what is released; 0 to {HOLDERS_MAX} are wanted")]
    Holders(u16),
}

/// All of it in one line, for people who sign it. The name is quoted: it is what somebody wrote.
impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, quorum, slots, voters, inputs, release, release_needs_trusted, holders } = self;
        write!(f, "{name:?}: {quorum} equal results of {voters} in distinct branches, {slots} builds offered; ")?;
        write!(f, "inputs must be {inputs}, releases {release}")?;
        f.write_str(if *release_needs_trusted { ", all of it also built by a trusted operator" } else { "" })?;
        // What is usual goes without saying.
        if *holders == HOLDERS { Ok(()) } else { write!(f, ", kept on {holders} holders") }
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
            holders: HOLDERS,
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
            holders: HOLDERS,
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
        if self.holders > HOLDERS_MAX {
            return Err(PolicyError::Holders(self.holders));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Policies of before that was in them keep their digest, which batches pin.
    #[test]
    fn number_of_holders_is_written_only_where_it_is_not_the_usual_one() {
        let usual = Policy::small();
        assert!(!String::from_utf8(usual.to_bytes()).unwrap().contains("holders"));
        assert_eq!(Policy::from_bytes(&usual.to_bytes()), Ok(usual.clone()));
        let two = Policy { holders: 2, ..usual };
        assert_eq!(Policy::from_bytes(&two.to_bytes()), Ok(two.clone()));
        assert!(two.to_string().ends_with("kept on 2 holders"));
        assert_eq!(Policy { holders: 17, ..two }.check(), Err(PolicyError::Holders(17)));
    }
}
