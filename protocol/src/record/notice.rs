//! What operators say for the record, beside certificates and invitations: suspensions, new keys, names of environments,
//! testers' words, and what is taken back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bounded::BoundedString;
use crate::id::{BlobHash, NetworkId, OperatorId, RecordId};
use crate::keys::{self, SecretKey, Signature, SignatureError};

use super::payload::ChannelName;

/// How long a suspension lasts from when it was issued. Its record stays, so that what was said meanwhile never counts.
pub const SUSPENSION: Duration = Duration::from_secs(72 * 3600);

/// What an operator reveals from now on does not count, for [`SUSPENSION`]; what it revealed before stays. Written by one
/// maintainer, with the operator key of a founder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// Who is suspended.
    pub operator: OperatorId,
    /// Why, for people.
    pub reason: BoundedString<256>,
}

/// An operator goes on under another key. Written with the old key; the new one agrees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// The new key.
    pub successor: OperatorId,
    /// The new key over [`rotation_message`].
    pub consent: Signature,
}

impl Rotation {
    /// The rotation of the operator `before` to the key `successor` in `network`, for the old key to sign.
    pub fn new(successor: &SecretKey, network: &NetworkId, before: &OperatorId) -> Self {
        Self { successor: successor.operator(), consent: successor.sign(&rotation_message(network, before)) }
    }

    /// Checks that the new key agreed to follow `before` in `network`.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn check_consent(&self, network: &NetworkId, before: &OperatorId) -> Result<(), SignatureError> {
        keys::verify(&self.successor.0, &rotation_message(network, before), &self.consent)
    }
}

/// What a new operator key signs to follow `before` in `network`.
pub fn rotation_message(network: &NetworkId, before: &OperatorId) -> Vec<u8> {
    [b"barnraiser 2026 rotation v1\0".as_slice(), network.as_bytes(), before.as_bytes()].concat()
}

/// A versioned name for a root file system: `debian-c@3`. Written by a maintainer. A name with a version stands for one
/// digest for ever: of two records the one that was issued first counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentName {
    /// The name.
    pub name: BoundedString<64>,
    /// Its version.
    pub version: u32,
    /// The tree's manifest.
    pub rootfs: BlobHash,
}

/// An operator takes back what it said in a standing record of its own: a name, a test report, a request. What others rest
/// on (who works for whom, who was invited) is not undone by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdraw {
    /// The record.
    pub record: RecordId,
}

/// A tester's word on an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestReport {
    /// The channel that it was released in.
    pub channel: ChannelName,
    /// The image.
    pub image: BlobHash,
    /// What it ran on.
    pub device: BoundedString<64>,
    /// Whether it works there.
    pub works: bool,
    /// What else there is to say.
    pub note: BoundedString<512>,
}
