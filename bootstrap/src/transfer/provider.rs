//! Works with one provider of a fetch: asks what it has, then takes unit after unit.

use std::collections::VecDeque;
use std::time::Duration;

use barnraiser_protocol::id::NodeId;
use barnraiser_protocol::transfer::{
    Answer, BLOB_PROTOCOL, ByteRange, Data, FRAME_BYTES_MAX, Held, INLINE_BYTES_MAX, Next, Request, UnitSet, end_of,
};
use barnraiser_store::geometry::{encoded_length, unit_range};
use barnraiser_store::{BLOB_BYTES_MAX, PartialBlob, PartialError, UNIT_BYTES};
use futures::FutureExt as _;
use futures::future::{BoxFuture, OptionFuture};
use libp2p::PeerId;
use libp2p::swarm::Stream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
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
/// Where a unit takes so long, the next one is asked for when it is here: a round trip is little then, and what one provider has
/// been asked for nobody else is.
const SLOW_UNIT: Duration = Duration::from_millis(500);
/// A provider that is itself still fetching is asked what it has by now as soon as it has more, at most this often; ...
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// ... and one that has no time to say it, this often.
const ASK_BUSY_AGAIN: Duration = Duration::from_secs(2);
/// How much longer than an answer that is there a question for more may take: the provider answers after less.
const WAIT_MORE: Duration = Duration::from_secs(10);
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
    // Where the blob is known to be a large one, its own connection is dialled while the question travels.
    let early = fetch.request.length.is_some_and(|length| length > INLINE_BYTES_MAX).then(|| {
        let opener = fetch.context.opener.clone();
        tokio::spawn(async move { opener.open(peer, PROTOCOL, Lane::Bulk).await })
    });
    let mut control = fetch.context.opener.open(peer, PROTOCOL, Lane::Control).await?;
    // Only who may have to send it anyway is asked for the blob itself.
    let inline_max = match fetch.request.length {
        Some(length) if length > INLINE_BYTES_MAX => 0,
        _ => INLINE_BYTES_MAX as u32,
    };
    // Once the length is proven, no other proof is needed. Until it is, nothing is made ready for it.
    let wants_end = !fetch.has_begun();
    let request = Request::Have { hash: *fetch.hash(), inline_max, end: wants_end };
    let Found { length, held, data } = ask(fetch, &mut control, &request).await?;
    // Of a longer one not even the shape of the tree could be reckoned.
    if length > fetch.request.limit.min(BLOB_BYTES_MAX) {
        return Err(Lost::TooLong(length));
    }
    if let Some(wanted) = fetch.request.length.filter(|wanted| *wanted != length) {
        return Err(Lost::OtherLength { claimed: length, wanted });
    }
    let whole = ByteRange { start: 0, end: length };
    let end = end_of(length);
    let mut sent = Vec::new();
    match data {
        Data::Nothing if wants_end => return Err(out_of_turn("no proof of the length where it was asked for")),
        Data::Nothing => {}
        // A group may be all there is.
        Data::Encoded(range) if (range == whole && length <= u64::from(inline_max)) || (range == end && wants_end) => {
            // A quarter of a MiB at most, or a group and its proof.
            let expected = encoded_length(&(range.start..range.end), length) as usize;
            let reading = async { Ok(data::read(&mut control, &mut sent, expected, false, fetch.context.config.limits.stall).await?) };
            timely(fetch, reading).await?;
        }
        Data::Encoded(_) | Data::Pieces => return Err(out_of_turn("data that was not asked for")),
    }
    if data == Data::Encoded(whole) {
        // It proves the length too.
        let partial = fetch.begin(node, length, Some((whole, sent.as_slice()))).await?;
        let provider = Provider { fetch, node, partial, held, is_watched: false, misses: 0 };
        return provider.keep(whole, sent, Form::Plain).await.map(|_| ());
    }
    let partial = fetch.begin(node, length, wants_end.then_some((end, sent.as_slice()))).await?;
    let is_watched = held != Held::All;
    let (updates, more) = watch::channel(held.clone());
    let mut provider = Provider { fetch, node, partial: partial.clone(), held, is_watched, misses: 0 };
    let (mut stream, depth) = provider.lane(peer, control, early).await?;
    let watching = async { if is_watched { watch_holder(fetch, peer, &partial, &updates).await } else { std::future::pending().await } };
    tokio::select! {
        ended = provider.units(&mut stream, depth, more) => ended,
        lost = watching => Err(lost),
    }
}

