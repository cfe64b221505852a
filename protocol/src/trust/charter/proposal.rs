//! A proposal: an unsigned network or change of rules, which maintainers carry to their keys, sign, and open.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Charter, CharterError, CharterParts, Rules, describe};
use crate::id::{BlobHash, NetworkId};
use crate::trust::keys::{SigningKey, SigningRole};
use crate::trust::signing::{GatherError, Part, SignatureFile, gather, sign_part};
use crate::trust::tuf::{PublicKey, Role, RoleKeys, Root, Signed, Targets, TufError};

/// The most bytes of a proposal: two charters, with escapes.
pub const PROPOSAL_BYTES_MAX: usize = 1 << 20;
/// The format that this version reads and writes.
const FORMAT: u32 = 1;

/// Why a proposal can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposalError {
    /// More than [`PROPOSAL_BYTES_MAX`].
    #[error("a proposal of {0} bytes; at most {PROPOSAL_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// Something else.
    #[error("not a proposal: {0}")]
    NotOne(String),
    /// Of a later format.
    #[error("a proposal of format {0}; this version of Barnraiser reads {FORMAT}")]
    Newer(u32),
    /// Neither a new network nor a change of one, or both.
    #[error("a proposal must hold either a root (a new network) or a previous charter (a change)")]
    Kind,
    /// Its metadata can't be used.
    #[error("the proposal's {part}: {error}")]
    Metadata {
        /// Root or rules.
        part: &'static str,
        /// What is wrong.
        error: TufError,
    },
    /// What it would make is not a charter, or what it changes is none.
    #[error("the proposal: {0}")]
    Charter(#[from] CharterError),
    /// It would not replace what it changes.
    #[error("it proposes version {found} of the rules, which must be greater than {before}")]
    Version {
        /// The version that it changes.
        before: u64,
        /// Its own.
        found: u64,
    },
    /// Signatures are missing.
    #[error(transparent)]
    Signatures(#[from] GatherError),
}

/// Why a key can't sign a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// It is none of those that may.
    #[error("this key is none of those that may sign here; its rules key is {}", .0.id().short())]
    NotAmongKeys(PublicKey),
}

/// A new network, or a change of a network's rules; not signed.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    network: NetworkId,
    /// The first root; only of a new network.
    root: Option<Signed<Root>>,
    /// What it changes; only of a change. Signed itself, so that a signer can be shown the difference truly.
    previous: Option<Charter>,
    rules: Signed<Targets>,
    policy: String,
    grants: String,
    /// Who must sign the root (of a new network), and the rules.
    root_keys: Option<RoleKeys>,
    rules_keys: RoleKeys,
}

/// The file form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "barnraiser-proposal")]
    format: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<Value>,
    targets: Value,
    policy: String,
    grants: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<CharterParts>,
}

impl Proposal {
    pub(super) fn new(
        root: Option<Signed<Root>>,
        previous: Option<Charter>,
        rules: Signed<Targets>,
        policy: String,
        grants: String,
    ) -> Result<Self, ProposalError> {
        let fail = |part| move |error| ProposalError::Metadata { part, error };
        let (network, root_keys, rules_keys) = match (&root, &previous) {
            (Some(root), None) => {
                let first = root.unverified();
                if first.version != 1 {
                    return Err(fail("root")(TufError::RootOrder { before: 0, found: first.version }));
                }
                let root_keys = first.role(Role::Root).map_err(fail("root"))?;
                let rules_keys = first.role(Role::Targets).map_err(fail("root"))?;
                (NetworkId(root.hash().0), Some(root_keys), rules_keys)
            }
            (None, Some(previous)) => {
                let found = rules.unverified().version;
                if found <= previous.version() {
                    return Err(ProposalError::Version { before: previous.version(), found });
                }
                let rules_keys = previous.root().role(Role::Targets).map_err(fail("root"))?;
                (previous.network(), None, rules_keys)
            }
            _ => return Err(ProposalError::Kind),
        };
        // All that can be wrong with the rules must show before somebody signs them.
        Rules::read(network, rules.unverified(), &policy, &grants)?;
        let proposal = Self { network, root, previous, rules, policy, grants, root_keys, rules_keys };
        proposal.parts(Vec::new(), Vec::new()).check_size()?;
        Ok(proposal)
    }

