//! Works with one provider of a fetch: asks what it has, then takes unit after unit.

use std::collections::VecDeque;
use std::time::Duration;

use barnraiser_protocol::id::NodeId;
use barnraiser_protocol::transfer::{Answer, BLOB_PROTOCOL, ByteRange, FRAME_BYTES_MAX, Held, INLINE_BYTES_MAX, Next, Request};
use barnraiser_store::geometry::{encoded_length, last_group};
use barnraiser_store::{BLOB_BYTES_MAX, PartialBlob, PartialError, prove_length};
use futures::FutureExt as _;
use futures::future::{BoxFuture, OptionFuture};
use libp2p::PeerId;
use libp2p::swarm::Stream;
use tokio::time::Instant;

use super::data::{self, Form};
use super::fetch::{Fetch, blocking};
use super::{FetchError, PROTOCOL};
use crate::event::Misbehaviour;
use crate::net::NetError;
use crate::substream::frame::{self, FrameError, within};
use crate::substream::{Lane, OpenError};
use crate::traffic::pack;

/// Units asked for ahead on a bulk connection: while one arrives, the next is asked for, and the one before is being proven.
const DEPTH_BULK: usize = 2;
/// On a control connection a unit at a time, so that records still pass.
const DEPTH_CONTROL: usize = 1;
/// The longest that connecting to a provider may take, its addresses looked up if need be.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A provider that is itself still fetching is asked this often what it has by now.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// A provider that is fetching too, and has had nothing that is missing here for so many times what a stalled one is given, is
/// asked again only while others deliver.
const USELESS_STALLS: u32 = 3;
/// As often may a provider say that it lacks a unit which it said to have.
const MISSES_MAX: u32 = 3;

/// Why a provider is of no more use to this fetch.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("does not have it")]
    NotFound,
    #[error("refuses to serve it")]
    Refused,
    #[error("is busy")]
    Busy,
    /// It holds a part, and for long nothing of that was of use.
    #[error("has nothing more of it")]
    NothingMore,
    #[error("gave nothing while others waited for its place")]
    Silent,
    #[error("is only reachable through a relay, which carries no blobs")]
    Relayed,
    #[error("{0}")]
    Misbehaved(Misbehaviour),
    #[error("says that it has {0} bytes, more than wanted")]
    TooLong(u64),
    #[error("says that it has {claimed} bytes, {wanted} are wanted")]
    OtherLength { claimed: u64, wanted: u64 },
    #[error("{0}")]
    Connection(String),
    /// Not the provider's fault, and the end of the fetch.
    #[error("{0}")]
    Fatal(FetchError),
}

impl Lost {
    /// Whether it is held against the provider for a while.
    pub(super) const fn is_lapse(&self) -> bool {
        match self {
            Self::NotFound | Self::NothingMore | Self::Silent | Self::Misbehaved(_) | Self::Connection(_) => true,
            // A length above the limit, or another than a statement that may be wrong itself.
            Self::TooLong(_) | Self::OtherLength { .. } => true,
            Self::Refused | Self::Busy | Self::Relayed | Self::Fatal(_) => false,
        }
    }
}

impl From<FrameError> for Lost {
    fn from(error: FrameError) -> Self {
        if error.is_misbehaviour() {
            Self::Misbehaved(Misbehaviour::Protocol { protocol: BLOB_PROTOCOL, what: error.to_string() })
        } else {
            Self::Connection(error.to_string())
        }
    }
}

impl From<OpenError> for Lost {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Relayed(_) => Self::Relayed,
            OpenError::ShutDown => Self::Fatal(NetError::ShutDown.into()),
            other => Self::Connection(other.to_string()),
        }
    }
}

fn out_of_turn(what: &str) -> Lost {
    Lost::Misbehaved(Misbehaviour::Protocol { protocol: BLOB_PROTOCOL, what: what.into() })
}

