//! One fetch: who is asked, which length is believed, when it is over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::transfer::keeping::ranked;
use barnraiser_protocol::transfer::preference::{LATE_AFTER, Preference};
use barnraiser_protocol::transfer::{ByteRange, Held, INLINE_BYTES_MAX, Next, Schedule, end_of};
use barnraiser_store::geometry::{unit_count, unit_range};
use barnraiser_store::{PartialBlob, PartialError, UNIT_BYTES, check_length};
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _, OptionFuture};
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::places::{PLACES, Places};
use super::provider::{self, Lost};
use super::{FetchError, FetchProgress, FetchReport, FetchRequest, who_has};
use crate::event::Misbehaviour;
use crate::identity::peer_id;
use crate::net::Context;
use crate::swarm::Command;

/// Providers that a fetch tries in all.
const PROVIDERS_TRIED_MAX: usize = 256;
/// How often a provider is tried that stalls, is busy or loses its connection.
const ATTEMPTS_MAX: u32 = 3;
/// The wait before it is tried again, times the attempts so far.
const RETRY_AFTER: Duration = Duration::from_millis(700);
/// Holders that are asked before anybody is known to have it.
const HOLDERS_FIRST: usize = 3;
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

/// What is here of the blob, and what is still to come: there is one once the length is proven.
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
    /// Providers that take units now.
    at_work: BTreeSet<NodeId>,
    bytes_by_peer: BTreeMap<NodeId, u64>,
    /// Who of the providers are holders, and how they do.
    preference: Preference,
    already_had: u64,
    places: Places,
}

impl<'a> Fetch<'a> {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each holder leaves the state whole; a panic in one is that fetch's end anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn hash(&self) -> &'a BlobHash {
        &self.request.hash
    }

    /// Why no more of a blob of this length may be asked for now.
    pub(super) fn kept_back(&self, length: u64) -> Option<FetchError> {
        let traffic = &self.context.traffic;
        let why = traffic.keeps_back(length).then(|| traffic.resting()).flatten()?;
        Some(FetchError::Resting { hash: *self.hash(), why })
    }

    /// Whether the length is known and proven.
    pub(super) fn has_begun(&self) -> bool {
        self.state().attempt.is_some()
    }

    /// Joins the work on the blob, which `node` says to have `length` bytes, with the proof of it; or says why not.
    pub(super) async fn begin(&self, node: NodeId, length: u64, proof: Option<(ByteRange, &[u8])>) -> Result<PartialBlob, Lost> {
        let _setup = self.setup.lock().await;
        if let Some(joined) = self.join(node, length) {
            self.report_progress();
            return joined;
        }
        // Only who asks after it has begun does so without a proof, and it never ends before the fetch.
        let (range, encoded) = proof.ok_or(Lost::NotFound)?;
        // Before anything is made ready for that many bytes.
        let checked = check_length(self.hash(), length, &(range.start..range.end), encoded);
        checked.map_err(|error| {
            Lost::Misbehaved(match error {
                PartialError::Proof { .. } => Misbehaviour::WrongBytes(error.to_string()),
                _ => Misbehaviour::WrongLength(error.to_string()),
            })
        })?;
        let end = (range == end_of(length)).then(|| encoded.to_vec());
        self.set_up(node, length, end).await
    }

    /// The attempt, of which `node` is one of the providers from now on if it is right about the length; none where there is none.
    fn join(&self, node: NodeId, length: u64) -> Option<Result<PartialBlob, Lost>> {
        let mut state = self.state();
        let attempt = state.attempt.as_mut()?;
        let proven = attempt.partial.length();
        if proven != length {
            return Some(Err(Lost::Misbehaved(Misbehaviour::WrongLength(format!("{length} bytes, {proven} is proven")))));
        }
        attempt.schedule.joined(node);
        let partial = attempt.partial.clone();
        state.at_work.insert(node);
        Some(Ok(partial))
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
        state.at_work.insert(node);
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
        let mut state = self.state();
        let State { attempt, preference, places, .. } = &mut *state;
        match attempt {
            Some(attempt) => {
                attempt.schedule.set_in_order(self.context.is_read_along(self.hash()));
                let age = attempt.started.elapsed();
                preference.said(&node, *held == Held::All);
                match preference.waits(&node, age).filter(|_| !attempt.schedule.is_finished()) {
                    Some(until) => match attempt.schedule.take_over(node, held, age, LATE_AFTER) {
                        // The fetch would hang on it.
                        late @ Next::Unit(_) => (late, age),
                        _ => {
                            // That it gives nothing now is no fault of its own.
                            places.spared(&node, Instant::now());
                            (Next::Wait(Some(until)), age)
                        }
                    },
                    None => (attempt.schedule.next(node, held, age), age),
                }
            }
            // Never: who asks has begun it.
            None => (Next::Finished, Duration::ZERO),
        }
    }

