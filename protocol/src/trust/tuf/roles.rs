//! The types of TUF metadata: root and targets.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::key::{KeyTable, PublicKey, RoleKeys};
use super::{Metadata, TufError, VERSION_MAX};
use crate::id::{BlobHash, KeyId, NetworkId, Sha256};
use crate::record::payload::ChannelName;
use crate::time::Timestamp;
use crate::trust::name::{NetworkName, channel_name};

/// The version of TUF's specification that our metadata follows.
pub const SPEC_VERSION: &str = "1.0.31";
/// The most targets in one document.
const TARGETS_MAX: usize = 16_384;
/// The most channels of a network.
const CHANNELS_MAX: usize = 64;

/// When metadata stops being good: a moment in whole seconds, as TUF wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Expiry(Timestamp);

impl Expiry {
    /// The last moment that the text form can say, 9999-12-31T23:59:59Z.
    const LAST: u64 = 253_402_300_799_000;

    /// The second that `moment` is in.
    pub fn at(moment: Timestamp) -> Self {
        let millis = moment.0.min(Self::LAST);
        Self(Timestamp(millis - millis % 1000))
    }
    /// The moment.
    pub const fn timestamp(self) -> Timestamp {
        self.0
    }
}

impl Serialize for Expiry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Expiry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = crate::bounded::BoundedString::<40>::deserialize(deserializer)?;
        let moment = OffsetDateTime::parse(&text, &Rfc3339).ok().and_then(|m| u64::try_from(m.unix_timestamp()).ok());
        let expiry = moment.map(|seconds| Self(Timestamp(seconds.saturating_mul(1000))));
        // One spelling only: UTC, whole seconds.
        expiry
            .filter(|expiry| expiry.0.to_rfc3339() == *text)
            .ok_or_else(|| serde::de::Error::custom(format!("{:?} is not a moment like 2030-01-31T12:00:00Z", &*text)))
    }
}

/// `_type` of a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum RootTag {
    #[serde(rename = "root")]
    Root,
}

/// `_type` of targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum TargetsTag {
    #[serde(rename = "targets")]
    Targets,
}

/// TUF's top-level roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Names the keys of all roles.
    Root,
    /// Signs the rules.
    Targets,
    /// Says which versions belong together.
    Snapshot,
    /// Says which snapshot is the newest.
    Timestamp,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Root, Self::Targets, Self::Snapshot, Self::Timestamp];

    /// TUF's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Targets => "targets",
            Self::Snapshot => "snapshot",
            Self::Timestamp => "timestamp",
        }
    }
}

/// Who signs for a top-level role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleSpec {
    /// Their keys' ids.
    pub keyids: BTreeSet<KeyId>,
    /// How many distinct ones must sign.
    pub threshold: u32,
}

/// What all nodes of a network must agree on. A parameter that a version does not know makes it refuse the root, since
/// a node that went on without it would decide differently from the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NetworkParams {
    /// For people; not unique.
    pub name: NetworkName,
    /// How long a lease lasts without renewal, in seconds; 1 to 86,400.
    pub lease_ttl_s: u32,
    /// By how much clocks may differ, in seconds; 1 to 3,600.
    pub clock_difference_s: u32,
}

impl NetworkParams {
    /// The parameters of DESIGN section 6.
    pub const fn of(name: NetworkName) -> Self {
        Self { name, lease_ttl_s: 180, clock_difference_s: 60 }
    }

    fn check(&self) -> Result<(), TufError> {
        if !(1..=86_400).contains(&self.lease_ttl_s) {
            return Err(TufError::field("lease-ttl-s", format!("{} is not within 1 to 86400", self.lease_ttl_s)));
        }
        if !(1..=3600).contains(&self.clock_difference_s) {
            let reason = format!("{} is not within 1 to 3600", self.clock_difference_s);
            return Err(TufError::field("clock-difference-s", reason));
        }
        Ok(())
    }
}

