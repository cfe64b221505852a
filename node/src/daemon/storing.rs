//! `barn store` by way of the node, which has the store's lock; and what only a node can do: fetch again what is damaged.

use std::io::{self, BufWriter, Read, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::Response;
use barnraiser_bootstrap::FetchRequest;
use barnraiser_protocol::id::{BlobHash, NetworkId};
use barnraiser_store::{BLOB_BYTES_MAX, Durability};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::mpsc;

use super::Daemon;
use super::http::ndjson;
use crate::api::{Problem, StoreAsk, StoreDone, StoreEvent};
use crate::store_work;

/// Events and pieces that may wait for who takes them.
const AHEAD: usize = 16;
/// Bytes that are handed on at once.
const PIECE_BYTES: usize = 256 << 10;

/// `POST /api/v1/store`
pub(super) async fn ask(State(daemon): State<Arc<Daemon>>, Json(ask): Json<StoreAsk>) -> Result<Response, Problem> {
    let (lines, answer) = mpsc::channel::<StoreEvent>(AHEAD);
    tokio::spawn(async move {
        let (store, telling) = (daemon.store.clone(), lines.clone());
        let worked = tokio::task::spawn_blocking(move || {
            store_work::run(&store, &ask, &mut |event| match telling.blocking_send(event) {
                Ok(()) => ControlFlow::Continue(()),
                // Nobody waits for it any more.
                Err(_) => ControlFlow::Break(()),
            })
        });
        let event = match worked.await.unwrap_or_else(|error| Err(Problem::failed(error.to_string()))) {
            Ok(done) => {
                // Something may have been evicted, found damaged, or mended.
                let done = daemon.mend(done, &lines).await;
                daemon.announcing.changed();
                StoreEvent::Done(done)
            }
            Err(problem) => StoreEvent::Failed(problem),
        };
        let _ = lines.send(event).await;
    });
    ndjson(answer)
}

/// `POST /api/v1/store/add`
pub(super) async fn add(State(daemon): State<Arc<Daemon>>, body: Body) -> Result<Json<StoreDone>, Problem> {
    let (pieces, received) = mpsc::channel(AHEAD);
    let store = daemon.store.clone();
    let worked = tokio::task::spawn_blocking(move || {
        let received = Received { pieces: received, rest: Bytes::new() };
        store_work::add_reader(&store, received, &mut |_| ControlFlow::Continue(()))
    });
    let mut body = body.into_data_stream();
    while let Some(piece) = body.next().await {
        // A body that breaks off is an error here, and so nothing of it stays in the store.
        if pieces.send(piece.map_err(io::Error::other)).await.is_err() {
            break;
        }
    }
    drop(pieces);
    worked.await.unwrap_or_else(|error| Err(Problem::failed(error.to_string()))).map(Json)
}

/// `GET /api/v1/store/blobs/{hash}`
pub(super) async fn bytes(State(daemon): State<Arc<Daemon>>, Path(hash): Path<String>) -> Result<Response, Problem> {
    let store = daemon.store.clone();
    let found = tokio::task::spawn_blocking(move || store_work::find(&store, &hash)).await;
    let info = found.unwrap_or_else(|error| Err(Problem::failed(error.to_string())))?;
    let (pieces, answer) = mpsc::channel(AHEAD);
    let store = daemon.store.clone();
    tokio::task::spawn_blocking(move || {
        let mut writer = BufWriter::with_capacity(PIECE_BYTES, Handed(pieces.clone()));
        let written = store_work::write(&store, &info.hash, &mut writer)
            .and_then(|_| writer.flush().map_err(|error| Problem::failed(error.to_string())));
        if let Err(problem) = written {
            // Breaks the answer off, which is shorter than was said then.
            let _ = pieces.blocking_send(Err(io::Error::other(problem.message)));
        }
    });
    let pieces = futures::stream::unfold(answer, |mut answer| async move { Some((answer.recv().await?, answer)) });
    Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, info.length)
        .body(Body::from_stream(pieces))
        .map_err(|error| Problem::failed(error.to_string()))
}

/// Reads what comes in pieces from elsewhere. Blocks.
struct Received {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let count = self.rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

/// Hands what is written on, in pieces. Blocks.
struct Handed(mpsc::Sender<io::Result<Bytes>>);

impl Write for Handed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Daemon {
    /// Fetches again what a scrub found damaged, from any network that has it, and keeps it as it was kept.
    async fn mend(&self, done: StoreDone, lines: &mpsc::Sender<StoreEvent>) -> StoreDone {
        let StoreDone::Scrubbed { blobs, bytes, damaged, mut mended, recovered } = done else { return done };
        let networks: Vec<NetworkId> = self.networks().keys().copied().collect();
        let mut left = Vec::new();
        for hash in damaged {
            let event = match self.fetch_again(hash, &networks).await {
                Ok(()) => {
                    mended += 1;
                    StoreEvent::Mended { hash }
                }
                Err(reason) => {
                    left.push(hash);
                    StoreEvent::NotMended { hash, reason }
                }
            };
            // Mending goes on when nobody listens: it is of use all the same.
            let _ = lines.send(event).await;
        }
        StoreDone::Scrubbed { blobs, bytes, damaged: left, mended, recovered }
    }

    async fn fetch_again(&self, hash: BlobHash, networks: &[NetworkId]) -> Result<(), String> {
        let store = self.store.clone();
        let known = tokio::task::spawn_blocking(move || store.info(&hash)).await.map_err(|error| error.to_string())?;
        let info = known.map_err(|error| error.to_string())?;
        let mut reason = "this node is in no network".to_owned();
        for network in networks {
            let providers = self.net.who_has(*network, hash).await.into_iter().filter(|node| *node != self.node()).collect();
            let request = FetchRequest {
                hash,
                length: info.map(|info| info.length),
                network: Some(*network),
                providers,
                durability: info.map_or(Durability::Cached, |info| info.durability),
                limit: BLOB_BYTES_MAX,
            };
            match self.net.fetch(request, None).await {
                Ok(_) => return Ok(()),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(reason)
    }
}