    /// The proposal in `bytes`.
    ///
    /// # Errors
    /// [`ProposalError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ProposalError> {
        if bytes.len() > PROPOSAL_BYTES_MAX {
            return Err(ProposalError::TooLarge(bytes.len()));
        }
        let not_one = |e: serde_json::Error| ProposalError::NotOne(e.to_string());
        let value: Value = serde_json::from_slice(bytes).map_err(not_one)?;
        if let Some(format) = value.get("barnraiser-proposal").and_then(Value::as_u64).filter(|f| *f > u64::from(FORMAT)) {
            return Err(ProposalError::Newer(u32::try_from(format).unwrap_or(u32::MAX)));
        }
        let file: File = serde_json::from_value(value).map_err(not_one)?;
        if file.format != FORMAT {
            return Err(ProposalError::NotOne(format!("format {}", file.format)));
        }
        let fail = |part| move |error| ProposalError::Metadata { part, error };
        let root = file.root.map(|root| Signed::from_value(root, Vec::new())).transpose().map_err(fail("root"))?;
        let rules = Signed::from_value(file.targets, Vec::new()).map_err(fail("rules"))?;
        let previous = match file.previous {
            // Whose charter it is, it says itself; the signer is shown the id.
            Some(parts) => Some(Charter::reload(parts.claimed_network()?, parts)?),
            None => None,
        };
        Self::new(root, previous, rules, file.policy, file.grants)
    }

    /// Its bytes: JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        let file = File {
            format: FORMAT,
            root: self.root.as_ref().map(|root| root.value().clone()),
            targets: self.rules.value().clone(),
            policy: self.policy.clone(),
            grants: self.grants.clone(),
            previous: self.previous.as_ref().map(|previous| previous.parts().clone()),
        };
        // Texts, numbers and lists always serialise.
        let mut bytes = serde_json::to_vec_pretty(&file).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// What signatures name: BLAKE3 of the signed part, or of the hashes of both.
    pub fn id(&self) -> BlobHash {
        match &self.root {
            Some(root) => BlobHash::of(&[root.hash().0, self.rules.hash().0].concat()),
            None => self.rules.hash(),
        }
    }

    /// The network that it makes or changes.
    pub const fn network(&self) -> NetworkId {
        self.network
    }
    /// What it changes; `None` for a new network.
    pub const fn previous(&self) -> Option<&Charter> {
        self.previous.as_ref()
    }
    /// How many signatures the rules need, and of how many maintainers.
    pub fn threshold(&self) -> (u32, usize) {
        (self.rules_keys.threshold, self.rules_keys.keys.len())
    }

    /// What it is, in words, computed from what is signed.
    pub fn describe(&self) -> String {
        match (&self.root, &self.previous) {
            (Some(root), _) => describe::network(self.network, root.unverified(), self.rules.unverified(), &self.read()),
            (None, Some(previous)) => describe::change(previous, &self.rules, &self.read()),
            // `new` lets none through.
            (None, None) => String::new(),
        }
    }

    fn read(&self) -> Option<Rules> {
        Rules::read(self.network, self.rules.unverified(), &self.policy, &self.grants).ok()
    }

    /// Signs all parts that this key may sign.
    ///
    /// # Errors
    /// [`SignError`] where it may sign none.
    pub fn sign(&self, key: &SigningKey) -> Result<SignatureFile, SignError> {
        let mut signatures = BTreeSet::new();
        let parts = [
            (Role::Root, SigningRole::Root, self.root_keys.as_ref(), self.root.as_ref().map(Signed::canonical)),
            (Role::Targets, SigningRole::Targets, Some(&self.rules_keys), Some(self.rules.canonical())),
        ];
        for (role, with, keys, canonical) in parts {
            let (Some(keys), Some(canonical)) = (keys, canonical) else { continue };
            let secret = key.role(with);
            if keys.keys.values().any(|public| *public == PublicKey::of(secret)) {
                signatures.insert(sign_part(role.name(), secret, canonical));
            }
        }
        if signatures.is_empty() {
            return Err(SignError::NotAmongKeys(PublicKey::of(key.role(SigningRole::Targets))));
        }
        Ok(SignatureFile::new(self.id(), signatures))
    }

    /// Makes the charter, given enough signatures.
    ///
    /// # Errors
    /// [`ProposalError::Signatures`] says which are missing and which don't count.
    pub fn open(&self, files: &[SignatureFile]) -> Result<Charter, ProposalError> {
        let mut parts = Vec::new();
        if let (Some(root), Some(keys)) = (&self.root, &self.root_keys) {
            parts.push(Part { role: Role::Root.name(), canonical: root.canonical(), keys });
        }
        parts.push(Part { role: Role::Targets.name(), canonical: self.rules.canonical(), keys: &self.rules_keys });
        let mut gathered = gather(self.id(), &parts, files)?;
        let of_rules = gathered.pop().unwrap_or_default();
        let of_root = gathered.pop().unwrap_or_default();
        Ok(Charter::reload(self.network, self.parts(of_root, of_rules))?)
    }

    fn parts(&self, of_root: Vec<crate::trust::tuf::KeySignature>, of_rules: Vec<crate::trust::tuf::KeySignature>) -> CharterParts {
        // Metadata is JSON, which is UTF-8.
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let roots = match (&self.root, &self.previous) {
            (Some(root), _) => vec![text(root.clone().with_signatures(of_root).to_bytes())],
            (None, previous) => previous.iter().flat_map(|previous| previous.parts().roots.clone()).collect(),
        };
        let targets = text(self.rules.clone().with_signatures(of_rules).to_bytes());
        CharterParts { roots, targets, policy: self.policy.clone(), grants: self.grants.clone() }
    }
}