/// The root of trust: which keys count for what. The first one names the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Root {
    #[serde(rename = "_type")]
    tag: RootTag,
    /// [`SPEC_VERSION`] or another 1.x.
    pub spec_version: String,
    /// 1 for the first.
    pub version: u64,
    /// When it stops being good.
    pub expires: Expiry,
    /// Always true.
    pub consistent_snapshot: bool,
    /// All keys.
    pub keys: KeyTable,
    /// The roles by name, all four.
    pub roles: BTreeMap<Role, RoleSpec>,
    /// Parameters of the network.
    #[serde(rename = "x-barnraiser")]
    pub params: NetworkParams,
}

impl Root {
    /// A root without keys.
    pub fn new(version: u64, expires: Expiry, params: NetworkParams) -> Self {
        Self {
            tag: RootTag::Root,
            spec_version: SPEC_VERSION.to_owned(),
            version,
            expires,
            consistent_snapshot: true,
            keys: KeyTable::default(),
            roles: BTreeMap::new(),
            params,
        }
    }

    /// Names who signs for a role.
    pub fn set_role(&mut self, role: Role, keys: impl IntoIterator<Item = PublicKey>, threshold: u32) {
        let keyids = keys.into_iter().map(|key| self.keys.insert(key)).collect();
        self.roles.insert(role, RoleSpec { keyids, threshold });
    }

    /// Who signs for a role.
    ///
    /// # Errors
    /// [`TufError::Field`] where its keys can't reach its threshold; never for a root that was checked.
    pub fn role(&self, role: Role) -> Result<RoleKeys, TufError> {
        let spec = self.roles.get(&role).ok_or_else(|| TufError::field("roles", format!("{} is missing", role.name())))?;
        self.keys.role(role.name(), &spec.keyids, spec.threshold)
    }
}

fn check_head(spec_version: &str, version: u64) -> Result<(), TufError> {
    if !spec_version.starts_with("1.") {
        return Err(TufError::field("spec_version", format!("{spec_version:?} is not 1.x")));
    }
    if !(1..=VERSION_MAX).contains(&version) {
        return Err(TufError::field("version", format!("{version} is not within 1 to {VERSION_MAX}")));
    }
    Ok(())
}

impl Metadata for Root {
    const TYPE: &'static str = "root";
    const BYTES_MAX: usize = 64 << 10;

    fn version(&self) -> u64 {
        self.version
    }
    fn expires(&self) -> Expiry {
        self.expires
    }
    fn check(&self) -> Result<(), TufError> {
        check_head(&self.spec_version, self.version)?;
        if !self.consistent_snapshot {
            return Err(TufError::field("consistent_snapshot", "must be true"));
        }
        self.keys.check()?;
        self.params.check()?;
        Role::ALL.into_iter().try_for_each(|role| self.role(role).map(drop))
    }
}

/// Digests of a target. Only SHA-256: other clients refuse algorithms that they don't know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashes {
    /// SHA-256 of its bytes.
    pub sha256: Sha256,
}

/// A file that is vouched for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Its length in bytes.
    pub length: u64,
    /// Its digests.
    pub hashes: Hashes,
    /// What TUF clients ignore; `blake3` at least.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub custom: Map<String, Value>,
}

impl Target {
    /// Vouches for `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let blake3 = Value::String(BlobHash::of(bytes).to_string());
        Self {
            // Lossless: no machine has an address space beyond 64 bits.
            length: bytes.len() as u64,
            hashes: Hashes { sha256: Sha256::of(bytes) },
            custom: Map::from_iter([("blake3".to_owned(), blake3)]),
        }
    }

    /// Its BLAKE3, if it names one.
    pub fn blake3(&self) -> Option<BlobHash> {
        self.custom.get("blake3")?.as_str()?.parse().ok()
    }

    /// Whether these are the bytes that are vouched for: length, SHA-256 and BLAKE3.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.length == bytes.len() as u64 && self.hashes.sha256 == Sha256::of(bytes) && self.blake3() == Some(BlobHash::of(bytes))
    }
}

