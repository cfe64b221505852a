//! Answers one stream of somebody who pushes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use barnraiser_protocol::bounded::BoundedVec;
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::transfer::ByteRange;
use barnraiser_protocol::transfer::holding::{Block, Offer, Source};
use barnraiser_protocol::transfer::push::{
    OFFERED_MAX, Offered, PUSH_FRAME_BYTES_MAX, PUSH_PROTOCOL, PushRefusal, Pushed, Taken, WANTED_RANGES_MAX, Want,
};
use barnraiser_store::geometry::{encoded_length, unit_count, unit_range};
use barnraiser_store::{Durability, Keeping, PartialBlob, PartialError, UNIT_BYTES, check_length};
use libp2p::PeerId;
use libp2p::swarm::Stream;
use tokio::task::JoinHandle;

use super::{Holder, now};
use crate::config::Limits;
use crate::event::Misbehaviour;
use crate::identity::{ip_of, node_id};
use crate::reach::block_of;
use crate::substream::Inbound;
use crate::substream::frame::{self, FrameError, within};
use crate::traffic::Traffic;
use crate::transfer::data;

/// A stream on which nothing is offered for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// As many turns of one offer may bring nothing: the pusher has lost what it offered.
const EMPTY_TURNS_MAX: u32 = 2;
/// As many units of one offer may come that are not wanted.
const UNWANTED_MAX: u32 = 16;
/// An offer may take so long, and beside that what its bytes take at the slowest rate.
const OFFER_TIME: Duration = Duration::from_secs(60);
/// Bytes a second. Who is slower goes on with another offer.
const SLOWEST: u64 = 64 << 10;

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
    let source = Source { peer: node_id(&peer)?, block: ip_of(&address).map_or(Block::Unknown, block_of) };
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
        let Some(_permit) = holder.permit(&source) else { return Err(TakeError::Refused(PushRefusal::Busy)) };
        let (holder, limits, traffic) = (holder.clone(), limits.clone(), traffic.clone());
        let mut batch = Batch { holder, limits, traffic, peer: source.peer, coming: Vec::new(), unwanted: 0 };
        batch.begin(source, blobs.to_vec(), part_of).await?;
        // What came until then is kept; it may be offered again.
        let turns = tokio::time::timeout(batch.time(), batch.turns(stream));
        turns.await.unwrap_or(Err(TakeError::Refused(PushRefusal::Busy)))?;
    }
    Ok(())
}

/// A blob of an offer.
struct Coming {
    hash: BlobHash,
    length: u64,
    /// What comes of it; none while units are wanted.
    end: Option<Want>,
    part: Option<Arc<Part>>,
    /// What was wanted in this turn and has not come.
    wanted: Vec<ByteRange>,
}

impl Coming {
    /// What of it is missing, as far as it is asked for in one turn.
    fn missing(&self) -> Vec<ByteRange> {
        let whole = || vec![ByteRange { start: 0, end: self.length }];
        let missing = |partial: &PartialBlob| {
            let mut missing = partial.missing();
            if missing.len() > WANTED_RANGES_MAX
                && let Some(last) = missing.pop()
            {
                // It may be what proves the length.
                missing.truncate(WANTED_RANGES_MAX - 1);
                missing.push(last);
            }
            missing.into_iter().map(|range| ByteRange { start: range.start, end: range.end }).collect()
        };
        self.part.as_ref().and_then(|part| part.partial.get()).map_or_else(whole, missing)
    }

    /// Whether a unit was wanted; it is no longer.
    fn take_wanted(&mut self, unit: &ByteRange) -> bool {
        let Some(at) = self.wanted.iter().position(|range| range.start <= unit.start && unit.end <= range.end) else { return false };
        let range = self.wanted.swap_remove(at);
        let around = [ByteRange { start: range.start, end: unit.start }, ByteRange { start: unit.end, end: range.end }];
        self.wanted.extend(around.into_iter().filter(|range| range.length() > 0));
        true
    }
}

/// A blob that comes. When the last who has it lets it go, as the thread that writes a unit of it, it is not busy any more,
/// and what came of it is written down.
struct Part {
    holder: Arc<Holder>,
    hash: BlobHash,
    length: u64,
    /// Set where some of it was here, or once its length is proven: until then nothing of it is on disk.
    partial: OnceLock<PartialBlob>,
    /// Whether it has an entry on disk.
    noted: AtomicBool,
}

