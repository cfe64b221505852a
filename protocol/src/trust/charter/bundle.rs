//! A charter's bytes: apart, for files, and as one blob, for the swarm.

use serde::{Deserialize, Serialize};

use super::{CharterError, limit_of};
use crate::bounded::{BoundedString, BoundedVec};
use crate::codec::{self, DecodeError};
use crate::id::NetworkId;
use crate::trust::tuf::{Root, Signed, Targets};

/// The most roots in a row: a yearly change for a generation.
pub const ROOTS_MAX: usize = 32;
/// The most bytes of a bundle.
pub const BUNDLE_BYTES_MAX: usize = 256 << 10;
/// The most bytes of a policy.
pub(super) const POLICY_BYTES_MAX: usize = 16 << 10;
/// The most bytes of grants: some 1,500 operators.
pub(super) const GRANTS_BYTES_MAX: usize = 128 << 10;
/// The format of bundles that this version reads and writes.
const FORMAT: u16 = 1;

/// The documents that a charter consists of, as JSON texts, unchecked. See [`super::Charter::verify`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CharterParts {
    /// `1.root.json`, `2.root.json` and so on.
    pub roots: Vec<String>,
    /// `targets.json`.
    pub targets: String,
    /// `policy.json`.
    pub policy: String,
    /// `grants.json`.
    pub grants: String,
}

type Text = BoundedString<BUNDLE_BYTES_MAX>;

/// The wire form.
#[derive(Serialize, Deserialize)]
struct Bundle {
    format: u16,
    roots: BoundedVec<Text, ROOTS_MAX>,
    targets: Text,
    policy: Text,
    grants: Text,
}

impl CharterParts {
    /// One blob.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`]; never for the parts of a charter that was checked.
    pub fn to_bundle(&self) -> Result<Vec<u8>, DecodeError> {
        let large = |given| DecodeError::TooLarge { given, limit: BUNDLE_BYTES_MAX };
        let text = |part: &String| Text::try_from(part.as_str()).map_err(|e| large(e.given));
        let roots = self.roots.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let bundle = Bundle {
            format: FORMAT,
            roots: BoundedVec::try_from(roots).map_err(|e| large(e.given))?,
            targets: text(&self.targets)?,
            policy: text(&self.policy)?,
            grants: text(&self.grants)?,
        };
        let bytes = codec::encode(&bundle);
        if bytes.len() > BUNDLE_BYTES_MAX { Err(large(bytes.len())) } else { Ok(bytes) }
    }

    /// The parts in a blob, unchecked.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn from_bundle(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bundle: Bundle = codec::decode(bytes, BUNDLE_BYTES_MAX)?;
        if bundle.format != FORMAT {
            return Err(DecodeError::Malformed(format!("a charter of format {}, this version reads {FORMAT}", bundle.format)));
        }
        Ok(Self {
            roots: bundle.roots.iter().map(ToString::to_string).collect(),
            targets: bundle.targets.to_string(),
            policy: bundle.policy.to_string(),
            grants: bundle.grants.to_string(),
        })
    }

    /// The network that these parts say they are of: the hash of their first root. Proves nothing.
    ///
    /// # Errors
    /// [`CharterError`] where there is no such root.
    pub fn claimed_network(&self) -> Result<NetworkId, CharterError> {
        let first = self.roots.first().ok_or(CharterError::RootCount(0))?;
        let root = Signed::<Root>::parse(first.as_bytes()).map_err(|error| CharterError::Root { number: 1, error })?;
        Ok(NetworkId(root.hash().0))
    }

    /// Checks all bounds, before anything is parsed.
    pub(super) fn check_size(&self) -> Result<(), CharterError> {
        if self.roots.is_empty() || self.roots.len() > ROOTS_MAX {
            return Err(CharterError::RootCount(self.roots.len()));
        }
        let bounds = (self.roots.iter().map(|root| (root.len(), limit_of::<Root>()))).chain([
            (self.targets.len(), limit_of::<Targets>()),
            (self.policy.len(), POLICY_BYTES_MAX),
            (self.grants.len(), GRANTS_BYTES_MAX),
        ]);
        for (given, limit) in bounds {
            if given > limit {
                return Err(DecodeError::TooLarge { given, limit }.into());
            }
        }
        self.to_bundle()?;
        Ok(())
    }
}
