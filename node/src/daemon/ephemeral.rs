//! A node for one fetch: for users who have a ticket link and nothing else.
//!
//! Its home is a folder beside the file that is wanted, or with the user's caches where the bytes go to a pipe. The folder's name
//! is made of what is fetched: a fetch that was cut off, however hard, finds what it had and goes on. It goes when the fetch is
//! done.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use barnraiser_protocol::ticket::{Ticket, Wanted};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::networks::Network;
use super::releases::{Afterwards, no_release};
use super::workbench::SandboxBench;
use super::{Daemon, RunOptions, Told};
use crate::api::{self, FetchEvent, Problem};
use crate::home::{Home, HomeError};

/// How long a charter and a release are waited for, or any member.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked whether something came.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long a newer charter or release than the first that was found is waited for.
const PATIENCE_FOR_NEWER: Duration = Duration::from_secs(5);

/// How long the node's tasks may take to let go of its store. Its folder goes in any case.
const CLOSING: Duration = Duration::from_secs(2);

/// What the names of homes for one fetch begin with.
const FOLDER_PREFIX: &str = ".barn-fetch-";
/// How long what a fetch to a pipe brought, and nobody took up again, is kept among the caches.
const CACHE_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where such a node lives.
struct Place {
    folder: PathBuf,
    /// Removes a folder whose name nobody could find again.
    _passing: Option<tempfile::TempDir>,
}

impl Place {
    /// Beside `to`, where there must be room for it anyway: then it need not be copied out of the store. For a pipe, with the
    /// caches. Where neither can be, a temporary folder, which can't be taken up again.
    fn choose(network: &str, what: &str, to: Option<&Path>) -> Result<Self, Problem> {
        let name = format!("{FOLDER_PREFIX}{}", &blake3::hash(format!("{network}/{what}").as_bytes()).to_hex()[..16]);
        let beside = match to {
            Some(to) => to.parent().map(Path::to_owned),
            None => caches(),
        };
        if to.is_none()
            && let Some(caches) = &beside
        {
            sweep(caches);
        }
        if let Some(folder) = beside.map(|folder| folder.join(name))
            && std::fs::create_dir_all(&folder).is_ok()
        {
            return Ok(Self { folder, _passing: None });
        }
        let passing = tempfile::tempdir().map_err(|error| Problem::failed(format!("no temporary folder: {error}")))?;
        Ok(Self { folder: passing.path().to_owned(), _passing: Some(passing) })
    }

    /// The fetch is done: nothing of it is wanted any more.
    fn remove(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "what the fetch needed can't be removed");
        }
    }
}

/// The user's folder of caches for this.
fn caches() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
    Some(caches.join("barnraiser"))
}