impl Part {
    /// Begins to keep it, if it wasn't begun.
    fn begun(&self) -> Result<&PartialBlob, KeepError> {
        if let Some(partial) = self.partial.get() {
            return Ok(partial);
        }
        // Before there are files, so that a start after a crash finds whose they are.
        self.noted.store(true, Ordering::Relaxed);
        self.holder.write(&self.hash, false)?;
        let partial = self.holder.store.partial(&self.hash, self.length)?;
        Ok(self.partial.get_or_init(|| partial))
    }

    /// How much of it is here.
    fn bytes(&self) -> u64 {
        self.partial.get().map_or(0, |partial| partial.length() - partial.missing_bytes())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // First, so that nobody finds it in use who may have it from now on.
        drop(self.partial.take());
        let (holder, hash, noted) = (self.holder.clone(), self.hash, *self.noted.get_mut());
        let gone = {
            let mut ledger = holder.ledger();
            let gone = ledger.rest(&hash);
            if gone.is_some() && !noted {
                // Nothing of it is on disk.
                ledger.gone(&hash);
                return;
            }
            if gone.is_none() && ledger.get(&hash).is_some_and(|kept| kept.whole) {
                return;
            }
            gone
        };
        let write = move || {
            let written = match gone {
                Some(gone) => holder.let_go(&[gone]),
                None => holder.write(&hash, false),
            };
            if let Err(error) = written {
                tracing::warn!(%hash, %error, "what began to come can't be noted");
            }
        };
        // Without a runtime the process is ending; then the next start counts anew what is here.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(write);
        }
    }
}