/// Keeps `updates` at what a provider has that is itself fetching. Ends only when that one is lost: who waits for it to have more
/// would not see it otherwise.
async fn watch_holder(fetch: &Fetch<'_>, peer: PeerId, partial: &PartialBlob, updates: &watch::Sender<Held>) -> Lost {
    let patience = fetch.context.config.limits.stall + WAIT_MORE;
    // Of its own, since an answer that waits holds up those behind it.
    let mut stream = match fetch.context.opener.open(peer, PROTOCOL, Lane::Control).await {
        Ok(stream) => stream,
        Err(error) => return error.into(),
    };
    loop {
        let asked = Instant::now();
        let request = Request::Wait { hash: *fetch.hash(), units: updates.borrow().count() };
        let answered = async {
            within(patience, frame::write(&mut stream, &request)).await?;
            answer(patience, &mut stream).await
        };
        match answered.await {
            Ok(found) => {
                if found.length != partial.length() {
                    return wrong_length(found.length, partial.length());
                }
                if found.data != Data::Nothing {
                    return out_of_turn("data that was not asked for");
                }
                let is_whole = found.held == Held::All;
                updates.send_replace(found.held);
                if is_whole {
                    return std::future::pending().await;
                }
            }
            // Not an answer of the moment: too many are served, or its line rests.
            Err(Lost::Busy) => tokio::time::sleep(ASK_BUSY_AGAIN).await,
            Err(lost) => return lost,
        }
        tokio::time::sleep_until(asked + ASK_AGAIN).await;
    }
}

fn wrong_length(claimed: u64, proven: u64) -> Lost {
    Lost::Misbehaved(Misbehaviour::WrongLength(format!("{claimed} bytes, after {proven}")))
}

/// What an answer says that is not "no".
struct Found {
    length: u64,
    held: Held,
    data: Data,
}

/// `work`, within the time that a unit may take: a peer that sends a byte now and then moves, too.
async fn timely<T>(fetch: &Fetch<'_>, work: impl Future<Output = Result<T, Lost>>) -> Result<T, Lost> {
    let most = fetch.context.config.limits.unit_time_max;
    tokio::time::timeout(most, work).await.unwrap_or(Err(FrameError::Stalled(most).into()))
}

/// One request and its answer.
async fn ask(fetch: &Fetch<'_>, stream: &mut Stream, request: &Request) -> Result<Found, Lost> {
    let patience = fetch.context.config.limits.stall;
    within(patience, frame::write(stream, request)).await?;
    answer(patience, stream).await
}

async fn answer(patience: Duration, stream: &mut Stream) -> Result<Found, Lost> {
    match within(patience, frame::read(stream, FRAME_BYTES_MAX)).await? {
        Some(Answer::Found { length, held, data }) => Ok(Found { length, held, data }),
        Some(Answer::NotFound) => Err(Lost::NotFound),
        Some(Answer::Busy) => Err(Lost::Busy),
        Some(Answer::Refused) => Err(Lost::Refused),
        Some(Answer::Chunks { .. }) => Err(out_of_turn("a chunk list that was not asked for")),
        None => Err(Lost::Connection("the peer closed the stream".into())),
    }
}

/// What a provider was asked for.
enum Asked {
    Unit(ByteRange),
    /// Any of these.
    Any(UnitSet),
}

struct Provider<'a> {
    fetch: &'a Fetch<'a>,
    node: NodeId,
    partial: PartialBlob,
    held: Held,
    /// Whether it is asked what it has by now.
    is_watched: bool,
    misses: u32,
}

impl<'a> Provider<'a> {
    /// The stream for the units: a bulk connection, or the control connection for what is small and for peers that can't
    /// be dialled (a volunteer behind a router who dialled us).
    async fn lane(
        &self,
        peer: PeerId,
        control: Stream,
        early: Option<JoinHandle<Result<Stream, OpenError>>>,
    ) -> Result<(Stream, usize), Lost> {
        if self.partial.length() <= INLINE_BYTES_MAX {
            return Ok((control, DEPTH_CONTROL));
        }
        let opened = match early {
            Some(early) => early.await.unwrap_or_else(|error| Err(OpenError::Connection { peer, reason: error.to_string() })),
            None => self.fetch.context.opener.open(peer, PROTOCOL, Lane::Bulk).await,
        };
        match opened {
            Ok(bulk) => Ok((bulk, DEPTH_BULK)),
            Err(error @ (OpenError::Relayed(_) | OpenError::ShutDown)) => Err(error.into()),
            Err(error) => {
                tracing::debug!(%peer, %error, "no bulk connection: the control connection must do");
                Ok((control, DEPTH_CONTROL))
            }
        }
    }

