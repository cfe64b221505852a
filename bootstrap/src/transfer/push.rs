//! Gives blobs to a holder.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use barnraiser_protocol::bounded::BoundedVec;
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::transfer::push::{OFFERED_MAX, Offered, PUSH_FRAME_BYTES_MAX, PUSH_PROTOCOL, PushRefusal, Pushed, Taken, Want};
use barnraiser_protocol::transfer::{ByteRange, INLINE_BYTES_MAX};
use barnraiser_store::geometry::{unit_count, unit_range};
use barnraiser_store::{Store, UNIT_BYTES};
use futures::future::{Either, select};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use libp2p::swarm::StreamProtocol;
use libp2p::{Multiaddr, PeerId};
use tokio::task::JoinHandle;

use super::data::{self, Form};
use crate::event::Misbehaviour;
use crate::net::{Context, NetError};
use crate::substream::frame::{self, FrameError, within};
use crate::substream::{Lane, OpenError};
use crate::traffic::{Pace, Rates};

const PROTOCOL: StreamProtocol = StreamProtocol::new(PUSH_PROTOCOL);
/// The longest that a holder may take to say what it wants: it may have to sync gigabytes, or prove them after a restart.
const ANSWER_TIME: Duration = Duration::from_secs(300);
/// How long a holder that ends the stream may take to say why.
const LAST_WORD: Duration = Duration::from_secs(1);
/// As many turns of one offer may leave as much wanted as before.
const VAIN_TURNS_MAX: u32 = 2;
/// Of one offer so many times its bytes are sent at the most, ...
const SENT_TIMES_MAX: u64 = 2;
/// ... and so many beside, for units that came to harm: a holder that wants a little less each time would have it all sent for ever.
const SENT_BESIDE_MAX: u64 = 64 << 20;
/// The longest that a push may take, ...
const PUSH_TIME: Duration = Duration::from_secs(600);
/// ... and the time for its bytes at this rate, in bytes a second, or half of what the owner lets travel where that is less. A line
/// that is slower goes on in the next push: what was taken is not sent again.
const PUSH_RATE_MIN: u64 = 64 << 10;
/// The longest that connecting to a holder may take, its addresses looked up if need be.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// What to give to whom.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// The holder.
    pub holder: NodeId,
    /// Where it may be reached, beside what is known.
    pub addresses: Vec<Multiaddr>,
    /// The blobs, which must be here, and their lengths.
    pub blobs: Vec<(BlobHash, u64)>,
    /// The manifest of the tree that they are files of.
    pub part_of: Option<BlobHash>,
}

/// What came of a push.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PushReport {
    /// Blobs that the holder has now, and that survive a power loss there, by its word.
    pub kept: Vec<BlobHash>,
    /// Blobs that it does not take.
    pub refused: BTreeMap<BlobHash, PushRefusal>,
    /// Bytes that were sent, without proofs.
    pub sent: u64,
}

/// Why a push did not come to its end. What was taken is not sent again.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// It can't be reached, or the network is shut down.
    #[error(transparent)]
    Net(#[from] NetError),
    /// It is no holder, or does not take a stream.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// It takes nothing.
    #[error("holder {} takes nothing: {why}", .holder.short())]
    Refused {
        /// The holder.
        holder: NodeId,
        /// Its reason.
        why: PushRefusal,
    },
    /// The connection failed, or the holder broke the protocol.
    #[error("the push to holder {} ended: {reason}", .holder.short())]
    Ended {
        /// The holder.
        holder: NodeId,
        /// How.
        reason: String,
    },
    /// Not everybody may have it yet.
    #[error("blob {0} is not for others yet")]
    Private(BlobHash),
    /// Blobs don't travel now, and one of these is too large to do so all the same.
    #[error("blobs don't travel now: {0}")]
    Resting(String),
    /// It is not here, or damaged.
    #[error("blob {hash} can't be read here: {reason}")]
    Here {
        /// The blob.
        hash: BlobHash,
        /// What is wrong.
        reason: String,
    },
}

