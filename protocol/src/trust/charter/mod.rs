//! A network's whole signed state: its root, its rules (policy, grants, channels), and who may change them.
//!
//! The rules are TUF targets metadata: `policy.json` and `grants.json` are its targets, and each channel is a role that
//! it delegates to the maintainers' release keys. The network's id is the hash of the first root, so a node that knows
//! the id alone can check a charter from anywhere, and every later version by the one before.
//!
//! A [`Charter`] is made by [`Proposal::open`](proposal::Proposal::open) (the maintainers sign) or by
//! [`Charter::verify`] (everyone else checks). [`propose`] makes the proposals, [`CharterParts`] is the form that travels.

mod bundle;
mod describe;
mod grants;
mod proposal;
pub mod propose;

use std::collections::BTreeMap;

use super::tuf::{Metadata, NetworkParams, Role, RoleKeys, Root, Signed, Targets, Trusted, TufError};
use crate::id::{NetworkId, OperatorId};
use crate::policy::{Policy, PolicyError};
use crate::record::payload::ChannelName;
use crate::time::Timestamp;

pub use bundle::{BUNDLE_BYTES_MAX, CharterParts, ROOTS_MAX};
pub use grants::Grants;
pub use proposal::{PROPOSAL_BYTES_MAX, Proposal, ProposalError, SignError};
pub use propose::{Change, NetworkPlan, PlanError, propose_change, propose_network};

/// The `role` of a [`crate::record::payload::Metadata`] record that announces a charter's bundle.
pub const METADATA_ROLE: &str = "charter";
/// The name of the policy among the targets.
pub const POLICY_TARGET: &str = "policy.json";
/// The name of the grants among the targets.
pub const GRANTS_TARGET: &str = "grants.json";
/// The most bytes of the rules' metadata.
const RULES_BYTES_MAX: usize = 128 << 10;

