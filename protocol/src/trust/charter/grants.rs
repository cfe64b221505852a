//! Who founded a network, who is trusted, and who may submit what.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::OperatorId;
use crate::record::payload::ChannelName;
use crate::trust::keys::MaintainerCard;
use crate::trust::name::channel_name;
use crate::trust::tuf::{PublicKey, RoleKeys};

/// The rules about people: `grants.json`, a target of the network's rules. Keys only, never names.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Grants {
    /// The cards of those who sign, so that a signature can be shown as theirs.
    #[serde(default)]
    pub maintainers: BTreeSet<MaintainerCard>,
    /// Operators that are members without an invitation, and may submit everywhere.
    #[serde(default)]
    pub founders: BTreeSet<OperatorId>,
    /// Operators whose word settles disputes and makes a release acceptable; the founders at first.
    #[serde(default)]
    pub trusted: BTreeSet<OperatorId>,
    /// Channel → operators that may submit to it, beside the founders.
    #[serde(default)]
    pub submitters: BTreeMap<ChannelName, BTreeSet<OperatorId>>,
    /// Who signs for the maintainers together, as the root that the grants were checked with says; absent where they are
    /// not a charter's. Not in the file.
    #[serde(skip)]
    pub rules_keys: Option<RoleKeys>,
    /// What a later version grants; kept, so that a change made by an older one does not lose it.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Grants {
    /// The grants of founders alone, who are trusted.
    pub fn of_founders(founders: impl IntoIterator<Item = OperatorId>) -> Self {
        let founders: BTreeSet<OperatorId> = founders.into_iter().collect();
        Self { trusted: founders.clone(), founders, ..Self::default() }
    }

    /// Whether an operator may submit to a channel.
    pub fn may_submit(&self, operator: &OperatorId, channel: &str) -> bool {
        self.founders.contains(operator)
            || self.submitters.iter().any(|(name, operators)| &**name == channel && operators.contains(operator))
    }

    /// The maintainer whose release key this is.
    pub fn maintainer_of(&self, release: &PublicKey) -> Option<&MaintainerCard> {
        self.maintainers.iter().find(|card| card.release == *release)
    }

    /// The JSON text.
    pub fn to_text(&self) -> String {
        // Texts and lists always serialise.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let grants: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if grants.founders.is_empty() {
            return Err("no founders; somebody must be able to invite and submit".to_owned());
        }
        for channel in grants.submitters.keys() {
            channel_name(channel).map_err(|e| e.to_string())?;
        }
        Ok(grants)
    }
}
