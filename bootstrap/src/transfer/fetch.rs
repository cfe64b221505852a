//! One fetch: who is asked, which length is believed, when it is over.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::transfer::{ByteRange, Held, INLINE_BYTES_MAX, Next, Schedule, end_of};
use barnraiser_store::geometry::{unit_count, unit_range};
use barnraiser_store::{PartialBlob, PartialError, UNIT_BYTES, check_length};
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _, OptionFuture};
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::provider::{self, Lost};
use super::{FetchError, FetchProgress, FetchReport, FetchRequest, who_has};
use crate::event::Misbehaviour;
use crate::identity::peer_id;
use crate::net::Context;

/// Providers that are worked with at the same time.
const PROVIDERS_MAX: usize = 8;
/// Providers that a fetch tries in all.
const PROVIDERS_TRIED_MAX: usize = 256;
/// How often a provider is tried that stalls, is busy or loses its connection.
const ATTEMPTS_MAX: u32 = 3;
/// The wait before it is tried again, times the attempts so far.
const RETRY_AFTER: Duration = Duration::from_millis(700);
/// One that does not have it may be fetching it too, and begin in a moment; while others deliver, it is asked again after this, ...
const ABSENT_AGAIN_MIN: Duration = Duration::from_millis(250);
/// ... twice that and so on, up to this.
const ABSENT_AGAIN_MAX: Duration = Duration::from_secs(4);
/// As long as the blob may be a small one, the next provider is asked only after this long: one copy is enough.
const HEDGE_AFTER: Duration = Duration::from_millis(250);
/// With fewer providers than this, more are looked for while the fetch goes on, ...
const PROVIDERS_WANTED: usize = 3;
/// ... this often.
const SEARCH_EVERY: Duration = Duration::from_secs(5);

/// What is here of the blob, and who fetches the rest. Its length is proven.
pub(super) struct Attempt {
    pub partial: PartialBlob,
    pub schedule: Schedule,
    pub started: Instant,
}

/// What the providers' futures share.
pub(super) struct Fetch<'a> {
    pub context: &'a Arc<Context>,
    pub request: &'a FetchRequest,
    state: Mutex<State>,
    /// Held while an attempt is set up, which reads the disk.
    setup: tokio::sync::Mutex<()>,
    /// A unit ended or an attempt did: whoever waits should look again.
    pub changed: Notify,
    progress: Option<watch::Sender<FetchProgress>>,
}

#[derive(Default)]
struct State {
    attempt: Option<Attempt>,
    /// Providers being worked with or in line, for an equal share at the start.
    expected: Vec<NodeId>,
    bytes_by_peer: BTreeMap<NodeId, u64>,
    already_had: u64,
}

impl<'a> Fetch<'a> {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each holder leaves the state whole; a panic in one is that fetch's end anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn hash(&self) -> &'a BlobHash {
        &self.request.hash
    }

    /// Whether the length is known and proven.
    pub(super) fn has_begun(&self) -> bool {
        self.state().attempt.is_some()
    }

    /// Settles on `length` as `node` states it, with the proof of it, or says why not.
    pub(super) async fn begin(&self, node: NodeId, length: u64, proof: Option<(ByteRange, &[u8])>) -> Result<PartialBlob, Lost> {
        let _setup = self.setup.lock().await;
        if let Some(attempt) = &mut self.state().attempt {
            let proven = attempt.partial.length();
            if proven != length {
                return Err(Lost::Misbehaved(Misbehaviour::WrongLength(format!("{length} bytes, {proven} is proven"))));
            }
            attempt.schedule.joined(node);
            return Ok(attempt.partial.clone());
        }
        // Only who asks after it has begun does so without a proof, and it never ends before the fetch.
        let (range, encoded) = proof.ok_or(Lost::NotFound)?;
        // Before anything is made ready for that many bytes.
        let checked = check_length(self.hash(), length, &(range.start..range.end), encoded);
        checked.map_err(|error| Lost::Misbehaved(Misbehaviour::WrongLength(error.to_string())))?;
        let end = (range == end_of(length)).then(|| encoded.to_vec());
        self.set_up(node, length, end).await
    }

