//! The commands against a made-up node on a Unix socket: what they ask for, and with which exit code they end.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use barnraiser_protocol::bounded::BoundedString;
use barnraiser_protocol::engine::query::{JobState, JobView};
use barnraiser_protocol::id::{BlobHash, NetworkId, NodeId};
use barnraiser_protocol::outcome::{FailureClass, Outcome};
use barnraiser_protocol::verdict::VerdictState;
use clap::Parser as _;

use super::super::Problem;
use super::super::args::{Cli, Command};
use super::*;
use crate::api::{BatchPage, Done, Fetch, FetchEvent, Fetched, NetworkStatus, Status, Submit, Submitted};

/// What the made-up node says, and what it was asked.
#[derive(Default)]
struct Script {
    networks: Vec<NetworkStatus>,
    /// One page for each time it is asked for; the last one again and again.
    pages: Vec<BatchPage>,
    asked: AtomicU32,
    log: Vec<u8>,
    /// Answers of "no log yet" before there is one.
    logless: AtomicU32,
    fetch: Vec<FetchEvent>,
    heard: Mutex<Vec<String>>,
}

impl Script {
    fn hear(&self, what: impl Into<String>) {
        self.heard.lock().unwrap().push(what.into());
    }
}

type Shared = State<Arc<Script>>;

fn refuse(problem: Problem) -> Response {
    (StatusCode::from_u16(problem.status).unwrap(), Json(problem)).into_response()
}

async fn status(State(script): Shared) -> Json<Status> {
    Json(Status {
        barn: "0".into(),
        pid: 1,
        node: NodeId([1; 32]),
        operator: samples::operator(1),
        since: barnraiser_protocol::time::Timestamp(0),
        resting: Some("its owner paused it".into()),
        cores: (2, 0),
        memory: (1 << 30, 0),
        addresses: vec!["/ip4/127.0.0.1/tcp/1".into()],
        networks: script.networks.clone(),
        builds: Vec::new(),
        traffic: Default::default(),
        store: Default::default(),
        reachable: None,
        pushed: Default::default(),
        holding: None,
    })
}

async fn batch(State(script): Shared) -> Json<BatchPage> {
    let asked = script.asked.fetch_add(1, Ordering::Relaxed) as usize;
    Json(script.pages[asked.min(script.pages.len() - 1)].clone())
}

async fn job(State(script): Shared, Path((_, _, index)): Path<(String, String, usize)>) -> Json<JobView> {
    Json(script.pages.last().unwrap().jobs[index].clone())
}

/// In parts of ten bytes.
async fn log(State(script): Shared, Query(query): Query<BTreeMap<String, String>>) -> Response {
    if script.logless.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        return refuse(Problem::not_found("no log yet"));
    }
    script.hear(format!("log by {}", query.get("by").map_or("", String::as_str)));
    let offset = query["offset"].parse::<usize>().unwrap().min(script.log.len());
    let end = (offset + 10).min(script.log.len());
    let complete = if end == script.log.len() { "true" } else { "false" };
    let headers = [("x-barn-complete", complete.to_owned()), ("x-barn-operator", samples::operator(1).to_string())];
    (headers, script.log[offset..end].to_vec()).into_response()
}

async fn submit(State(script): Shared, Json(ask): Json<Submit>) -> Json<Submitted> {
    script.hear(format!("submit {} {:?} {:?}", ask.path.display(), ask.channel, ask.set));
    Json(Submitted { batch: samples::page().batch.id, jobs: 2 })
}

async fn fetch(State(script): Shared, Json(ask): Json<Fetch>) -> Body {
    script.hear(format!("fetch {}", ask.what));
    if let Some(to) = ask.to {
        std::fs::write(to, "bytes").unwrap();
    }
    let lines: Vec<String> = script.fetch.iter().map(|event| format!("{}\n", serde_json::to_string(event).unwrap())).collect();
    Body::from(lines.concat())
}

async fn done(State(script): Shared, uri: axum::http::Uri, headers: HeaderMap, _body: Bytes) -> Json<Done> {
    assert_eq!(headers["content-type"], "application/json");
    script.hear(uri.to_string());
    Json(Done { message: "done".into() })
}

/// A home whose node says what is in `script`.
fn home(script: Script) -> (tempfile::TempDir, Arc<Script>) {
    let folder = tempfile::tempdir().unwrap();
    let socket = Home::at(folder.path()).unwrap().socket_path();
    let script = Arc::new(script);
    let router = Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/pause", post(done))
        .route("/api/v1/n/{net}/submit", post(submit))
        .route("/api/v1/n/{net}/batches/{id}", get(batch))
        .route("/api/v1/n/{net}/batches/{id}/retry", post(done))
        .route("/api/v1/n/{net}/batches/{id}/jobs/{index}", get(job))
        .route("/api/v1/n/{net}/batches/{id}/jobs/{index}/log", get(log))
        .route("/api/v1/n/{net}/fetch", post(fetch))
        .with_state(script.clone());
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (folder, script)
}

