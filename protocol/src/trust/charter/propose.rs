//! Proposals: what a network, or a change of its rules, should be. Nothing counts before it is signed.

use std::collections::BTreeSet;
use std::time::Duration;

use super::proposal::{Proposal, ProposalError};
use super::{Charter, CharterError, GRANTS_TARGET, Grants, POLICY_TARGET};
use crate::id::{NetworkId, OperatorId};
use crate::policy::Policy;
use crate::record::payload::ChannelName;
use crate::time::Timestamp;
use crate::trust::keys::MaintainerCard;
use crate::trust::name::{NameError, NetworkName, channel_name};
use crate::trust::tuf::{
    Binding, DelegatedRole, Delegations, Expiry, NetworkParams, PublicKey, Role, Root, Signed, Target, Targets, TufError,
};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a root is good. Long, since a network whose root expires stands still; freshness is the timestamp's task.
pub const ROOT_LIFE: Duration = Duration::from_secs(10 * YEAR.as_secs());
/// How long rules are good; every change renews them.
pub const RULES_LIFE: Duration = Duration::from_secs(5 * YEAR.as_secs());
/// The channels of a network that names none.
pub const DEFAULT_CHANNELS: [&str; 2] = ["nightly", "stable"];

/// What a new network should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPlan {
    /// Name and parameters.
    pub params: NetworkParams,
    /// How much agreement a result needs.
    pub policy: Policy,
    /// Who signs. Those whose card names an operator are founders.
    pub maintainers: Vec<MaintainerCard>,
    /// M: how many of them must sign root, rules and releases.
    pub threshold: u32,
    /// Founders beside those that cards name.
    pub founders: BTreeSet<OperatorId>,
    /// The channels.
    pub channels: Vec<ChannelName>,
    /// Who signs snapshots, any one of them.
    pub snapshot: Vec<PublicKey>,
    /// Who signs timestamps, any one of them.
    pub timestamp: Vec<PublicKey>,
}

impl NetworkPlan {
    /// A plan with the default parameters and channels.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn new(name: &str, policy: Policy, maintainers: Vec<MaintainerCard>, threshold: u32) -> Result<Self, NameError> {
        let name: NetworkName = name.parse()?;
        Ok(Self {
            params: NetworkParams::of(name),
            policy,
            maintainers,
            threshold,
            founders: BTreeSet::new(),
            channels: DEFAULT_CHANNELS.into_iter().map(channel_name).collect::<Result<_, _>>()?,
            snapshot: Vec::new(),
            timestamp: Vec::new(),
        })
    }
}