    /// Makes ready for a blob of a proven length; `end` is the proof, if it is to be passed on.
    async fn set_up(&self, node: NodeId, length: u64, end: Option<Vec<u8>>) -> Result<PartialBlob, Lost> {
        let (store, hash) = (self.context.config.store.clone(), *self.hash());
        let opening = blocking(hash, move || {
            let partial = store.partial(&hash, length)?;
            end.map_or(Ok(()), |end| partial.prove_length(end))?;
            Ok(partial)
        });
        let partial = opening.await.map_err(Lost::Fatal)?;
        let missing: Vec<ByteRange> = units(&partial).filter(|(unit, _)| !partial.has(*unit)).map(|(_, range)| range).collect();
        let mut schedule = Schedule::new(&missing, rand::random());
        let mut state = self.state();
        for &expected in &state.expected {
            schedule.joined(expected);
        }
        schedule.joined(node);
        state.already_had = length - partial.missing_bytes();
        state.attempt = Some(Attempt { partial: partial.clone(), schedule, started: Instant::now() });
        drop(state);
        self.report_progress();
        self.tell();
        Ok(partial)
    }

    /// Those who wait for something look again: the other providers of this fetch, and peers who fetch the same.
    fn tell(&self) {
        self.changed.notify_waiters();
        self.context.verified.notify_waiters();
    }

    /// What `node` should do now, and how old the attempt is.
    pub(super) fn next(&self, node: NodeId, held: &Held) -> (Next, Duration) {
        match &mut self.state().attempt {
            Some(attempt) => {
                let age = attempt.started.elapsed();
                (attempt.schedule.next(node, held, age), age)
            }
            // Never: who asks has begun it.
            None => (Next::Finished, Duration::ZERO),
        }
    }

    pub(super) fn done(&self, node: NodeId, range: ByteRange) {
        let mut state = self.state();
        let first = state.attempt.as_mut().is_some_and(|attempt| {
            let age = attempt.started.elapsed();
            attempt.schedule.done(&node, range.start, age)
        });
        if first {
            *state.bytes_by_peer.entry(node).or_default() += range.length();
        }
        drop(state);
        self.report_progress();
        self.tell();
    }

    /// `node` sends the unit `range`, which it could choose.
    pub(super) fn chosen(&self, node: NodeId, range: ByteRange) {
        if let Some(attempt) = &mut self.state().attempt {
            let age = attempt.started.elapsed();
            attempt.schedule.chosen(&node, range.start, age);
        }
    }

    /// `node` sends none of the units that it could choose from.
    pub(super) fn chose_none(&self, node: NodeId) {
        if let Some(attempt) = &mut self.state().attempt {
            attempt.schedule.chose_none(&node);
        }
    }

    pub(super) fn failed(&self, node: NodeId, range: ByteRange) {
        if let Some(attempt) = &mut self.state().attempt {
            attempt.schedule.failed(&node, range.start);
        }
        self.changed.notify_waiters();
    }

