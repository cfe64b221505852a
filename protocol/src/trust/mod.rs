//! Who may say what: the maintainers' keys, the network's charter, and who vouches for whom.
//!
//! [`keys`] are the maintainers' signing keys and the files that keys are kept in. [`tuf`] is the signed metadata.
//! [`charter`] is a network's whole signed state: its root, its rules, who founded it and who is trusted. [`members`]
//! computes from certificates and invitations which node works for whom, and which operators are independent.
//! [`order`] are the maintainers' bans and pardons. [`signing`] is how people sign what others proposed, on a machine that may be offline.

pub(crate) mod armour;
pub mod charter;
pub mod keys;
pub mod members;
pub mod name;
pub mod order;
mod signable;
pub mod signing;
pub mod tuf;

pub use armour::ArmourError;
pub use signable::{SIGNABLE_BYTES_MAX, Signable, SignableError};
pub use signing::SignatureFile;
