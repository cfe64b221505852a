//! Orders of the maintainers about people, which need as many of them as a change of the rules: bans and pardons.
//!
//! An [`Order`] is signed as TUF metadata is: OLPC's canonical JSON, by the keys that sign the rules. It goes from
//! [`OrderDraft`] (waits for signatures) to [`SignedOrder`], which travels in a record that anyone may carry. Whether
//! enough have signed depends on the charter, so it is asked of a [`RoleKeys`] when the charter is at hand.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::SignatureFile;
use super::charter::Charter;
use super::keys::{SigningKey, SigningRole};
use super::signing::{GatherError, Part, gather, sign_part};
use super::tuf::{Expiry, KeySignature, Metadata, PublicKey, RoleKeys, Signed, TufError, canonical};
use crate::bounded::{BoundedBytes, BoundedString};
use crate::id::{BlobHash, NetworkId, OperatorId};
use crate::time::Timestamp;

/// The most bytes of a signed order: what fits into a record. Some fourteen signatures fit beside the longest reason.
pub const ORDER_BYTES_MAX: usize = 3840;
/// The name under which signature files list signatures on an order.
const PART: &str = "order";
/// The format of drafts that this version writes and reads.
const FORMAT: u32 = 1;

/// `_type` of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum OrderTag {
    #[serde(rename = "order")]
    Order,
}

/// What is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// No result of the operator counts, also none of before.
    Ban,
    /// A ban is undone.
    Pardon,
}

/// What the maintainers order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Order {
    #[serde(rename = "_type")]
    tag: OrderTag,
    /// In which network.
    pub network: NetworkId,
    /// What.
    pub verb: Verb,
    /// To whom.
    pub operator: OperatorId,
    /// The ban that is undone ([`SignedOrder::id`]); only of a pardon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ban: Option<BlobHash>,
    /// When it was written: a second ban for the same reason is another order.
    pub issued: Timestamp,
    /// Why, for people.
    pub reason: BoundedString<256>,
}

impl Order {
    /// The ban of an operator.
    pub fn ban(network: NetworkId, operator: OperatorId, issued: Timestamp, reason: &str) -> Self {
        let reason = BoundedString::cut(reason);
        Self { tag: OrderTag::Order, network, verb: Verb::Ban, operator, ban: None, issued, reason }
    }

    /// The pardon that undoes a ban of an operator.
    pub fn pardon(network: NetworkId, operator: OperatorId, ban: BlobHash, issued: Timestamp, reason: &str) -> Self {
        Self { verb: Verb::Pardon, ban: Some(ban), ..Self::ban(network, operator, issued, reason) }
    }
}

impl Metadata for Order {
    const TYPE: &'static str = "order";
    const BYTES_MAX: usize = ORDER_BYTES_MAX;

    fn version(&self) -> u64 {
        1
    }
    fn expires(&self) -> Expiry {
        Expiry::at(Timestamp::MAX)
    }
    fn check(&self) -> Result<(), TufError> {
        if self.ban.is_some() != (self.verb == Verb::Pardon) {
            return Err(TufError::field("ban", "a pardon names a ban, and nothing else does"));
        }
        // Canonical JSON writes them as they are, which no reader of JSON takes.
        if self.reason.contains(char::is_control) {
            return Err(TufError::field("reason", "control characters are not allowed"));
        }
        Ok(())
    }
}

/// Why bytes are not an order that this record may carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Not an order's form.
    #[error("not an order of the maintainers: {0}")]
    Form(#[from] TufError),
    /// A second spelling.
    #[error("an order that is not in its canonical spelling")]
    Spelling,
    /// For another network.
    #[error("an order for network {}", .0.short())]
    OtherNetwork(NetworkId),
    /// A pardon where a ban stands, or the other way round.
    #[error("an order of another kind than its record says")]
    OtherVerb,
    /// A draft of a later format.
    #[error("an order of format {0}; this version of Barnraiser reads {FORMAT}")]
    Newer(u32),
    /// Signatures are missing.
    #[error(transparent)]
    Signatures(#[from] GatherError),
}

/// An order with signatures, in its one spelling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignedOrder(BoundedBytes<ORDER_BYTES_MAX>);

/// The document as it is signed and carried.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    signatures: Vec<KeySignature>,
    signed: Value,
}

impl SignedOrder {
    fn of(order: &Signed<Order>, signatures: Vec<KeySignature>) -> Result<Self, OrderError> {
        let bytes = canonical(&Document { signatures, signed: order.value().clone() })?;
        let given = bytes.len();
        let too_large = |_| TufError::TooLarge { given, limit: ORDER_BYTES_MAX };
        Ok(Self(BoundedBytes::try_from(bytes).map_err(too_large)?))
    }