    fn left(&self, node: NodeId) {
        let mut state = self.state();
        state.expected.retain(|expected| *expected != node);
        if let Some(attempt) = &mut state.attempt {
            attempt.schedule.left(&node);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// The finished blob, once every unit is here.
    fn finished(&self) -> Option<PartialBlob> {
        let state = self.state();
        state.attempt.as_ref().filter(|attempt| attempt.partial.is_complete()).map(|attempt| attempt.partial.clone())
    }

    /// Whether the blob is known to be too large to come with the first answer.
    fn is_large(&self) -> bool {
        let stated = self.state().attempt.as_ref().map(|attempt| attempt.partial.length());
        stated.or(self.request.length).is_some_and(|length| length > INLINE_BYTES_MAX)
    }

    fn report_progress(&self) {
        let Some(progress) = &self.progress else { return };
        let state = self.state();
        let attempt = state.attempt.as_ref().map(|attempt| &attempt.partial);
        progress.send_replace(FetchProgress {
            length: attempt.map(PartialBlob::length),
            verified: attempt.map_or(0, |partial| partial.length() - partial.missing_bytes()),
            bytes_by_peer: state.bytes_by_peer.clone(),
        });
    }
}

/// The units of a blob, by number.
fn units(partial: &PartialBlob) -> impl Iterator<Item = (u64, ByteRange)> + use<> {
    let length = partial.length();
    const { assert!(barnraiser_protocol::transfer::GET_BYTES_MAX == UNIT_BYTES, "a unit is what one request may ask for") };
    (0..unit_count(length)).map(move |unit| {
        let range = unit_range(unit, length);
        (unit, ByteRange { start: range.start, end: range.end })
    })
}

/// Runs what touches the disk where blocking is allowed; it begins at once.
pub(super) fn blocking<T: Send + 'static>(
    hash: BlobHash,
    work: impl FnOnce() -> Result<T, PartialError> + Send + 'static,
) -> impl Future<Output = Result<T, FetchError>> + Send {
    let working = tokio::task::spawn_blocking(work);
    async move {
        match working.await {
            Ok(result) => result.map_err(|source| FetchError::Store { hash, source }),
            Err(error) => Err(FetchError::Local { hash, reason: error.to_string() }),
        }
    }
}

/// Fetches a blob. See [`crate::Net::fetch`].
pub(crate) async fn fetch(
    context: &Arc<Context>,
    request: FetchRequest,
    progress: Option<watch::Sender<FetchProgress>>,
) -> Result<FetchReport, FetchError> {
    let hash = request.hash;
    // A second fetch of the same blob waits for the first and then finds it here, or goes on where that one failed.
    let turn = context.fetch_turn(hash);
    let _turn = turn.lock().await;
    let store = context.config.store.clone();
    let here = blocking(hash, move || store.length(&hash).map_err(PartialError::from)).await?;
    if let Some(length) = here {
        return Ok(FetchReport { length, bytes_by_peer: BTreeMap::new(), already_had: length, stolen: 0 });
    }
    let fetch = Fetch {
        context,
        request: &request,
        state: Mutex::default(),
        setup: tokio::sync::Mutex::default(),
        changed: Notify::new(),
        progress,
    };
    let partial = run(&fetch).await?;
    let durability = request.durability;
    let completed = partial.clone();
    match blocking(hash, move || completed.complete(durability)).await {
        // Somebody else, who imports the same blob, was faster.
        Ok(()) | Err(FetchError::Store { source: PartialError::Ended(_), .. }) => fetch.tell(),
        Err(error) => return Err(error),
    }
    let state = fetch.state();
    Ok(FetchReport {
        length: partial.length(),
        bytes_by_peer: state.bytes_by_peer.clone(),
        already_had: state.already_had,
        stolen: state.attempt.as_ref().map_or(0, |attempt| attempt.schedule.stolen()),
    })
}

/// Works with providers until every unit is here.
async fn run(fetch: &Fetch<'_>) -> Result<PartialBlob, FetchError> {
    let mut providers = Providers::new(fetch);
    let mut search: Option<BoxFuture<'_, Vec<NodeId>>> = None;
    let mut next_search = Instant::now() + SEARCH_EVERY;
    providers.add(&fetch.request.providers);
    let mut searched_in_vain = false;
    loop {
        let changed = fetch.changed.notified();
        if let Some(partial) = fetch.finished() {
            return Ok(partial);
        }
        providers.start_waiting();
        let searchable = fetch.request.network.is_some();
        if search.is_none() && providers.is_exhausted() {
            if !searchable || searched_in_vain {
                return Err(providers.error());
            }
            search = Some(who_has(fetch.context, fetch.request.network, *fetch.hash()).boxed());
        }
        let few = searchable && search.is_none() && providers.working.len() < PROVIDERS_WANTED;
        let next_start = providers.next_start();
        tokio::select! {
            Some((node, result)) = providers.working.next(), if !providers.working.is_empty() => {
                fetch.left(node);
                providers.ended(node, result).await?;
            }
            Some(found) = OptionFuture::from(search.as_mut()) => {
                search = None;
                next_search = Instant::now() + SEARCH_EVERY;
                searched_in_vain = providers.add(&found) == 0;
            }
            () = tokio::time::sleep_until(next_search), if few => {
                search = Some(who_has(fetch.context, fetch.request.network, *fetch.hash()).boxed());
            }
            Some(()) = OptionFuture::from(next_start.map(tokio::time::sleep_until)) => {}
            () = changed => {}
        }
    }
}

type Working<'a> = FuturesUnordered<BoxFuture<'a, (NodeId, Result<(), Lost>)>>;

/// Who is asked, who waits to be, and what became of the others.
struct Providers<'a> {
    fetch: &'a Fetch<'a>,
    working: Working<'a>,
    /// When each may be asked at the earliest.
    waiting: VecDeque<(Instant, NodeId)>,
    /// Those that did not have it, and when they are asked again.
    absent: Vec<(Instant, NodeId)>,
    attempts: BTreeMap<NodeId, u32>,
    /// How often each did not have it.
    asked_in_vain: BTreeMap<NodeId, u32>,
    /// What each had delivered when it last failed: who delivers is tried again as often as it takes.
    delivered: BTreeMap<NodeId, u64>,
    outcomes: BTreeMap<NodeId, String>,
    too_long: Option<u64>,
    /// As long as the blob may be small: when the next one is asked.
    next_hedge: Instant,
}

impl<'a> Providers<'a> {
    fn new(fetch: &'a Fetch<'a>) -> Self {
        Self {
            fetch,
            working: FuturesUnordered::new(),
            waiting: VecDeque::new(),
            absent: Vec::new(),
            attempts: BTreeMap::new(),
            asked_in_vain: BTreeMap::new(),
            delivered: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            too_long: None,
            next_hedge: Instant::now(),
        }
    }