/// Who signs the releases of a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DelegatedRole {
    /// The channel.
    pub name: ChannelName,
    /// Their keys' ids.
    pub keyids: BTreeSet<KeyId>,
    /// How many distinct ones must sign.
    pub threshold: u32,
    /// Which target names it may sign, as glob patterns.
    pub paths: Vec<String>,
    /// Whether a client stops looking after it.
    pub terminating: bool,
}

/// The roles that targets are delegated to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Delegations {
    /// All their keys.
    pub keys: KeyTable,
    /// The roles, in the order in which clients look.
    pub roles: Vec<DelegatedRole>,
}

/// What ties a document to one network and one place in it. Maintainers may use one key in several networks and for
/// several channels, so a signature alone does not say for which of them it was meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Binding {
    /// The network.
    pub network: NetworkId,
    /// The channel; absent in the network's rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelName>,
}

/// Files that a role vouches for, and the roles that it lets vouch for others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Targets {
    #[serde(rename = "_type")]
    tag: TargetsTag,
    /// [`SPEC_VERSION`] or another 1.x.
    pub spec_version: String,
    /// 1 for the first; only the newest counts.
    pub version: u64,
    /// When it stops being good.
    pub expires: Expiry,
    /// The files by name.
    pub targets: BTreeMap<String, Target>,
    /// The channels; only in the network's rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegations: Option<Delegations>,
    /// What it is for.
    #[serde(rename = "x-barnraiser")]
    pub binding: Binding,
    /// What a later version adds; kept, so that a change made by an older one does not lose it.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Targets {
    /// Metadata that vouches for nothing yet.
    pub fn new(version: u64, expires: Expiry, binding: Binding) -> Self {
        Self {
            tag: TargetsTag::Targets,
            spec_version: SPEC_VERSION.to_owned(),
            version,
            expires,
            targets: BTreeMap::new(),
            delegations: None,
            binding,
            other: BTreeMap::new(),
        }
    }

    /// Who signs the releases of a channel.
    ///
    /// # Errors
    /// [`TufError::Field`] where its keys can't reach its threshold; never for targets that were checked.
    pub fn delegated(&self, channel: &str) -> Option<Result<RoleKeys, TufError>> {
        let delegations = self.delegations.as_ref()?;
        let role = delegations.roles.iter().find(|role| &*role.name == channel)?;
        Some(delegations.keys.role(channel, &role.keyids, role.threshold))
    }
}

impl Metadata for Targets {
    const TYPE: &'static str = "targets";
    const BYTES_MAX: usize = 8 << 20;

    fn version(&self) -> u64 {
        self.version
    }
    fn expires(&self) -> Expiry {
        self.expires
    }
    fn check(&self) -> Result<(), TufError> {
        check_head(&self.spec_version, self.version)?;
        if self.targets.len() > TARGETS_MAX {
            let reason = format!("{} files, at most {TARGETS_MAX} are allowed", self.targets.len());
            return Err(TufError::field("targets", reason));
        }
        if let Some(delegations) = &self.delegations {
            delegations.keys.check()?;
            if delegations.roles.len() > CHANNELS_MAX {
                let reason = format!("{} roles, at most {CHANNELS_MAX} are allowed", delegations.roles.len());
                return Err(TufError::field("delegations", reason));
            }
            let mut names = BTreeSet::new();
            for role in &delegations.roles {
                channel_name(&role.name).map_err(|e| TufError::field("delegations", e.to_string()))?;
                if !names.insert(&role.name) {
                    return Err(TufError::field("delegations", format!("{} is there twice", role.name)));
                }
                delegations.keys.role(&role.name, &role.keyids, role.threshold)?;
            }
        }
        Ok(())
    }
}
