//! What travels on a `/barn/reach/1` stream: can you dial me?
//!
//! The opener sends an empty frame over a control connection; the other dials it as it would for a large blob (a bulk
//! connection, a stream of this protocol that is closed at once), at the IP address that it asks from and no other, and says
//! what came of it.

use serde::{Deserialize, Serialize};

/// The name under which streams of this protocol are opened.
pub const REACH_PROTOCOL: &str = "/barn/reach/1";
/// The most bytes of a frame of it.
pub const REACH_FRAME_BYTES_MAX: usize = 16;

/// What came of dialling back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reached {
    /// A connection was made.
    Yes,
    /// None could be made.
    No,
    /// Asked too often, or too many ask.
    Busy,
}