    /// Adds those that are new; how many that were.
    fn add(&mut self, nodes: &[NodeId]) -> usize {
        let mut new = 0;
        for &node in nodes {
            if let Some(position) = self.absent.iter().position(|(_, absent)| *absent == node) {
                // It was named anew by somebody who asked it.
                self.absent.swap_remove(position);
                self.waiting.push_back((Instant::now(), node));
                new += 1;
                continue;
            }
            let known = self.attempts.contains_key(&node) || node == self.fetch.context.local;
            if !known && self.attempts.len() < PROVIDERS_TRIED_MAX {
                self.attempts.insert(node, 0);
                self.waiting.push_back((Instant::now(), node));
                new += 1;
            }
        }
        new
    }

    fn is_exhausted(&self) -> bool {
        self.working.is_empty() && self.waiting.is_empty()
    }

    /// Starts those whose time has come.
    fn start_waiting(&mut self) {
        let large = self.fetch.is_large();
        let now = Instant::now();
        if !self.working.is_empty() {
            self.waiting.extend(self.absent.extract_if(.., |(again, _)| *again <= now));
        }
        let line = self.working.len() + self.waiting.len();
        if self.fetch.state().expected.len() < line.min(PROVIDERS_MAX) {
            let mut state = self.fetch.state();
            for (_, node) in self.waiting.iter().take(PROVIDERS_MAX) {
                if !state.expected.contains(node) {
                    state.expected.push(*node);
                }
            }
        }
        while self.working.len() < PROVIDERS_MAX {
            if !large && !self.working.is_empty() && now < self.next_hedge {
                break;
            }
            let Some(position) = self.waiting.iter().position(|(start, _)| *start <= now) else { break };
            let Some((_, node)) = self.waiting.remove(position) else { break };
            self.next_hedge = now + HEDGE_AFTER;
            let fetch = self.fetch;
            self.working.push(async move { (node, provider::work(fetch, node).await) }.boxed());
            if !large {
                break;
            }
        }
    }

    /// When the next one in line may be started.
    fn next_start(&self) -> Option<Instant> {
        if self.working.len() >= PROVIDERS_MAX {
            return None;
        }
        let absent = self.absent.iter().filter(|_| !self.working.is_empty());
        let start = self.waiting.iter().chain(absent).map(|(start, _)| *start).min()?;
        let at_once = self.working.is_empty() || self.fetch.is_large();
        Some(if at_once { start } else { start.max(self.next_hedge) })
    }

    /// A provider is through: with its work, or because of what went wrong.
    async fn ended(&mut self, node: NodeId, result: Result<(), Lost>) -> Result<(), FetchError> {
        let lost = match result {
            Ok(()) => return Ok(()),
            Err(lost) => lost,
        };
        tracing::debug!(hash = %self.fetch.hash(), node = %node.short(), outcome = %lost, "a provider is lost");
        self.outcomes.insert(node, lost.to_string());
        match lost {
            Lost::Fatal(error) => return Err(error),
            Lost::TooLong(length) => self.too_long = Some(length),
            Lost::Misbehaved(what) => {
                if let Some(peer) = peer_id(&node) {
                    self.fetch.context.report(peer, what).await;
                }
            }
            Lost::NotFound => {
                let times = self.asked_in_vain.entry(node).or_default();
                let wait = ABSENT_AGAIN_MIN * 2u32.saturating_pow(*times);
                *times += 1;
                self.absent.push((Instant::now() + wait.min(ABSENT_AGAIN_MAX), node));
            }
            Lost::Refused | Lost::Relayed | Lost::OtherLength { .. } => {}
            Lost::Busy | Lost::Connection(_) => {
                let attempts = self.attempts.entry(node).or_default();
                let delivered = self.fetch.state().bytes_by_peer.get(&node).copied().unwrap_or_default();
                if self.delivered.insert(node, delivered).unwrap_or_default() < delivered {
                    *attempts = 0;
                }
                *attempts += 1;
                if *attempts < ATTEMPTS_MAX {
                    self.waiting.push_back((Instant::now() + RETRY_AFTER * *attempts, node));
                }
            }
        }
        Ok(())
    }

    fn error(&self) -> FetchError {
        let (hash, outcomes) = (*self.fetch.hash(), self.outcomes.clone());
        let state = self.fetch.state();
        if let Some(Attempt { partial, .. }) = &state.attempt {
            return FetchError::Lost { hash, missing: partial.missing_bytes(), length: partial.length(), outcomes };
        }
        match self.too_long {
            Some(length) => FetchError::TooLong { hash, length, limit: self.fetch.request.limit },
            None => FetchError::Nobody { hash, outcomes },
        }
    }
}