/// The blobs of one offer.
struct Batch {
    holder: Arc<Holder>,
    limits: Limits,
    traffic: Arc<Traffic>,
    peer: NodeId,
    coming: Vec<Coming>,
    /// Units that came and were not wanted.
    unwanted: u32,
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
            let (end, part) = if self.traffic.keeps_back(length) && !self.holder.holds(&hash) {
                (Some(Want::No(PushRefusal::Busy)), None)
            } else {
                let holder = self.holder.clone();
                let begun = blocking(move || {
                    may_tell(&holder, &source, &hash)?;
                    begin(&holder, source, hash, length, part_of.is_none())
                });
                match begun.await {
                    Ok(None) => (Some(Want::Kept), None),
                    Ok(Some(part)) => (None, Some(Arc::new(part))),
                    Err(KeepError::Refused(refusal)) => (Some(Want::No(refusal)), None),
                    Err(KeepError::Wrong(what)) => return Err(TakeError::Misbehaved(what)),
                }
            };
            self.coming.push(Coming { hash, length, end, part, wanted: Vec::new() });
        }
        Ok(())
    }

    /// How long all of it may take.
    fn time(&self) -> Duration {
        let parts = self.coming.iter().filter_map(|coming| coming.part.as_ref());
        let bytes = parts.map(|part| part.length.saturating_sub(part.bytes())).fold(0, u64::saturating_add);
        OFFER_TIME + Duration::from_secs(bytes / SLOWEST)
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

    fn wants(&mut self) -> BoundedVec<Want, OFFERED_MAX> {
        let want = |coming: &mut Coming| {
            coming.wanted.clear();
            if let Some(end) = &coming.end {
                return end.clone();
            }
            coming.wanted = coming.missing();
            // As many as the bound were taken; likewise below, where there are as many as were offered.
            Want::Part(BoundedVec::try_from(coming.wanted.clone()).unwrap_or_default())
        };
        BoundedVec::try_from(self.coming.iter_mut().map(want).collect::<Vec<_>>()).unwrap_or_default()
    }

    /// Takes units until the pusher is done; how many came that were missing. While one is proven and written, the next arrives.
    async fn units(&mut self, stream: &mut Stream) -> Result<u32, TakeError> {
        let mut count = 0;
        let mut keeping: Option<(usize, JoinHandle<Result<Came, KeepError>>)> = None;
        loop {
            let frame = within(self.limits.stall, frame::read::<Pushed>(stream, PUSH_FRAME_BYTES_MAX)).await?;
            let (blob, range) = match frame {
                Some(Pushed::Unit { blob, range }) => (usize::from(blob), range),
                Some(Pushed::Done) => {
                    count += self.kept(keeping).await?;
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
            count += self.kept(keeping.take()).await?;
            read?;
            let Some(coming) = self.coming.get_mut(blob) else { continue };
            if !coming.take_wanted(&range) {
                self.unwanted += 1;
                if self.unwanted > UNWANTED_MAX {
                    return Err(out_of_turn("units that were not wanted"));
                }
                continue;
            }
            // Refused since it was wanted, as the pusher is about to learn.
            let Some(part) = coming.part.clone().filter(|_| coming.end.is_none()) else { continue };
            if !part.partial.get().is_some_and(PartialBlob::length_is_proven) && unit + 1 != unit_count(coming.length) {
                return Err(out_of_turn("another unit before the last one, which proves the length"));
            }
            keeping = Some((blob, tokio::task::spawn_blocking(move || keep(&part, unit, &bytes))));
        }
    }

    /// Waits until a unit is kept, and notes what came of it; how many were missing.
    async fn kept(&mut self, keeping: Option<(usize, JoinHandle<Result<Came, KeepError>>)>) -> Result<u32, TakeError> {
        let Some((blob, keeping)) = keeping else { return Ok(0) };
        let result = keeping.await.unwrap_or(Err(KeepError::Refused(PushRefusal::Failing)));
        let Some(coming) = self.coming.get_mut(blob) else { return Ok(0) };
        match result {
            Ok(Came { missing, whole }) => {
                if whole {
                    tracing::debug!(hash = %coming.hash, length = coming.length, from = %self.peer.short(), "a blob was pushed");
                    (coming.end, coming.part) = (Some(Want::Kept), None);
                }
                Ok(u32::from(missing))
            }
            Err(KeepError::Refused(refusal)) => {
                // The part stays as what it is, for the next offer of it.
                (coming.end, coming.part) = (Some(Want::No(refusal)), None);
                Ok(0)
            }
            Err(KeepError::Wrong(what)) => Err(TakeError::Misbehaved(what)),
        }
    }
}

/// What came of a unit.
struct Came {
    /// Whether it was missing until now.
    missing: bool,
    /// Whether all of the blob is here now, and survives a power loss.
    whole: bool,
}

/// Whether a peer may learn whether a blob is here; what it may not is put off.
fn may_tell(holder: &Holder, source: &Source, hash: &BlobHash) -> Result<(), KeepError> {
    if holder.store.contains(hash)? && !holder.access.may_tell(hash, &source.peer) {
        return Err(KeepError::Refused(PushRefusal::Busy));
    }
    Ok(())
}

/// Compares a stated length with that of what is here, or of which a part is.
fn check_stated(holder: &Holder, hash: &BlobHash, stated: u64) -> Result<(), KeepError> {
    // Of a part that has bytes, the first of them have proven the length.
    let of_part = || holder.ledger().get(hash).filter(|kept| !kept.whole && kept.bytes > 0).map(|kept| kept.length);
    match holder.store.length(hash)?.or_else(of_part) {
        Some(length) if length != stated => Err(wrong_length(hash, stated, length)),
        _ => Ok(()),
    }
}

fn wrong_length(hash: &BlobHash, stated: u64, length: u64) -> KeepError {
    KeepError::Wrong(Misbehaviour::WrongLength(format!("blob {hash} has {length} bytes, and not {stated}")))
}

/// Enters an offer in the ledger; what may come, or none where all of it is here.
fn enter(holder: &Arc<Holder>, source: Source, hash: BlobHash, length: u64, told: bool) -> Result<Option<Part>, KeepError> {
    let mut gone = Vec::new();
    let offered = holder.ledger().offer(now(), source, hash, length, told, &mut gone);
    // Before anything fails: it rests when this is dropped.
    let part = (offered == Ok(Offer::Take)).then(|| Part {
        holder: holder.clone(),
        hash,
        length,
        partial: OnceLock::new(),
        noted: AtomicBool::new(false),
    });
    holder.let_go(&gone)?;
    offered.map_err(KeepError::Refused)?;
    Ok(part)
}

/// Begins to take a blob; none where it is here.
fn begin(holder: &Arc<Holder>, source: Source, hash: BlobHash, length: u64, told: bool) -> Result<Option<Part>, KeepError> {
    check_stated(holder, &hash, length)?;
    let mut entered = enter(holder, source, hash, length, told)?;
    let is_here = holder.store.contains(&hash)?;
    if entered.is_none() && !is_here {
        // Damaged since, or removed by hand: it comes again.
        holder.ledger().remove(&hash);
        entered = enter(holder, source, hash, length, told)?;
        if let Some(part) = &entered {
            part.noted.store(true, Ordering::Relaxed);
        }
    }
    let Some(part) = entered else {
        // Said again only where it is so again.
        if holder.store.keep(&hash)? == Keeping::Absent {
            return Err(KeepError::Refused(PushRefusal::Busy));
        }
        holder.write(&hash, false)?;
        return Ok(None);
    };
    if is_here {
        keep_here(&part)?;
        return Ok(None);
    }
    if length == 0 && hash == BlobHash::of(&[]) {
        // There is one, and nothing of it to send.
        holder.store.import_bytes(&[], Durability::Cached).map_err(|error| {
            tracing::error!(%error, "what is pushed can't be kept");
            KeepError::Refused(PushRefusal::Failing)
        })?;
        keep_here(&part)?;
        return Ok(None);
    }
    match holder.store.begun(&hash)? {
        Some(partial) if partial.length() == length => {
            let partial = part.partial.get_or_init(|| partial);
            holder.ledger().recount(&hash, part.bytes());
            if partial.is_complete() {
                // Cut short between its last unit and its completion.
                finish(&part, partial)?;
                return Ok(None);
            }
        }
        Some(partial) if partial.length_is_proven() => return Err(wrong_length(&hash, length, partial.length())),
        // One of a length that nobody has proven gives way to one that is.
        Some(_) | None => holder.store.room_for(length)?,
    }
    Ok(Some(part))
}

/// Holds a blob that is in the store.
pub(super) fn adopt(holder: &Arc<Holder>, source: Source, hash: BlobHash) -> Result<(), PushRefusal> {
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
        Some(_) => Err(PushRefusal::Busy),
    }
}

/// Makes room for so many bytes of a blob.
fn grow(part: &Part, more: u64) -> Result<(), KeepError> {
    let mut gone = Vec::new();
    let grown = part.holder.ledger().grow(now(), &part.hash, more, &mut gone);
    part.holder.let_go(&gone)?;
    grown.map_err(KeepError::Refused)
}

/// Keeps a blob that a node has for another reason.
fn keep_here(part: &Part) -> Result<(), KeepError> {
    let counted = part.holder.ledger().get(&part.hash).map_or(0, |kept| kept.bytes);
    let kept = grow(part, part.length.saturating_sub(counted)).and_then(|()| match part.holder.store.keep(&part.hash)? {
        // Evicted since it was found.
        Keeping::Absent => Err(KeepError::Refused(PushRefusal::Busy)),
        Keeping::Announced | Keeping::Kept => Ok(()),
    });
    if let Err(error) = kept {
        part.holder.ledger().recount(&part.hash, 0);
        return Err(error);
    }
    whole(part)
}

/// Makes room for a unit, proves it and keeps it.
fn keep(part: &Part, unit: u64, bytes: &[u8]) -> Result<Came, KeepError> {
    let range = unit_range(unit, part.length);
    let missing = !part.partial.get().is_some_and(|partial| partial.has(unit));
    if missing {
        let written = write(part, range, bytes);
        // By what is here, whether it was written or not.
        part.holder.ledger().recount(&part.hash, part.bytes());
        written?;
    }
    let partial = part.begun()?;
    let whole = partial.is_complete();
    if whole {
        finish(part, partial)?;
    }
    Ok(Came { missing, whole })
}

fn write(part: &Part, range: std::ops::Range<u64>, bytes: &[u8]) -> Result<(), KeepError> {
    if part.partial.get().is_none() {
        // Of a length that is a lie, no file is made.
        check_length(&part.hash, part.length, &range, bytes)?;
    }
    grow(part, range.end - range.start)?;
    part.begun()?.write_unit(range, bytes)?;
    Ok(())
}

fn finish(part: &Part, partial: &PartialBlob) -> Result<(), KeepError> {
    partial.complete_kept()?;
    whole(part)
}

/// All of a blob is in the store and survives a power loss; from now on its entry does, too.
fn whole(part: &Part) -> Result<(), KeepError> {
    let (holder, hash) = (&part.holder, &part.hash);
    holder.ledger().whole(hash);
    holder.write(hash, true)?;
    holder.changed.send_modify(|count| *count += 1);
    Ok(())
}
