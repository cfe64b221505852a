//! Serves blobs to one stream of a peer.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::transfer::{
    Answer, BLOB_PROTOCOL, ByteRange, Data, FRAME_BYTES_MAX, GET_BYTES_MAX, Given, Held, INLINE_BYTES_MAX, Request, UnitSet, end_of,
};
use barnraiser_store::geometry::unit_range;
use barnraiser_store::{Available, Store};
use futures::{AsyncRead, AsyncReadExt as _};
use libp2p::PeerId;
use libp2p::swarm::Stream;
use tokio::sync::mpsc;
use tokio::time::Instant;

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
/// The buffers of a stream on which nothing is asked for so long are dropped: nothing counts them, and a peer that fetches asks
/// for the next unit before it has the last.
const SPARE_TIME: Duration = Duration::from_secs(1);
/// A peer that takes nothing for so long is let go.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a request waits for its turn before the answer is "busy".
const QUEUE_TIME: Duration = Duration::from_secs(5);

/// How long a question for more waits until there is more; less than whoever asks is patient.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// It looks by itself so often whether there is: not everything that brings units says so.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Two looks are so far apart at least: every unit that is verified, of whichever blob, would have all that wait look.
const LOOK_APART: Duration = Duration::from_millis(100);

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
    sent: Option<Sent<'a>>,
}

/// The data behind an answer, and what is reserved for it until it is sent or can't be.
struct Sent<'a> {
    bytes: Vec<u8>,
    form: Form,
    _room: Serving,
    /// Not where it only proves a length.
    _taken: Option<Taken<'a>>,
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
    // Buffers that were sent: the next answers go into them, which saves zeroing and page faults. As many as there are answers in
    // the making, waiting and being sent.
    let spare = Mutex::new(Vec::new());
    let lock = || spare.lock().unwrap_or_else(PoisonError::into_inner);
    let preparing = async {
        // Dropped at the end: then no more is sent.
        let ready = ready;
        while let Some(request) = next_request(&mut reader, &unsent, || lock().clear()).await? {
            unsent.fetch_add(1, Ordering::Relaxed);
            let buffer = lock().pop().unwrap_or_default();
            let prepared = prepare(context, node, request, relayed, measured.load(Ordering::Relaxed), buffer).await;
            if ready.send(prepared).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let sending = async {
        while let Some(Ready { answer, sent }) = to_send.recv().await {
            within(PATIENCE, frame::write(&mut writer, &answer)).await?;
            // What is reserved for it is given up when it is sent.
            if let Some(mut sent) = sent {
                let started = Instant::now();
                data::write(&mut writer, &sent.bytes, sent.form, pace, PATIENCE).await?;
                measure(&measured, sent.bytes.len(), started.elapsed());
                tracing::trace!(%peer, bytes = sent.bytes.len(), "served");
                lock().push(std::mem::take(&mut sent.bytes));
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

/// The next request; the peer may be silent for long only where it waits for nothing. While there is none, `resting` is called
/// now and then.
async fn next_request(
    reader: &mut (impl AsyncRead + Unpin),
    unsent: &AtomicUsize,
    resting: impl Fn(),
) -> Result<Option<Request>, FrameError> {
    let mut reading = pin!(frame::read::<Request>(reader, FRAME_BYTES_MAX));
    let mut idle = Duration::ZERO;
    loop {
        if let Ok(request) = tokio::time::timeout(SPARE_TIME, &mut reading).await {
            return request;
        }
        // Each time: what is still being sent comes to the spare ones later.
        resting();
        idle = if unsent.load(Ordering::Relaxed) > 0 { Duration::ZERO } else { idle + SPARE_TIME };
        if idle >= IDLE {
            return Err(FrameError::Stalled(IDLE));
        }
    }
}

/// What a request is answered with; its data goes into `buffer`. `measured` are the bytes a second that the peer took lately.
async fn prepare(context: &Arc<Context>, node: NodeId, request: Request, relayed: bool, measured: u64, buffer: Vec<u8>) -> Ready<'_> {
    let without_data = |answer| Ready { answer, sent: None };
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
    // Where no room is to wait, it is answered at once, in turn with all others.
    if let Request::Wait { hash, units } = &request
        && let Some(_waiting) = context.waits.begin(node)
    {
        return without_data(more(context, *hash, *units).await);
    }
    let Ok(Some(room)) = tokio::time::timeout(QUEUE_TIME, context.serving(&node)).await else {
        return without_data(Answer::Busy);
    };
    let (store, given, hash) = (context.config.store.clone(), context.given.clone(), *request.hash());
    let is_question = matches!(request, Request::Have { .. });
    let try_zstd = request.takes_zstd() && pack::is_slow(context.traffic.rates(), measured);
    let traffic = context.traffic.clone();
    // A failing thread is as good as a blob that is not there.
    let answered = tokio::task::spawn_blocking(move || {
        let (answer, bytes) = answer(&store, &given, &node, &request, &|length| traffic.keeps_back(length), buffer);
        let packed = bytes.as_ref().filter(|_| try_zstd).and_then(|bytes| pack::pack(bytes));
        (answer, packed.map(|bytes| (bytes, Form::Zstd)).or(bytes.map(|bytes| (bytes, Form::Plain))))
    });
    let answered = answered.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a blob could not be read");
        (Answer::NotFound, None)
    });
    let (answer, Some((bytes, form))) = answered else { return without_data(answered.0) };
    // Only who is given data counts, and not who asks in vain, or how long a blob is that is longer than its end.
    let is_proof = is_question && matches!(&answer, Answer::Found { data: Data::Encoded(range), .. } if range.start > 0);
    if !is_proof && !context.admit(&hash, &node) {
        return without_data(Answer::Busy);
    }
    if let Some(holder) = context.holder.as_ref().filter(|_| !is_proof) {
        // What is fetched is of use: it goes later than others.
        holder.touch(&hash);
    }
    let taken = (!is_proof).then_some(Taken { context, hash, node });
    Ready { answer, sent: Some(Sent { bytes, form, _room: room, _taken: taken }) }
}

/// The answer to a question for more than `units` units: once there are, or the blob is not being fetched any more, or after
/// a while.
async fn more(context: &Context, hash: BlobHash, units: u64) -> Answer {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let verified = context.verified.notified();
        let looked = Instant::now();
        let (store, traffic) = (context.config.store.clone(), context.traffic.clone());
        let found = tokio::task::spawn_blocking(move || match find(&store, &hash, &|length| traffic.keeps_back(length)) {
            Ok((available, held)) => Answer::Found { length: available.length, held, data: Data::Nothing },
            Err(answer) => answer,
        });
        match found.await.unwrap_or(Answer::NotFound) {
            Answer::Found { held: Held::Units(held), .. } if held.count() <= units && Instant::now() < deadline => {}
            answer => return answer,
        }
        tokio::select! {
            () = verified => {}
            () = tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_AGAIN)) => {}
        }
        // What comes meanwhile is seen by the next look.
        tokio::time::sleep_until(deadline.min(looked + LOOK_APART)).await;
    }
}