    /// What it says. Its signatures are not checked.
    ///
    /// # Errors
    /// [`OrderError::Form`] or [`OrderError::Spelling`].
    pub fn read(&self) -> Result<Signed<Order>, OrderError> {
        let order = Signed::<Order>::parse(&self.0)?;
        let mut signatures = order.signatures().to_vec();
        signatures.sort();
        signatures.dedup_by(|one, other| one.keyid == other.keyid);
        // The signed part too must be as this version would write it, or one order would have several ids.
        let own = Signed::unsigned(order.unverified())?;
        if Self::of(&own, signatures).as_ref() != Ok(self) {
            return Err(OrderError::Spelling);
        }
        Ok(order)
    }

    /// Checks all that does not depend on who the maintainers are.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn check(&self, network: NetworkId, verb: Verb) -> Result<(), OrderError> {
        let order = self.read()?;
        let order = order.unverified();
        if order.network != network {
            return Err(OrderError::OtherNetwork(order.network));
        }
        if order.verb != verb { Err(OrderError::OtherVerb) } else { Ok(()) }
    }

    /// What it orders, and its id, which pardons name: BLAKE3 of what is signed.
    pub fn order(&self) -> Option<(BlobHash, Order)> {
        let order = self.read().ok()?;
        Some((order.hash(), order.unverified().clone()))
    }

    /// Whether as many of the maintainers have signed as a change of the rules needs. Signatures by other keys count for
    /// nothing; one by a maintainer's key that is bad ends it, so that forgeries cost one check each.
    pub fn is_signed(&self, rules: &RoleKeys) -> bool {
        let Ok(order) = self.read() else { return false };
        let mut good: BTreeSet<PublicKey> = BTreeSet::new();
        for signature in order.signatures() {
            let Some(key) = signature.key(rules) else { continue };
            if !signature.is_good(&key, order.canonical()) {
                return false;
            }
            good.insert(key);
        }
        usize::try_from(rules.threshold).is_ok_and(|threshold| good.len() >= threshold.max(1))
    }
}

/// An order that waits for signatures.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderDraft(Signed<Order>);

/// The file form of a draft.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "barnraiser-order")]
    format: u32,
    signed: Value,
}

impl OrderDraft {
    /// The draft of an order.
    ///
    /// # Errors
    /// [`OrderError::Form`].
    pub fn new(order: &Order) -> Result<Self, OrderError> {
        Ok(Self(Signed::unsigned(order)?))
    }

    /// The draft in `bytes`.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, OrderError> {
        if bytes.len() > ORDER_BYTES_MAX {
            return Err(TufError::TooLarge { given: bytes.len(), limit: ORDER_BYTES_MAX }.into());
        }
        let file: File = serde_json::from_slice(bytes).map_err(|e| TufError::Json(e.to_string()))?;
        if file.format != FORMAT {
            return Err(OrderError::Newer(file.format));
        }
        Ok(Self(Signed::from_value(file.signed, Vec::new())?))
    }

    /// Its bytes: JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        let file = File { format: FORMAT, signed: self.0.value().clone() };
        // Texts, numbers and lists always serialise.
        let mut bytes = serde_json::to_vec_pretty(&file).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// What signature files name: BLAKE3 of what is signed.
    pub fn id(&self) -> BlobHash {
        self.0.hash()
    }
    /// The network.
    pub const fn network(&self) -> NetworkId {
        self.0.unverified().network
    }

    /// What it is, in words.
    pub fn describe(&self) -> String {
        let order = self.0.unverified();
        let mut text = String::new();
        // Writing to a `String` can't fail.
        let _ = match order.verb {
            Verb::Ban => writeln!(text, "A ban: no result of this operator counts any more, also none of before"),
            Verb::Pardon => writeln!(text, "A pardon: a ban is undone"),
        };
        let _ = writeln!(text, "  network   {}", order.network);
        let _ = writeln!(text, "  operator  {}", order.operator);
        if let Some(ban) = &order.ban {
            let _ = writeln!(text, "  undoes    ban {ban}");
        }
        let _ = writeln!(text, "  written   {}", order.issued);
        let _ = writeln!(text, "  reason    {:?}", &*order.reason);
        text
    }

    /// Signs it with the key that signs the rules. Whether that may shows when it is assembled.
    pub fn sign(&self, key: &SigningKey) -> SignatureFile {
        let signature = sign_part(PART, key.role(SigningRole::Targets), self.0.canonical());
        SignatureFile::new(self.id(), BTreeSet::from([signature]))
    }

    /// Makes the order, given enough signatures.
    ///
    /// # Errors
    /// [`OrderError::Signatures`] says how many are missing and which don't count.
    pub fn assemble(&self, files: &[SignatureFile], charter: &Charter) -> Result<SignedOrder, OrderError> {
        if self.network() != charter.network() {
            return Err(OrderError::OtherNetwork(self.network()));
        }
        // Every charter has them.
        let keys = charter.grants().rules_keys.clone().unwrap_or_else(RoleKeys::nobody);
        self.gather(files, &keys)
    }

    pub(crate) fn gather(&self, files: &[SignatureFile], keys: &RoleKeys) -> Result<SignedOrder, OrderError> {
        let part = Part { role: PART, canonical: self.0.canonical(), keys };
        let gathered = gather(self.id(), &[part], files)?;
        SignedOrder::of(&self.0, gathered.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests;