    pub(super) fn done(&self, node: NodeId, range: ByteRange) {
        let mut state = self.state();
        let first = state.attempt.as_mut().and_then(|attempt| {
            let age = attempt.started.elapsed();
            attempt.schedule.done(&node, range.start, age).then_some(age)
        });
        if let Some(age) = first {
            *state.bytes_by_peer.entry(node).or_default() += range.length();
            state.preference.delivered(&node, range.length(), age);
        }
        // One that comes second was no lie.
        state.places.gave(&node, Instant::now());
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
        state.at_work.remove(&node);
        state.places.left(&node);
        state.preference.left(&node);
        if let Some(attempt) = &mut state.attempt {
            attempt.schedule.left(&node);
        }
        drop(state);
        self.report_progress();
        self.changed.notify_waiters();
    }

    /// The finished blob, once every unit is here; while somebody is `at_work`, once every one is counted as well: a unit is kept
    /// a moment before who brought it says so. Where somebody else completed it, nothing more can come.
    fn finished(&self, at_work: bool) -> Option<PartialBlob> {
        let state = self.state();
        let attempt = state.attempt.as_ref().filter(|attempt| attempt.partial.is_complete())?;
        (!at_work || attempt.schedule.is_finished() || attempt.partial.has_ended()).then(|| attempt.partial.clone())
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
            already_had: state.already_had,
            bytes_by_peer: state.bytes_by_peer.clone(),
            providers: state.expected.clone(),
            at_work: state.at_work.clone(),
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
        return Ok(FetchReport { length, bytes_by_peer: BTreeMap::new(), already_had: length, stolen: 0, lost: BTreeMap::new() });
    }
    if let Some(length) = request.length
        && let Some(why) = context.traffic.resting().filter(|_| context.traffic.keeps_back(length))
    {
        return Err(FetchError::Resting { hash, why });
    }
    let fetch = Fetch {
        context,
        request: &request,
        state: Mutex::default(),
        setup: tokio::sync::Mutex::default(),
        changed: Notify::new(),
        progress,
    };
    let (partial, lost) = run(&fetch).await?;
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
        lost,
    })
}

