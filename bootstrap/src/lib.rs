//! How peers reach each other: everything of a node that uses the network, behind one handle.
//!
//! [`start`] opens the transports and returns a [`Net`], with which records are published, sets of records reconciled
//! and blobs fetched; what happens by itself arrives as [`NetEvent`]s. This crate knows nothing of jobs and builds:
//! records are bytes here, and whether they are good is said by the caller ([`Net::validated`]).
//!
//! Where to go next: [`net`] for what can be asked, [`swarm`] for the task behind it, [`substream`] for streams of our own,
//! [`transfer`] for blobs, [`holder`] for keeping those of others, [`reach`] for who can be dialled, [`traffic`] for limits,
//! [`sync`] for records, [`entry`] for the entry server, `docs/src/wire.md` for what
//! travels.
#![forbid(unsafe_code)]

pub mod config;
pub mod entry;
pub mod event;
pub mod holder;
pub mod identity;
pub mod net;
pub mod reach;
pub mod substream;
pub mod swarm;
pub mod sync;
pub mod topic;
pub mod traffic;
pub mod transfer;
mod transport;

pub use config::{BlobAccess, Branches, Everybody, HoldConfig, Limits, NetConfig, PushAccess, RecordSource, Strangers};
pub use event::{MessageToken, Misbehaviour, NetEvent, Verdict, Via};
pub use holder::{HeldStats, Holder};
pub use libp2p::{Multiaddr, PeerId};
pub use net::{KnownHolder, Net, NetError, PeerInfo, ReadAlong, StartError, start};
pub use sync::{SyncError, SyncReport};
pub use topic::Topic;
pub use traffic::{Rates, Traffic, Usage};
pub use transfer::{Differences, FetchError, FetchProgress, FetchReport, FetchRequest, PushError, PushReport, PushRequest, SeedChoice};
