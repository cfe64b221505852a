//! A blob as the difference to what is here: before a fetch, units are put together of seeds and of the bytes that no
//! seed has.
//!
//! A provider names the blob's chunk list (`docs/src/transfer.md`), which is fetched like any blob. Its unit hashes are proven
//! by the blob's name; the seeds are cut and compared ([`barnraiser_store::Seeds`]); what is missing of a unit is asked for in
//! pieces ([`pieces`]), and the unit counts once its hash is right. What can't be had this way, for whatever reason, is left
//! to the fetch: a lying list, provider or seed costs time and bytes, bounded by [`REFUSED_MAX`], and nothing else.

mod making;
mod pieces;
mod serve;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::transfer::chunks::{CHUNK_LIST_BYTES_MAX, ChunkList, has_list};
use barnraiser_protocol::transfer::{Answer, FRAME_BYTES_MAX, PIECES_MAX, Request};
use barnraiser_store::geometry::unit_count;
use barnraiser_store::{Durability, Outline, PartialBlob, PartialError, Seed, Seeds, UnitPlan};
use tokio::sync::watch;
use tokio::time::Instant;

use super::fetch::blocking;
use super::{FetchError, FetchProgress, FetchRequest, PROTOCOL, fetch, who_has};
use crate::net::Context;
use crate::substream::frame::{self, within};
use crate::substream::{Lane, OpenError};

pub(crate) use making::Making;
pub(super) use serve::{chunks, pieces};

/// Providers that are asked for a chunk list, one after the other.
const PROVIDERS_MAX: usize = 4;
/// How long a list that a provider is making is waited for, ...
const LIST_PATIENCE: Duration = Duration::from_secs(60);
/// ... and how often it is asked.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// A list is waited for as long as it would take at this rate (bytes a second, what a slow home's line has), and half a minute:
/// by then the whole blob is the better choice.
const LIST_RATE: u64 = 64 << 10;
const LIST_TIME: Duration = Duration::from_secs(30);
/// The longest that connecting to a provider may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// After so many units that were not right, list or provider are not believed any more.
const REFUSED_MAX: u32 = 4;
/// A seed that has less than one in so many of the blocks and chunks that were looked at is not worth reading.
const HITS_ONE_IN: u64 = 20;
/// As many seeds that were found are read.
const SEEDS_MAX: usize = 4;

/// What may have bytes in common with the blob.
#[derive(Debug, Clone, Default)]
pub struct SeedChoice {
    /// These are compared in any case.
    pub given: Vec<Seed>,
    /// These are looked at, and the best of them compared.
    pub candidates: Vec<Seed>,
}

/// What was put together before a fetch.
#[derive(Debug, Default)]
pub struct Differences {
    /// Bytes that were copied from seeds, in proven units.
    pub copied: u64,
    /// Bytes that came from each peer: chunk lists, and pieces in proven units.
    pub bytes_by_peer: BTreeMap<NodeId, u64>,
    /// Bytes of pieces in proven units.
    pub pieces: u64,
    /// Why nothing was copied, or not all that could have been.
    pub obstacle: Option<String>,
    /// Keeps what was proven from being proven again by the fetch that follows.
    _partial: Option<PartialBlob>,
}