/// Pushes, offer by offer. See [`crate::Net::push`].
pub(crate) async fn push(context: &Arc<Context>, request: &PushRequest) -> Result<PushReport, PushError> {
    let holder = request.holder;
    if request.blobs.is_empty() {
        return Ok(PushReport::default());
    }
    request.blobs.iter().try_for_each(|(_, length)| check_traffic(context, *length))?;
    let connect = tokio::time::timeout(CONNECT_TIMEOUT, context.connect(holder, request.addresses.clone()));
    let peer = connect
        .await
        .unwrap_or_else(|_| Err(NetError::Unreachable { node: holder, reason: format!("no answer within {CONNECT_TIMEOUT:?}") }))?;
    let total: u64 = request.blobs.iter().map(|(_, length)| length).sum();
    let lane = if total <= INLINE_BYTES_MAX { Lane::Control } else { Lane::Bulk };
    let most = time_for(context.traffic.rates(), total);
    let late = |_| PushError::Ended { holder, reason: format!("it took longer than {} s for {total} bytes", most.as_secs()) };
    tokio::time::timeout(most, offers(context, request, peer, lane)).await.map_err(late)?
}

/// How long a push of so many bytes may take.
fn time_for(rates: &Rates, bytes: u64) -> Duration {
    let own = [rates.up, rates.up_per_peer].into_iter().flatten().map(|rate| rate / 2);
    let rate = own.fold(PUSH_RATE_MIN, u64::min).max(1);
    PUSH_TIME.saturating_add(Duration::from_secs(bytes / rate))
}

async fn offers(context: &Arc<Context>, request: &PushRequest, peer: PeerId, lane: Lane) -> Result<PushReport, PushError> {
    let (holder, mut report) = (request.holder, PushReport::default());
    let stream = context.opener.open(peer, PROTOCOL, lane).await?;
    let (mut reader, mut writer) = stream.split();
    for blobs in request.blobs.chunks(OFFERED_MAX) {
        let mut offer = Offering { context, holder, peer, blobs, reader: &mut reader, writer: &mut writer, report: &mut report };
        match offer.run(request.part_of).await {
            Ok(()) => {}
            Err(Fault::Push(error)) => return Err(error),
            Err(Fault::Frame(error)) => {
                if error.is_misbehaviour() {
                    let what = Misbehaviour::Protocol { protocol: PUSH_PROTOCOL, what: error.to_string() };
                    context.report(peer, what).await;
                }
                return Err(PushError::Ended { holder, reason: error.to_string() });
            }
            Err(Fault::OutOfTurn(what)) => {
                context.report(peer, Misbehaviour::Protocol { protocol: PUSH_PROTOCOL, what: what.into() }).await;
                return Err(PushError::Ended { holder, reason: what.into() });
            }
        }
    }
    Ok(report)
}

