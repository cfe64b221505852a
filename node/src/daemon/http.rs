//! `/api/v1` on the home's Unix socket. Who may open the socket may do everything: its folder is the owner's.
//!
//! Bodies and answers are the types of [`crate::api`]; errors are [`Problem`]s.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use barnraiser_protocol::bounded::BoundedVec;
use barnraiser_protocol::engine::Engine;
use barnraiser_protocol::engine::query::{BatchView, JobView};
use barnraiser_protocol::graph::JobIndex;
use barnraiser_protocol::id::{ActionId, BatchId, BlobHash, OperatorId, RecordId};
use barnraiser_protocol::record::payload::{Batch, Cancel, Retry};
use barnraiser_protocol::record::{Kind, Payload};
use barnraiser_store::Durability;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Daemon;
use super::engines::now;
use super::networks::Network;
use super::releases::{joining, no_release, view};
use super::{fetching, storing};
use crate::api::{self, Problem};
use crate::sources::Sources;
use crate::submit::{self, Surroundings};

/// How long a batch is offered.
const BATCH_LIFETIME: Duration = Duration::from_secs(14 * 24 * 3600);
/// How many requests to join are shown: anybody can write one.
const REQUESTS_SHOWN: usize = 100;
/// The most bytes of a request's body.
const BODY_BYTES_MAX: usize = 64 << 20;

/// How long an answer waits for the disk.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

type Answer<T> = Result<Json<T>, Problem>;
type Shared = State<Arc<Daemon>>;

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self)).into_response()
    }
}

/// Serves the API on a Unix socket that only the owner can open.
pub(super) async fn serve(daemon: Arc<Daemon>, socket: &FilePath) -> anyhow::Result<JoinHandle<()>> {
    // The home's lock says that no other daemon serves it: what lies there is left of a killed one.
    let _ = std::fs::remove_file(socket);
    let listener = tokio::net::UnixListener::bind(socket)
        .map_err(|error| anyhow::anyhow!("the control socket {} can't be made: {error}", socket.display()))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    let routes = routes(daemon);
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "the control socket failed");
        }
    }))
}

fn routes(daemon: Arc<Daemon>) -> Router {
    let network = Router::new()
        .route("/batches", get(batches))
        .route("/batches/{id}", get(batch))
        .route("/batches/{id}/jobs/{index}", get(job))
        .route("/batches/{id}/jobs/{index}/log", get(log))
        .route("/batches/{id}/cancel", post(cancel))
        .route("/batches/{id}/retry", post(retry))
        .route("/actions/{id}", get(action))
        .route("/submit", post(submit_batch))
        .route("/release/propose", post(propose))
        .route("/release/publish", post(publish))
        .route("/releases/{channel}", get(release))
        .route("/fetch", post(fetching::fetch));
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/peers", get(peers))
        .route("/api/v1/reload", post(reload))
        .route("/api/v1/pause", post(pause))
        .route("/api/v1/resume", post(resume))
        .route("/api/v1/events", get(events))
        .route("/api/v1/store", post(storing::ask))
        .route("/api/v1/store/add", post(storing::add))
        .route("/api/v1/store/blobs/{hash}", get(storing::bytes))
        .nest("/api/v1/n/{net}", network)
        .fallback(|| async { Problem::not_found("there is no such path; see the API's page of the book") })
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(daemon)
}

impl Daemon {
    /// The network of that id, unique prefix or name.
    pub(super) fn network(&self, text: &str) -> Result<Arc<Network>, Problem> {
        let networks = self.networks();
        let found: Vec<&Arc<Network>> =
            networks.values().filter(|network| network.name == text || network.id.to_string().starts_with(text)).collect();
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(Problem::not_found(format!("this node is not in a network {text:?}"))),
            _ => Err(Problem::usage(format!("{text:?} fits several networks; give more digits of its id"))),
        }
    }

    /// Signs and publishes records of this node, and waits until they survive power loss: what people are told to be done
    /// is done. Gives the ids of those that fitted into a record.
    async fn publish(&self, network: &Network, payloads: Vec<(Payload, Duration)>) -> Result<Vec<RecordId>, Problem> {
        let published = self.engines.with(&network.id, |engine, now| {
            payloads.into_iter().filter_map(|(payload, lifetime)| engine.publish(now, payload, lifetime)).collect::<Vec<_>>()
        });
        let ids = published.ok_or_else(|| joining(network))?;
        let written = tokio::time::timeout(DISK_PATIENCE, self.engines.until_written(&ids)).await;
        written.map_err(|_| {
            let why = self.stuck().unwrap_or_else(|| "the disk has not answered yet".into());
            Problem::failed(format!("it could not be written yet, so nobody was told of it: {why}. The node tries on"))
        })?;
        Ok(ids)
    }

    /// The batch of that id or unique prefix, or of that name, the newest first.
    fn batch_id(&self, network: &Network, text: &str) -> Result<BatchId, Problem> {
        let batches = self.engines.ask(&network.id, |engine| engine.batches()).ok_or_else(|| joining(network))?;
        let fits: Vec<&BatchView> = batches.iter().filter(|batch| batch.id.to_string().starts_with(text)).collect();
        match fits.as_slice() {
            [one] => Ok(one.id),
            [] => {
                let named = batches.iter().find(|batch| batch.name == text);
                named.map(|batch| batch.id).ok_or_else(|| Problem::not_found(format!("no batch {text:?} is known here")))
            }
            several => Err(Problem::usage(format!("{text:?} fits {} batches; give more digits", several.len()))),
        }
    }
}

