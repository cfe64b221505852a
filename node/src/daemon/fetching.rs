//! Fetches for users: told how far they are while they go, and read along where somebody wants the bytes as they come.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::Response;
use barnraiser_bootstrap::FetchProgress;
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_store::{ReadError, UNIT_BYTES};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::{mpsc, watch};

use super::Daemon;
use super::networks::Network;
use super::releases::Afterwards;
use crate::api::{Fetch, FetchEvent, Fetched, Problem};

/// What may wait for who takes it: with pieces of up to a unit, this bounds what a slow reader keeps in memory.
const AHEAD: usize = 4;

/// What a fetch gives out while it goes.
#[derive(Debug)]
pub(crate) enum Told {
    /// How far it is, and at last what came of it. Never [`FetchEvent::Bytes`].
    Event(FetchEvent),
    /// The next bytes of the file, proven.
    Bytes(Bytes),
}

/// A way to whoever follows a fetch, and what it must know of that.
pub(super) struct Telling {
    follower: mpsc::Sender<Told>,
    hash: BlobHash,
    started: AtomicBool,
    /// Bytes verified so far, for who reads along; ends with [`Telling::brought`].
    verified: watch::Sender<Verified>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Verified {
    bytes: u64,
    /// No more will come.
    ended: bool,
}

impl Telling {
    pub fn new(follower: mpsc::Sender<Told>, hash: BlobHash) -> Self {
        Self { follower, hash, started: AtomicBool::new(false), verified: watch::channel(Verified::default()).0 }
    }

    async fn tell(&self, event: FetchEvent) {
        // Who does not listen any more ends the fetch by going away, not here.
        let _ = self.follower.send(Told::Event(event)).await;
    }

    async fn start(&self, length: u64, already_had: u64, providers: Vec<NodeId>) {
        if !self.started.swap(true, Ordering::Relaxed) {
            self.tell(FetchEvent::Started { hash: self.hash, length, already_had, providers }).await;
        }
    }

    /// Tells of a part of the fetch to its end, which is that of `seen`; `before` came from peers before that part.
    pub async fn follow(&self, mut seen: watch::Receiver<FetchProgress>, before: &BTreeMap<NodeId, u64>) {
        while seen.changed().await.is_ok() {
            let now = seen.borrow_and_update().clone();
            let Some(length) = now.length else { continue };
            self.verified.send_modify(|verified| verified.bytes = now.verified);
            self.start(length, now.already_had, now.providers).await;
            let mut bytes_by_peer = now.bytes_by_peer;
            for (node, bytes) in before {
                *bytes_by_peer.entry(*node).or_default() += bytes;
            }
            let providers = now.at_work.len();
            self.tell(FetchEvent::Progress { done: now.verified, length: Some(length), providers, bytes_by_peer }).await;
        }
    }

    /// All that will come is here: `length` bytes, of which `already_had` were here before; or it failed.
    pub async fn brought(&self, what: Option<(u64, u64)>) {
        if let Some((length, already_had)) = what {
            self.start(length, already_had, Vec::new()).await;
        }
        self.verified.send_modify(|verified| verified.ended = true);
    }
}

impl Daemon {
    /// Fetches as `ask` says and tells `follower` of it; the last that it hears is [`FetchEvent::Done`] or
    /// [`FetchEvent::Failed`]. Whether it was done. Dropping the future ends the fetch and keeps what is verified.
    pub(super) async fn fetch_telling(
        &self,
        network: &Arc<Network>,
        ask: &Fetch,
        afterwards: Afterwards,
        follower: &mpsc::Sender<Told>,
    ) -> bool {
        let (done, last) = match self.fetch_and_read(network, ask, afterwards, follower).await {
            Ok(fetched) => (true, FetchEvent::Done(fetched)),
            Err(problem) => (false, FetchEvent::Failed(problem)),
        };
        let _ = follower.send(Told::Event(last)).await;
        done
    }

    async fn fetch_and_read(
        &self,
        network: &Arc<Network>,
        ask: &Fetch,
        afterwards: Afterwards,
        follower: &mpsc::Sender<Told>,
    ) -> Result<Fetched, Problem> {
        let wanted = self.wanted_by_user(network, &ask.what)?;
        let telling = Telling::new(follower.clone(), wanted.hash);
        let fetching = async {
            let fetched = self.fetch_for_user(network, ask, &wanted, afterwards, &telling).await;
            // Where it failed before anything came.
            telling.brought(None).await;
            fetched
        };
        if !ask.along {
            return fetching.await;
        }
        let (fetched, read) = tokio::join!(fetching, self.read_along(&telling));
        let (fetched, read) = (fetched?, read?);
        if read != fetched.length {
            let missing = fetched.length - read;
            return Err(Problem::failed(format!("{} was evicted before its last {missing} bytes were read; fetch it again", wanted.hash)));
        }
        Ok(fetched)
    }

