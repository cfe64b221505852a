//! Answers one stream of somebody who pushes.

use std::sync::Arc;
use std::time::Duration;

use barnraiser_protocol::bounded::BoundedVec;
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::transfer::ByteRange;
use barnraiser_protocol::transfer::holding::{Block, Offer, Source};
use barnraiser_protocol::transfer::push::{
    OFFERED_MAX, Offered, PUSH_FRAME_BYTES_MAX, PUSH_PROTOCOL, PushRefusal, Pushed, Taken, WANTED_RANGES_MAX, Want,
};
use barnraiser_store::geometry::{encoded_length, unit_count, unit_range};
use barnraiser_store::{Durability, PartialBlob, PartialError, UNIT_BYTES};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::Stream;
use libp2p::{Multiaddr, PeerId};
use tokio::task::JoinHandle;

use super::{Holder, now};
use crate::config::Limits;
use crate::event::Misbehaviour;
use crate::identity::node_id;
use crate::substream::Inbound;
use crate::substream::frame::{self, FrameError, within};
use crate::traffic::Traffic;
use crate::transfer::data;

/// A stream on which nothing is offered for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// As many turns of one offer may bring nothing: the pusher has lost what it offered.
const EMPTY_TURNS_MAX: u32 = 2;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum TakeError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Misbehaved(Misbehaviour),
    #[error("refused: {0}")]
    Refused(PushRefusal),
}

fn out_of_turn(what: &str) -> TakeError {
    TakeError::Misbehaved(Misbehaviour::Protocol { protocol: PUSH_PROTOCOL, what: what.into() })
}

/// Takes what a peer pushes until it closes the stream, breaks the protocol, or is silent for a minute. Gives what it did
/// wrong, if it did. While blobs don't travel by `traffic`, only small ones are taken.
pub(crate) async fn take(holder: Arc<Holder>, limits: Limits, traffic: Arc<Traffic>, inbound: Inbound) -> Option<(PeerId, Misbehaviour)> {
    let Inbound { peer, mut stream, relayed, address, slot: _slot, .. } = inbound;
    let source = Source { peer: node_id(&peer)?, block: block_of(&address) };
    let error = match offers(&holder, &limits, &traffic, source, relayed, &mut stream).await {
        Ok(()) => return None,
        Err(error) => error,
    };
    tracing::debug!(%peer, %error, "a push ended");
    let (said, misbehaved) = match error {
        TakeError::Refused(refusal) => (refusal, None),
        TakeError::Misbehaved(what) => (PushRefusal::WrongBytes, Some(what)),
        TakeError::Frame(error) if error.is_misbehaviour() => {
            (PushRefusal::WrongBytes, Some(Misbehaviour::Protocol { protocol: PUSH_PROTOCOL, what: error.to_string() }))
        }
        TakeError::Frame(_) => return None,
    };
    // It may be gone, or in the middle of a unit; then it sees that the stream ends.
    let _ = within(limits.stall, frame::write(&mut stream, &Taken::Ended(said))).await;
    Some((peer, misbehaved?))
}

/// Where a peer comes from.
fn block_of(address: &Multiaddr) -> Block {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Block::v4(ip.octets()),
        Some(Protocol::Ip6(ip)) => ip.to_ipv4_mapped().map_or(Block::v6(ip.octets()), |ip| Block::v4(ip.octets())),
        _ => Block::Unknown,
    }
}

async fn offers(
    holder: &Arc<Holder>,
    limits: &Limits,
    traffic: &Arc<Traffic>,
    source: Source,
    relayed: bool,
    stream: &mut Stream,
) -> Result<(), TakeError> {
    while let Some(frame) = within(IDLE, frame::read::<Pushed>(stream, PUSH_FRAME_BYTES_MAX)).await? {
        let Pushed::Offer { blobs, part_of } = frame else { return Err(out_of_turn("an offer was wanted")) };
        if relayed {
            return Err(TakeError::Refused(PushRefusal::Relayed));
        }
        if !holder.access.may_push(&source.peer) {
            return Err(TakeError::Refused(PushRefusal::NotAMember));
        }
        // Held until the offer is through.
        let Some(_permit) = holder.permit(source.peer) else { return Err(TakeError::Refused(PushRefusal::Busy)) };
        let (holder, limits, traffic) = (holder.clone(), limits.clone(), traffic.clone());
        let mut batch = Batch { holder, limits, traffic, peer: source.peer, coming: Vec::new() };
        batch.begin(source, blobs.to_vec(), part_of).await?;
        batch.turns(stream).await?;
    }
    Ok(())
}

