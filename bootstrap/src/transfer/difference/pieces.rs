//! Takes the bytes that no seed has from one provider, many requests ahead, and puts units together.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use barnraiser_protocol::bounded::BoundedVec;
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::transfer::{Answer, ByteRange, Data, FRAME_BYTES_MAX, Request};
use barnraiser_store::geometry::unit_count;
use barnraiser_store::{Outline, PartialBlob, PartialError, Seeds, UnitPlan};
use libp2p::swarm::Stream;
use tokio::sync::watch;

use super::super::data::{self, Form};
use super::super::fetch::blocking;
use super::super::{FetchProgress, PROTOCOL};
use super::{CONNECT_TIMEOUT, Differences, Obstacle, REFUSED_MAX};
use crate::net::Context;
use crate::substream::frame::{self, within};
use crate::substream::{Lane, OpenError};
use crate::traffic::pack;

/// Requests that may be under way: most are of a few KiB, and a round trip each would be most of the time. They take less
/// than a stream holds unread, so writing them never waits for answers to be read.
const DEPTH: usize = 24;
/// Bytes that may be under way.
const AHEAD_BYTES: u64 = 4 << 20;

/// A provider that gives fewer bytes a second than this, beyond the time that a silent one is given, is left: all others
/// could be giving the blob meanwhile.
const RATE_MIN: u64 = 16 << 10;