enum Fault {
    Push(PushError),
    Frame(FrameError),
    OutOfTurn(&'static str),
}

impl From<PushError> for Fault {
    fn from(error: PushError) -> Self {
        Self::Push(error)
    }
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

/// One offer, to its end.
struct Offering<'a, R, W> {
    context: &'a Arc<Context>,
    holder: NodeId,
    peer: PeerId,
    blobs: &'a [(BlobHash, u64)],
    reader: &'a mut R,
    writer: &'a mut W,
    report: &'a mut PushReport,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Offering<'_, R, W> {
    async fn run(&mut self, part_of: Option<BlobHash>) -> Result<(), Fault> {
        let stall = self.context.config.limits.stall;
        let offered: Vec<Offered> = self.blobs.iter().map(|(hash, length)| Offered { hash: *hash, length: *length }).collect();
        for (hash, _) in self.blobs {
            self.check_access(hash)?;
        }
        // As many as the bound were taken.
        let blobs = BoundedVec::try_from(offered).unwrap_or_default();
        within(stall, frame::write(self.writer, &Pushed::Offer { blobs, part_of })).await?;
        let (mut wanted_before, mut in_vain) = (u64::MAX, 0);
        let offered = self.blobs.iter().map(|(_, length)| *length).fold(0, u64::saturating_add);
        let sent_max = self.report.sent.saturating_add(most_sent(offered));
        let mut wants = in_time(Self::answer(self.holder, self.reader)).await?;
        loop {
            if wants.len() != self.blobs.len() {
                return Err(Fault::OutOfTurn("an answer about other blobs than were offered"));
            }
            let units = self.wanted(&wants)?;
            if units.is_empty() {
                break;
            }
            let wanted: u64 = units.iter().map(|(_, range)| range.length()).sum();
            in_vain = if wanted < wanted_before { 0 } else { in_vain + 1 };
            if in_vain > VAIN_TURNS_MAX || self.report.sent.saturating_add(wanted) > sent_max {
                return Err(Fault::OutOfTurn("the same units wanted again and again"));
            }
            wanted_before = wanted;
            wants = self.turn(units).await?;
        }
        for ((hash, _), want) in self.blobs.iter().zip(&wants) {
            match want {
                Want::Kept => self.report.kept.push(*hash),
                Want::No(why) => _ = self.report.refused.insert(*hash, *why),
                Want::Part(_) => {}
            }
        }
        Ok(())
    }

    /// The units that are wanted, by the number of their blob; of each blob the last one first, which proves its length.
    fn wanted(&self, wants: &[Want]) -> Result<Vec<(u8, ByteRange)>, Fault> {
        let mut units = Vec::new();
        for ((number, (_, length)), want) in (0u8..).zip(self.blobs).zip(wants) {
            let Want::Part(ranges) = want else { continue };
            let begin = units.len();
            for range in ranges.iter() {
                let is_of_units = range.start.is_multiple_of(UNIT_BYTES)
                    && range.end <= *length
                    && (range.end == *length || range.end.is_multiple_of(UNIT_BYTES));
                if !is_of_units || (range.length() == 0 && *length > 0) {
                    return Err(Fault::OutOfTurn("a range that was not offered"));
                }
                let last = range.end.saturating_sub(1).max(range.start) / UNIT_BYTES;
                for unit in range.start / UNIT_BYTES..=last {
                    let unit = unit_range(unit, *length);
                    units.push((number, ByteRange { start: unit.start, end: unit.end }));
                }
            }
            let count = unit_count(*length);
            if units.len() as u64 - begin as u64 > count {
                return Err(Fault::OutOfTurn("a unit that is wanted twice"));
            }
            if let Some(last) = units.last().filter(|(_, range)| range.end == *length && units.len() > begin).copied() {
                units.pop();
                units.insert(begin, last);
            }
        }
        Ok(units)
    }

    /// Sends units and hears what is wanted then. The holder may end it in between.
    async fn turn(&mut self, units: Vec<(u8, ByteRange)>) -> Result<Vec<Want>, Fault> {
        let (context, holder, peer, blobs) = (self.context, self.holder, self.peer, self.blobs);
        let mut sent = 0;
        let outcome = {
            let sending = pin!(send(context, holder, peer, blobs, &units, self.writer, &mut sent));
            let answer = pin!(Self::answer(holder, self.reader));
            match select(answer, sending).await {
                // Before all was sent: only that it ends may be said then.
                Either::Left((Err(fault), _)) => Err(fault),
                Either::Left((Ok(_), _)) => Err(Fault::OutOfTurn("an answer before its turn")),
                // Only now is it the holder's turn: however long sending took, so long it has.
                Either::Right((Ok(()), answer)) => in_time(answer).await,
                Either::Right((Err(Fault::Frame(error)), answer)) => match tokio::time::timeout(LAST_WORD, answer).await {
                    Ok(Err(Fault::Push(said))) => Err(said.into()),
                    _ => Err(error.into()),
                },
                Either::Right((Err(fault), _)) => Err(fault),
            }
        };
        self.report.sent += sent;
        outcome
    }

    async fn answer(holder: NodeId, reader: &mut R) -> Result<Vec<Want>, Fault> {
        match frame::read(reader, PUSH_FRAME_BYTES_MAX).await? {
            Some(Taken::Wants(wants)) => Ok(wants.into_inner()),
            Some(Taken::Ended(why)) => Err(PushError::Refused { holder, why }.into()),
            None => Err(PushError::Ended { holder, reason: "it closed the stream".into() }.into()),
        }
    }

    fn check_access(&self, hash: &BlobHash) -> Result<(), PushError> {
        if self.context.config.access.may_serve(hash, &self.holder) { Ok(()) } else { Err(PushError::Private(*hash)) }
    }
}

/// Waits for an answer no longer than a holder may take.
async fn in_time<T>(answer: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    tokio::time::timeout(ANSWER_TIME, answer).await.unwrap_or_else(|_| Err(FrameError::Stalled(ANSWER_TIME).into()))
}

/// How many bytes of an offer of so many are sent at the most.
const fn most_sent(offered: u64) -> u64 {
    offered.saturating_mul(SENT_TIMES_MAX).saturating_add(SENT_BESIDE_MAX)
}

/// Whether a blob of this length may travel now.
fn check_traffic(context: &Context, length: u64) -> Result<(), PushError> {
    match context.traffic.resting().filter(|_| context.traffic.keeps_back(length)) {
        Some(why) => Err(PushError::Resting(why)),
        None => Ok(()),
    }
}

/// A unit of a blob that is being read.
type Reading = (BlobHash, JoinHandle<Result<Vec<u8>, PushError>>);

/// Sends units at the rates of this node, the next read from the disk while one is sent.
async fn send(
    context: &Arc<Context>,
    holder: NodeId,
    peer: PeerId,
    blobs: &[(BlobHash, u64)],
    units: &[(u8, ByteRange)],
    writer: &mut (impl AsyncWrite + Unpin),
    sent: &mut u64,
) -> Result<(), Fault> {
    let stall = context.config.limits.stall;
    let pace = Pace::new(&context.traffic, peer);
    let read = |(number, range): &(u8, ByteRange)| {
        let hash = blobs.get(usize::from(*number)).map(|(hash, _)| *hash);
        let (store, range) = (context.config.store.clone(), *range);
        hash.map(|hash| (hash, tokio::task::spawn_blocking(move || encode(&store, &hash, range))))
    };
    let mut next: Option<Reading> = units.first().and_then(read);
    for (index, (number, range)) in units.iter().enumerate() {
        let Some((hash, reading)) = next.take() else { break };
        // Hidden meanwhile, as what another build gives too.
        if !context.config.access.may_serve(&hash, &holder) {
            return Err(PushError::Private(hash).into());
        }
        let length = blobs.get(usize::from(*number)).map_or(0, |(_, length)| *length);
        check_traffic(context, length)?;
        let bytes = reading.await.map_err(|error| PushError::Here { hash, reason: error.to_string() })??;
        next = units.get(index + 1).and_then(read);
        within(stall, frame::write(writer, &Pushed::Unit { blob: *number, range: *range })).await?;
        data::write(writer, &bytes, Form::Plain, pace, stall).await?;
        *sent += range.length();
    }
    within(stall, frame::write(writer, &Pushed::Done)).await?;
    Ok(())
}

fn encode(store: &Store, hash: &BlobHash, range: ByteRange) -> Result<Vec<u8>, PushError> {
    // The proof is less than one part in sixteen.
    let mut bytes = Vec::with_capacity((range.length() + range.length() / 16) as usize);
    let read = store.encode_ranges(hash, range.start..range.end, &mut bytes);
    read.map_err(|error| PushError::Here { hash: *hash, reason: error.to_string() })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_is_given_time_by_its_length_and_by_what_the_owner_allows() {
        const GIB: u64 = 1 << 30;
        let free = Rates::default();
        assert_eq!(time_for(&free, 0), PUSH_TIME);
        assert_eq!(time_for(&free, GIB), PUSH_TIME + Duration::from_secs(GIB / PUSH_RATE_MIN));
        let slow = Rates { up_per_peer: Some(PUSH_RATE_MIN / 4), ..free };
        assert_eq!(time_for(&slow, GIB), PUSH_TIME + Duration::from_secs(8 * GIB / PUSH_RATE_MIN), "half of that rate");
        assert_eq!(time_for(&Rates { up: Some(100 * GIB), ..free }, GIB), time_for(&free, GIB));
    }

    /// One of n units that is wanted anew with one unit less each time was sent n²/2 times.
    #[test]
    fn offer_is_not_sent_for_ever_to_one_that_wants_a_little_less_each_time() {
        for units in [1, 100, 4096] {
            let offered = units * UNIT_BYTES;
            let (mut sent, mut wanted) = (0, offered);
            while wanted > 0 && sent + wanted <= most_sent(offered) {
                sent += wanted;
                wanted -= UNIT_BYTES;
            }
            assert!(sent >= offered && sent <= 2 * offered + SENT_BESIDE_MAX, "{sent} of {offered}");
        }
    }
}
