//! Blobs over the network: fetched from many peers at once, verified unit by unit, and served to others.
//!
//! A fetch asks its providers on their control connections ([`provider`]), which settles small blobs at once; larger ones
//! come over bulk connections, in units that a [`barnraiser_protocol::transfer::Schedule`] shares out. Nothing is
//! believed: the length is proven before anything is fetched, each unit by the store before it counts, and who sends a wrong byte
//! is dropped there and then. At most three units of each provider are in memory. `fetch` decides who is asked, `serve` answers others. [`difference`] copies beforehand what is
//! here already.

pub(crate) mod data;
mod difference;
mod fetch;
mod lapses;
mod places;
mod provider;
mod push;
mod serve;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use barnraiser_protocol::id::{BlobHash, NetworkId, NodeId};
use barnraiser_protocol::transfer::keeping;
use barnraiser_protocol::transfer::{Answer, BLOB_PROTOCOL, FRAME_BYTES_MAX, Held, Request};
use barnraiser_store::{Durability, PartialError};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use libp2p::swarm::StreamProtocol;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::net::{Context, NetError};
use crate::substream::{Lane, frame};
use crate::swarm::Command;

pub use difference::{Differences, SeedChoice};
pub(crate) use difference::{Making, copy_from_seeds};
pub(crate) use fetch::fetch;
pub(crate) use lapses::Lapses;
pub(crate) use push::push;
pub use push::{PushError, PushReport, PushRequest};
pub(crate) use serve::serve;
pub(crate) use waits::Waits;

pub(crate) const PROTOCOL: StreamProtocol = StreamProtocol::new(BLOB_PROTOCOL);

/// Members asked whether they have a blob.
const ASKED_MAX: usize = 16;
/// Holders asked beside them, which may have to be connected to first.
const HOLDERS_ASKED_MAX: usize = 8;
/// Providers that Kademlia may name.
const NAMED_MAX: usize = 32;
/// How long members and Kademlia may take to answer.
const SEARCH_TIME: Duration = Duration::from_secs(3);
/// How long Kademlia is waited for once a member has the blob.
const SEARCH_TIME_FOUND: Duration = Duration::from_millis(300);

/// How long one node may take to say whether it has a blob, being connected to included.
const ASK_TIME: Duration = Duration::from_secs(15);

/// What to fetch.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    /// The blob.
    pub hash: BlobHash,
    /// Its length in bytes, where a trusted statement says so. Else the providers' claims are proven first.
    pub length: Option<u64>,
    /// Nodes that may have it. More are looked for where these don't suffice and `network` is given.
    pub providers: Vec<NodeId>,
    /// The network whose members are asked for more providers.
    pub network: Option<NetworkId>,
    /// How it is kept. What is in the store already stays as it is there.
    pub durability: Durability,
    /// The most bytes that it may have.
    pub limit: u64,
}

/// How far a fetch is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchProgress {
    /// The blob's length in bytes, once known.
    pub length: Option<u64>,
    /// Bytes here and verified, those of earlier attempts included.
    pub verified: u64,
    /// Bytes that were here and verified when the length became known.
    pub already_had: u64,
    /// Bytes that each peer delivered in this attempt.
    pub bytes_by_peer: BTreeMap<NodeId, u64>,
    /// Who is asked for it now, or is in line to be.
    pub providers: Vec<NodeId>,
    /// Who has it, or a part of it, and is at work.
    pub at_work: BTreeSet<NodeId>,
}

/// What a fetch brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchReport {
    /// The blob's length in bytes.
    pub length: u64,
    /// Verified bytes that each peer delivered.
    pub bytes_by_peer: BTreeMap<NodeId, u64>,
    /// Bytes that were here before.
    pub already_had: u64,
    /// Units that were given to a second provider since the first was slow.
    pub stolen: u64,
    /// Providers that were lost on the way, and why; one that was tried again may have given something all the same.
    pub lost: BTreeMap<NodeId, String>,
}

/// Why a blob was not fetched. What came before is kept for the next attempt.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody who was asked has it.
    #[error("nobody has blob {hash}: {}", said(.outcomes))]
    Nobody {
        /// The blob.
        hash: BlobHash,
        /// What each provider that was asked said.
        outcomes: BTreeMap<NodeId, String>,
    },
    /// All who had it are gone, misbehaved or stalled.
    #[error("{missing} of {length} bytes of blob {hash} are missing and no provider is left: {}", said(.outcomes))]
    Lost {
        /// The blob.
        hash: BlobHash,
        /// Bytes missing.
        missing: u64,
        /// Bytes in all.
        length: u64,
        /// What became of each provider.
        outcomes: BTreeMap<NodeId, String>,
    },
    /// Longer than wanted.
    #[error("blob {hash} has {length} bytes, at most {limit} are wanted")]
    TooLong {
        /// The blob.
        hash: BlobHash,
        /// Its length, as a provider states it.
        length: u64,
        /// What was allowed.
        limit: u64,
    },
    /// Bulk rests on this node: by its own clock, or since what may move in a month has.
    #[error("blob {hash} is not fetched now: {why}")]
    Resting {
        /// The blob.
        hash: BlobHash,
        /// Why bulk rests.
        why: String,
    },
    /// The store of this node.
    #[error("blob {hash} can't be stored: {source}")]
    Store {
        /// The blob.
        hash: BlobHash,
        /// What is wrong.
        source: PartialError,
    },
    /// A thread of this node failed.
    #[error("this node failed while fetching blob {hash}: {reason}")]
    Local {
        /// The blob.
        hash: BlobHash,
        /// What happened.
        reason: String,
    },
    /// The network is shut down.
    #[error(transparent)]
    Net(#[from] NetError),
}

