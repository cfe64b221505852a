//! What TCP connections are wrapped in: TLS with the cipher that this machine is fast with ([`tls`]), and yamux in frames that
//! are worth their headers ([`muxer`]).
//!
//! libp2p has both, but puts ChaCha20 first whatever the processor can, and cuts what it sends into 16 KiB. The protocols
//! are libp2p's, so its own implementations understand these.

mod muxer;
mod tls;

pub use muxer::Yamux;
pub use tls::{Tls, TlsError};