async fn status(State(daemon): Shared) -> Answer<api::Status> {
    let lend = daemon.engines.lend();
    let used = daemon.engines.in_use();
    let peers = daemon.net.peers().await;
    let networks: Vec<Arc<Network>> = daemon.networks().values().cloned().collect();
    let networks = networks.iter().map(|network| {
        let connected = peers.iter().filter(|peer| peer.networks.contains(&network.id)).count();
        network_status(&daemon, network, connected)
    });
    let mut builds = Vec::new();
    for ((network, lease), running) in daemon.running().iter() {
        let progress = running.progress.borrow();
        builds.push(api::BuildStatus {
            network: *network,
            action: lease.action,
            label: running.label.clone(),
            since: running.since,
            log_bytes: progress.log_bytes,
            step: progress.step.clone(),
        });
    }
    Ok(Json(api::Status {
        barn: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        node: daemon.node(),
        operator: daemon.operator_key.operator(),
        since: daemon.since,
        resting: daemon.resting(),
        cores: (lend.cores, used.cores),
        memory: (lend.memory, used.memory),
        addresses: daemon.net.addresses().await.iter().map(ToString::to_string).collect(),
        networks: networks.collect(),
        builds,
        traffic: daemon.traffic_status(),
        store: daemon.room_status().await?,
    }))
}

fn network_status(daemon: &Daemon, network: &Network, peers: usize) -> api::NetworkStatus {
    let charter = network.charter();
    let known = daemon.engines.ask(&network.id, |engine| {
        let present: BTreeSet<_> = engine.board().presences().map(|(node, ..)| node).collect();
        let members = engine.members();
        let operators = members.operators().into_iter().map(|operator| api::OperatorStatus {
            operator,
            branch: members.branch_of(&operator).map(|branch| branch.0),
            founder: members.is_founder(&operator),
            trusted: members.is_trusted(&operator),
            nodes: members.nodes_of(&operator).into_iter().map(|node| (node, present.contains(&node))).collect(),
        });
        let counts = (engine.board().len(), engine.board().of_kind(Kind::Batch).count(), engine.own_leases().len());
        (counts, operators.collect(), join_requests(engine))
    });
    let ((records, batches, leases), operators, requests) = known.unwrap_or_default();
    api::NetworkStatus {
        id: network.id,
        name: network.name.clone(),
        state: if charter.is_some() { "live" } else { "joining" }.into(),
        charter: charter.as_ref().map_or(0, |charter| charter.version()),
        peers,
        records,
        batches,
        leases,
        policy: charter.map(|charter| charter.policy().clone()),
        operators,
        requests,
    }
}

/// The newest request of each operator.
fn join_requests(engine: &Engine) -> Vec<api::JoinRequestStatus> {
    let mut newest: BTreeMap<OperatorId, api::JoinRequestStatus> = BTreeMap::new();
    for record in engine.board().of_kind(Kind::JoinRequest) {
        let Payload::JoinRequest(request) = record.payload() else { continue };
        let operator = OperatorId(record.author_key());
        let (message, at) = (request.message.to_string(), record.issued());
        let invited = engine.members().branch_of(&operator).is_some();
        let said = api::JoinRequestStatus { operator, message, at, invited };
        if newest.get(&operator).is_none_or(|known| known.at < at) {
            newest.insert(operator, said);
        }
    }
    let mut requests: Vec<_> = newest.into_values().collect();
    requests.sort_by_key(|request| std::cmp::Reverse(request.at));
    requests.truncate(REQUESTS_SHOWN);
    requests
}

