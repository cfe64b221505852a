//! Serves blobs to one stream of a peer.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use barnraiser_protocol::bounded::BoundedVec;
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::transfer::{
    Answer, BLOB_PROTOCOL, ByteRange, FRAME_BYTES_MAX, GET_BYTES_MAX, HELD_RANGES_MAX, Held, INLINE_BYTES_MAX, Request,
};
use barnraiser_store::{Available, Store};
use futures::{AsyncRead, AsyncReadExt as _};
use libp2p::PeerId;
use libp2p::swarm::Stream;
use tokio::sync::mpsc;

use super::data::{self, Form};
use super::difference;
use crate::event::Misbehaviour;
use crate::identity::node_id;
use crate::net::{Context, Serving};
use crate::substream::Inbound;
use crate::substream::frame::{self, FrameError, within};
use crate::traffic::{Pace, pack};

/// A stream on which nothing is asked for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// A peer that takes nothing for so long is let go.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a request waits for its turn before the answer is "busy".
const QUEUE_TIME: Duration = Duration::from_secs(5);

/// Answers requests until the peer closes the stream, breaks the protocol, or is silent for a minute.
pub(crate) async fn serve(context: Arc<Context>, inbound: Inbound) {
    let Inbound { peer, stream, relayed, slot: _slot, .. } = inbound;
    let Some(node) = node_id(&peer) else { return };
    if let Err(error) = requests(&context, peer, node, stream, relayed).await {
        tracing::debug!(%peer, %error, "a blob stream ended");
        if error.is_misbehaviour() {
            let what = Misbehaviour::Protocol { protocol: BLOB_PROTOCOL, what: error.to_string() };
            context.report(peer, what).await;
        }
    }
}

/// One answer that is ready to be sent.
struct Ready<'a> {
    answer: Answer,
    data: Option<Data<'a>>,
}

/// The data behind an answer, and what is reserved for it until it is sent or can't be.
struct Data<'a> {
    bytes: Vec<u8>,
    form: Form,
    _room: Serving,
    _taken: Taken<'a>,
}

/// Who takes what everybody wants, as long as it does.
struct Taken<'a> {
    context: &'a Context,
    hash: BlobHash,
    node: NodeId,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.context.served(&self.hash, &self.node);
    }
}

/// While one answer is sent, the next is read from the disk.
async fn requests(context: &Arc<Context>, peer: PeerId, node: NodeId, stream: Stream, relayed: bool) -> Result<(), FrameError> {
    let (mut reader, mut writer) = stream.split();
    let (ready, mut to_send) = mpsc::channel(1);
    let unsent = AtomicUsize::new(0);
    // Bytes a second that the peer took lately; 0 as long as nothing is known.
    let measured = AtomicU64::new(0);
    let pace = Pace::new(&context.traffic, peer);
    let preparing = async {
        // Dropped at the end: then no more is sent.
        let ready = ready;
        while let Some(request) = next_request(&mut reader, &unsent).await? {
            unsent.fetch_add(1, Ordering::Relaxed);
            if ready.send(prepare(context, node, request, relayed, measured.load(Ordering::Relaxed)).await).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let sending = async {
        while let Some(Ready { answer, data }) = to_send.recv().await {
            within(PATIENCE, frame::write(&mut writer, &answer)).await?;
            if let Some(data) = &data {
                let started = Instant::now();
                data::write(&mut writer, &data.bytes, data.form, pace, PATIENCE).await?;
                measure(&measured, data.bytes.len(), started.elapsed());
                tracing::trace!(%peer, bytes = data.bytes.len(), "served");
            }
            unsent.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    };
    futures::future::try_join(preparing, sending).await.map(|_| ())
}

/// Notes how fast the peer took some bytes. What is short says nothing: it fits the buffers on the way.
fn measure(measured: &AtomicU64, bytes: usize, time: Duration) {
    const LEAST: usize = 64 << 10;
    if bytes >= LEAST {
        let rate = (bytes as f64 / time.as_secs_f64().max(1e-6)) as u64;
        let before = measured.load(Ordering::Relaxed);
        measured.store(if before == 0 { rate } else { before / 4 * 3 + rate / 4 }, Ordering::Relaxed);
    }
}

/// The next request; the peer may be silent for long only where it waits for nothing.
async fn next_request(reader: &mut (impl AsyncRead + Unpin), unsent: &AtomicUsize) -> Result<Option<Request>, FrameError> {
    let mut reading = pin!(frame::read::<Request>(reader, FRAME_BYTES_MAX));
    loop {
        match tokio::time::timeout(IDLE, &mut reading).await {
            Ok(request) => return request,
            Err(_) if unsent.load(Ordering::Relaxed) > 0 => {}
            Err(_) => return Err(FrameError::Stalled(IDLE)),
        }
    }
}

/// What a request is answered with.
async fn prepare(context: &Arc<Context>, node: NodeId, request: Request, relayed: bool, measured: u64) -> Ready<'_> {
    let without_data = |answer| Ready { answer, data: None };
    if relayed || !context.config.access.may_serve(request.hash(), &node) {
        return without_data(Answer::Refused);
    }
    if !context.has_room(request.hash(), &node) {
        return without_data(Answer::Busy);
    }
    if let Request::Chunks { hash } = &request {
        if context.traffic.rests() {
            return without_data(Answer::Busy);
        }
        return without_data(difference::chunks(context, node, *hash).await);
    }
    let Ok(Some(room)) = tokio::time::timeout(QUEUE_TIME, context.serving(&node)).await else {
        return without_data(Answer::Busy);
    };
    let (store, hash) = (context.config.store.clone(), *request.hash());
    let try_zstd = request.takes_zstd() && pack::is_slow(context.traffic.rates(), measured);
    let traffic = context.traffic.clone();
    // A failing thread is as good as a blob that is not there.
    let answered = tokio::task::spawn_blocking(move || {
        let (answer, bytes) = answer(&store, &request, &|length| traffic.keeps_back(length));
        let packed = bytes.as_ref().filter(|_| try_zstd).and_then(|bytes| pack::pack(bytes));
        (answer, packed.map(|bytes| (bytes, Form::Zstd)).or(bytes.map(|bytes| (bytes, Form::Plain))))
    });
    let answered = answered.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a blob could not be read");
        (Answer::NotFound, None)
    });
    match answered {
        // Only who is given data counts, and not who asks in vain.
        (_, Some(_)) if !context.admit(&hash, &node) => without_data(Answer::Busy),
        (answer, Some((bytes, form))) => {
            Ready { answer, data: Some(Data { bytes, form, _room: room, _taken: Taken { context, hash, node } }) }
        }
        (answer, None) => without_data(answer),
    }
}

/// The answer to a request, and the encoded data that follows it. Reads and proves up to a unit from disk. Blobs of lengths that
/// are kept back for now are somebody else's to serve.
fn answer(store: &Store, request: &Request, keeps_back: &dyn Fn(u64) -> bool) -> (Answer, Option<Vec<u8>>) {
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
    if keeps_back(available.length) {
        return (Answer::Busy, None);
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