/// What of a blob is here, or the answer where nothing of it can be had. Blobs of lengths that are kept back for now are
/// somebody else's to serve.
fn find(store: &Store, hash: &BlobHash, keeps_back: &dyn Fn(u64) -> bool) -> Result<(Available, Held), Answer> {
    match store.available(hash) {
        Ok(Some(available)) if keeps_back(available.length) => Err(Answer::Busy),
        // A length that only another peer stated is not passed on as ours.
        Ok(Some(available)) if available.length_is_proven => {
            let held = held(&available);
            Ok((available, held))
        }
        Ok(_) => Err(Answer::NotFound),
        Err(error) => {
            tracing::warn!(%hash, %error, "the store can't say whether it has a blob");
            Err(Answer::NotFound)
        }
    }
}

/// The answer to a request, and the data that follows it, in `buffer`. Reads and proves up to a unit from disk.
fn answer(
    store: &Store,
    given: &Mutex<Given>,
    to: &NodeId,
    request: &Request,
    keeps_back: &dyn Fn(u64) -> bool,
    mut buffer: Vec<u8>,
) -> (Answer, Option<Vec<u8>>) {
    let hash = request.hash();
    let (available, held) = match find(store, hash, keeps_back) {
        Ok(found) => found,
        Err(answer) => return (answer, None),
    };
    let length = available.length;
    let whole = ByteRange { start: 0, end: length };
    let given = || given.lock().unwrap_or_else(PoisonError::into_inner);
    let range = match request {
        Request::Have { inline_max, .. } if available.complete && length <= u64::from(*inline_max).min(INLINE_BYTES_MAX) => whole,
        Request::Have { end: true, .. } => {
            return match store.encode_end(hash, length, &mut buffer) {
                Ok(()) => (Answer::Found { length, held, data: Data::Encoded(end_of(length)) }, Some(buffer)),
                Err(error) => unreadable(hash, &error),
            };
        }
        Request::Have { .. } | Request::Wait { .. } => return (Answer::Found { length, held, data: Data::Nothing }, None),
        Request::Get { range, .. } => *range,
        Request::Any { wanted, .. } => {
            let is_here = |unit: &u64| {
                let range = unit_range(*unit, length);
                range.start < length && held.covers(&ByteRange { start: range.start, end: range.end })
            };
            let Some(unit) = given().choose(hash, to, wanted.iter().filter(is_here)) else { return (Answer::NotFound, None) };
            let range = unit_range(unit, length);
            ByteRange { start: range.start, end: range.end }
        }
        Request::Pieces { ranges, .. } if available.complete => return difference::pieces(store, hash, ranges, length),
        Request::Pieces { .. } | Request::Chunks { .. } => return (Answer::NotFound, None),
    };
    let nothing = range.length() == 0 && range != whole;
    if range.end > length || range.length() > GET_BYTES_MAX || nothing || !held.covers(&range) {
        return (Answer::NotFound, None);
    }
    if let Request::Get { .. } = request {
        given().sent(hash, range.start / GET_BYTES_MAX);
    }
    match store.encode_ranges(hash, range.start..range.end, &mut buffer) {
        Ok(()) => (Answer::Found { length, held, data: Data::Encoded(range) }, Some(buffer)),
        Err(error) => unreadable(hash, &error),
    }
}

fn unreadable(hash: &BlobHash, error: &barnraiser_store::ReadError) -> (Answer, Option<Vec<u8>>) {
    tracing::warn!(%hash, %error, "a blob can't be served");
    (Answer::NotFound, None)
}

fn held(available: &Available) -> Held {
    if available.complete {
        return Held::All;
    }
    let ranges = available.ranges.iter().map(|range| ByteRange { start: range.start, end: range.end });
    Held::Units(UnitSet::of_ranges(ranges, available.length))
}