async fn peers(State(daemon): Shared) -> Answer<Vec<api::Peer>> {
    let networks: Vec<_> = daemon.networks().keys().copied().collect();
    let peers = daemon.net.peers().await.into_iter().map(|peer| api::Peer {
        node: peer.node,
        operator: networks.iter().find_map(|id| daemon.engines.ask(id, |engine| engine.members().operator_of(&peer.node)).flatten()),
        addresses: peer.addresses.iter().map(ToString::to_string).collect(),
        rtt_ms: peer.round_trip.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        networks: peer.networks,
        faults: peer.faults,
    });
    Ok(Json(peers.collect()))
}

async fn reload(State(daemon): Shared) -> Answer<api::Done> {
    daemon.reload().await.map_err(|error| Problem::failed(format!("{error:#}")))?;
    Ok(Json(api::Done { message: "the home was read again".into() }))
}

#[derive(Debug, Deserialize)]
struct Pause {
    for_s: Option<u64>,
}

async fn pause(State(daemon): Shared, Json(ask): Json<Pause>) -> Answer<api::Done> {
    if !daemon.wants_builds {
        return Ok(Json(api::Done { message: "this node takes no builds at all, so there is nothing to pause".into() }));
    }
    let until = ask.for_s.map(|seconds| now() + Duration::from_secs(seconds));
    daemon.pause(until);
    if let Some(until) = until {
        let daemon = daemon.clone();
        tokio::spawn(async move {
            tokio::time::sleep(until.since(now())).await;
            // Another pause in the meantime has an end of its own.
            let same =
                daemon.rest.lock().unwrap_or_else(std::sync::PoisonError::into_inner).as_ref().is_some_and(|(_, end)| *end == Some(until));
            if same && let Err(error) = daemon.resume() {
                tracing::error!(error, "the node can't take work again");
            }
        });
    }
    Ok(Json(api::Done { message: "the node rests; its leases were handed back".into() }))
}

async fn resume(State(daemon): Shared) -> Answer<api::Done> {
    daemon.resume().map_err(Problem::failed)?;
    Ok(Json(api::Done { message: "the node takes work".into() }))
}

/// One JSON document a line, for ever.
async fn events(State(daemon): Shared) -> Response {
    let heard = lines_of(daemon.events.subscribe());
    Response::builder()
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .body(Body::from_stream(heard))
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

type Heard = (barnraiser_protocol::id::NetworkId, barnraiser_protocol::time::Timestamp, Arc<Value>);

/// What is heard, as lines; whoever takes them too slowly is told how many were missed. Ends with the node.
fn lines_of(receiver: tokio::sync::broadcast::Receiver<Heard>) -> impl futures::Stream<Item = Result<Bytes, std::convert::Infallible>> {
    use tokio::sync::broadcast::error::RecvError;
    futures::stream::unfold(receiver, |mut receiver| async move {
        let line = match receiver.recv().await {
            Ok((network, at, event)) => {
                json!({ "kind": "event", "version": api::VERSION, "network": network, "at": at, "event": *event })
            }
            Err(RecvError::Lagged(missed)) => json!({ "kind": "missed", "version": api::VERSION, "count": missed }),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(Bytes::from(format!("{line}\n"))), receiver))
    })
}

async fn batches(State(daemon): Shared, Path(net): Path<String>) -> Answer<Vec<BatchView>> {
    let network = daemon.network(&net)?;
    daemon.engines.ask(&network.id, |engine| engine.batches()).map(Json).ok_or_else(|| joining(&network))
}

async fn batch(State(daemon): Shared, Path((net, id)): Path<(String, String)>) -> Answer<api::BatchPage> {
    let network = daemon.network(&net)?;
    let id = daemon.batch_id(&network, &id)?;
    let page = daemon.engines.ask(&network.id, |engine| Some(api::BatchPage { batch: engine.batch(&id)?, jobs: engine.jobs(&id) }));
    page.flatten().map(Json).ok_or_else(|| Problem::not_found("the batch is not known any more"))
}

async fn job(State(daemon): Shared, Path((net, id, index)): Path<(String, String, u32)>) -> Answer<JobView> {
    let network = daemon.network(&net)?;
    let id = daemon.batch_id(&network, &id)?;
    let view = daemon.engines.ask(&network.id, |engine| engine.job(&id, JobIndex(index))).flatten();
    view.map(Json).ok_or_else(|| Problem::not_found(format!("the batch has no job number {index} (or its graph is still being fetched)")))
}

