//! One direction of a node's traffic at a rate, without a clock of its own: who may move how much now.
//!
//! Two kinds of bytes meet here. **Sockets** ask for all bytes that they move ([`Valve::may_move`], [`Valve::moved`]): those of
//! records, questions, handshakes and blobs alike. **Bulk** that is sent asks before, piece by piece ([`Valve::push`]), and
//! is given its turn peer by peer ([`super::fair`]). What bulk was given is paid for then; its bytes pass the sockets
//! without paying again.
//!
//! What is urgent goes first without anybody having to say what is urgent: a flow that moves little is *sparse*, and
//! passes although the rate is used up; it is charged, and the others wait for it. A flow that has moved more than a little is
//! *dense* and waits. Only when even the sparse have overdrawn by [`RESERVE_S`] of the rate do they wait, since a limit that
//! many small things can pass is none.

use std::time::Duration;

use barnraiser_protocol::transfer::CHUNK_BYTES_MAX;
use libp2p::PeerId;

use super::bucket::Bucket;
use super::fair::{Lines, Turn};

/// What may be saved up and move at once: a tenth of a second's worth, so that a machine that is busy elsewhere for some
/// milliseconds loses nothing, and ...
const DEPTH_DIVISOR: u64 = 10;
/// ... at least this, since less than a packet or two can't be sent.
const DEPTH_MIN: u64 = 16 << 10;
/// Bytes that a flow moves before others may: small enough to be smooth at the slowest rate that is allowed.
const STEP_BYTES: usize = 16 << 10;
/// A flow is sparse as long as it moves less than this part of the rate, ...
const SPARSE_DIVISOR: u64 = 16;
/// ... beyond what it may move at any time: sixteen records of the greatest length.
const SPARSE_DEPTH: u64 = 64 << 10;
/// The sparse may overdraw by what moves in so many seconds, ...
const RESERVE_S: u64 = 2;
/// ... and at least by this: a first exchange of records with some peers.
const RESERVE_MIN: u64 = 256 << 10;
/// Bulk is given pieces of what moves in a 32nd of a second, ...
const PIECE_DIVISOR: u64 = 32;
/// ... and at least this, or framing would cost more than a thousandth.
const PIECE_MIN: u64 = 4 << 10;
/// How far behind a peer may be: half a second's worth, and ...
const LAG_DIVISOR: u64 = 2;
/// ... at least four pieces of the greatest length.
const LAG_MIN: u64 = 256 << 10;
/// How long a socket may take for its turn once there is room, before bulk goes on without it.
const TURN_TIME: Duration = Duration::from_millis(200);

/// One direction. Times are ages of any one clock.
#[derive(Debug)]
pub(super) struct Valve<T> {
    rate: Option<u64>,
    bucket: Option<Bucket>,
    /// Bytes that bulk paid for and sockets have not moved yet.
    prepaid: u64,
    /// Sockets that wait: bulk is given nothing as long as there are any, ...
    sockets: usize,
    /// ... up to this time, when they should have moved: nobody may hold bulk up by not taking its turn.
    sockets_until: Duration,
    lines: Lines<T>,
}

/// What is known of one socket.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// What it may move and still be sparse.
    bucket: Option<Bucket>,
    waits: bool,
}

impl Own {
    /// Whether the socket was told to wait, and has not moved since.
    pub const fn waits(&self) -> bool {
        self.waits
    }
}

/// What a socket is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum May {
    /// It may move so many bytes, and says afterwards how many it did.
    Move(usize),
    /// It may ask again after so long.
    Wait(Duration),
}

fn depth(rate: u64) -> u64 {
    (rate / DEPTH_DIVISOR).max(DEPTH_MIN)
}

/// How much of bulk is given at once, where the slowest limit that holds for it is `rate`.
pub(super) fn piece(rate: u64) -> usize {
    // Clamped to some KiB.
    (rate / PIECE_DIVISOR).clamp(PIECE_MIN, CHUNK_BYTES_MAX as u64) as usize
}

