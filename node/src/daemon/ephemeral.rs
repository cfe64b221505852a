//! A node for one fetch: for users who have a ticket link and nothing else.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use barnraiser_bootstrap::FetchProgress;
use barnraiser_protocol::ticket::Ticket;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::releases::{Afterwards, no_release};
use super::workbench::SandboxBench;
use super::{Daemon, RunOptions};
use crate::api::{self, Problem};
use crate::home::Home;

/// How long a charter and a release are waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked whether something came.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long a newer charter or release than the first that was found is waited for.
const PATIENCE_FOR_NEWER: Duration = Duration::from_secs(5);

/// Fetches `CHANNEL/NAME` of the network of `ticket` to `to`, with a node that lives only for that, in a temporary home.
///
/// # Errors
/// [`Problem`]: unreachable where nobody of the network is found in a minute.
pub async fn ephemeral_fetch(
    ticket: &Ticket,
    channel: &str,
    name: &str,
    to: Option<PathBuf>,
    seed: Option<PathBuf>,
    progress: watch::Sender<FetchProgress>,
) -> Result<api::Fetched, Problem> {
    let failed = |error: String| Problem::failed(error);
    // Beside the file that is wanted, where there must be room for it anyway: then it need not be copied out of the store.
    let beside = to.as_ref().and_then(|to| to.parent()).map(|folder| tempfile::Builder::new().prefix(".barn-fetch-").tempdir_in(folder));
    let folder = beside.and_then(Result::ok).map_or_else(tempfile::tempdir, Ok);
    let folder = folder.map_err(|error| failed(format!("no temporary folder: {error}")))?;
    let home = Home::at(folder.path()).map_err(|error| failed(error.to_string()))?;
    home.init().map_err(|error| failed(error.to_string()))?;
    let bootstrap: Vec<String> = ticket.bootstrap().iter().map(ToString::to_string).collect();
    home.add_network(&ticket.network(), &ticket.name().to_string(), &bootstrap).map_err(|error| failed(error.to_string()))?;
    let stop = CancellationToken::new();
    // Ends the node's tasks also where this future is dropped.
    let _guard = stop.clone().drop_guard();
    let options = RunOptions { no_build: true, listen: vec!["/ip4/0.0.0.0/tcp/0".into(), "/ip4/0.0.0.0/udp/0/quic-v1".into()] };
    let daemon = Daemon::start(home, options, stop.clone(), Arc::new(SandboxBench)).await.map_err(|error| failed(error.to_string()))?;
    let network =
        daemon.networks().get(&ticket.network()).cloned().ok_or_else(|| failed("the network of the ticket could not be started".into()))?;
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
        daemon.farewell().await;
        return Err(match (found, network.charter()) {
            (Err(_), None) => Problem::unreachable("no member of the ticket's network was found in a minute; are its entry servers up?"),
            _ => no_release(&network, channel),
        });
    }
    // The first that came may not be the newest: another is waited for where one was announced, but not for ever, since
    // anybody can announce.
    let newest = async {
        for peer in daemon.net.peers().await.into_iter().filter(|peer| peer.networks.contains(&network.id)) {
            let _ = daemon.net.sync_with(network.id, peer.node).await;
        }
        while daemon.awaits_release(&network, channel) {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    let _ = tokio::time::timeout(PATIENCE_FOR_NEWER, newest).await;
    let ask = api::Fetch { what: format!("{channel}/{name}"), to, seed };
    let fetched = daemon.fetch_for_user(&network, &ask, Afterwards::Given, progress).await;
    daemon.farewell().await;
    fetched
}