/// A blob of an offer.
struct Coming {
    hash: BlobHash,
    length: u64,
    /// What comes of it; none while units are wanted.
    end: Option<Want>,
    partial: Option<PartialBlob>,
}

/// The blobs of one offer. When it is dropped, none of them is busy any more, and what came of each is written down.
struct Batch {
    holder: Arc<Holder>,
    limits: Limits,
    traffic: Arc<Traffic>,
    peer: NodeId,
    coming: Vec<Coming>,
}

impl Drop for Batch {
    fn drop(&mut self) {
        let begun: Vec<BlobHash> = self.coming.iter().filter(|coming| coming.partial.is_some()).map(|coming| coming.hash).collect();
        {
            let mut ledger = self.holder.ledger();
            begun.iter().for_each(|hash| ledger.rest(hash));
        }
        let open: Vec<BlobHash> =
            self.coming.iter().filter(|coming| coming.end.is_none() && coming.partial.is_some()).map(|coming| coming.hash).collect();
        if open.is_empty() {
            return;
        }
        let holder = self.holder.clone();
        let write = move || {
            for hash in open {
                if let Err(error) = holder.write(&hash, false) {
                    tracing::warn!(%hash, %error, "what began to come can't be noted");
                }
            }
        };
        // Without a runtime the process is ending; then the next start counts anew what is here.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(write);
        }
    }
}

/// Runs what touches the disk where blocking is allowed. A thread that fails is as a disk that does.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, KeepError> + Send + 'static) -> Result<T, KeepError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "a thread that keeps blobs failed");
            Err(KeepError::Refused(PushRefusal::Failing))
        }
    }
}

/// Why a unit or a blob was not kept.
#[derive(Debug)]
enum KeepError {
    Refused(PushRefusal),
    Wrong(Misbehaviour),
}

impl From<PartialError> for KeepError {
    fn from(error: PartialError) -> Self {
        match error {
            PartialError::Length { .. } => Self::Wrong(Misbehaviour::WrongLength(error.to_string())),
            PartialError::Proof { .. } => Self::Wrong(Misbehaviour::WrongBytes(error.to_string())),
            // Somebody else completed or removed it meanwhile: offered again, it is found or begun anew.
            PartialError::Ended(_) => Self::Refused(PushRefusal::Busy),
            other => {
                tracing::error!(error = %other, "what is pushed can't be kept");
                Self::Refused(PushRefusal::Failing)
            }
        }
    }
}

impl From<barnraiser_store::Fault> for KeepError {
    fn from(fault: barnraiser_store::Fault) -> Self {
        PartialError::Fault(fault).into()
    }
}

impl Batch {
    /// Decides on each blob of an offer.
    async fn begin(&mut self, source: Source, blobs: Vec<Offered>, part_of: Option<BlobHash>) -> Result<(), TakeError> {
        for Offered { hash, length } in blobs {
            if self.coming.iter().any(|coming| coming.hash == hash) {
                return Err(out_of_turn("a blob that is offered twice"));
            }
            if self.traffic.keeps_back(length) && !self.holder.holds(&hash) {
                self.coming.push(Coming { hash, length, end: Some(Want::No(PushRefusal::Busy)), partial: None });
                continue;
            }
            let holder = self.holder.clone();
            let begun = blocking(move || begin(&holder, source, hash, length, part_of.is_none())).await;
            let (end, partial) = match begun {
                Ok(None) => (Some(Want::Kept), None),
                Ok(Some(partial)) => (None, Some(partial)),
                Err(KeepError::Refused(refusal)) => (Some(Want::No(refusal)), None),
                Err(KeepError::Wrong(what)) => return Err(TakeError::Misbehaved(what)),
            };
            self.coming.push(Coming { hash, length, end, partial });
        }
        Ok(())
    }

    /// Says what is wanted and takes it, until nothing is.
    async fn turns(&mut self, stream: &mut Stream) -> Result<(), TakeError> {
        let mut empty = 0;
        loop {
            let wants = Taken::Wants(self.wants());
            within(self.limits.stall, frame::write(stream, &wants)).await?;
            if self.coming.iter().all(|coming| coming.end.is_some()) {
                return Ok(());
            }
            if self.units(stream).await? == 0 {
                empty += 1;
                if empty > EMPTY_TURNS_MAX {
                    return Err(out_of_turn("turns without a unit"));
                }
            }
        }
    }