impl<T> Valve<T> {
    /// With `rate` bytes a second in all, and bulk of `per_peer` bytes a second to each peer, where these are given.
    pub fn new(rate: Option<u64>, per_peer: Option<u64>) -> Self {
        Self {
            rate,
            bucket: rate.map(|rate| Bucket::new(rate, depth(rate), Duration::ZERO)),
            prepaid: 0,
            sockets: 0,
            sockets_until: Duration::ZERO,
            lines: Lines::new(rate.map_or(LAG_MIN, |rate| (rate / LAG_DIVISOR).max(LAG_MIN)), per_peer.map(|rate| (rate, depth(rate)))),
        }
    }

    /// How many of `want` bytes a socket may move.
    pub fn may_move(&mut self, own: &mut Own, want: usize, now: Duration) -> May {
        let (Some(rate), Some(bucket)) = (self.rate, &mut self.bucket) else { return May::Move(want) };
        let sparse = own.bucket.get_or_insert_with(|| Bucket::new(rate / SPARSE_DIVISOR, SPARSE_DEPTH, now)).level(now) > 0;
        let reserve = i64::try_from(rate.saturating_mul(RESERVE_S).max(RESERVE_MIN)).unwrap_or(i64::MAX);
        let floor = if sparse { -reserve } else { 0 };
        let may = if bucket.level(now) > floor { STEP_BYTES } else { usize::try_from(self.prepaid).unwrap_or(usize::MAX) };
        if may > 0 {
            self.sockets -= usize::from(std::mem::take(&mut own.waits));
            return May::Move(want.min(may));
        }
        self.sockets += usize::from(!std::mem::replace(&mut own.waits, true));
        let wait = bucket.until_above(now, floor);
        self.sockets_until = self.sockets_until.max(now + wait + TURN_TIME);
        May::Wait(wait)
    }

    /// A socket has moved `bytes`.
    pub fn moved(&mut self, own: &mut Own, bytes: u64, now: Duration) {
        let paid = self.prepaid.min(bytes);
        self.prepaid -= paid;
        for bucket in self.bucket.iter_mut().chain(&mut own.bucket) {
            bucket.take(now, bytes - paid);
        }
    }

    /// A socket waits no more, since it is gone.
    pub fn closed(&mut self, own: &mut Own) {
        self.sockets -= usize::from(std::mem::take(&mut own.waits));
    }

    /// `bytes` of bulk wait to be sent to `peer`; at most a [`piece`].
    pub fn push(&mut self, peer: PeerId, bytes: u64, waiter: T, now: Duration) {
        self.lines.push(peer, bytes, waiter, now);
    }

    /// Whose bulk goes now.
    pub fn next(&mut self, now: Duration) -> Turn<T> {
        if self.sockets > 0
            && let Some(wait) = self.sockets_until.checked_sub(now).filter(|wait| *wait > Duration::ZERO)
        {
            // Mostly they have moved long before.
            return Turn::Later(wait);
        }
        let wait = self.bucket.as_mut().map_or(Duration::ZERO, |bucket| bucket.until_above(now, 0));
        if wait > Duration::ZERO {
            return Turn::Later(wait);
        }
        let turn = self.lines.next(now);
        if let (Turn::Go(_, bytes, _), Some(bucket)) = (&turn, &mut self.bucket) {
            bucket.take(now, *bytes);
            self.prepaid = self.prepaid.saturating_add(*bytes);
        }
        turn
    }

