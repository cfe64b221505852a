//! Who sends next: the upload is shared out among peers, not among their streams.
//!
//! A deficit scheme: each peer's line has a count of what it was given, and the one that is furthest behind goes first. So
//! a peer with many streams, whose requests always wait, and one with a single stream, which is away for a moment after
//! each piece, get the same over time; with plain turns the second would lose the turns that it was away for. How far
//! behind a peer may be is bounded: whoever was idle does not keep the others waiting to catch up.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use libp2p::PeerId;

use super::bucket::Bucket;

/// Peers whose counts are kept although they want nothing now. Beyond, the idle are forgotten; they begin anew.
const IDLE_KEPT: usize = 256;

/// What waits to be sent, of all peers.
#[derive(Debug)]
pub(super) struct Lines<T> {
    peers: BTreeMap<PeerId, Line<T>>,
    /// What the peer that was given last had been given: where newcomers begin.
    level: u64,
    /// The most bytes by which a peer may be behind.
    lag: u64,
    /// Bytes a second for each peer, and the depth of its bucket.
    per_peer: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Line<T> {
    given: u64,
    waiting: VecDeque<(u64, T)>,
    bucket: Option<Bucket>,
}

/// What [`Lines::next`] says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn<T> {
    /// These bytes of this peer go.
    Go(PeerId, u64, T),
    /// Those that wait have used up what a peer may have; the first may go after so long.
    Later(Duration),
    /// Nobody waits.
    Idle,
}

impl<T> Lines<T> {
    /// Nobody waits. `per_peer` is a rate in bytes a second and a depth in bytes.
    pub fn new(lag: u64, per_peer: Option<(u64, u64)>) -> Self {
        Self { peers: BTreeMap::new(), level: 0, lag, per_peer }
    }

    /// `bytes` of `peer` wait.
    pub fn push(&mut self, peer: PeerId, bytes: u64, waiter: T, now: Duration) {
        if self.peers.len() >= IDLE_KEPT && !self.peers.contains_key(&peer) {
            self.peers.retain(|_, line| !line.waiting.is_empty());
        }
        let (level, lag, per_peer) = (self.level, self.lag, self.per_peer);
        let line = self.peers.entry(peer).or_insert_with(|| Line {
            given: level,
            waiting: VecDeque::new(),
            bucket: per_peer.map(|(rate, depth)| Bucket::new(rate, depth, now)),
        });
        if line.waiting.is_empty() {
            line.given = line.given.max(level.saturating_sub(lag));
        }
        line.waiting.push_back((bytes, waiter));
    }

    /// Whose turn it is.
    pub fn next(&mut self, now: Duration) -> Turn<T> {
        let mut later: Option<Duration> = None;
        let mut first: Option<(u64, PeerId)> = None;
        for (peer, line) in &mut self.peers {
            if line.waiting.is_empty() {
                continue;
            }
            let wait = line.bucket.as_mut().map_or(Duration::ZERO, |bucket| bucket.until_above(now, 0));
            if wait > Duration::ZERO {
                later = Some(later.map_or(wait, |least| least.min(wait)));
            } else if first.is_none_or(|(given, _)| line.given < given) {
                first = Some((line.given, *peer));
            }
        }
        let Some((given, peer)) = first else { return later.map_or(Turn::Idle, Turn::Later) };
        let Some(line) = self.peers.get_mut(&peer) else { return Turn::Idle };
        let Some((bytes, waiter)) = line.waiting.pop_front() else { return Turn::Idle };
        line.given = given.saturating_add(bytes);
        if let Some(bucket) = &mut line.bucket {
            bucket.take(now, bytes);
        }
        // The one furthest behind moves the level on; whoever catches up does not move it back.
        self.level = self.level.max(given);
        Turn::Go(peer, bytes, waiter)
    }