    fn wants(&self) -> BoundedVec<Want, OFFERED_MAX> {
        let want = |coming: &Coming| match (&coming.end, &coming.partial) {
            (Some(end), _) => end.clone(),
            (None, Some(partial)) => {
                let missing = partial.missing().into_iter().take(WANTED_RANGES_MAX);
                let missing: Vec<ByteRange> = missing.map(|range| ByteRange { start: range.start, end: range.end }).collect();
                // As many as the bound were taken; likewise below, where there are as many as were offered.
                Want::Part(BoundedVec::try_from(missing).unwrap_or_default())
            }
            // Not so: what has not ended has begun.
            (None, None) => Want::No(PushRefusal::Failing),
        };
        BoundedVec::try_from(self.coming.iter().map(want).collect::<Vec<_>>()).unwrap_or_default()
    }

    /// Takes units until the pusher is done; how many came. While one is proven and written, the next arrives.
    async fn units(&mut self, stream: &mut Stream) -> Result<u32, TakeError> {
        let mut count = 0;
        let mut keeping: Option<(usize, JoinHandle<Result<bool, KeepError>>)> = None;
        loop {
            let frame = within(self.limits.stall, frame::read::<Pushed>(stream, PUSH_FRAME_BYTES_MAX)).await?;
            let (blob, range) = match frame {
                Some(Pushed::Unit { blob, range }) => (usize::from(blob), range),
                Some(Pushed::Done) => {
                    self.kept(keeping).await?;
                    return Ok(count);
                }
                Some(Pushed::Offer { .. }) => return Err(out_of_turn("an offer before the last one is through")),
                None => {
                    // What came is kept all the same.
                    self.kept(keeping).await?;
                    return Err(FrameError::Io(std::io::ErrorKind::UnexpectedEof.into()).into());
                }
            };
            let Some(coming) = self.coming.get(blob) else { return Err(out_of_turn("a unit of no blob that was offered")) };
            if self.traffic.keeps_back(coming.length) {
                self.kept(keeping).await?;
                return Err(TakeError::Refused(PushRefusal::Busy));
            }
            let unit = range.start / UNIT_BYTES;
            if unit >= unit_count(coming.length) || unit_range(unit, coming.length) != (range.start..range.end) {
                return Err(out_of_turn("a range that is no unit"));
            }
            let mut bytes = Vec::new();
            let expected = encoded_length(&(range.start..range.end), coming.length) as usize;
            let reading =
                tokio::time::timeout(self.limits.unit_time_max, data::read(stream, &mut bytes, expected, false, self.limits.stall));
            let read = reading.await.unwrap_or(Err(FrameError::Stalled(self.limits.unit_time_max)));
            self.kept(keeping.take()).await?;
            read?;
            count += 1;
            let Some(coming) = self.coming.get(blob).filter(|coming| coming.end.is_none()) else { continue };
            let Some(partial) = coming.partial.clone() else { continue };
            if !partial.length_is_proven() && unit + 1 != unit_count(coming.length) {
                return Err(out_of_turn("another unit before the last one, which proves the length"));
            }
            let holder = self.holder.clone();
            keeping = Some((blob, tokio::task::spawn_blocking(move || keep(&holder, &partial, unit, &bytes))));
        }
    }

    /// Waits until a unit is kept, and notes what came of it.
    async fn kept(&mut self, keeping: Option<(usize, JoinHandle<Result<bool, KeepError>>)>) -> Result<(), TakeError> {
        let Some((blob, keeping)) = keeping else { return Ok(()) };
        let result = keeping.await.unwrap_or(Err(KeepError::Refused(PushRefusal::Failing)));
        let Some(coming) = self.coming.get_mut(blob) else { return Ok(()) };
        match result {
            Ok(true) => {
                tracing::debug!(hash = %coming.hash, length = coming.length, from = %self.peer.short(), "a blob was pushed");
                coming.end = Some(Want::Kept);
            }
            Ok(false) => {}
            Err(KeepError::Refused(refusal)) => coming.end = Some(Want::No(refusal)),
            Err(KeepError::Wrong(what)) => return Err(TakeError::Misbehaved(what)),
        }
        Ok(())
    }
}