/// All jobs that stand for an action, by a unique prefix of its id.
async fn action(State(daemon): Shared, Path((net, id)): Path<(String, String)>) -> Answer<Vec<JobView>> {
    let network = daemon.network(&net)?;
    let jobs = daemon.engines.ask(&network.id, |engine| {
        let all = engine.batches().into_iter().flat_map(|batch| engine.jobs(&batch.id));
        all.filter(|job| job.action.is_some_and(|action| action.to_string().starts_with(&id))).collect::<Vec<_>>()
    });
    let jobs = jobs.ok_or_else(|| joining(&network))?;
    let actions: BTreeSet<ActionId> = jobs.iter().filter_map(|job| job.action).collect();
    match actions.len() {
        0 => Err(Problem::not_found(format!("no action {id:?} is known here"))),
        1 => Ok(Json(jobs)),
        several => Err(Problem::usage(format!("{id:?} fits {several} actions; give more digits"))),
    }
}

#[derive(Debug, Deserialize)]
struct LogQuery {
    by: Option<String>,
    #[serde(default)]
    offset: u64,
}

async fn log(
    State(daemon): Shared,
    Path((net, id, index)): Path<(String, String, u32)>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Problem> {
    let network = daemon.network(&net)?;
    let id = daemon.batch_id(&network, &id)?;
    let part = daemon.log_part(&network, id, JobIndex(index), query.by.as_deref(), query.offset).await?;
    let operator = part.operator.map_or_else(String::new, |operator| operator.to_string());
    Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header("x-barn-complete", if part.complete { "true" } else { "false" })
        .header("x-barn-operator", operator)
        .body(Body::from(part.bytes))
        .map_err(|error| Problem::failed(error.to_string()))
}

async fn submit_batch(State(daemon): Shared, Path(net): Path<String>, Json(ask): Json<api::Submit>) -> Answer<api::Submitted> {
    let network = daemon.network(&net)?;
    let charter = network.charter().ok_or_else(|| joining(&network))?;
    let scratch = daemon.home.builds_dir();
    let sources = Arc::new(Sources::new(daemon.store.clone(), scratch, daemon.config.mirrors()));
    let surroundings = Surroundings::here(BTreeMap::new());
    let prepared = submit::prepare(&ask, sources, surroundings, Arc::new(|_| ())).await?;
    let me = daemon.operator_key.operator();
    let heading = prepared.heading;
    let known = || charter.channels().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let Some(channel) = heading.channel else {
        return Err(Problem::usage(format!("neither the file nor --channel says which channel it is for; the network has {}", known())));
    };
    if charter.channel_keys(&channel).is_none() {
        return Err(Problem::usage(format!("the network has no channel {:?}; it has {}", &*channel, known())));
    }
    if !charter.may_submit(&me, &channel) {
        return Err(Problem::forbidden(format!(
            "operator {} may not submit to {channel}; a maintainer grants it with `barn network grant {me} submit --channel {channel}`",
            me.short(),
        )));
    }
    let bytes = prepared.graph.to_bytes();
    let jobs = prepared.graph.jobs.len();
    let graph = BlobHash::of(&bytes);
    let length = bytes.len() as u64;
    let store = daemon.store.clone();
    tokio::task::spawn_blocking(move || store.import_bytes(&bytes, Durability::Announced))
        .await
        .map_err(|error| Problem::failed(error.to_string()))?
        .map_err(|error| Problem::failed(error.to_string()))?;
    let batch = Batch {
        name: heading.name,
        channel,
        priority: heading.priority,
        graph,
        graph_length: length,
        jobs: u32::try_from(jobs).map_err(|_| Problem::usage("too many jobs"))?,
        policy: charter.policy().hash(),
        nonce: rand::random(),
        revision: heading.revision,
        url: heading.url,
        labels: heading.labels,
    };
    let records = daemon.publish(&network, vec![(Payload::Batch(batch.into()), BATCH_LIFETIME)]).await?;
    let batch = records.first().map(|id| BatchId::from(*id));
    let batch = batch.ok_or_else(|| Problem::failed("the batch is too large for a record; shorten its name, url or labels"))?;
    Ok(Json(api::Submitted { batch, jobs }))
}

async fn cancel(State(daemon): Shared, Path((net, id)): Path<(String, String)>) -> Answer<api::Done> {
    let network = daemon.network(&net)?;
    let batch = daemon.batch_id(&network, &id)?;
    may_change(&daemon, &network, &batch)?;
    let cancel = Payload::Cancel(Cancel { batch });
    daemon.publish(&network, vec![(cancel, BATCH_LIFETIME + Duration::from_secs(24 * 3600))]).await?;
    Ok(Json(api::Done { message: format!("batch {} is cancelled", batch.short()) }))
}

/// A batch is its author's and the founders' to change.
fn may_change(daemon: &Daemon, network: &Network, batch: &BatchId) -> Result<(), Problem> {
    let me = daemon.operator_key.operator();
    let view = daemon.engines.ask(&network.id, |engine| engine.batch(batch)).flatten();
    let founder = network.charter().is_some_and(|charter| charter.is_founder(&me));
    if founder || view.and_then(|view| view.operator) == Some(me) {
        return Ok(());
    }
    Err(Problem::forbidden(format!("batch {} is neither yours nor are you a founder of {}", batch.short(), network.name)))
}

#[derive(Debug, Deserialize)]
struct RetryQuery {
    job: Option<u32>,
}

async fn retry(State(daemon): Shared, Path((net, id)): Path<(String, String)>, Query(query): Query<RetryQuery>) -> Answer<api::Done> {
    let network = daemon.network(&net)?;
    let batch = daemon.batch_id(&network, &id)?;
    may_change(&daemon, &network, &batch)?;
    let view = daemon.engines.ask(&network.id, |engine| engine.batch(&batch)).flatten();
    if let Some(why) = view.and_then(|view| view.halted) {
        let message =
            format!("batch {} can't be retried: {why}, so nothing of it is built; `barn submit` makes a new batch", batch.short());
        return Err(Problem::failed(message));
    }
    let mut failed = daemon.engines.ask(&network.id, |engine| engine.failed_actions(&batch)).unwrap_or_default();
    if let Some(index) = query.job {
        let view = daemon.engines.ask(&network.id, |engine| engine.job(&batch, JobIndex(index))).flatten();
        let action = view.and_then(|view| view.action);
        failed.retain(|failed| Some(*failed) == action);
        if failed.is_empty() {
            return Err(Problem::failed(format!("job number {index} of batch {} has not failed by itself", batch.short())));
        }
    }
    if failed.is_empty() {
        return Err(Problem::failed(format!("no job of batch {} has failed", batch.short())));
    }
    let mut retries = Vec::new();
    for some in failed.chunks(64) {
        let actions = BoundedVec::try_from(some.to_vec()).map_err(|error| Problem::failed(error.to_string()))?;
        retries.push((Payload::Retry(Retry { batch, actions }), BATCH_LIFETIME));
    }
    daemon.publish(&network, retries).await?;
    let jobs = if failed.len() == 1 { "1 failed job is".to_owned() } else { format!("{} failed jobs are", failed.len()) };
    Ok(Json(api::Done { message: format!("{jobs} built again") }))
}

async fn propose(State(daemon): Shared, Path(net): Path<String>, Json(ask): Json<api::Propose>) -> Result<Response, Problem> {
    let network = daemon.network(&net)?;
    let batch = daemon.batch_id(&network, &ask.batch)?;
    let document = daemon.propose_release(&network, batch, &ask).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], document).into_response())
}

async fn publish(State(daemon): Shared, Path(net): Path<String>, Json(ask): Json<api::Publish>) -> Answer<api::ReleaseView> {
    let network = daemon.network(&net)?;
    daemon.publish_release(&network, &ask.document).await.map(Json)
}

async fn release(State(daemon): Shared, Path((net, channel)): Path<(String, String)>) -> Answer<api::ReleaseView> {
    let network = daemon.network(&net)?;
    let charter = network.charter().ok_or_else(|| joining(&network))?;
    let release = network.release(&channel).ok_or_else(|| no_release(&network, &channel))?;
    Ok(Json(view(&release, &charter)))
}

/// An answer of one JSON document a line, until nothing is sent any more.
pub(super) fn ndjson<T: Serialize + Send + 'static>(answer: mpsc::Receiver<T>) -> Result<Response, Problem> {
    let lines = futures::stream::unfold(answer, |mut answer| async move { Some((answer.recv().await?, answer)) });
    let lines = lines.map(|event| {
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        Ok::<_, serde_json::Error>(Bytes::from(line))
    });
    Response::builder()
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .body(Body::from_stream(lines))
        .map_err(|error| Problem::failed(error.to_string()))
}