    async fn units(&mut self, stream: &mut Stream, depth_max: usize, mut more: watch::Receiver<Held>) -> Result<(), Lost> {
        let limits = &self.fetch.context.config.limits;
        let mut depth = depth_max;
        let mut asked: VecDeque<Asked> = VecDeque::new();
        // What came last, while it is proven and written.
        let mut keeping: Option<BoxFuture<'a, Result<Vec<u8>, Lost>>> = None;
        // For what comes next: what came before the last is through.
        let mut spare = Vec::new();
        let mut useful = Instant::now();
        let mut last = Instant::now();
        loop {
            let changed = self.fetch.changed.notified();
            if more.has_changed().unwrap_or(false) {
                self.held = more.borrow_and_update().clone();
            }
            let mut wait = None;
            while asked.len() < depth {
                if let Some(why) = self.fetch.kept_back(self.partial.length()) {
                    if asked.is_empty() && keeping.is_none() {
                        return Err(Lost::Fatal(why));
                    }
                    break;
                }
                let hash = *self.fetch.hash();
                let (request, what) = match self.fetch.next(self.node, &self.held) {
                    (Next::Unit(range), _) => (Request::Get { hash, range, zstd: true }, Asked::Unit(range)),
                    (Next::Any(wanted), _) => (Request::Any { hash, wanted: wanted.clone(), zstd: true }, Asked::Any(wanted)),
                    (Next::Finished, _) if asked.is_empty() => return Ok(()),
                    (Next::Finished, _) => break,
                    (Next::Wait(until), age) => {
                        wait = until.map(|until| until.saturating_sub(age));
                        break;
                    }
                };
                if asked.is_empty() {
                    last = Instant::now();
                }
                asked.push_back(what);
                within(limits.stall, frame::write(stream, &request)).await?;
            }
            if let Some(what) = asked.pop_front() {
                useful = Instant::now();
                let mut bytes = std::mem::take(&mut spare);
                let taking = tokio::time::timeout(limits.unit_time_max, self.take(stream, what, &mut bytes));
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
                if let Some((range, form)) = taken.unwrap_or(Err(FrameError::Stalled(limits.unit_time_max).into()))? {
                    keeping = Some(self.keep(range, bytes, form).boxed());
                    depth = if last.elapsed() > SLOW_UNIT { 1 } else { depth_max };
                    last = Instant::now();
                }
                continue;
            }
            if let Some(keeping) = keeping.take() {
                spare = keeping.await?;
                continue;
            }
            // Who says for ever that it will have some would hold a place, and the fetch up, for ever.
            let useless = (self.held != Held::All).then(|| useful + limits.stall * USELESS_STALLS);
            if useless.is_some_and(|useless| useless <= Instant::now()) {
                return Err(Lost::NothingMore);
            }
            tokio::select! {
                () = sleep(wait.unwrap_or(Duration::MAX)) => {}
                () = sleep_until(useless) => {}
                () = changed => {}
                Ok(()) = more.changed() => more.mark_changed(),
            }
        }
    }

    /// Takes the answer to a request into `bytes`, and says which unit it is and how it came. None where the provider has lost it.
    async fn take(&mut self, stream: &mut Stream, asked: Asked, bytes: &mut Vec<u8>) -> Result<Option<(ByteRange, Form)>, Lost> {
        let found = match answer(self.fetch.context.config.limits.stall, stream).await {
            Ok(found) => found,
            // Who was said to have everything is asked anew, like one that does not have it.
            Err(Lost::NotFound) if self.is_watched && self.misses < MISSES_MAX => {
                self.misses += 1;
                match asked {
                    Asked::Unit(range) => self.fetch.failed(self.node, range),
                    Asked::Any(_) => self.fetch.chose_none(self.node),
                }
                // Until it says otherwise, it has nothing.
                self.held = Held::Units(UnitSet::default());
                return Ok(None);
            }
            Err(lost) => return Err(lost),
        };
        let length = self.partial.length();
        if found.length != length {
            return Err(wrong_length(found.length, length));
        }
        let Data::Encoded(sent) = found.data else { return Err(out_of_turn("no data where some were asked for")) };
        let range = match &asked {
            Asked::Unit(range) => *range,
            Asked::Any(wanted) => {
                let unit = sent.start / UNIT_BYTES;
                if !wanted.has(unit) {
                    return Err(out_of_turn("a unit that was not asked for"));
                }
                let range = unit_range(unit, length);
                ByteRange { start: range.start, end: range.end }
            }
        };
        if sent != range {
            return Err(out_of_turn("another range than was asked for"));
        }
        if let Asked::Any(_) = asked {
            self.fetch.chosen(self.node, range);
        }
        // The answer may have waited in line, and be older than what was heard since.
        if found.held.count() > self.held.count() {
            self.held = found.held;
        }
        let form = data::read(stream, bytes, self.encoded(range), true, self.fetch.context.config.limits.stall).await?;
        Ok(Some((range, form)))
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
        let written = partial.clone();
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
                // An import, or somebody who pushes it here, completed it meanwhile. What was discarded can't go on.
                Err(FetchError::Store { source: PartialError::Ended(_), .. }) if written.is_complete() => {
                    fetch.done(node, range);
                    Ok(Vec::new())
                }
                Err(error) => Err(Lost::Fatal(error)),
            }
        }
    }
}

/// Sleeps; for ever where the time can't be reckoned with.
async fn sleep(time: Duration) {
    sleep_until(Instant::now().checked_add(time)).await;
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