fn said(outcomes: &BTreeMap<NodeId, String>) -> String {
    const SHOWN: usize = 5;
    if outcomes.is_empty() {
        return "no provider is known".into();
    }
    let mut shown: Vec<String> = outcomes.iter().take(SHOWN).map(|(node, outcome)| format!("{} {outcome}", node.short())).collect();
    if outcomes.len() > SHOWN {
        shown.push(format!("and {} more", outcomes.len() - SHOWN));
    }
    shown.join("; ")
}

/// Who has a blob, by their own word: asks members of `network`, and Kademlia.
pub(crate) async fn who_has(context: &Context, network: Option<NetworkId>, hash: BlobHash) -> Vec<NodeId> {
    let mut deadline = Instant::now() + SEARCH_TIME;
    let mut members = match network {
        Some(network) => context.ask(|reply| Command::Members { network, reply }).await.unwrap_or_default(),
        None => Vec::new(),
    };
    // Others than the last time, where there are many.
    while members.len() > ASKED_MAX {
        members.swap_remove(rand::random_range(0..members.len()));
    }
    let holders = match network {
        Some(network) => context.ask(|reply| Command::Holders { network, reply }).await.unwrap_or_default(),
        None => Vec::new(),
    };
    let holders = keeping::ranked(&hash, holders.into_iter().map(|holder| holder.node).filter(|node| !members.contains(node)));
    let mut waiting_for = members.len();
    let asked = members.into_iter().map(|node| (false, node)).chain(holders.into_iter().take(HOLDERS_ASKED_MAX).map(|node| (true, node)));
    let (named_in, mut named) = mpsc::channel(NAMED_MAX);
    if context.commands.send(Command::Providers { hash, found: named_in }).await.is_err() {
        return Vec::new();
    }
    // Holders may have to be dialled: who is connected is waited for, they are not, once somebody has it.
    let ask = |(late, node)| async move { (late, has(context, node, hash).await) };
    let mut asked: FuturesUnordered<_> = asked.map(ask).collect();
    let mut found = Vec::new();
    let mut kademlia = true;
    while kademlia || !asked.is_empty() {
        let next = async {
            tokio::select! {
                Some((late, answer)) = asked.next(), if !asked.is_empty() => {
                    waiting_for -= usize::from(!late);
                    answer
                }
                named = named.recv(), if kademlia => {
                    kademlia = named.is_some();
                    named
                }
            }
        };
        match timeout_at(deadline, next).await {
            Ok(Some(node)) if node != context.local && !found.contains(&node) => found.push(node),
            Ok(_) => {}
            Err(_) => break,
        }
        if waiting_for == 0 && !found.is_empty() {
            deadline = deadline.min(Instant::now() + SEARCH_TIME_FOUND);
        }
    }
    found
}

/// `node`, if it says that it has (part of) the blob.
async fn has(context: &Context, node: NodeId, hash: BlobHash) -> Option<NodeId> {
    let peer = context.connect(node, Vec::new()).await.ok()?;
    let mut stream = context.opener.open(peer, PROTOCOL, Lane::Control).await.ok()?;
    frame::write(&mut stream, &Request::Have { hash, inline_max: 0, end: false }).await.ok()?;
    match frame::read(&mut stream, FRAME_BYTES_MAX).await {
        Ok(Some(Answer::Found { .. })) => Some(node),
        _ => None,
    }
}

/// Whether `node` says that it has all of the blob; none where it can't be asked.
pub(crate) async fn has_all(context: &Context, node: NodeId, hash: BlobHash) -> Option<bool> {
    let asked = async {
        let peer = context.connect(node, Vec::new()).await.ok()?;
        let mut stream = context.opener.open(peer, PROTOCOL, Lane::Control).await.ok()?;
        frame::write(&mut stream, &Request::Have { hash, inline_max: 0, end: false }).await.ok()?;
        match frame::read(&mut stream, FRAME_BYTES_MAX).await {
            Ok(Some(Answer::Found { held, .. })) => Some(held == Held::All),
            Ok(Some(Answer::NotFound | Answer::Refused)) => Some(false),
            _ => None,
        }
    };
    tokio::time::timeout(ASK_TIME, asked).await.ok().flatten()
}