/// Begins to take a blob, or finds it here.
fn begin(holder: &Holder, source: Source, hash: BlobHash, length: u64, told: bool) -> Result<Option<PartialBlob>, KeepError> {
    let mut offered = holder.ledger().offer(now(), source, hash, length, told).map_err(KeepError::Refused)?;
    let here = holder.store.length(&hash)?;
    if offered == Offer::Kept && here.is_none() {
        // Damaged since, or removed by hand: it comes again.
        let mut ledger = holder.ledger();
        ledger.remove(&hash);
        offered = ledger.offer(now(), source, hash, length, told).map_err(KeepError::Refused)?;
    }
    let begun = match (offered, here) {
        (Offer::Kept, _) => holder.write(&hash, false).map(|()| None).map_err(KeepError::from),
        // A node has it for another reason; now it is kept.
        (Offer::Take, Some(length)) => keep_cached(holder, &hash, length).map(|()| None),
        // There is one, and nothing of it to send.
        (Offer::Take, None) if length == 0 && hash == BlobHash::of(&[]) => {
            let kept = holder.store.import_bytes(&[], Durability::Announced);
            let kept = kept.map_err(|error| {
                tracing::error!(%error, "what is pushed can't be kept");
                KeepError::Refused(PushRefusal::Failing)
            });
            kept.and_then(|_| whole(holder, &hash)).map(|()| None)
        }
        (Offer::Take, None) => holder.store.partial(&hash, length).map(Some).map_err(KeepError::from),
    };
    match &begun {
        Ok(Some(partial)) => {
            let bytes = partial.length() - partial.missing_bytes();
            holder.ledger().recount(&hash, bytes);
        }
        // The caller never learns of it, and so can't let it rest.
        Ok(None) => holder.ledger().rest(&hash),
        Err(_) => {
            let mut ledger = holder.ledger();
            ledger.rest(&hash);
            if ledger.get(&hash).is_some_and(|kept| kept.bytes == 0) {
                ledger.remove(&hash);
            }
        }
    }
    if let Ok(Some(partial)) = &begun
        && partial.is_complete()
    {
        // Cut short between its last unit and its completion.
        let finished = finish(holder, partial);
        holder.ledger().rest(&hash);
        return finished.map(|()| None);
    }
    begun
}

/// Holds a blob that is in the store.
pub(super) fn adopt(holder: &Holder, source: Source, hash: BlobHash) -> Result<(), PushRefusal> {
    let failed = |error: KeepError| match error {
        KeepError::Refused(refusal) => refusal,
        KeepError::Wrong(_) => PushRefusal::WrongBytes,
    };
    let Some(length) = holder.store.length(&hash).map_err(|fault| failed(fault.into()))? else {
        return Err(PushRefusal::Failing);
    };
    match begin(holder, source, hash, length, true).map_err(failed)? {
        None => Ok(()),
        // Evicted since it was found.
        Some(_) => {
            holder.ledger().rest(&hash);
            Err(PushRefusal::Busy)
        }
    }
}

fn keep_cached(holder: &Holder, hash: &BlobHash, length: u64) -> Result<(), KeepError> {
    let mut gone = Vec::new();
    let grown = holder.ledger().grow(now(), hash, length, &mut gone);
    holder.let_go(&gone)?;
    grown.map_err(KeepError::Refused)?;
    if !holder.store.keep(hash)? {
        return Err(KeepError::Refused(PushRefusal::Busy));
    }
    whole(holder, hash)
}

/// Makes room for a unit, proves it and keeps it; whether the blob is whole now and survives a power loss.
fn keep(holder: &Holder, partial: &PartialBlob, unit: u64, bytes: &[u8]) -> Result<bool, KeepError> {
    let hash = partial.hash();
    let range = unit_range(unit, partial.length());
    if !partial.has(unit) {
        let mut gone = Vec::new();
        let grown = holder.ledger().grow(now(), hash, range.end - range.start, &mut gone);
        holder.let_go(&gone)?;
        if let Err(refusal) = grown {
            // It will never be whole here: what came of it takes room from others.
            holder.ledger().remove(hash);
            holder.let_go(&[*hash])?;
            return Err(KeepError::Refused(refusal));
        }
        if let Err(error) = partial.write_unit(range, bytes) {
            let here = partial.length() - partial.missing_bytes();
            let mut ledger = holder.ledger();
            ledger.recount(hash, here);
            if here == 0 {
                ledger.remove(hash);
            }
            drop(ledger);
            return Err(error.into());
        }
    }
    if !partial.is_complete() {
        return Ok(false);
    }
    finish(holder, partial)?;
    Ok(true)
}

fn finish(holder: &Holder, partial: &PartialBlob) -> Result<(), KeepError> {
    partial.complete(Durability::Announced)?;
    whole(holder, partial.hash())
}

/// All of a blob is in the store and survives a power loss; from now on its entry does, too.
fn whole(holder: &Holder, hash: &BlobHash) -> Result<(), KeepError> {
    holder.ledger().whole(hash);
    holder.write(hash, true)?;
    holder.changed.send_modify(|count| *count += 1);
    Ok(())
}
