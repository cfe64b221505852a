//! The traffic of a node: all of it counted, held to what the owner allows, and bulk stopped where it may not travel.
//!
//! [`Traffic`] stands between the swarm and its sockets ([`transport`]): below TLS for TCP, so that every byte is seen that a
//! connection moves but those of TCP and IP themselves; around the streams of QUIC connections, whose sockets are
//! libp2p's own. [`valve`] says what may move when, [`fair`] which peer is sent to next, `pack` whether it pays to compress.
//! What bulk may do by the clock and by the month is decided by the owner of this handle ([`Traffic::rest`], [`Traffic::allow`]).

mod bucket;
mod fair;
mod gate;
pub(crate) mod pack;
pub(crate) mod transport;
mod valve;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use barnraiser_protocol::transfer::INLINE_BYTES_MAX;
use libp2p::PeerId;

use gate::Gate;

/// The slowest rate that can be set, in bytes a second: with less, one unit would keep a peer waiting longer than it waits.
pub const RATE_MIN: u64 = 64 << 10;
/// The slowest for each peer.
pub const RATE_PER_PEER_MIN: u64 = 16 << 10;
/// What a unit that is being sent gets at least, in bytes a second: a peer waits three minutes for a MiB.
const UNIT_RATE_MIN: u64 = 8 << 10;
/// Rates are those of the last seconds.
const RATE_TIME: Duration = Duration::from_secs(5);

/// How fast bytes may move, in bytes a second; `None` is as fast as they can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// All that is sent. At least [`RATE_MIN`].
    pub up: Option<u64>,
    /// All that is received. At least [`RATE_MIN`].
    pub down: Option<u64>,
    /// Blobs sent to each peer. At least [`RATE_PER_PEER_MIN`].
    pub up_per_peer: Option<u64>,
}

impl Rates {
    /// How many units may be sent at the same time so that each makes progress; `limit` at most.
    pub(crate) fn units_at_once(&self, limit: usize) -> usize {
        let room = self.up.map_or(limit, |rate| usize::try_from(rate / UNIT_RATE_MIN).unwrap_or(limit));
        room.min(limit).max(1)
    }

    /// `time`, or as long as `streams` that share what may be received need for `bytes` each.
    pub(crate) fn patience(&self, time: Duration, bytes: u64, streams: u64) -> Duration {
        let shared = self.down.map(|rate| Duration::from_secs_f64(bytes.saturating_mul(streams) as f64 / rate.max(1) as f64));
        shared.map_or(time, |shared| shared.max(time))
    }
}

/// How much has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes sent since the start.
    pub up: u64,
    /// Bytes received since the start.
    pub down: u64,
    /// Bytes a second sent, over the last seconds.
    pub up_rate: u64,
    /// Bytes a second received.
    pub down_rate: u64,
}

/// The traffic of one node.
#[derive(Debug)]
pub struct Traffic {
    rates: Rates,
    up: Gate,
    down: Gate,
    rest: Mutex<Option<String>>,
    rests: AtomicBool,
    /// The sum of up and down at which bulk has used up what it may.
    allowed_until: AtomicU64,
    samples: Mutex<VecDeque<(Instant, u64, u64)>>,
}

impl Traffic {
    /// Counts, and holds to `rates`. Streams of bulk are given their turns while [`Traffic::run`] runs.
    pub fn new(rates: Rates) -> Self {
        Self {
            rates,
            up: Gate::new(rates.up, rates.up_per_peer),
            down: Gate::new(rates.down, None),
            rest: Mutex::default(),
            rests: AtomicBool::new(false),
            allowed_until: AtomicU64::new(u64::MAX),
            samples: Mutex::new(VecDeque::from([(Instant::now(), 0, 0)])),
        }
    }

    /// Gives bulk its turns; never ends where there is a limit.
    pub async fn run(&self) {
        self.up.run().await;
    }

    /// The limits.
    pub const fn rates(&self) -> &Rates {
        &self.rates
    }

    /// Bulk rests from now on for the reason `why`, or no more. Units under way are finished.
    pub fn rest(&self, why: Option<String>) {
        let mut rest = self.resting_for();
        self.rests.store(why.is_some(), Ordering::Relaxed);
        *rest = why;
    }

