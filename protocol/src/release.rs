//! Releases: what the maintainers vouch for in a channel.
//!
//! A release is TUF targets metadata of the channel's role. Each file has its length and SHA-256 (for every TUF client)
//! and, in `custom`, its BLAKE3, the action that built it and the digest of the evidence. For TUF, where all channels
//! share one flat space of names, the file NAME of a channel is called `CHANNEL.NAME`; everywhere else it is NAME.
//!
//! A release goes [`propose`] → [`ReleaseDraft`] → signatures, carried by hand → [`ReleaseDraft::assemble`] →
//! [`Release`]. Everyone else gets a [`Release`] by [`Release::verify`], and the newest version of a channel wins.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::id::{ActionId, BatchId, BlobHash, NetworkId, Sha256};
use crate::record::payload::ChannelName;
use crate::time::Timestamp;
use crate::trust::SignatureFile;
use crate::trust::charter::Charter;
use crate::trust::keys::{MaintainerCard, SigningKey, SigningRole};
use crate::trust::name::{NameError, TargetName, channel_name};
use crate::trust::signing::{GatherError, Part, gather, sign_part};
use crate::trust::tuf::{Binding, Expiry, Hashes, Metadata as _, PublicKey, RoleKeys, Signed, Target, Targets, TufError};

/// The most bytes of a release's metadata.
pub const RELEASE_BYTES_MAX: usize = Targets::BYTES_MAX;
/// The format of drafts that this version reads and writes.
const FORMAT: u32 = 1;

/// How a released file came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The action that built it.
    pub action: ActionId,
    /// BLAKE3 of the evidence blob: who built it, and that they agree.
    pub evidence: BlobHash,
    /// The manifest of the action's outputs.
    pub tree: BlobHash,
    /// Its path in that manifest.
    pub path: String,
    /// The batch that it was built for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchId>,
}

/// A released file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseTarget {
    /// BLAKE3 of its bytes.
    pub blob: BlobHash,
    /// SHA-256 of its bytes.
    pub sha256: Sha256,
    /// Its length in bytes.
    pub length: u64,
    /// How it came to be; absent for files that nobody built here.
    pub origin: Option<Origin>,
}

/// Files by name.
pub type ReleaseTargets = BTreeMap<TargetName, ReleaseTarget>;

