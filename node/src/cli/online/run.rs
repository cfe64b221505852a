//! `barn run`: the node, in the foreground, until it is told to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::super::args::RunArgs;
use super::super::{CommandResult, Exit};
use crate::api::Problem;
use crate::daemon::{self, RunOptions};
use crate::home::Home;

/// Runs the node of `home` until SIGINT or SIGTERM; a second one ends it at once.
pub(super) async fn run(home: Home, args: &RunArgs) -> CommandResult {
    let stop = CancellationToken::new();
    let failed = |error: std::io::Error| Problem::failed(format!("signals can't be listened to: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let stopping = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if stopping.is_cancelled() {
                // Whoever asks twice does not want to wait for leases to be handed back: they lapse.
                std::process::exit(i32::from(Exit::FAILED.0));
            }
            stopping.cancel();
        }
    });
    let options = RunOptions { no_build: args.no_build, listen: args.listen.clone() };
    daemon::run(home, options, stop).await.map_err(|error| Problem::failed(error.to_string()))?;
    Ok(Exit::DONE)
}