/// What `barn` does with these words.
async fn barn(home: &FilePath, words: &[&str]) -> CommandResult {
    let words = ["barn", "--home", home.to_str().unwrap()].into_iter().chain(words.iter().copied());
    let cli = Cli::try_parse_from(words).unwrap();
    match cli.command {
        Command::Online(command) => run(&cli.global, command).await,
        other => panic!("{other:?} needs no node"),
    }
}

fn network(id: u8, name: &str) -> NetworkStatus {
    NetworkStatus {
        id: NetworkId([id; 32]),
        name: name.into(),
        state: "live".into(),
        charter: 1,
        peers: 0,
        records: 0,
        batches: 0,
        leases: 0,
        policy: None,
        operators: Vec::new(),
        requests: Vec::new(),
        holders: Vec::new(),
        kept: None,
    }
}

fn one_network() -> Script {
    Script { networks: vec![network(1, "alpha")], ..Script::default() }
}

/// The sample's page with all its jobs in `state`.
fn page(state: JobState) -> BatchPage {
    let mut page = samples::page();
    for job in &mut page.jobs {
        job.state = state;
    }
    page
}

/// The first job failed, and left a log of the length that `log` has.
fn failed(log: &[u8]) -> BatchPage {
    let mut page = samples::page();
    let outcome = Outcome::Failure { class: FailureClass::Build, stage: BoundedString::cut("build") };
    let job = &mut page.jobs[0];
    job.state = JobState::Failed;
    job.why = "2 operators agree that it fails".into();
    let verdict = job.verdict.as_mut().unwrap();
    verdict.state = VerdictState::Failed;
    verdict.outcome = Some(outcome.clone());
    for attestation in &mut job.attestations {
        attestation.outcome = Some(outcome.clone());
        let told = attestation.particulars.as_mut().unwrap();
        told.log = Some(BlobHash([3; 32]));
        told.log_length = log.len() as u64;
    }
    page
}

#[tokio::test]
async fn waiting_ends_well_when_all_jobs_are_cross_verified() {
    let pages = vec![samples::page(), page(JobState::Building), page(JobState::CrossVerified)];
    let (home, script) = home(Script { pages, ..one_network() });
    let exit = barn(home.path(), &["submit", "batch.toml", "--channel", "stable", "--set", "device=x", "--wait"]).await.unwrap();
    assert_eq!(exit, super::super::Exit::DONE);
    assert!(script.asked.load(Ordering::Relaxed) >= 3);
    let file = std::env::current_dir().unwrap().join("batch.toml");
    assert_eq!(*script.heard.lock().unwrap(), [format!("submit {} Some(\"stable\") {{\"device\": \"x\"}}", file.display())]);
}

#[tokio::test]
async fn a_failed_job_is_named_with_the_end_of_its_log() {
    let log = b"==> step build\ncc a.c\nerror: it is broken\n".to_vec();
    let pages = vec![samples::page(), failed(&log)];
    let (home, script) = home(Script { pages, log, ..one_network() });
    let problem = barn(home.path(), &["submit", "batch.toml", "--wait"]).await.unwrap_err();
    assert_eq!(problem.exit_code(), 7, "{problem}");
    for part in [
        "zlib[device=x] failed: 2 operators agree that it fails",
        "error: it is broken\n--- all of it: barn log '0505050505/zlib[device=x]'",
        "1 other job goes on",
    ] {
        assert!(problem.message.contains(part), "{part} is not in {problem}");
    }
    // All parts of one builder's log.
    assert!(script.heard.lock().unwrap().iter().skip(1).all(|heard| *heard == format!("log by {}", samples::operator(1))));
}

#[tokio::test]
async fn waiting_ends_when_the_time_is_over_or_the_batch_is() {
    let (home, _) = home(Script { pages: vec![page(JobState::Building)], ..one_network() });
    let late = barn(home.path(), &["submit", "batch.toml", "--wait=candidate", "--timeout", "1s"]).await.unwrap_err();
    assert!(late.exit_code() == 6 && late.message.contains("0 of 2 jobs"), "{late}");
    let (home, _) = self::home(Script { pages: vec![page(JobState::Withdrawn)], ..one_network() });
    let withdrawn = barn(home.path(), &["submit", "batch.toml", "--wait"]).await.unwrap_err();
    assert_eq!(withdrawn.exit_code(), 1, "{withdrawn}");
}