    /// Hands out the bytes in order, as they are verified; how many.
    async fn read_along(&self, telling: &Telling) -> Result<u64, Problem> {
        let _first_bytes_first = self.net.read_along(telling.hash);
        let mut seen = telling.verified.subscribe();
        let mut at = 0;
        loop {
            let ended = seen.borrow_and_update().ended;
            if ended {
                return self.read_rest(telling, at).await;
            }
            let (store, hash) = (self.store.clone(), telling.hash);
            let piece = blocking(move || {
                let mut piece = Vec::new();
                store.read_on(&hash, at, &mut piece).map(|_| piece).map_err(|error| unread(&error))
            });
            let piece = piece.await?;
            if piece.is_empty() {
                // It ends with the telling at the latest, which outlives this.
                let _ = seen.changed().await;
                continue;
            }
            at += piece.len() as u64;
            if telling.follower.send(Told::Bytes(piece.into())).await.is_err() {
                return Ok(at);
            }
        }
    }

    /// Hands out what is left of a blob that is whole, if it is: held open, since nothing else keeps it from being evicted while
    /// somebody reads slowly.
    async fn read_rest(&self, telling: &Telling, from: u64) -> Result<u64, Problem> {
        let (store, hash) = (self.store.clone(), telling.hash);
        let opened = blocking(move || match store.reader(&hash) {
            Ok(reader) => Ok(Some(reader)),
            // The fetch failed, and says why.
            Err(ReadError::NotFound(_)) => Ok(None),
            Err(error) => Err(unread(&error)),
        });
        let Some(mut reader) = opened.await? else { return Ok(from) };
        let mut at = from;
        loop {
            let (piece, back) = blocking(move || {
                let mut piece = Vec::new();
                let read = reader.seek(SeekFrom::Start(at)).and_then(|_| (&mut reader).take(UNIT_BYTES).read_to_end(&mut piece));
                match read {
                    Ok(_) => Ok((piece, reader)),
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(Problem::unverified(error.to_string())),
                    Err(error) => Err(Problem::failed(error.to_string())),
                }
            })
            .await?;
            reader = back;
            if piece.is_empty() {
                return Ok(at);
            }
            at += piece.len() as u64;
            if telling.follower.send(Told::Bytes(piece.into())).await.is_err() {
                return Ok(at);
            }
        }
    }
}

/// Reads from the disk, where blocking is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Problem::failed(error.to_string())))
}

fn unread(error: &ReadError) -> Problem {
    let text = format!("what came can't be read back: {error}");
    if matches!(error, ReadError::Damaged { .. }) { Problem::unverified(text) } else { Problem::failed(text) }
}

/// `POST /api/v1/n/{net}/fetch`
pub(super) async fn fetch(State(daemon): State<Arc<Daemon>>, Path(net): Path<String>, Json(ask): Json<Fetch>) -> Result<Response, Problem> {
    let network = daemon.network(&net)?;
    let (follower, told) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        tokio::select! {
            _ = daemon.fetch_telling(&network, &ask, Afterwards::Kept, &follower) => {}
            // Nobody waits for it any more; what is verified stays for the next time.
            () = follower.closed() => {}
        }
    });
    let told = futures::stream::unfold(told, |mut told| async move { Some((told.recv().await?, told)) });
    let body = told.flat_map(|told| futures::stream::iter(frames(told)));
    Response::builder()
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .body(Body::from_stream(body))
        .map_err(|error| Problem::failed(error.to_string()))
}

/// A line of JSON, and where it announces bytes those behind it.
fn frames(told: Told) -> Vec<Result<Bytes, serde_json::Error>> {
    let (event, bytes) = match told {
        Told::Event(event) => (event, None),
        Told::Bytes(bytes) => (FetchEvent::Bytes { count: bytes.len() as u64 }, Some(bytes)),
    };
    let line = serde_json::to_vec(&event).map(|mut line| {
        line.push(b'\n');
        Bytes::from(line)
    });
    std::iter::once(line).chain(bytes.map(Ok)).collect()
}
