//! A [`Valve`] with a clock: sockets and streams wait at it, and all bytes are counted.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use libp2p::PeerId;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, Sleep};

use super::fair::Turn;
use super::valve::{May, Own, Valve, piece};

/// The least that is slept: finer the timer isn't.
const SLEEP_MIN: Duration = Duration::from_millis(1);

/// One direction of a node's traffic: counted always, held to a rate where there is one.
#[derive(Debug)]
pub(super) struct Gate {
    moved: AtomicU64,
    limit: Option<Limit>,
}

#[derive(Debug)]
struct Limit {
    start: Instant,
    piece: usize,
    valve: Mutex<Valve<oneshot::Sender<()>>>,
    /// Something waits that did not before, or sockets wait no more.
    wake: Notify,
}

/// One socket, as a gate sees it.
#[derive(Debug, Default)]
pub(super) struct Flow {
    own: Own,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Gate {
    /// With `rate` bytes a second in all, and bulk of `per_peer` bytes a second to each peer, where these are given.
    pub fn new(rate: Option<u64>, per_peer: Option<u64>) -> Self {
        let limit = rate.into_iter().chain(per_peer).min().map(|slowest| Limit {
            start: Instant::now(),
            piece: piece(slowest),
            valve: Mutex::new(Valve::new(rate, per_peer)),
            wake: Notify::new(),
        });
        Self { moved: AtomicU64::new(0), limit }
    }

    /// Bytes that sockets have moved, since the start.
    pub fn total(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// How much of bulk is to be asked for at once, `whole` at most.
    pub fn piece(&self, whole: usize) -> usize {
        self.limit.as_ref().map_or(whole, |limit| whole.min(limit.piece))
    }

    /// Waits until `bytes` of bulk may go to `peer`; at most a piece.
    pub async fn pass(&self, peer: PeerId, bytes: usize) {
        let Some(limit) = &self.limit else { return };
        let (granted, waiting) = oneshot::channel();
        limit.lock().push(peer, bytes as u64, granted, limit.now());
        if limit.grant().is_some() {
            limit.wake.notify_one();
        }
        // Ends with an error only with the gate itself.
        let _ = waiting.await;
    }

    /// Gives bulk its turns, for ever.
    pub async fn run(&self) {
        let Some(limit) = &self.limit else { return };
        loop {
            let woken = limit.wake.notified();
            match limit.grant() {
                Some(wait) => {
                    tokio::select! {
                        () = tokio::time::sleep(wait.max(SLEEP_MIN)) => {}
                        () = woken => {}
                    }
                }
                None => woken.await,
            }
        }
    }

    /// How many of `want` bytes a socket may move now; it says afterwards how many it did.
    pub fn poll_pass(&self, flow: &mut Flow, cx: &mut Context<'_>, want: usize) -> Poll<usize> {
        let Some(limit) = &self.limit else { return Poll::Ready(want) };
        loop {
            if let Some(sleep) = &mut flow.sleep {
                ready!(sleep.as_mut().poll(cx));
                flow.sleep = None;
            }
            let waited = flow.own.waits();
            match limit.lock().may_move(&mut flow.own, want, limit.now()) {
                May::Move(bytes) => {
                    if waited {
                        limit.wake.notify_one();
                    }
                    return Poll::Ready(bytes);
                }
                May::Wait(wait) => flow.sleep = Some(Box::pin(tokio::time::sleep(wait.max(SLEEP_MIN)))),
            }
        }
    }

    /// A socket has moved `bytes`.
    pub fn moved(&self, flow: &mut Flow, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(limit) = &self.limit {
            limit.lock().moved(&mut flow.own, bytes as u64, limit.now());
        }
    }

    /// A socket is gone.
    pub fn closed(&self, flow: &mut Flow) {
        if let Some(limit) = &self.limit {
            limit.lock().closed(&mut flow.own);
            limit.wake.notify_one();
        }
    }
}

impl Limit {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Valve<oneshot::Sender<()>>> {
        // Figures, whole after each call: a panic elsewhere did not break them.
        self.valve.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go who may go now; when the next may, where somebody waits for the time alone.
    fn grant(&self) -> Option<Duration> {
        let mut valve = self.lock();
        loop {
            match valve.next(self.now()) {
                Turn::Idle => return None,
                Turn::Later(wait) => return Some(wait),
                Turn::Go(peer, bytes, waiter) => {
                    if waiter.send(()).is_err() {
                        valve.give_back(&peer, bytes);
                    }
                }
            }
        }
    }
}