/// Why there are no differences, or no more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Obstacle {
    #[error("nobody who was asked has a chunk list: {0}")]
    NoList(String),
    #[error("no seed has anything in common with it")]
    NothingInCommon,
    #[error("units that were put together were not right: the chunk list, the provider or the seed is not what it says")]
    Refused,
    #[error("the provider was lost: {0}")]
    Lost(String),
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl From<OpenError> for Obstacle {
    fn from(error: OpenError) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<frame::FrameError> for Obstacle {
    fn from(error: frame::FrameError) -> Self {
        Self::Lost(error.to_string())
    }
}

/// A proven start: what the blob is cut into, and what proves its units.
struct Listed {
    list: ChunkList,
    outline: Arc<Outline>,
    /// Who named the list; has the blob.
    provider: NodeId,
    bytes: u64,
}

/// Puts together what seeds have of a blob. See [`crate::Net::copy_from_seeds`].
pub(crate) async fn copy_from_seeds(
    context: &Arc<Context>,
    request: &FetchRequest,
    seeds: SeedChoice,
    progress: Option<&watch::Sender<FetchProgress>>,
) -> Differences {
    let mut differences = Differences::default();
    if let Err(obstacle) = copy(context, request, seeds, progress, &mut differences).await {
        tracing::debug!(hash = %request.hash, %obstacle, "no more differences");
        differences.obstacle = Some(obstacle.to_string());
    }
    differences
}

async fn copy(
    context: &Arc<Context>,
    request: &FetchRequest,
    seeds: SeedChoice,
    progress: Option<&watch::Sender<FetchProgress>>,
    differences: &mut Differences,
) -> Result<(), Obstacle> {
    let hash = request.hash;
    let turn = context.fetch_turn(hash);
    let _turn = turn.lock().await;
    let store = context.config.store.clone();
    let here = blocking(hash, move || Ok(store.contains(&hash)?)).await?;
    let nothing = seeds.given.is_empty() && seeds.candidates.is_empty();
    if here || nothing || context.traffic.rests() || request.length.is_some_and(|length| !has_list(length)) {
        return Ok(());
    }
    let listed = listed(context, request).await?;
    if listed.bytes > 0 {
        differences.bytes_by_peer.insert(listed.provider, listed.bytes);
    }
    let Listed { list, outline, provider, .. } = listed;
    let length = list.length();
    let list = Arc::new(list);
    let (store, wanted) = (context.config.store.clone(), list.clone());
    let compared = blocking(hash, move || Ok(compare(&store, &wanted, seeds))).await?;
    // The last goes first, since it proves the length; then in order, for who reads along.
    let last = unit_count(length) - 1;
    let plans: VecDeque<UnitPlan> = std::iter::once(last).chain(0..last).filter_map(|unit| compared.plan(&list, unit)).collect();
    if plans.is_empty() {
        return Err(Obstacle::NothingInCommon);
    }
    let store = context.config.store.clone();
    let partial = blocking(hash, move || store.partial(&hash, length)).await?;
    differences._partial = Some(partial.clone());
    // What many small changes are spread over is fetched whole.
    let plans = plans.into_iter().filter(|plan| !partial.has(plan.unit) && plan.pieces().count() <= PIECES_MAX).collect();
    let work = pieces::Work::new(context, partial.clone(), outline, compared, provider, progress);
    let done = work.run(plans, differences).await;
    if partial.is_complete() {
        let (durability, completed) = (request.durability, partial.clone());
        blocking(hash, move || match completed.complete(durability) {
            Err(PartialError::Ended(_)) => Ok(()),
            other => other,
        })
        .await?;
    }
    done
}

/// The seeds that are worth reading, compared.
fn compare(store: &barnraiser_store::Store, list: &ChunkList, seeds: SeedChoice) -> Seeds {
    let SeedChoice { given: mut chosen, candidates } = seeds;
    let mut found = Vec::new();
    for seed in candidates {
        match store.probe(list, &seed) {
            Ok((hits, seen)) if hits > 0 && hits * HITS_ONE_IN >= seen => found.push((hits, seed)),
            Ok(_) => {}
            Err(error) => tracing::debug!(?seed, %error, "a seed can't be looked at"),
        }
    }
    found.sort_by_key(|(hits, _)| std::cmp::Reverse(*hits));
    chosen.extend(found.into_iter().take(SEEDS_MAX).map(|(_, seed)| seed));
    chosen.dedup();
    store.compare(list, &chosen)
}

/// Finds a provider with a chunk list whose unit hashes the blob's name vouches for.
async fn listed(context: &Arc<Context>, request: &FetchRequest) -> Result<Listed, Obstacle> {
    let mut providers = request.providers.clone();
    if providers.is_empty() {
        providers = who_has(context, request.network, request.hash).await;
    }
    providers.retain(|node| *node != context.local);
    let mut said = Vec::new();
    for provider in providers.into_iter().take(PROVIDERS_MAX) {
        match list_of(context, request, provider).await {
            Ok(listed) => return Ok(listed),
            Err(Obstacle::Fetch(FetchError::Net(error))) => return Err(FetchError::Net(error).into()),
            Err(error) => said.push(format!("{} {error}", provider.short())),
        }
    }
    if said.is_empty() {
        said.push("no provider is known".into());
    }
    Err(Obstacle::NoList(said.join("; ")))
}

async fn list_of(context: &Arc<Context>, request: &FetchRequest, provider: NodeId) -> Result<Listed, Obstacle> {
    let lost = |what: &str| Obstacle::Lost(what.to_owned());
    let (list, length) = name_of_list(context, request.hash, provider).await?;
    if length > CHUNK_LIST_BYTES_MAX as u64 {
        return Err(lost("names a chunk list that is too long"));
    }
    let wanted = FetchRequest {
        hash: list,
        length: Some(length),
        providers: vec![provider],
        network: None,
        durability: Durability::Cached,
        limit: CHUNK_LIST_BYTES_MAX as u64,
    };
    let most = LIST_TIME + Duration::from_secs(length / LIST_RATE);
    let fetching = tokio::time::timeout(most, Box::pin(fetch(context, wanted, None)));
    let report = fetching.await.map_err(|_| lost("gives its chunk list too slowly"))??;
    let bytes = report.bytes_by_peer.values().sum();
    let (store, hash) = (context.config.store.clone(), request.hash);
    let read = tokio::task::spawn_blocking(move || {
        let bytes = store.read_all(&list, length).map_err(|error| error.to_string())?;
        let list = ChunkList::from_bytes(&bytes).map_err(|error| format!("its chunk list is none: {error}"))?;
        let outline = Outline::prove(&hash, list.length(), list.units()).map_err(|error| error.to_string())?;
        Ok::<_, String>((list, outline))
    });
    let (list, outline) = read.await.map_err(|error| lost(&error.to_string()))?.map_err(|error| lost(&error))?;
    let is_wanted = list.length() <= request.limit && request.length.is_none_or(|length| length == list.length());
    if !is_wanted {
        return Err(lost("has a chunk list of another length"));
    }
    Ok(Listed { list, outline: Arc::new(outline), provider, bytes })
}

/// Which blob the provider says is the chunk list.
async fn name_of_list(context: &Arc<Context>, hash: BlobHash, provider: NodeId) -> Result<(BlobHash, u64), Obstacle> {
    let lost = |what: &str| Obstacle::Lost(what.to_owned());
    let connect = tokio::time::timeout(CONNECT_TIMEOUT, context.connect(provider, Vec::new()));
    let peer = connect.await.map_err(|_| lost("can't be reached"))?.map_err(|error| lost(&error.to_string()))?;
    let mut stream = context.opener.open(peer, PROTOCOL, Lane::Control).await?;
    let (patience, start) = (context.config.limits.stall, Instant::now());
    loop {
        within(patience, frame::write(&mut stream, &Request::Chunks { hash })).await?;
        match within(patience, frame::read(&mut stream, FRAME_BYTES_MAX)).await? {
            Some(Answer::Chunks { list, length }) => return Ok((list, length)),
            Some(Answer::Busy) if start.elapsed() < LIST_PATIENCE => tokio::time::sleep(ASK_AGAIN).await,
            Some(Answer::Busy) => return Err(lost("is busy")),
            Some(Answer::NotFound) => return Err(lost("has no chunk list of it")),
            Some(Answer::Refused) => return Err(lost("refuses to serve it")),
            Some(Answer::Found { .. }) => return Err(lost("answers what it was not asked")),
            None => return Err(lost("closed the stream")),
        }
    }
}