/// The work on one blob with one provider.
pub(super) struct Work<'a> {
    context: &'a Arc<Context>,
    partial: PartialBlob,
    outline: Arc<Outline>,
    seeds: Arc<Mutex<Seeds>>,
    provider: NodeId,
    /// Bytes that were here before.
    already_had: u64,
    progress: Option<&'a watch::Sender<FetchProgress>>,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        context: &'a Arc<Context>,
        partial: PartialBlob,
        outline: Arc<Outline>,
        seeds: Seeds,
        provider: NodeId,
        progress: Option<&'a watch::Sender<FetchProgress>>,
    ) -> Self {
        let already_had = partial.length() - partial.missing_bytes();
        Self { context, partial, already_had, outline, seeds: Arc::new(Mutex::new(seeds)), provider, progress }
    }

    /// Goes through the plans, of which the last unit's is first if it has one.
    pub(super) async fn run(&self, mut plans: VecDeque<UnitPlan>, differences: &mut Differences) -> Result<(), Obstacle> {
        let patience = self.context.config.limits.stall;
        let (mut refused, mut stream) = (0, None);
        let mut asked: VecDeque<(UnitPlan, u64)> = VecDeque::new();
        loop {
            let ahead: u64 = asked.iter().map(|(_, bytes)| bytes).sum();
            if self.context.traffic.rests() {
                // The fetch that follows says so.
                return Ok(());
            }
            if asked.len() < DEPTH
                && ahead < AHEAD_BYTES
                && let Some(plan) = plans.pop_front()
            {
                let ranges: Vec<ByteRange> = plan.pieces().map(|piece| ByteRange { start: piece.start, end: piece.end }).collect();
                if ranges.is_empty() {
                    self.put_together(plan, Vec::new(), &mut refused, differences).await?;
                    continue;
                }
                let bytes = ranges.iter().map(ByteRange::length).sum();
                // Plans with more were left out.
                let request = Request::Pieces { hash: *self.hash(), ranges: BoundedVec::try_from(ranges).unwrap_or_default(), zstd: true };
                let stream = match &mut stream {
                    Some(stream) => stream,
                    none => none.insert(self.stream().await?),
                };
                within(patience, frame::write(stream, &request)).await?;
                asked.push_back((plan, bytes));
                continue;
            }
            let (Some((plan, bytes)), Some(stream)) = (asked.pop_front(), &mut stream) else { return Ok(()) };
            let most = patience + Duration::from_millis(bytes * 1000 / RATE_MIN);
            let answer = tokio::time::timeout(most, self.answer(stream, bytes)).await;
            let pieces = answer.map_err(|_| Obstacle::Lost(format!("not {bytes} bytes in {most:?}")))??;
            self.put_together(plan, pieces, &mut refused, differences).await?;
        }
    }

    fn hash(&self) -> &BlobHash {
        self.partial.hash()
    }

    async fn stream(&self) -> Result<Stream, Obstacle> {
        let connect = tokio::time::timeout(CONNECT_TIMEOUT, self.context.connect(self.provider, Vec::new())).await;
        let connected = connect.map_err(|_| Obstacle::Lost("can't be reached".into()))?;
        let peer = connected.map_err(|error| Obstacle::Lost(error.to_string()))?;
        match self.context.opener.open(peer, PROTOCOL, Lane::Bulk).await {
            Err(error @ (OpenError::Relayed(_) | OpenError::ShutDown)) => Err(error.into()),
            // A peer that can't be dialled: the connection that there is must do.
            Err(_) => Ok(self.context.opener.open(peer, PROTOCOL, Lane::Control).await?),
            Ok(stream) => Ok(stream),
        }
    }

    async fn answer(&self, stream: &mut Stream, bytes: u64) -> Result<Vec<u8>, Obstacle> {
        let patience = self.context.config.limits.stall;
        match within(patience, frame::read(stream, FRAME_BYTES_MAX)).await? {
            // At most a unit.
            Some(Answer::Found { data: Data::Pieces, .. }) => {
                let mut pieces = Vec::new();
                match data::read(stream, &mut pieces, bytes as usize, true, patience).await? {
                    Form::Plain => Ok(pieces),
                    Form::Zstd => {
                        let unpacked = blocking(*self.hash(), move || Ok(pack::unpack(&pieces, bytes as usize))).await?;
                        unpacked.map_err(|error| Obstacle::Lost(format!("what it compressed is not what was asked for: {error}")))
                    }
                }
            }
            other => Err(Obstacle::Lost(format!("answers {other:?} instead of pieces"))),
        }
    }

    /// Puts a unit together, has it proven and kept. One that is not right is left to the fetch.
    async fn put_together(
        &self,
        plan: UnitPlan,
        pieces: Vec<u8>,
        refused: &mut u32,
        differences: &mut Differences,
    ) -> Result<(), Obstacle> {
        let (seeds, partial, outline) = (self.seeds.clone(), self.partial.clone(), self.outline.clone());
        let (unit, copied, fetched) = (plan.unit, plan.copied(), pieces.len() as u64);
        let assembled = blocking(*self.hash(), move || {
            let mut seeds = seeds.lock().unwrap_or_else(PoisonError::into_inner);
            // A seed that can't be read any more is as good as one that has changed.
            let Ok(bytes) = seeds.assemble(&plan, &pieces) else { return Ok(false) };
            match partial.write_assembled(unit, bytes, &outline) {
                Ok(()) => Ok(true),
                Err(PartialError::Proof { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        });
        match assembled.await {
            Ok(true) => {
                self.context.verified.notify_waiters();
                differences.copied += copied;
                differences.pieces += fetched;
                if fetched > 0 {
                    *differences.bytes_by_peer.entry(self.provider).or_default() += fetched;
                }
                self.report(differences);
                Ok(())
            }
            Ok(false) => {
                tracing::debug!(hash = %self.hash(), unit, "a unit that was put together is not right");
                *refused += 1;
                // The last unit proves the length, without which all that is put together may be in vain.
                let is_last = unit + 1 == unit_count(self.partial.length());
                if is_last || *refused >= REFUSED_MAX { Err(Obstacle::Refused) } else { Ok(()) }
            }
            Err(error) => Err(error.into()),
        }
    }

    fn report(&self, differences: &Differences) {
        if let Some(progress) = self.progress {
            progress.send_replace(FetchProgress {
                length: Some(self.partial.length()),
                verified: self.partial.length() - self.partial.missing_bytes(),
                already_had: self.already_had,
                bytes_by_peer: differences.bytes_by_peer.clone(),
                providers: vec![self.provider],
                at_work: [self.provider].into(),
            });
        }
    }
}