/// Takes units from `node` until all are done.
pub(super) async fn work(fetch: &Fetch<'_>, node: NodeId) -> Result<(), Lost> {
    let connect = tokio::time::timeout(CONNECT_TIMEOUT, fetch.context.connect(node, Vec::new()));
    let peer = match connect.await {
        Ok(Ok(peer)) => peer,
        Ok(Err(NetError::ShutDown)) => return Err(Lost::Fatal(NetError::ShutDown.into())),
        Ok(Err(error)) => return Err(Lost::Connection(error.to_string())),
        Err(_) => return Err(Lost::Connection(format!("can't be reached within {CONNECT_TIMEOUT:?}"))),
    };
    let mut control = fetch.context.opener.open(peer, PROTOCOL, Lane::Control).await?;
    // Only who may have to send it anyway is asked for the blob itself.
    let inline_max = match fetch.request.length {
        Some(length) if length > INLINE_BYTES_MAX => 0,
        _ => INLINE_BYTES_MAX as u32,
    };
    let request = Request::Have { hash: *fetch.hash(), inline_max };
    let (length, held, has_data) = ask(fetch, &mut control, &request).await?;
    // Of a longer one not even the shape of the tree could be reckoned.
    if length > fetch.request.limit.min(BLOB_BYTES_MAX) {
        return Err(Lost::TooLong(length));
    }
    if let Some(wanted) = fetch.request.length.filter(|wanted| *wanted != length) {
        return Err(Lost::OtherLength { claimed: length, wanted });
    }
    if has_data && length > u64::from(inline_max) {
        return Err(out_of_turn("data that was not asked for"));
    }
    let known = fetch.is_right(length).transpose()?.is_some();
    if has_data {
        let range = ByteRange { start: 0, end: length };
        let bytes = timely(fetch, data(fetch, &mut control, length, &range)).await?;
        if !known {
            prove(fetch, length, range, bytes.clone()).await?;
        }
        let provider = Provider { fetch, node, partial: fetch.begin(node, length).await?, held, misses: 0 };
        return provider.keep(range, bytes, Form::Plain).await.map(|_| ());
    }
    if !known {
        let range = last_group(length);
        let range = ByteRange { start: range.start, end: range.end };
        let bytes = timely(fetch, last_bytes(fetch, &mut control, length, range)).await?;
        prove(fetch, length, range, bytes).await?;
    }
    let partial = fetch.begin(node, length).await?;
    let mut provider = Provider { fetch, node, partial, held, misses: 0 };
    let (mut stream, depth) = provider.lane(peer, control).await?;
    provider.units(&mut stream, depth).await
}

/// `work`, within the time that a unit may take: a peer that sends a byte now and then moves, too.
async fn timely<T>(fetch: &Fetch<'_>, work: impl Future<Output = Result<T, Lost>>) -> Result<T, Lost> {
    let most = fetch.context.config.limits.unit_time_max;
    tokio::time::timeout(most, work).await.unwrap_or(Err(FrameError::Stalled(most).into()))
}

/// The last bytes of a blob that is said to have `length`, with the proof of that.
async fn last_bytes(fetch: &Fetch<'_>, stream: &mut Stream, length: u64, range: ByteRange) -> Result<Vec<u8>, Lost> {
    let (stated, _, has_data) = ask(fetch, stream, &Request::Get { hash: *fetch.hash(), range, zstd: false }).await?;
    if stated != length {
        return Err(Lost::Misbehaved(Misbehaviour::WrongLength(format!("{stated} bytes, after {length}"))));
    }
    if !has_data {
        return Err(out_of_turn("no data where some were asked for"));
    }
    data(fetch, stream, length, &range).await
}

async fn data(fetch: &Fetch<'_>, stream: &mut Stream, length: u64, range: &ByteRange) -> Result<Vec<u8>, Lost> {
    let mut bytes = Vec::new();
    // A unit's encoding is about a MiB.
    let expected = encoded_length(&(range.start..range.end), length) as usize;
    data::read(stream, &mut bytes, expected, false, fetch.context.config.limits.stall).await?;
    Ok(bytes)
}

/// Whether the blob has `length` bytes, by the bytes of `range` at its end: until that is certain nothing is made ready for it.
async fn prove(fetch: &Fetch<'_>, length: u64, range: ByteRange, bytes: Vec<u8>) -> Result<(), Lost> {
    let hash = *fetch.hash();
    let proven = blocking(hash, move || prove_length(&hash, length, range.start..range.end, &bytes)).await;
    proven.map_err(|error| match error {
        FetchError::Store { source, .. } if source.is_peers_fault() => Lost::Misbehaved(Misbehaviour::WrongBytes(source.to_string())),
        other => Lost::Fatal(other),
    })
}

/// One request and its answer.
async fn ask(fetch: &Fetch<'_>, stream: &mut Stream, request: &Request) -> Result<(u64, Held, bool), Lost> {
    let patience = fetch.context.config.limits.stall;
    within(patience, frame::write(stream, request)).await?;
    answer(patience, stream).await
}