/// Why a release can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Not a draft, as `barn release propose` writes it.
    #[error("not a proposed release: {0}")]
    NotADraft(String),
    /// A draft of a later format.
    #[error("a proposed release of format {0}; this version of Barnraiser reads {FORMAT}")]
    Newer(u32),
    /// Its metadata can't be used.
    #[error("the release: {0}")]
    Metadata(#[from] TufError),
    /// Its channel or a file in it has a name that can't be used.
    #[error("the release: {0}")]
    Name(#[from] NameError),
    /// Nothing in it.
    #[error("a release without files")]
    Empty,
    /// It names no channel: rules of a network, perhaps.
    #[error("this metadata is of no channel, so it is no release")]
    NoChannel,
    /// A file's entry lacks something or holds too much.
    #[error("file {name:?} of the release: {reason}")]
    Target {
        /// The file, as TUF names it.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Of another network.
    #[error("a release of network {found}, not of {wanted}")]
    OtherNetwork {
        /// The network that it names.
        found: NetworkId,
        /// Ours.
        wanted: NetworkId,
    },
    /// Of a channel that the network does not have.
    #[error("a release of channel {0:?}, which the network does not have")]
    UnknownChannel(String),
    /// Signatures are missing.
    #[error(transparent)]
    Signatures(#[from] GatherError),
    /// Too old. The file may be fetched by its hash all the same.
    #[error("release {version} of {channel} expired on {expires}, it is {now} now; a newer one is wanted")]
    Expired {
        /// The channel.
        channel: ChannelName,
        /// The release's version.
        version: u64,
        /// When.
        expires: Timestamp,
        /// Now.
        now: Timestamp,
    },
}

/// What both a draft and a release say.
#[derive(Debug, Clone, PartialEq)]
struct Content {
    network: NetworkId,
    channel: ChannelName,
    targets: ReleaseTargets,
}

/// Proposes a release of a channel; `version` must be greater than that of the channel's newest.
///
/// # Errors
/// [`ReleaseError`] where it could not be signed as it is.
pub fn propose(
    network: NetworkId,
    channel: &str,
    version: u64,
    targets: &ReleaseTargets,
    now: Timestamp,
    expires: Timestamp,
) -> Result<ReleaseDraft, ReleaseError> {
    let channel = channel_name(channel)?;
    let expires = Expiry::at(expires);
    if expires.timestamp() <= now {
        return Err(ReleaseError::Expired { channel, version, expires: expires.timestamp(), now });
    }
    let binding = Binding { network, channel: Some(channel.clone()) };
    let mut metadata = Targets::new(version, expires, binding);
    for (name, target) in targets {
        metadata.targets.insert(format!("{channel}.{name}"), target.to_tuf());
    }
    ReleaseDraft::new(Signed::unsigned(&metadata)?)
}

impl ReleaseTarget {
    fn to_tuf(&self) -> Target {
        // A struct of texts is always an object.
        let origin = self.origin.as_ref().and_then(|origin| serde_json::to_value(origin).ok());
        let mut custom = match origin {
            Some(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        custom.insert("blake3".to_owned(), Value::String(self.blob.to_string()));
        Target { length: self.length, hashes: Hashes { sha256: self.sha256 }, custom }
    }

    fn from_tuf(name: &str, target: &Target) -> Result<Self, ReleaseError> {
        let fail = |reason: String| ReleaseError::Target { name: name.chars().take(200).collect(), reason };
        let blob = target.blake3().ok_or_else(|| fail("no BLAKE3 in its custom part".to_owned()))?;
        // All of an origin or nothing of it; fields of later versions are passed over.
        let origin = if ["action", "evidence", "tree", "path"].iter().any(|field| target.custom.contains_key(*field)) {
            Some(Origin::deserialize(Value::Object(target.custom.clone())).map_err(|e| fail(e.to_string()))?)
        } else {
            None
        };
        Ok(Self { blob, sha256: target.hashes.sha256, length: target.length, origin })
    }
}

impl Content {
    fn read(metadata: &Targets) -> Result<Self, ReleaseError> {
        let channel = channel_name(metadata.binding.channel.as_ref().ok_or(ReleaseError::NoChannel)?)?;
        if metadata.delegations.is_some() {
            return Err(TufError::field("delegations", "a release has none").into());
        }
        if metadata.targets.is_empty() {
            return Err(ReleaseError::Empty);
        }
        let mut targets = ReleaseTargets::new();
        for (full, target) in &metadata.targets {
            let plain = full.strip_prefix(&*channel).and_then(|rest| rest.strip_prefix('.'));
            let plain = plain.ok_or_else(|| ReleaseError::Target {
                name: full.chars().take(200).collect(),
                reason: format!("a name that begins with \"{channel}.\" is wanted"),
            })?;
            targets.insert(plain.parse()?, ReleaseTarget::from_tuf(full, target)?);
        }
        Ok(Self { network: metadata.binding.network, channel, targets })
    }
}

/// A release that waits for signatures.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleaseDraft {
    metadata: Signed<Targets>,
    content: Content,
}

/// The file form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "barnraiser-release")]
    format: u32,
    signed: Value,
}

impl ReleaseDraft {
    fn new(metadata: Signed<Targets>) -> Result<Self, ReleaseError> {
        let content = Content::read(metadata.unverified())?;
        Ok(Self { metadata, content })
    }

    /// The draft in `bytes`.
    ///
    /// # Errors
    /// [`ReleaseError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ReleaseError> {
        if bytes.len() > RELEASE_BYTES_MAX {
            return Err(TufError::TooLarge { given: bytes.len(), limit: RELEASE_BYTES_MAX }.into());
        }
        let file: File = serde_json::from_slice(bytes).map_err(|e| ReleaseError::NotADraft(e.to_string()))?;
        if file.format != FORMAT {
            return Err(ReleaseError::Newer(file.format));
        }
        Self::new(Signed::from_value(file.signed, Vec::new())?)
    }

    /// Its bytes: JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        let file = File { format: FORMAT, signed: self.metadata.value().clone() };
        // Texts, numbers and lists always serialise.
        let mut bytes = serde_json::to_vec_pretty(&file).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// What signature files name: BLAKE3 of what is signed.
    pub fn id(&self) -> BlobHash {
        self.metadata.hash()
    }
    /// The network.
    pub const fn network(&self) -> NetworkId {
        self.content.network
    }
    /// The channel.
    pub const fn channel(&self) -> &ChannelName {
        &self.content.channel
    }
    /// The version.
    pub const fn version(&self) -> u64 {
        self.metadata.unverified().version
    }
    /// The files.
    pub const fn targets(&self) -> &ReleaseTargets {
        &self.content.targets
    }

    /// What it is, in words.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        let metadata = self.metadata.unverified();
        // Writing to a `String` can't fail.
        let _ = writeln!(text, "Release {} of channel {}", metadata.version, self.content.channel);
        let _ = writeln!(text, "  network     {}", self.content.network);
        let _ = writeln!(text, "  good until  {}", metadata.expires.timestamp());
        for (name, target) in &self.content.targets {
            let _ = writeln!(text, "  {name}  {} bytes", target.length);
            let _ = writeln!(text, "    BLAKE3    {}", target.blob);
            let _ = writeln!(text, "    SHA-256   {}", target.sha256);
            match &target.origin {
                Some(origin) => {
                    let _ = writeln!(text, "    built by  action {}, as {:?}", origin.action, origin.path);
                    let _ = writeln!(text, "    evidence  {}", origin.evidence);
                }
                None => {
                    let _ = writeln!(text, "    built by  nobody here: there is no evidence for it");
                }
            }
        }
        for name in metadata.other.keys() {
            let _ = writeln!(text, "  ! also sets {name:?}, which this version does not know");
        }
        text
    }

    /// Signs it with a maintainer's release key.
    pub fn sign(&self, key: &SigningKey) -> SignatureFile {
        let secret = key.role(SigningRole::Release);
        let signature = sign_part(&self.content.channel, secret, self.metadata.canonical());
        SignatureFile::new(self.id(), BTreeSet::from([signature]))
    }

    /// Makes the release, given enough signatures.
    ///
    /// # Errors
    /// [`ReleaseError::Signatures`] says how many are missing and which don't count.
    pub fn assemble(&self, files: &[SignatureFile], charter: &Charter) -> Result<Release, ReleaseError> {
        let keys = self.content.keys(charter)?;
        let part = Part { role: &self.content.channel, canonical: self.metadata.canonical(), keys };
        let gathered = gather(self.id(), &[part], files)?;
        let document = self.metadata.clone().with_signatures(gathered.into_iter().flatten().collect());
        Release::check(document, charter)
    }
}

impl Content {
    fn keys<'a>(&self, charter: &'a Charter) -> Result<&'a RoleKeys, ReleaseError> {
        if self.network != charter.network() {
            return Err(ReleaseError::OtherNetwork { found: self.network, wanted: charter.network() });
        }
        charter.channel_keys(&self.channel).ok_or_else(|| ReleaseError::UnknownChannel(self.channel.to_string()))
    }
}

