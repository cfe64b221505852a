//! Serves blobs to one stream of a peer.

use std::sync::Arc;
use std::time::Duration;

use barnraiser_protocol::bounded::BoundedVec;
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::transfer::{
    Answer, BLOB_PROTOCOL, ByteRange, FRAME_BYTES_MAX, GET_BYTES_MAX, HELD_RANGES_MAX, Held, INLINE_BYTES_MAX, Request,
};
use barnraiser_store::{Available, Store};
use libp2p::PeerId;
use libp2p::swarm::Stream;

use super::{data, difference};
use crate::event::Misbehaviour;
use crate::identity::node_id;
use crate::net::Context;
use crate::substream::Inbound;
use crate::substream::frame::{self, FrameError, within};

/// A stream on which nothing is asked for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// A peer that takes nothing for so long is let go.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a request waits for its turn before the answer is "busy".
const QUEUE_TIME: Duration = Duration::from_secs(5);

/// Answers requests until the peer closes the stream, breaks the protocol, or is silent for a minute.
pub(crate) async fn serve(context: Arc<Context>, inbound: Inbound) {
    let Inbound { peer, mut stream, relayed, slot: _slot, .. } = inbound;
    let Some(node) = node_id(&peer) else { return };
    if let Err(error) = requests(&context, peer, node, &mut stream, relayed).await {
        tracing::debug!(%peer, %error, "a blob stream ended");
        if error.is_misbehaviour() {
            let what = Misbehaviour::Protocol { protocol: BLOB_PROTOCOL, what: error.to_string() };
            context.report(peer, what).await;
        }
    }
}

async fn requests(context: &Context, peer: PeerId, node: NodeId, stream: &mut Stream, relayed: bool) -> Result<(), FrameError> {
    while let Some(request) = within(IDLE, frame::read::<Request>(stream, FRAME_BYTES_MAX)).await? {
        if relayed || !context.config.access.may_serve(request.hash(), &node) {
            within(PATIENCE, frame::write(stream, &Answer::Refused)).await?;
            continue;
        }
        if !context.has_room(request.hash(), &node) {
            within(PATIENCE, frame::write(stream, &Answer::Busy)).await?;
            continue;
        }
        if let Request::Chunks { hash } = &request {
            let answer = difference::chunks(context, *hash).await;
            within(PATIENCE, frame::write(stream, &answer)).await?;
            continue;
        }
        let Ok(Ok(permit)) = tokio::time::timeout(QUEUE_TIME, context.serving.clone().acquire_owned()).await else {
            within(PATIENCE, frame::write(stream, &Answer::Busy)).await?;
            continue;
        };
        let (store, hash) = (context.config.store.clone(), *request.hash());
        // A failing thread is as good as a blob that is not there.
        let answered = tokio::task::spawn_blocking(move || answer(&store, &request)).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a blob could not be read");
            (Answer::NotFound, None)
        });
        // Only who is given data counts, and not who asks in vain.
        let answered = if answered.1.is_some() && !context.admit(&hash, &node) { (Answer::Busy, None) } else { answered };
        let (answer, bytes) = answered;
        let taken = bytes.as_ref().map(Vec::len);
        let sent = send(stream, &answer, bytes).await;
        if let Some(bytes) = taken {
            context.served(&hash, &node);
            tracing::trace!(%peer, bytes, "served");
        }
        sent?;
        drop(permit);
    }
    Ok(())
}

async fn send(stream: &mut Stream, answer: &Answer, bytes: Option<Vec<u8>>) -> Result<(), FrameError> {
    within(PATIENCE, frame::write(stream, answer)).await?;
    match bytes {
        Some(bytes) => data::write(stream, &bytes, PATIENCE).await,
        None => Ok(()),
    }
}

/// The answer to a request, and the encoded data that follows it. Reads and proves up to a unit from disk.
fn answer(store: &Store, request: &Request) -> (Answer, Option<Vec<u8>>) {
    let hash = request.hash();
    let available = match store.available(hash) {
        Ok(Some(available)) => available,
        Ok(None) => return (Answer::NotFound, None),
        Err(error) => {
            tracing::warn!(%hash, %error, "the store can't say whether it has a blob");
            return (Answer::NotFound, None);
        }
    };
    // A length that only another peer stated is not passed on as ours.
    if !available.complete && available.ranges.last().is_none_or(|range| range.end != available.length) {
        return (Answer::NotFound, None);
    }
    let held = held(&available);
    let length = available.length;
    let range = match request {
        Request::Have { inline_max, .. } => {
            let inline = available.complete && length <= u64::from(*inline_max).min(INLINE_BYTES_MAX);
            if *inline_max == 0 || !inline {
                return (Answer::Found { length, held, data: false }, None);
            }
            ByteRange { start: 0, end: length }
        }
        Request::Get { range, .. } => *range,
        Request::Pieces { ranges, .. } if available.complete => return difference::pieces(store, hash, ranges, length),
        Request::Pieces { .. } | Request::Chunks { .. } => return (Answer::NotFound, None),
    };
    let is_whole = range.start == 0 && range.end == length;
    if range.end > length || range.length() > GET_BYTES_MAX || (range.length() == 0 && !is_whole) || !held.covers(&range) {
        return (Answer::NotFound, None);
    }
    match encode(store, hash, range) {
        Ok(bytes) => (Answer::Found { length, held, data: true }, Some(bytes)),
        Err(error) => {
            tracing::warn!(%hash, %error, "a blob can't be served");
            (Answer::NotFound, None)
        }
    }
}

fn encode(store: &Store, hash: &BlobHash, range: ByteRange) -> Result<Vec<u8>, barnraiser_store::ReadError> {
    // The proof is less than one part in sixteen.
    let mut bytes = Vec::with_capacity((range.length() + range.length() / 16) as usize);
    store.encode_ranges(hash, range.start..range.end, &mut bytes)?;
    Ok(bytes)
}

fn held(available: &Available) -> Held {
    if available.complete {
        return Held::All;
    }
    let ranges = available.ranges.iter().take(HELD_RANGES_MAX);
    let ranges: Vec<ByteRange> = ranges.map(|range| ByteRange { start: range.start, end: range.end }).collect();
    // As many as the bound were taken.
    Held::Ranges(BoundedVec::try_from(ranges).unwrap_or_default())
}