async fn answer(patience: Duration, stream: &mut Stream) -> Result<(u64, Held, bool), Lost> {
    match within(patience, frame::read(stream, FRAME_BYTES_MAX)).await? {
        Some(Answer::Found { length, held, data }) => Ok((length, held, data)),
        Some(Answer::NotFound) => Err(Lost::NotFound),
        Some(Answer::Busy) => Err(Lost::Busy),
        Some(Answer::Refused) => Err(Lost::Refused),
        Some(Answer::Chunks { .. }) => Err(out_of_turn("a chunk list that was not asked for")),
        None => Err(Lost::Connection("the peer closed the stream".into())),
    }
}

struct Provider<'a> {
    fetch: &'a Fetch<'a>,
    node: NodeId,
    partial: PartialBlob,
    held: Held,
    misses: u32,
}

impl<'a> Provider<'a> {
    /// The stream for the units: a bulk connection, or the control connection for what is small and for peers that can't
    /// be dialled (a volunteer behind a router who dialled us).
    async fn lane(&self, peer: PeerId, control: Stream) -> Result<(Stream, usize), Lost> {
        if self.partial.length() <= INLINE_BYTES_MAX {
            return Ok((control, DEPTH_CONTROL));
        }
        match self.fetch.context.opener.open(peer, PROTOCOL, Lane::Bulk).await {
            Ok(bulk) => Ok((bulk, DEPTH_BULK)),
            Err(error @ (OpenError::Relayed(_) | OpenError::ShutDown)) => Err(error.into()),
            Err(error) => {
                tracing::debug!(%peer, %error, "no bulk connection: the control connection must do");
                Ok((control, DEPTH_CONTROL))
            }
        }
    }

    async fn units(&mut self, stream: &mut Stream, depth: usize) -> Result<(), Lost> {
        let limits = &self.fetch.context.config.limits;
        let mut asked: VecDeque<ByteRange> = VecDeque::new();
        // What came last, while it is proven and written.
        let mut keeping: Option<BoxFuture<'a, Result<Vec<u8>, Lost>>> = None;
        // For what comes next: what came before the last is through.
        let mut spare = Vec::new();
        let mut useful = Instant::now();
        loop {
            let changed = self.fetch.changed.notified();
            let mut wait = None;
            while asked.len() < depth {
                if let Some(why) = self.fetch.kept_back(self.partial.length()) {
                    if asked.is_empty() && keeping.is_none() {
                        return Err(Lost::Fatal(why));
                    }
                    break;
                }
                match self.fetch.next(self.node, &self.held) {
                    (Next::Unit(range), _) => {
                        let request = Request::Get { hash: *self.fetch.hash(), range, zstd: true };
                        asked.push_back(range);
                        within(limits.stall, frame::write(stream, &request)).await?;
                    }
                    (Next::Finished, _) if asked.is_empty() => return Ok(()),
                    (Next::Finished, _) => break,
                    (Next::Wait(until), age) => {
                        wait = until.map(|until| until.saturating_sub(age));
                        break;
                    }
                }
            }
            if let Some(range) = asked.pop_front() {
                useful = Instant::now();
                let mut bytes = std::mem::take(&mut spare);
                let taking = tokio::time::timeout(limits.unit_time_max, self.take(stream, range, &mut bytes));
                let mut kept = OptionFuture::from(keeping.take());
                // A wrong byte ends it at once; what is right is kept, whatever comes next.
                let taken = {
                    let mut taking = std::pin::pin!(taking);
                    tokio::select! {
                        result = &mut kept => {
                            spare = result.unwrap_or(Ok(Vec::new()))?;
                            taking.await
                        }
                        taken = &mut taking => {
                            spare = kept.await.unwrap_or(Ok(Vec::new()))?;
                            taken
                        }
                    }
                };
                if let Some(form) = taken.unwrap_or(Err(FrameError::Stalled(limits.unit_time_max).into()))? {
                    keeping = Some(self.keep(range, bytes, form).boxed());
                }
                continue;
            }
            if let Some(keeping) = keeping.take() {
                spare = keeping.await?;
                continue;
            }
            let partial_holder = self.held != Held::All;
            // Who says for ever that it will have some would hold a place, and the fetch up, for ever.
            if partial_holder && useful.elapsed() > limits.stall * USELESS_STALLS {
                return Err(Lost::NothingMore);
            }
            let patience = if partial_holder { wait.map_or(ASK_AGAIN, |wait| wait.min(ASK_AGAIN)) } else { wait.unwrap_or(Duration::MAX) };
            let started = Instant::now();
            tokio::select! {
                () = sleep(patience) => {}
                () = changed => {}
            }
            if partial_holder {
                // A peer that is fetching too: it may have more by now. Others' progress does not make us ask faster.
                tokio::time::sleep_until(started + ASK_AGAIN.min(patience)).await;
                let request = Request::Have { hash: *self.fetch.hash(), inline_max: 0 };
                let (length, held, data) = ask(self.fetch, stream, &request).await?;
                self.check(length, data, false)?;
                self.held = held;
            }
        }
    }