/// Works with providers until every unit is here; the blob, and what became of providers that were lost.
async fn run(fetch: &Fetch<'_>) -> Result<(PartialBlob, BTreeMap<NodeId, String>), FetchError> {
    let known = known_holders(fetch).await;
    let mut providers = Providers::new(fetch, known.keys().copied().collect());
    let mut search: Option<BoxFuture<'_, Vec<NodeId>>> = None;
    let mut next_search = Instant::now() + SEARCH_EVERY;
    // Others are found by asking, which does not wait long for those that can't be reached.
    let connected = known.iter().filter(|(_, connected)| **connected).map(|(node, _)| *node);
    let mut first = ranked(fetch.hash(), connected);
    first.truncate(HOLDERS_FIRST);
    providers.add(&first);
    providers.add(&fetch.request.providers);
    let mut searched_in_vain = false;
    loop {
        let changed = fetch.changed.notified();
        if let Some(partial) = fetch.finished(!providers.working.is_empty()) {
            return Ok((partial, providers.outcomes));
        }
        providers.start_waiting();
        let searchable = fetch.request.network.is_some();
        if search.is_none() && providers.is_exhausted() {
            if !searchable || searched_in_vain {
                return Err(providers.error());
            }
            search = Some(who_has(fetch.context, fetch.request.network, *fetch.hash()).boxed());
        }
        let few = searchable && search.is_none() && fetch.state().places.promising(Instant::now()) < PROVIDERS_WANTED;
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

/// The holders of the network that the blob is looked for in, and whether each is connected.
async fn known_holders(fetch: &Fetch<'_>) -> BTreeMap<NodeId, bool> {
    let Some(network) = fetch.request.network else { return BTreeMap::new() };
    let known = fetch.context.ask(|reply| Command::Holders { network, reply }).await.unwrap_or_default();
    known.into_iter().filter(|holder| holder.node != fetch.context.local).map(|holder| (holder.node, holder.connected)).collect()
}

type Working<'a> = FuturesUnordered<BoxFuture<'a, (NodeId, Result<(), Lost>)>>;

/// Who is asked, who waits to be, and what became of the others.
struct Providers<'a> {
    fetch: &'a Fetch<'a>,
    /// Those that hold blobs for others: they are preferred.
    holders: BTreeSet<NodeId>,
    working: Working<'a>,
    /// When each may be asked at the earliest.
    waiting: VecDeque<(Instant, NodeId)>,
    /// Those that did not have it, and when they are asked again.
    absent: Vec<(Instant, NodeId)>,
    attempts: BTreeMap<NodeId, u32>,
    /// Those that had a place.
    tried: BTreeSet<NodeId>,
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
    fn new(fetch: &'a Fetch<'a>, holders: BTreeSet<NodeId>) -> Self {
        Self {
            fetch,
            holders,
            working: FuturesUnordered::new(),
            waiting: VecDeque::new(),
            absent: Vec::new(),
            attempts: BTreeMap::new(),
            tried: BTreeSet::new(),
            asked_in_vain: BTreeMap::new(),
            delivered: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            too_long: None,
            next_hedge: Instant::now(),
        }
    }

    /// Adds those that are new, and asks them in this order, but for those that have let this node down lately; how many
    /// that were.
    fn add(&mut self, nodes: &[NodeId]) -> usize {
        let mut new = 0;
        let mut nodes = nodes.to_vec();
        self.fetch.context.lapses().sort(&mut nodes, Instant::now());
        for node in nodes {
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
        if self.fetch.state().expected.len() < line.min(PLACES) {
            let mut state = self.fetch.state();
            for (_, node) in self.waiting.iter().take(PLACES) {
                if !state.expected.contains(node) {
                    state.expected.push(*node);
                }
            }
        }
        while !self.fetch.state().places.is_full() {
            if !large && !self.working.is_empty() && now < self.next_hedge {
                break;
            }
            let ready = || self.waiting.iter().enumerate().filter(|(_, (start, _))| *start <= now);
            let next = ready().find(|(_, (_, node))| !self.tried.contains(node)).or_else(|| ready().next()).map(|(position, _)| position);
            let Some((_, node)) = next.and_then(|position| self.waiting.remove(position)) else { break };
            self.tried.insert(node);
            self.next_hedge = now + HEDGE_AFTER;
            let fetch = self.fetch;
            if self.holders.contains(&node) {
                fetch.state().preference.joined(node);
            }
            let told_to_leave = fetch.state().places.take(node, now);
            let work = async move {
                tokio::select! {
                    result = provider::work(fetch, node) => result,
                    Ok(()) = told_to_leave => Err(Lost::Silent),
                }
            };
            self.working.push(async move { (node, work.await) }.boxed());
            if !large {
                break;
            }
        }
        if self.is_untried_waiting() && self.fetch.state().places.is_full() {
            self.fetch.state().places.make_room(now);
        }
    }

    fn is_untried_waiting(&self) -> bool {
        self.waiting.iter().any(|(_, node)| !self.tried.contains(node))
    }

    /// When the next one in line may be started, or somebody must make room for it.
    fn next_start(&self) -> Option<Instant> {
        let state = self.fetch.state();
        if state.places.is_full() {
            return state.places.next_room().filter(|_| self.is_untried_waiting());
        }
        drop(state);
        let absent = self.absent.iter().filter(|_| !self.working.is_empty());
        let start = self.waiting.iter().chain(absent).map(|(start, _)| *start).min()?;
        let at_once = self.working.is_empty() || self.fetch.is_large();
        Some(if at_once { start } else { start.max(self.next_hedge) })
    }

    /// A provider is through: with its work, or because of what went wrong.
    async fn ended(&mut self, node: NodeId, result: Result<(), Lost>) -> Result<(), FetchError> {
        let gave = self.fetch.state().bytes_by_peer.get(&node).is_some_and(|bytes| *bytes > 0);
        let lost = match result {
            Ok(()) => {
                if gave {
                    self.fetch.context.judge(self.fetch.hash(), node, true);
                }
                return Ok(());
            }
            Err(lost) => lost,
        };
        if lost.is_lapse() && !gave {
            self.fetch.context.judge(self.fetch.hash(), node, false);
        }
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
                *times = times.saturating_add(1);
                self.absent.push((Instant::now() + wait.min(ABSENT_AGAIN_MAX), node));
            }
            Lost::NothingMore => self.absent.push((Instant::now() + ABSENT_AGAIN_MAX, node)),
            Lost::Refused | Lost::Relayed | Lost::OtherLength { .. } => {}
            Lost::Busy | Lost::Silent | Lost::Connection(_) => {
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