/// Why a charter can't be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CharterError {
    /// Not a bundle's bytes.
    #[error("not a network's charter: {0}")]
    Bundle(#[from] crate::codec::DecodeError),
    /// Without a root, or with more than [`ROOTS_MAX`].
    #[error("a charter with {0} roots; 1 to {ROOTS_MAX} are allowed")]
    RootCount(usize),
    /// A root can't be used.
    #[error("root {number} of the charter: {error}")]
    Root {
        /// Its version, as counted from 1.
        number: usize,
        /// What is wrong.
        error: TufError,
    },
    /// The first root is another network's.
    #[error("this is the charter of network {found}, not of {wanted}")]
    OtherNetwork {
        /// Its network.
        found: NetworkId,
        /// The wanted one.
        wanted: NetworkId,
    },
    /// The rules can't be used.
    #[error("the network's rules: {0}")]
    Rules(TufError),
    /// The rules were signed for another network.
    #[error("the rules were signed for network {found}, not for {wanted}")]
    ForeignRules {
        /// Their network.
        found: NetworkId,
        /// The root's.
        wanted: NetworkId,
    },
    /// A file that the rules vouch for is not there, or not as signed.
    #[error("{0} is not the file that the maintainers signed")]
    Mismatch(&'static str),
    /// The policy can't be used.
    #[error("the network's policy: {0}")]
    Policy(#[from] PolicyError),
    /// The policy is spelled in another way than its digest is computed from.
    #[error("the network's policy is not in its canonical spelling")]
    PolicySpelling,
    /// The grants can't be used.
    #[error("the network's grants: {0}")]
    Grants(String),
    /// It does not replace ours: a rollback, or what we have.
    #[error("a charter of version {found} does not replace version {ours}")]
    NotNewer {
        /// Our rules' version.
        ours: u64,
        /// Its rules' version.
        found: u64,
    },
    /// Its roots differ from ours: the maintainers signed two roots of one version.
    #[error("its root {number} is not the one that this node knows; ask the maintainers which one is right")]
    ForkedRoot {
        /// The version, as counted from 1.
        number: usize,
    },
}

/// A network's signed state, checked against the network's id.
#[derive(Debug, Clone, PartialEq)]
pub struct Charter {
    network: NetworkId,
    parts: CharterParts,
    /// From the first on; without the newest.
    earlier_roots: Vec<Trusted<Root>>,
    root: Trusted<Root>,
    rules: Trusted<Targets>,
    policy: Policy,
    grants: Grants,
    channels: BTreeMap<ChannelName, RoleKeys>,
}

impl Charter {
    /// Checks a charter from anywhere against the id of the network that it should be of.
    ///
    /// # Errors
    /// [`CharterError`].
    pub fn verify(network: NetworkId, parts: CharterParts, now: Timestamp) -> Result<Self, CharterError> {
        let charter = Self::reload(network, parts)?;
        charter.check_expiry(now)?;
        Ok(charter)
    }

    /// Like [`Charter::verify`], for a copy that this node has checked before: one that expired since is still what the
    /// node goes on with (and shows as expired), until the maintainers sign a new one.
    ///
    /// # Errors
    /// [`CharterError`], all but an expiry.
    pub fn reload(network: NetworkId, parts: CharterParts) -> Result<Self, CharterError> {
        parts.check_size()?;
        let mut roots: Vec<Trusted<Root>> = Vec::new();
        for (index, text) in parts.roots.iter().enumerate() {
            let fail = |error| CharterError::Root { number: index + 1, error };
            let signed = Signed::<Root>::parse(text.as_bytes()).map_err(fail)?;
            let trusted = match roots.last() {
                Some(before) => signed.verify_after(before).map_err(fail)?,
                None => {
                    let found = NetworkId(signed.hash().0);
                    if found != network {
                        return Err(CharterError::OtherNetwork { found, wanted: network });
                    }
                    if signed.unverified().version != 1 {
                        return Err(fail(TufError::RootOrder { before: 0, found: signed.unverified().version }));
                    }
                    signed.verify_first().map_err(fail)?
                }
            };
            roots.push(trusted);
        }
        let Some(root) = roots.pop() else { return Err(CharterError::RootCount(0)) };
        let rules = Signed::<Targets>::parse(parts.targets.as_bytes()).map_err(CharterError::Rules)?;
        let keys = root.role(Role::Targets).map_err(CharterError::Rules)?;
        let rules = rules.verify(&keys).map_err(|e| CharterError::Rules(e.into()))?;
        let Rules { policy, mut grants, channels } = Rules::read(network, &rules, &parts.policy, &parts.grants)?;
        grants.rules_keys = Some(keys);
        Ok(Self { network, parts, earlier_roots: roots, root, rules, policy, grants, channels })
    }

    /// Checks that root and rules are still good.
    ///
    /// # Errors
    /// [`CharterError::Root`] or [`CharterError::Rules`] with [`TufError::Expired`].
    pub fn check_expiry(&self, now: Timestamp) -> Result<(), CharterError> {
        let number = self.earlier_roots.len() + 1;
        self.root.check_expiry(now).map_err(|error| CharterError::Root { number, error })?;
        self.rules.check_expiry(now).map_err(CharterError::Rules)
    }

    /// The charter that `parts` replace this one with. Newer is: a later root, or else later rules; of two versions
    /// with one number (two maintainers changed something at once) the one with the greater hash, so that all nodes end
    /// with the same.
    ///
    /// # Errors
    /// [`CharterError`]: [`CharterError::NotNewer`] for what this node has and for rollbacks.
    pub fn update(&self, parts: CharterParts, now: Timestamp) -> Result<Self, CharterError> {
        let newer = Self::verify(self.network, parts, now)?;
        for (index, (ours, theirs)) in self.roots().zip(newer.roots()).enumerate() {
            if ours.document().hash() != theirs.document().hash() {
                return Err(CharterError::ForkedRoot { number: index + 1 });
            }
        }
        // Rules never roll back, whichever root signed them.
        let rank = |charter: &Self| (charter.rules.version, charter.root.version, charter.rules.document().hash());
        if newer.root.version < self.root.version || rank(&newer) <= rank(self) {
            return Err(CharterError::NotNewer { ours: self.rules.version, found: newer.rules.version });
        }
        Ok(newer)
    }

    fn roots(&self) -> impl Iterator<Item = &Trusted<Root>> {
        self.earlier_roots.iter().chain(std::iter::once(&self.root))
    }

    /// The network's id.
    pub const fn network(&self) -> NetworkId {
        self.network
    }
    /// What must be stored and carried to check it again.
    pub const fn parts(&self) -> &CharterParts {
        &self.parts
    }
    /// The version of the rules, which every change counts up.
    pub fn version(&self) -> u64 {
        self.rules.version
    }
    /// The newest root.
    pub const fn root(&self) -> &Trusted<Root> {
        &self.root
    }
    /// The rules' metadata.
    pub const fn rules(&self) -> &Trusted<Targets> {
        &self.rules
    }
    /// What all nodes must agree on.
    pub fn params(&self) -> &NetworkParams {
        &self.root.params
    }
    /// How much agreement a result needs.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }
    /// Who founded, is trusted, may submit.
    pub const fn grants(&self) -> &Grants {
        &self.grants
    }
    /// The channels.
    pub fn channels(&self) -> impl Iterator<Item = &ChannelName> {
        self.channels.keys()
    }
    /// Who signs the releases of a channel.
    pub fn channel_keys(&self, channel: &str) -> Option<&RoleKeys> {
        self.channels.iter().find(|(name, _)| &***name == channel).map(|(_, keys)| keys)
    }
    /// Whether an operator founded the network.
    pub fn is_founder(&self, operator: &OperatorId) -> bool {
        self.grants.founders.contains(operator)
    }
    /// Whether an operator is trusted.
    pub fn is_trusted(&self, operator: &OperatorId) -> bool {
        self.grants.trusted.contains(operator)
    }
    /// Whether an operator may submit to a channel; never to one that does not exist.
    pub fn may_submit(&self, operator: &OperatorId, channel: &str) -> bool {
        self.channel_keys(channel).is_some() && self.grants.may_submit(operator, channel)
    }
}

/// What the rules say, read from their metadata and its two files.
struct Rules {
    policy: Policy,
    grants: Grants,
    channels: BTreeMap<ChannelName, RoleKeys>,
}

impl Rules {
    fn read(network: NetworkId, rules: &Targets, policy: &str, grants: &str) -> Result<Self, CharterError> {
        if rules.binding.network != network {
            return Err(CharterError::ForeignRules { found: rules.binding.network, wanted: network });
        }
        // A release's metadata is targets too, and its key could be a rules key of a careless maintainer.
        if rules.binding.channel.is_some() {
            return Err(CharterError::Rules(TufError::field("x-barnraiser", "a channel's metadata, not the network's")));
        }
        for (name, bytes) in [(POLICY_TARGET, policy), (GRANTS_TARGET, grants)] {
            if !rules.targets.get(name).is_some_and(|target| target.matches(bytes.as_bytes())) {
                return Err(CharterError::Mismatch(name));
            }
        }
        let parsed = Policy::from_bytes(policy.as_bytes())?;
        // Batches pin the digest of the policy's canonical bytes; it must be this file's.
        if parsed.to_bytes() != policy.as_bytes() {
            return Err(CharterError::PolicySpelling);
        }
        let grants = Grants::parse(grants).map_err(CharterError::Grants)?;
        let roles = rules.delegations.iter().flat_map(|delegations| &delegations.roles);
        let channels = roles
            .filter_map(|role| Some((role.name.clone(), rules.delegated(&role.name)?)))
            .map(|(name, keys)| Ok((name, keys.map_err(CharterError::Rules)?)))
            .collect::<Result<_, CharterError>>()?;
        Ok(Self { policy: parsed, grants, channels })
    }
}

/// How long a text of metadata may be.
const fn limit_of<T: Metadata>() -> usize {
    if T::BYTES_MAX < RULES_BYTES_MAX { T::BYTES_MAX } else { RULES_BYTES_MAX }
}

#[cfg(test)]
mod tests;