/// A release that enough maintainers signed. Only a check makes one.
#[derive(Debug, Clone, PartialEq)]
pub struct Release {
    metadata: Signed<Targets>,
    content: Content,
    signers: BTreeSet<PublicKey>,
}

impl Release {
    /// Checks a release from anywhere.
    ///
    /// # Errors
    /// [`ReleaseError`]; [`ReleaseError::Expired`] only where all else is right.
    pub fn verify(bytes: &[u8], charter: &Charter, now: Timestamp) -> Result<Self, ReleaseError> {
        let release = Self::reload(bytes, charter)?;
        let expires = release.expires();
        if expires <= now {
            let (channel, version) = (release.channel().clone(), release.version());
            return Err(ReleaseError::Expired { channel, version, expires, now });
        }
        Ok(release)
    }

    /// Like [`Release::verify`], whatever the date: for showing, and for a user who wants an old one on purpose.
    ///
    /// # Errors
    /// [`ReleaseError`], all but an expiry.
    pub fn reload(bytes: &[u8], charter: &Charter) -> Result<Self, ReleaseError> {
        Self::check(Signed::parse(bytes)?, charter)
    }

    fn check(metadata: Signed<Targets>, charter: &Charter) -> Result<Self, ReleaseError> {
        let content = Content::read(metadata.unverified())?;
        let keys = content.keys(charter)?;
        let signers = metadata.signers(keys);
        let trusted = metadata.verify(keys).map_err(TufError::from)?;
        Ok(Self { metadata: trusted.document().clone(), content, signers })
    }

    /// The metadata's bytes: what is published.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.metadata.to_bytes()
    }
    /// BLAKE3 of what is signed.
    pub fn id(&self) -> BlobHash {
        self.metadata.hash()
    }
    /// The channel.
    pub const fn channel(&self) -> &ChannelName {
        &self.content.channel
    }
    /// The version.
    pub const fn version(&self) -> u64 {
        self.metadata.unverified().version
    }
    /// When it stops being good.
    pub const fn expires(&self) -> Timestamp {
        self.metadata.unverified().expires.timestamp()
    }
    /// The files.
    pub const fn targets(&self) -> &ReleaseTargets {
        &self.content.targets
    }
    /// The file of that name.
    pub fn target(&self, name: &str) -> Option<&ReleaseTarget> {
        self.content.targets.iter().find(|(plain, _)| &***plain == name).map(|(_, target)| target)
    }
    /// The release keys that signed.
    pub const fn signers(&self) -> &BTreeSet<PublicKey> {
        &self.signers
    }
    /// Who signed: each key with the maintainer whose it is, where the charter says so.
    pub fn signed_by<'a>(&'a self, charter: &'a Charter) -> impl Iterator<Item = (PublicKey, Option<&'a MaintainerCard>)> {
        self.signers.iter().map(|key| (*key, charter.grants().maintainer_of(key)))
    }

    /// Whether this one replaces `other` as the channel's newest. Of two releases with one version (which maintainers
    /// should not sign) the one with the greater hash wins, so that all nodes end with the same.
    pub fn supersedes(&self, other: &Self) -> bool {
        self.channel() == other.channel() && (self.version(), self.id()) > (other.version(), other.id())
    }
}

#[cfg(test)]
mod tests;