    /// Bulk rests once so many more bytes have moved, up and down together; `None` takes that back.
    pub fn allow(&self, bytes: Option<u64>) {
        let until = bytes.map_or(u64::MAX, |bytes| self.total().saturating_add(bytes));
        self.allowed_until.store(until, Ordering::Relaxed);
    }

    /// Why bulk rests; `None` while it may move.
    pub fn resting(&self) -> Option<String> {
        if !self.rests() {
            return None;
        }
        Some(self.resting_for().clone().unwrap_or_else(|| "what may move in this month is used up".into()))
    }

    /// Whether bulk rests.
    pub fn rests(&self) -> bool {
        self.rests.load(Ordering::Relaxed) || self.total() >= self.allowed_until.load(Ordering::Relaxed)
    }

    /// Whether a blob of `length` bytes may not travel now. What fits an answer on the control connection always may:
    /// graphs and rules of batches, without which a node could hold no lease.
    pub fn keeps_back(&self, length: u64) -> bool {
        length > INLINE_BYTES_MAX && self.rests()
    }

    fn total(&self) -> u64 {
        self.up.total().saturating_add(self.down.total())
    }

    fn resting_for(&self) -> MutexGuard<'_, Option<String>> {
        // Whole after each call. Likewise below.
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how much has moved; to be called every second or so.
    pub(crate) fn sample(&self) {
        let now = Instant::now();
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push_back((now, self.up.total(), self.down.total()));
        while samples.get(1).is_some_and(|(at, ..)| now.duration_since(*at) >= RATE_TIME) {
            samples.pop_front();
        }
    }

    /// How much has moved, and how fast.
    pub fn usage(&self) -> Usage {
        let (up, down) = (self.up.total(), self.down.total());
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = |moved: u64, before: u64, since: Instant| {
            // Over less than a moment a rate says nothing.
            let seconds = since.elapsed().as_secs_f64().max(0.1);
            (moved.saturating_sub(before) as f64 / seconds) as u64
        };
        let (up_rate, down_rate) =
            samples.front().map_or((0, 0), |(since, up_then, down_then)| (rate(up, *up_then, *since), rate(down, *down_then, *since)));
        Usage { up, down, up_rate, down_rate }
    }
}

/// Sends bulk to one peer at the rates of the node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace<'a> {
    traffic: &'a Traffic,
    peer: PeerId,
}

impl<'a> Pace<'a> {
    pub const fn new(traffic: &'a Traffic, peer: PeerId) -> Self {
        Self { traffic, peer }
    }

    /// How many bytes are sent at once, `whole` at most.
    pub fn piece(&self, whole: usize) -> usize {
        self.traffic.up.piece(whole)
    }

    /// Waits for the peer's turn to be sent a piece of `bytes`.
    pub async fn pass(&self, bytes: usize) {
        self.traffic.up.pass(self.peer, bytes).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_rests_when_it_is_told_to_or_has_used_up_what_it_may() {
        let traffic = Traffic::new(Rates::default());
        assert_eq!(traffic.resting(), None);
        traffic.rest(Some("it is day".into()));
        assert_eq!(traffic.resting().as_deref(), Some("it is day"));
        assert!(traffic.keeps_back(INLINE_BYTES_MAX + 1) && !traffic.keeps_back(INLINE_BYTES_MAX));
        traffic.rest(None);
        assert!(!traffic.keeps_back(u64::MAX));
        traffic.allow(Some(100));
        assert!(!traffic.rests());
        traffic.up.moved(&mut gate::Flow::default(), 60);
        assert!(!traffic.rests());
        traffic.down.moved(&mut gate::Flow::default(), 40);
        assert!(traffic.rests() && traffic.resting().is_some_and(|why| why.contains("month")));
        traffic.allow(None);
        assert!(!traffic.rests());
        assert_eq!((traffic.usage().up, traffic.usage().down), (60, 40));
    }

    #[test]
    fn slow_rates_send_fewer_units_at_once_and_wait_longer() {
        let rates = Rates { up: Some(RATE_MIN), down: Some(RATE_MIN), up_per_peer: None };
        assert_eq!((rates.units_at_once(32), Rates::default().units_at_once(32)), (8, 32));
        let ten = Duration::from_secs(10);
        assert_eq!(rates.patience(ten, 64 << 10, 32), Duration::from_secs(32));
        assert_eq!(rates.patience(ten, 4 << 10, 32), ten);
        assert_eq!(Rates::default().patience(ten, 64 << 10, 32), ten);
    }
}
