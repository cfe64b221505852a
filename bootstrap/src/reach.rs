//! Whether others can dial this node.
//!
//! A node asks those that it is connected to, entry servers first, to dial it back: over `/barn/reach/1` they open a
//! connection of its own kind, as whoever fetches a large blob would, and say whether that worked. What one says is believed as
//! far as it goes: it decides how soon blobs are pushed to holders and what people are shown, nothing else.
//!
//! Who asks says itself where it can be dialled. So only those of its addresses are, that have the IP that it asks from: else a
//! stranger could have this node knock at whatever door it likes, of this machine and its neighbours too.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use barnraiser_protocol::id::NodeId;
use barnraiser_protocol::transfer::holding::Block;
use barnraiser_protocol::transfer::reach::{REACH_FRAME_BYTES_MAX, REACH_PROTOCOL, Reached};
use libp2p::PeerId;
use libp2p::swarm::StreamProtocol;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::identity::{ip_of, peer_id};
use crate::net::Context;
use crate::substream::frame::{self, within};
use crate::substream::{Inbound, Lane, Opener};
use crate::swarm::Command;

const PROTOCOL: StreamProtocol = StreamProtocol::new(REACH_PROTOCOL);
/// Nodes that are dialled back at the same time.
const DIALS_MAX: usize = 8;
/// One node is dialled back this often at the most.
const AGAIN_AFTER: Duration = Duration::from_secs(20);
/// ... and of one block of addresses so many in that time: keys cost nothing.
const OF_BLOCK_MAX: usize = 16;
/// Nodes remembered for that.
const REMEMBERED_MAX: usize = 1024;
/// The longest that an answer may take: a dial, and a stream on it.
const ANSWER_TIME: Duration = Duration::from_secs(40);
/// How many are asked: where one can't dial this node, another may.
const ASKED_MAX: usize = 3;
/// How often it is asked until somebody has answered, ...
const ASK_SOON: Duration = Duration::from_secs(3);
/// ... and then.
const ASK_LATE: Duration = Duration::from_secs(300);

/// Dials nodes back that ask for it.
#[derive(Debug)]
pub struct Dialler {
    dials: Semaphore,
    last: Mutex<BTreeMap<PeerId, (Instant, Block)>>,
}

impl Default for Dialler {
    fn default() -> Self {
        Self { dials: Semaphore::new(DIALS_MAX), last: Mutex::default() }
    }
}

impl Dialler {
    /// Answers whether the peer of a stream can be dialled. A stream that comes as such a dial is closed by its opener at
    /// once, and needs no answer.
    pub async fn answer(&self, opener: &Opener, inbound: Inbound) {
        let Inbound { peer, mut stream, relayed, address, slot: _slot, .. } = inbound;
        let asked = within(ANSWER_TIME, frame::read::<()>(&mut stream, REACH_FRAME_BYTES_MAX)).await;
        let Ok(Some(())) = asked else { return };
        let said = match ip_of(&address).filter(|ip| !relayed && self.is_due(peer, block_of(*ip))) {
            Some(ip) => self.dial(opener, peer, ip).await,
            None => Reached::Busy,
        };
        // Whoever is gone does not need it.
        let _ = within(ANSWER_TIME, frame::write(&mut stream, &said)).await;
    }

    async fn dial(&self, opener: &Opener, peer: PeerId, ip: IpAddr) -> Reached {
        let Ok(_permit) = self.dials.try_acquire() else { return Reached::Busy };
        match opener.open(peer, PROTOCOL, Lane::BulkAt(ip)).await {
            Ok(_) => Reached::Yes,
            Err(error) => {
                tracing::debug!(%peer, %error, "a node can't be dialled back");
                Reached::No
            }
        }
    }

    fn is_due(&self, peer: PeerId, block: Block) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        last.retain(|_, (at, _)| now.duration_since(*at) < AGAIN_AFTER);
        let of_block = last.values().filter(|(_, other)| *other == block).count();
        if last.contains_key(&peer) || of_block >= OF_BLOCK_MAX || last.len() >= REMEMBERED_MAX {
            return false;
        }
        last.insert(peer, (now, block));
        true
    }
}

/// The block that an address is of.
pub(crate) const fn block_of(ip: IpAddr) -> Block {
    match ip {
        IpAddr::V4(ip) => Block::v4(ip.octets()),
        IpAddr::V6(ip) => Block::v6(ip.octets()),
    }
}

/// Asks `node` to dial this node back; none where it can't say.
async fn ask(context: &Context, node: NodeId) -> Option<bool> {
    let mut stream = context.opener.open(peer_id(&node)?, PROTOCOL, Lane::Control).await.ok()?;
    within(ANSWER_TIME, frame::write(&mut stream, &())).await.ok()?;
    match within(ANSWER_TIME, frame::read(&mut stream, REACH_FRAME_BYTES_MAX)).await {
        Ok(Some(Reached::Yes)) => Some(true),
        Ok(Some(Reached::No)) => Some(false),
        _ => None,
    }
}

/// Finds out again and again whether this node can be reached, for ever.
pub(crate) async fn watch(context: Arc<Context>) {
    loop {
        let Ok(nodes) = context.ask(|reply| Command::Reachers { most: ASKED_MAX, reply }).await else { return };
        let mut known = None;
        for node in nodes {
            match ask(&context, node).await {
                Some(true) => {
                    known = Some(true);
                    break;
                }
                Some(false) => known = Some(false),
                None => {}
            }
        }
        if known.is_some() {
            context.reachable.send_if_modified(|before| {
                let changed = *before != known;
                *before = known;
                changed
            });
        }
        let wait = if context.reachable.borrow().is_none() { ASK_SOON } else { ASK_LATE };
        tokio::time::sleep(wait.mul_f64(rand::random_range(0.75..1.25))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_dialled_back_now_and_then_and_few_of_one_block_of_addresses() {
        let (dialler, peer) = (Dialler::default(), PeerId::random());
        let [block, other] = [[192, 0, 2, 1], [198, 51, 100, 1]].map(|ip| block_of(IpAddr::from(ip)));
        assert!(dialler.is_due(peer, block));
        assert!(!dialler.is_due(peer, block) && !dialler.is_due(peer, other), "it was just dialled");
        for _ in 1..OF_BLOCK_MAX {
            assert!(dialler.is_due(PeerId::random(), block));
        }
        assert!(!dialler.is_due(PeerId::random(), block), "new keys don't help");
        assert!(dialler.is_due(PeerId::random(), other));
    }
}