/// Removes what was left of fetches to pipes long ago. What can't be removed is left for the next time.
fn sweep(caches: &Path) {
    let Ok(entries) = std::fs::read_dir(caches) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(FOLDER_PREFIX));
        // The lock is written at each start.
        let used = entry.path().join("lock").metadata().and_then(|lock| lock.modified());
        let is_old = used.is_ok_and(|used| SystemTime::now().duration_since(used).is_ok_and(|age| age > CACHE_KEPT));
        if is_ours && is_old {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Fetches `wanted` of the network of `ticket` to `to`, or gives its bytes out as they come where that is none, with a node that
/// lives only for that; tells `follower` as a running node does. It ends when nobody follows any more, and keeps what is verified for
/// the next time.
pub(crate) async fn ephemeral_fetch(
    ticket: Ticket,
    wanted: Wanted,
    to: Option<PathBuf>,
    seed: Option<PathBuf>,
    follower: mpsc::Sender<Told>,
) {
    if let Err(problem) = fetch(&ticket, &wanted, to, seed, &follower).await {
        // Who has gone away needs no answer.
        let _ = follower.send(Told::Event(FetchEvent::Failed(problem))).await;
    }
}

async fn fetch(
    ticket: &Ticket,
    wanted: &Wanted,
    to: Option<PathBuf>,
    seed: Option<PathBuf>,
    follower: &mpsc::Sender<Told>,
) -> Result<(), Problem> {
    let failed = |error: String| Problem::failed(error);
    let what = match wanted {
        Wanted::Blob(hash) => hash.to_string(),
        Wanted::Release { channel, name } => format!("{}/{}", &**channel, &**name),
    };
    let place = Place::choose(&ticket.network().to_string(), &what, to.as_deref())?;
    let home = Home::at(&place.folder).map_err(|error| failed(error.to_string()))?;
    home.init().map_err(|error| failed(error.to_string()))?;
    let lock = home.lock().map_err(|error| match error {
        HomeError::AlreadyRunning { .. } => failed(format!("another `barn fetch` brings {what} there already; wait for it, or end it")),
        other => failed(other.to_string()),
    })?;
    let bootstrap: Vec<String> = ticket.bootstrap().iter().map(ToString::to_string).collect();
    home.add_network(&ticket.network(), &ticket.name().to_string(), &bootstrap).map_err(|error| failed(error.to_string()))?;
    let stop = CancellationToken::new();
    // Ends the node's tasks also where this future is dropped.
    let guard = stop.clone().drop_guard();
    let options = RunOptions { no_build: true, listen: vec!["/ip4/0.0.0.0/tcp/0".into(), "/ip4/0.0.0.0/udp/0/quic-v1".into()] };
    let daemon = Daemon::start(home, options, stop.clone(), Arc::new(SandboxBench)).await.map_err(|error| failed(error.to_string()))?;
    let network =
        daemon.networks().get(&ticket.network()).cloned().ok_or_else(|| failed("the network of the ticket could not be started".into()))?;
    let ask = api::Fetch { what, along: to.is_none(), to, seed };
    let bringing = async {
        match wanted {
            Wanted::Blob(_) => find_member(&daemon, &network).await?,
            Wanted::Release { channel, .. } => find_release(&daemon, &network, channel).await?,
        }
        Ok(daemon.fetch_telling(&network, &ask, Afterwards::Given, follower).await)
    };
    let done = tokio::select! {
        done = bringing => done,
        // It was called off.
        () = follower.closed() => Ok(false),
    };
    daemon.farewell().await;
    // What came is for the next time; where nothing did, the folder is of no use.
    let store = daemon.store.clone();
    let begun = tokio::task::spawn_blocking(move || store.partials_begun()).await;
    let is_of_use = !matches!(&begun, Ok(Ok(begun)) if begun.is_empty());
    if matches!(done, Ok(true)) || !is_of_use {
        drop(guard);
        let _ = tokio::time::timeout(CLOSING, async {
            while Arc::strong_count(&daemon) > 1 {
                tokio::time::sleep(ASK_AGAIN).await;
            }
        })
        .await;
        drop((daemon, network, lock));
        place.remove();
    }
    done.map(drop)
}

fn nobody() -> Problem {
    Problem::unreachable("no member of the ticket's network was found in a minute; are its entry servers up?")
}

/// Waits until somebody is there who may have a blob.
async fn find_member(daemon: &Daemon, network: &Network) -> Result<(), Problem> {
    let met = async {
        while daemon.net.members(network.id).await.is_ok_and(|members| members.is_empty()) {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, met).await.map_err(|_| nobody())
}

/// Waits for the newest release of a channel.
async fn find_release(daemon: &Daemon, network: &Arc<Network>, channel: &str) -> Result<(), Problem> {
    let found = tokio::time::timeout(PATIENCE, async {
        // A channel that the network does not have is not waited for, once a newer charter had time to come.
        let mut without = Duration::ZERO;
        while network.release(channel).is_none() && without < PATIENCE_FOR_NEWER {
            tokio::time::sleep(ASK_AGAIN).await;
            if network.charter().is_some_and(|charter| charter.channel_keys(channel).is_none()) {
                without += ASK_AGAIN;
            }
        }
    })
    .await;
    if network.release(channel).is_none() {
        return Err(match (found, network.charter()) {
            (Err(_), None) => nobody(),
            _ => no_release(network, channel),
        });
    }
    // The first that came may not be the newest: another is waited for where one was announced, but not for ever, since
    // anybody can announce.
    let newest = async {
        for peer in daemon.net.peers().await.into_iter().filter(|peer| peer.networks.contains(&network.id)) {
            let _ = daemon.net.sync_with(network.id, peer.node).await;
        }
        while daemon.awaits_release(network, channel) {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    let _ = tokio::time::timeout(PATIENCE_FOR_NEWER, newest).await;
    Ok(())
}