#[tokio::test]
async fn several_networks_must_be_told_apart() {
    let networks = vec![network(1, "alpha"), network(2, "beta")];
    let (home, _) = home(Script { networks, pages: vec![samples::page()], ..Script::default() });
    let problem = barn(home.path(), &["batch", "05"]).await.unwrap_err();
    assert!(problem.exit_code() == 2 && problem.message.contains("alpha") && problem.message.contains("beta"));
    barn(home.path(), &["batch", "05", "--network", "beta"]).await.unwrap();
    // What is of the node and not of a network needs none.
    barn(home.path(), &["status"]).await.unwrap();
    barn(home.path(), &["pause", "--for", "2 h"]).await.unwrap();
}

/// A log that is followed is waited for, until the job is settled and there is none.
#[tokio::test]
async fn a_log_is_followed_from_before_it_begins() {
    let script = || Script { pages: vec![page(JobState::Building)], log: b"==> step build\nall of it\n".to_vec(), ..one_network() };
    let (home, said) = home(Script { logless: AtomicU32::new(2), ..script() });
    let asked = ["log", "05/zlib", "-f", "--step", "build"];
    barn(home.path(), &asked).await.unwrap();
    assert_eq!(said.heard.lock().unwrap().len(), 3);
    assert_eq!(barn(home.path(), &["log", "05/zlib", "--step", "check"]).await.unwrap_err().exit_code(), 3);
    let (home, _) = self::home(Script { logless: AtomicU32::new(99), ..script() });
    assert_eq!(barn(home.path(), &["log", "05/zlib"]).await.unwrap_err().exit_code(), 3);
    let (home, _) = self::home(Script { pages: vec![page(JobState::Withdrawn)], logless: AtomicU32::new(99), ..script() });
    assert_eq!(barn(home.path(), &asked).await.unwrap_err().exit_code(), 3);
}

#[tokio::test]
async fn a_fetch_writes_the_file_and_passes_refusals_on() {
    let fetched = Fetched {
        hash: BlobHash::of(b"bytes"),
        length: 5,
        already_had: 0,
        copied: 0,
        bytes_by_peer: BTreeMap::new(),
        release: None,
        built_by: Vec::new(),
    };
    let events =
        vec![FetchEvent::Progress { done: 1, length: Some(5), providers: 1, bytes_by_peer: BTreeMap::new() }, FetchEvent::Done(fetched)];
    let (home, script) = home(Script { fetch: events, ..one_network() });
    let file = home.path().join("file");
    barn(home.path(), &["fetch", "stable/LE.img", "-o", file.to_str().unwrap()]).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"bytes");
    assert_eq!(*script.heard.lock().unwrap(), ["fetch stable/LE.img"]);
    let wrong = barn(home.path(), &["fetch", "not a hash"]).await.unwrap_err();
    assert_eq!(wrong.exit_code(), 2);
    let other = barn(home.path(), &["fetch", "gamma/stable/LE.img", "-o", file.to_str().unwrap()]).await.unwrap_err();
    assert_eq!(other.exit_code(), 3);

    let refusal = vec![FetchEvent::Failed(Problem::unverified("SHA-256 differs"))];
    let (home, _) = self::home(Script { fetch: refusal, ..one_network() });
    let problem = barn(home.path(), &["fetch", "stable/LE.img", "-o", file.to_str().unwrap()]).await.unwrap_err();
    assert_eq!(problem, Problem::unverified("SHA-256 differs"));
    // A node that stops in the middle.
    let (home, _) = self::home(one_network());
    assert_eq!(barn(home.path(), &["fetch", "stable/LE.img", "-o", file.to_str().unwrap()]).await.unwrap_err().exit_code(), 6);
}

#[tokio::test]
async fn one_failed_job_or_all_of_a_batch_can_be_retried() {
    let (home, script) = home(Script { pages: vec![failed(b"")], ..one_network() });
    barn(home.path(), &["retry", "05/zlib"]).await.unwrap();
    barn(home.path(), &["retry", "05", "--failed"]).await.unwrap();
    let heard = script.heard.lock().unwrap().clone();
    assert!(heard[0].ends_with(&format!("/batches/{}/retry?job=0", samples::page().batch.id)), "{heard:?}");
    assert!(heard[1].ends_with("/batches/05/retry"), "{heard:?}");
    let other = barn(home.path(), &["retry", "05/image"]).await.unwrap_err();
    assert!(other.exit_code() == 1 && other.message.contains("has not failed"), "{other}");
}

#[tokio::test]
async fn without_a_node_every_command_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    for words in [&["status"][..], &["batch"], &["submit", "x"], &["fetch", "stable/x"], &["why", "ab"], &["cancel", "ab"], &["events"]] {
        let problem = barn(folder.path(), words).await.unwrap_err();
        assert!(problem.exit_code() == 6 && problem.message.contains("barn run"), "{words:?}: {problem}");
    }
}