    /// Takes the answer to the request for `range` into `bytes`. None where the provider has lost it.
    async fn take(&mut self, stream: &mut Stream, range: ByteRange, bytes: &mut Vec<u8>) -> Result<Option<Form>, Lost> {
        match answer(self.fetch.context.config.limits.stall, stream).await {
            Ok((length, held, has_data)) => {
                self.check(length, has_data, true)?;
                self.held = held;
                Ok(Some(self.data(stream, range, true, bytes).await?))
            }
            Err(Lost::NotFound) if self.misses < MISSES_MAX => {
                self.misses += 1;
                self.fetch.failed(self.node, range);
                // Until it is asked again, it has nothing.
                self.held = Held::Ranges(barnraiser_protocol::bounded::BoundedVec::new());
                Ok(None)
            }
            Err(lost) => Err(lost),
        }
    }

    fn check(&self, length: u64, has_data: bool, wanted: bool) -> Result<(), Lost> {
        if length != self.partial.length() {
            let what = format!("{length} bytes, after {}", self.partial.length());
            return Err(Lost::Misbehaved(Misbehaviour::WrongLength(what)));
        }
        if has_data != wanted {
            return Err(out_of_turn(if wanted { "no data where some were asked for" } else { "data that was not asked for" }));
        }
        Ok(())
    }

    async fn data(&self, stream: &mut Stream, range: ByteRange, zstd: bool, bytes: &mut Vec<u8>) -> Result<Form, Lost> {
        Ok(data::read(stream, bytes, self.encoded(range), zstd, self.fetch.context.config.limits.stall).await?)
    }

    /// The length of what proves a range and its bytes.
    fn encoded(&self, range: ByteRange) -> usize {
        // A unit's encoding is about a MiB.
        encoded_length(&(range.start..range.end), self.partial.length()) as usize
    }

    /// Has the store prove and keep a unit: from now on, and not only once somebody waits for it. Gives the bytes back, for the
    /// next.
    fn keep(&self, range: ByteRange, bytes: Vec<u8>, form: Form) -> impl Future<Output = Result<Vec<u8>, Lost>> + Send + use<'a> {
        let (fetch, node, partial, expected) = (self.fetch, self.node, self.partial.clone(), self.encoded(range));
        let writing = blocking(*fetch.hash(), move || {
            let bytes = match form {
                Form::Plain => bytes,
                Form::Zstd => match pack::unpack(&bytes, expected) {
                    Ok(bytes) => bytes,
                    Err(error) => return Ok(Err(error)),
                },
            };
            partial.write_unit(range.start..range.end, &bytes).map(|()| Ok(bytes))
        });
        async move {
            match writing.await {
                // One that inflates to something else is as wrong as any other byte.
                Ok(Err(error)) => Err(Lost::Misbehaved(Misbehaviour::WrongBytes(format!("what was compressed is not the unit: {error}")))),
                Ok(Ok(bytes)) => {
                    fetch.done(node, range);
                    Ok(bytes)
                }
                Err(FetchError::Store { source, .. }) if source.is_peers_fault() => {
                    Err(Lost::Misbehaved(Misbehaviour::WrongBytes(source.to_string())))
                }
                // Another fetch or an import completed it meanwhile.
                Err(FetchError::Store { source: PartialError::Ended(_), .. }) => Ok(Vec::new()),
                Err(error) => Err(Lost::Fatal(error)),
            }
        }
    }
}

/// Sleeps; for ever where the time can't be reckoned with.
async fn sleep(time: Duration) {
    match Instant::now().checked_add(time) {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