    /// What was given to `peer` was not sent.
    pub fn give_back(&mut self, peer: &PeerId, bytes: u64) {
        if let Some(line) = self.peers.get_mut(peer) {
            line.given = line.given.saturating_sub(bytes);
            if let Some(bucket) = &mut line.bucket {
                bucket.give_back(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 16 << 10;

    /// Peers with so many streams each; a stream wants the next piece `away` turns after the one before.
    fn shares(streams: &[usize], turns: usize, per_peer: Option<(u64, u64)>, away: usize) -> Vec<u64> {
        let peers: Vec<PeerId> = streams.iter().map(|_| PeerId::random()).collect();
        let mut lines = Lines::new(1 << 20, per_peer);
        let mut given = vec![0; peers.len()];
        let mut back: VecDeque<(usize, usize)> = VecDeque::new();
        for (index, count) in streams.iter().enumerate() {
            for _ in 0..*count {
                lines.push(peers[index], PIECE, index, Duration::ZERO);
            }
        }
        for turn in 0..turns {
            // 1 MiB a second.
            let now = Duration::from_micros(turn as u64 * 15_625);
            while back.front().is_some_and(|(at, _)| *at <= turn) {
                if let Some((_, index)) = back.pop_front() {
                    lines.push(peers[index], PIECE, index, now);
                }
            }
            if let Turn::Go(_, bytes, index) = lines.next(now) {
                given[index] += bytes;
                back.push_back((turn + 1 + away, index));
            }
        }
        given
    }

    #[test]
    fn who_opens_more_streams_gets_no_more() {
        for away in [0, 1, 3] {
            let given = shares(&[1, 16, 4], 3_000, None, away);
            // With three turns away one stream alone can't take more than a quarter; that is not a question of fairness.
            let (least, most) = (given.iter().min(), given.iter().max());
            let (Some(least), Some(most)) = (least, most) else { unreachable!("there are three") };
            assert!(away == 3 || most - least <= 4 * PIECE, "{given:?} with {away} turns away");
            assert!(*least * 5 >= 3_000 * PIECE, "{given:?} with {away} turns away: nobody starves");
        }
    }

    #[test]
    fn an_idle_share_goes_to_the_others_and_is_not_saved_up() {
        let (busy, idle) = (PeerId::random(), PeerId::random());
        let mut lines = Lines::new(4 * PIECE, None);
        lines.push(idle, PIECE, (), Duration::ZERO);
        assert!(matches!(lines.next(Duration::ZERO), Turn::Go(..)));
        for _ in 0..1_000 {
            lines.push(busy, PIECE, (), Duration::ZERO);
            assert!(matches!(lines.next(Duration::ZERO), Turn::Go(peer, ..) if peer == busy));
        }
        // It comes back: some pieces ahead, as many as the bound says, then turn by turn.
        let mut order = Vec::new();
        for _ in 0..20 {
            lines.push(idle, PIECE, (), Duration::ZERO);
            lines.push(busy, PIECE, (), Duration::ZERO);
        }
        for _ in 0..20 {
            if let Turn::Go(peer, ..) = lines.next(Duration::ZERO) {
                order.push(peer == idle);
            }
        }
        let ahead = order.iter().take_while(|is_idle| **is_idle).count();
        assert!((3..=6).contains(&ahead), "{order:?}");
        let later = order[ahead..].iter().filter(|is_idle| **is_idle).count();
        assert!(later.abs_diff((20 - ahead) / 2) <= 1, "{order:?}");
    }

    #[test]
    fn a_peer_gets_no_more_than_its_rate_though_nobody_else_wants_any() {
        // 1,000 turns are 15.6 s; a peer may have 256 KiB a second.
        let given = shares(&[8], 1_000, Some((256 << 10, 32 << 10)), 0);
        let wanted = 15.625 * f64::from(256 << 10);
        assert!((given[0] as f64 - wanted).abs() < wanted * 0.03, "{given:?} of {wanted}");
        let both = shares(&[8, 1], 1_000, Some((256 << 10, 32 << 10)), 0);
        assert!(both.iter().all(|given| (*given as f64 - wanted).abs() < wanted * 0.03), "{both:?}");
        let mut lines = Lines::new(0, Some((1_000, 100)));
        let peer = PeerId::random();
        lines.push(peer, 1_100, (), Duration::ZERO);
        lines.push(peer, 1_100, (), Duration::ZERO);
        assert!(matches!(lines.next(Duration::ZERO), Turn::Go(..)));
        assert_eq!(lines.next(Duration::ZERO), Turn::Later(Duration::from_millis(1_001)));
    }

    #[test]
    fn peers_that_want_nothing_are_forgotten_when_there_are_many() {
        let mut lines = Lines::new(0, None);
        for _ in 0..10 * IDLE_KEPT {
            lines.push(PeerId::random(), 1, (), Duration::ZERO);
            assert!(matches!(lines.next(Duration::ZERO), Turn::Go(..)));
            assert_eq!(lines.next(Duration::ZERO), Turn::Idle);
        }
        assert!(lines.peers.len() <= IDLE_KEPT);
    }
}