    /// What was given to `peer` was not taken.
    pub fn give_back(&mut self, peer: &PeerId, bytes: u64) {
        self.lines.give_back(peer, bytes);
        // Where sockets have moved it for others meanwhile, it is paid for rightly.
        let unused = self.prepaid.min(bytes);
        if let Some(bucket) = &mut self.bucket {
            self.prepaid -= unused;
            bucket.give_back(unused);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A stream of bulk, or a socket that sends some bytes at a time.
    struct Actor {
        peer: Option<PeerId>,
        /// Bytes of a message, and how often one is sent.
        every: (usize, Duration),
        own: Own,
        waiting: bool,
        left: usize,
        asked: Duration,
        sent: u64,
        worst: Duration,
    }

    impl Actor {
        fn new(peer: Option<PeerId>, bytes: usize, every: Duration) -> Self {
            Self {
                peer,
                every: (bytes, every),
                own: Own::default(),
                waiting: false,
                left: 0,
                asked: Duration::ZERO,
                sent: 0,
                worst: Duration::ZERO,
            }
        }
        fn bulk(peer: PeerId, rate: u64) -> Self {
            Self::new(Some(peer), piece(rate), Duration::ZERO)
        }
        fn control(bytes: usize, every: Duration) -> Self {
            Self::new(None, bytes, every)
        }
    }

    /// Lets all of them send for `time`; the clock goes on by steps of a millisecond.
    fn run(valve: &mut Valve<usize>, actors: &mut [Actor], time: Duration) {
        let mut now = Duration::ZERO;
        while now < time {
            let mut moves = true;
            while moves {
                moves = false;
                for (index, actor) in actors.iter_mut().enumerate() {
                    while actor.left > 0
                        && let May::Move(bytes) = valve.may_move(&mut actor.own, actor.left, now)
                    {
                        valve.moved(&mut actor.own, bytes as u64, now);
                        (actor.left, actor.sent, moves) = (actor.left - bytes, actor.sent + bytes as u64, true);
                        actor.worst = actor.worst.max(now - actor.asked);
                    }
                    if actor.left > 0 || actor.waiting {
                        continue;
                    }
                    match actor.peer {
                        Some(peer) => {
                            valve.push(peer, actor.every.0 as u64, index, now);
                            actor.waiting = true;
                        }
                        None if now >= actor.asked + actor.every.1 || actor.sent == 0 => {
                            (actor.left, actor.asked, moves) = (actor.every.0, now, true);
                        }
                        None => {}
                    }
                }
                while let Turn::Go(_, bytes, index) = valve.next(now) {
                    // With four bytes of framing.
                    (actors[index].waiting, actors[index].left, moves) = (false, bytes as usize + 4, true);
                }
            }
            now += MS;
        }
    }

    fn within(sent: u64, wanted: u64, percent: u64) -> bool {
        sent.abs_diff(wanted) * 100 <= wanted * percent
    }

    #[test]
    fn bulk_takes_the_rate_and_no_more_at_any_rate() {
        for rate in [64 << 10, 256 << 10, 2 << 20, 12_500_000u64] {
            let (mut valve, mut actors) = (Valve::new(Some(rate), None), [Actor::bulk(PeerId::random(), rate)]);
            run(&mut valve, &mut actors, Duration::from_secs(20));
            assert!(within(actors[0].sent, rate * 20, 2), "{} at {rate}", actors[0].sent);
        }
    }

    #[test]
    fn what_is_small_does_not_wait_for_bulk_and_is_paid_for() {
        let rate = 256 << 10;
        let mut valve = Valve::new(Some(rate), None);
        let mut actors: Vec<Actor> = (0..4).map(|_| Actor::bulk(PeerId::random(), rate)).collect();
        actors.push(Actor::control(1200, 100 * MS));
        run(&mut valve, &mut actors, Duration::from_secs(20));
        assert_eq!(actors[4].worst, Duration::ZERO, "nothing waited");
        assert!(actors[4].sent >= 190 * 1200);
        let sent = actors.iter().map(|actor| actor.sent).sum::<u64>();
        assert!(within(sent, rate * 20, 2), "{sent}");
    }

    /// Many small flows, or one that goes on and on, are held to the rate too; and bulk waits for them.
    #[test]
    fn control_traffic_alone_is_limited_too() {
        for flows in [1u64, 200] {
            let rate = 128 << 10;
            let mut valve = Valve::new(Some(rate), None);
            let mut actors: Vec<Actor> = (0..flows).map(|_| Actor::control(4096, MS)).collect();
            run(&mut valve, &mut actors, Duration::from_secs(60));
            let (sent, wanted) = (actors.iter().map(|actor| actor.sent).sum::<u64>(), rate * 60);
            // What was saved up and what the sparse may overdraw comes on top.
            assert!(
                sent + wanted / 50 >= wanted && sent <= wanted + wanted / 50 + RESERVE_MIN + SPARSE_DEPTH,
                "{sent} of {wanted}, {flows}"
            );
        }
    }

    #[test]
    fn an_exchange_of_records_goes_before_bulk_and_renewals_of_others_before_both() {
        let rate = 256 << 10;
        let mut valve = Valve::new(Some(rate), None);
        let mut actors =
            [Actor::bulk(PeerId::random(), rate), Actor::control(2 << 20, Duration::from_secs(60)), Actor::control(1200, 1000 * MS)];
        run(&mut valve, &mut actors, Duration::from_secs(16));
        assert_eq!(actors[1].sent, 2 << 20);
        assert!(actors[1].worst < Duration::from_secs(10), "alone it would take 8 s: {:?}", actors[1].worst);
        assert_eq!(actors[2].worst, Duration::ZERO);
        let sent = actors.iter().map(|actor| actor.sent).sum::<u64>();
        assert!(within(sent, rate * 16, 3), "{sent}");
    }

    #[test]
    fn peers_share_evenly_whatever_the_number_of_their_streams() {
        let rate = 1 << 20;
        let mut valve = Valve::new(Some(rate), None);
        let peers = [(PeerId::random(), 1), (PeerId::random(), 8), (PeerId::random(), 3)];
        let mut actors: Vec<Actor> =
            peers.iter().flat_map(|(peer, streams)| std::iter::repeat_n(*peer, *streams)).map(|peer| Actor::bulk(peer, rate)).collect();
        run(&mut valve, &mut actors, Duration::from_secs(20));
        let of = |peer| actors.iter().filter(|actor| actor.peer == Some(peer)).map(|actor| actor.sent).sum::<u64>();
        let sent = peers.map(|(peer, _)| of(peer));
        assert!(sent.iter().all(|sent| within(*sent, rate * 20 / 3, 2)), "{sent:?}");
        // Within one peer its streams share.
        let least = actors[1..9].iter().map(|actor| actor.sent).min().unwrap_or(0);
        assert!(within(least, sent[1] / 8, 5), "{least} of {}", sent[1]);
    }

    #[test]
    fn one_peer_is_held_to_its_own_rate_where_the_node_has_none() {
        let rate = 128 << 10;
        let mut valve = Valve::new(None, Some(rate));
        let (peer, other) = (PeerId::random(), PeerId::random());
        let mut actors = [peer, peer, other].map(|peer| Actor::bulk(peer, rate));
        run(&mut valve, &mut actors, Duration::from_secs(20));
        let sent = actors.map(|actor| actor.sent);
        assert!(within(sent[0] + sent[1], rate * 20, 2) && within(sent[2], rate * 20, 2), "{sent:?}");
    }

    /// Whoever is gone, or does not take its turn, holds nobody up for long.
    #[test]
    fn sockets_that_end_or_sleep_leave_the_valve_open() {
        let mut valve = Valve::new(Some(64 << 10), None);
        let mut own = Own::default();
        valve.may_move(&mut own, 1, Duration::ZERO);
        valve.moved(&mut own, 128 << 10, Duration::ZERO);
        assert!(matches!(valve.may_move(&mut own, 1, Duration::ZERO), May::Wait(_)));
        valve.push(PeerId::random(), 4096, (), Duration::ZERO);
        let Turn::Later(first) = valve.next(Duration::ZERO) else { unreachable!("the socket goes first") };
        assert!(matches!(valve.next(first), Turn::Go(..)), "it did not take its turn");
        assert!(matches!(valve.may_move(&mut own, 1, first), May::Wait(_) | May::Move(_)));
        valve.closed(&mut own);
        valve.closed(&mut own);
        assert_eq!(valve.sockets, 0);
    }

    #[test]
    fn what_was_given_and_not_taken_is_given_back() {
        let mut valve = Valve::new(Some(64 << 10), None);
        let (mut own, peer) = (Own::default(), PeerId::random());
        valve.push(peer, 4096, (), Duration::ZERO);
        assert!(matches!(valve.next(Duration::ZERO), Turn::Go(..)));
        valve.give_back(&peer, 4096);
        assert_eq!(valve.prepaid, 0);
        valve.moved(&mut own, DEPTH_MIN - 1, Duration::ZERO);
        assert!(matches!(valve.may_move(&mut own, 1, Duration::ZERO), May::Move(1)));
    }
}