/// Why a network or change can't be proposed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nobody signs.
    #[error("a network needs at least one maintainer's card")]
    NoMaintainers,
    /// A card is there twice.
    #[error("a maintainer's card is given twice; each maintainer counts once")]
    SameMaintainer,
    /// Nobody could reach it, or everyone.
    #[error("{threshold} signatures of {maintainers} maintainers can't be asked for; 1 to {maintainers} can")]
    Threshold {
        /// Signatures asked for.
        threshold: u32,
        /// Cards given.
        maintainers: usize,
    },
    /// Nobody could invite or submit.
    #[error("no founder: at least one maintainer's card must name an operator, or an operator be given")]
    NoFounders,
    /// Nobody signs snapshots or timestamps.
    #[error("no key for the {0} role")]
    NoNotary(&'static str),
    /// A channel that does not exist.
    #[error("there is no channel {0:?} in this network")]
    NoChannel(String),
    /// All is so already.
    #[error("nothing would change")]
    NothingChanges,
    /// The last founder can't be taken away, and so on.
    #[error(transparent)]
    Charter(#[from] CharterError),
    /// A name that can't be used.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A parameter or version that can't be used.
    #[error(transparent)]
    Metadata(#[from] TufError),
    /// It would be too large.
    #[error(transparent)]
    Proposal(#[from] Box<ProposalError>),
}

/// A change of a network's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Trusts an operator.
    Trust(OperatorId),
    /// Trusts it no longer.
    Untrust(OperatorId),
    /// Makes an operator a founder.
    Founder(OperatorId),
    /// Another policy.
    Policy(Policy),
    /// Lets an operator submit to a channel.
    Grant {
        /// Who.
        operator: OperatorId,
        /// Where.
        channel: ChannelName,
    },
    /// Lets it no longer.
    Revoke {
        /// Who.
        operator: OperatorId,
        /// Where.
        channel: ChannelName,
    },
    /// A new channel, for which as many of the maintainers sign as for the rules.
    AddChannel(ChannelName),
    /// The same rules for another [`RULES_LIFE`].
    Renew,
}

/// Proposes a new network. Its id is fixed from here on; it exists once enough maintainers have signed.
///
/// # Errors
/// [`PlanError`].
pub fn propose_network(plan: &NetworkPlan, now: Timestamp) -> Result<Proposal, PlanError> {
    let NetworkPlan { maintainers, threshold, .. } = plan;
    if maintainers.is_empty() {
        return Err(PlanError::NoMaintainers);
    }
    // A maintainer that counted twice would make two signatures out of one.
    let keys = |of: fn(&MaintainerCard) -> PublicKey| maintainers.iter().map(of).collect::<BTreeSet<_>>();
    let (root_keys, rules_keys, release_keys) = (keys(|c| c.root), keys(|c| c.targets), keys(|c| c.release));
    if [&root_keys, &rules_keys, &release_keys].into_iter().any(|keys| keys.len() != maintainers.len()) {
        return Err(PlanError::SameMaintainer);
    }
    let count = maintainers.len();
    if *threshold == 0 || usize::try_from(*threshold).map_or(true, |threshold| threshold > count) {
        return Err(PlanError::Threshold { threshold: *threshold, maintainers: count });
    }
    let founders: BTreeSet<OperatorId> = plan.founders.iter().copied().chain(maintainers.iter().filter_map(|card| card.founder)).collect();
    if founders.is_empty() {
        return Err(PlanError::NoFounders);
    }
    let mut root = Root::new(1, Expiry::at(now + ROOT_LIFE), plan.params.clone());
    root.set_role(Role::Root, root_keys, *threshold);
    root.set_role(Role::Targets, rules_keys, *threshold);
    for (role, keys) in [(Role::Snapshot, &plan.snapshot), (Role::Timestamp, &plan.timestamp)] {
        if keys.is_empty() {
            return Err(PlanError::NoNotary(role.name()));
        }
        root.set_role(role, keys.iter().copied(), 1);
    }
    let root = Signed::unsigned(&root)?;
    let network = NetworkId(root.hash().0);

    let grants = Grants { maintainers: maintainers.iter().copied().collect(), ..Grants::of_founders(founders) };
    let mut rules = Targets::new(1, Expiry::at(now + RULES_LIFE), Binding { network, channel: None });
    let mut delegations = Delegations::default();
    for channel in &plan.channels {
        add_channel(&mut delegations, channel, &release_keys, *threshold)?;
    }
    rules.delegations = Some(delegations);
    finish(Some(root), None, rules, &plan.policy, &grants)
}

/// Proposes changes of a network's rules.
///
/// # Errors
/// [`PlanError`].
pub fn propose_change(charter: &Charter, changes: &[Change], now: Timestamp) -> Result<Proposal, PlanError> {
    let mut grants = charter.grants().clone();
    let mut policy = charter.policy().clone();
    // Files and fields that this version does not know stay as they are.
    let mut rules: Targets = Targets::clone(charter.rules());
    let mut delegations = rules.delegations.clone().unwrap_or_default();
    let mut changed = false;
    for change in changes {
        changed |= match change {
            Change::Trust(operator) => grants.trusted.insert(*operator),
            Change::Untrust(operator) => grants.trusted.remove(operator),
            Change::Founder(operator) => {
                grants.trusted.insert(*operator);
                grants.founders.insert(*operator)
            }
            Change::Policy(new) => {
                let other = policy != *new;
                policy.clone_from(new);
                other
            }
            Change::Grant { operator, channel } => {
                if !delegations.roles.iter().any(|role| role.name == *channel) {
                    return Err(PlanError::NoChannel(channel.to_string()));
                }
                grants.submitters.entry(channel.clone()).or_default().insert(*operator)
            }
            Change::Revoke { operator, channel } => grants.submitters.get_mut(channel).is_some_and(|operators| operators.remove(operator)),
            Change::AddChannel(channel) => {
                let keys = grants.maintainers.iter().map(|card| card.release).collect();
                let threshold = charter.root().role(Role::Targets)?.threshold;
                add_channel(&mut delegations, channel, &keys, threshold)?;
                true
            }
            Change::Renew => true,
        };
    }
    if !changed {
        return Err(PlanError::NothingChanges);
    }
    rules.version += 1;
    rules.expires = Expiry::at(now + RULES_LIFE);
    rules.delegations = Some(delegations);
    finish(None, Some(charter), rules, &policy, &grants)
}

fn add_channel(delegations: &mut Delegations, channel: &ChannelName, keys: &BTreeSet<PublicKey>, threshold: u32) -> Result<(), PlanError> {
    let name = channel_name(channel)?;
    if delegations.roles.iter().any(|role| role.name == name) {
        return Err(TufError::field("channels", format!("{name} is there twice")).into());
    }
    let keyids = keys.iter().map(|key| delegations.keys.insert(*key)).collect();
    // One flat space of names for TUF clients: a channel's files are `CHANNEL.NAME` there, so that no channel can
    // sign, or shadow, what is another's.
    let paths = vec![format!("{name}.*")];
    delegations.roles.push(DelegatedRole { name, keyids, threshold, paths, terminating: true });
    Ok(())
}

fn finish(
    root: Option<Signed<Root>>,
    previous: Option<&Charter>,
    mut rules: Targets,
    policy: &Policy,
    grants: &Grants,
) -> Result<Proposal, PlanError> {
    policy.check().map_err(CharterError::from)?;
    // A policy is JSON, which is UTF-8.
    let policy = String::from_utf8_lossy(&policy.to_bytes()).into_owned();
    let grants = grants.to_text();
    rules.targets.insert(POLICY_TARGET.to_owned(), Target::of(policy.as_bytes()));
    rules.targets.insert(GRANTS_TARGET.to_owned(), Target::of(grants.as_bytes()));
    let rules = Signed::unsigned(&rules)?;
    Ok(Proposal::new(root, previous.cloned(), rules, policy, grants).map_err(Box::new)?)
}
