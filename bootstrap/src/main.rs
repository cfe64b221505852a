//! `barn-bootstrap`: the entry server, through which nodes find each other.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use barnraiser_bootstrap::entry::EntryServer;
use barnraiser_bootstrap::{Multiaddr, StartError};
use barnraiser_protocol::keys::SecretKey;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Wrong usage or unreadable input.
const EXIT_USAGE: u8 = 2;
/// Anything else that failed.
const EXIT_FAILED: u8 = 1;

/// Entry server of Barnraiser networks: helps nodes find each other. It keeps nothing and belongs to no network.
///
/// Prints the addresses that it listens on, with its PeerId, one a line; put one of them into tickets. Logs go to standard
/// error (RUST_LOG=debug for more).
#[derive(Debug, Parser)]
#[command(name = "barn-bootstrap", version)]
struct Arguments {
    /// Where to listen, for example /ip4/0.0.0.0/tcp/4001 or /ip4/0.0.0.0/udp/4001/quic-v1; repeatable
    #[arg(long, required = true, num_args = 1.., value_name = "MULTIADDR")]
    listen: Vec<Multiaddr>,
    /// File with the secret key (64 hexadecimal digits), made if it is missing; without it every start has a new PeerId
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("barn-bootstrap: {error:#}");
            let usage = error.is::<UsageError>() || matches!(error.downcast_ref::<StartError>(), Some(StartError::Listen { .. }));
            ExitCode::from(if usage { EXIT_USAGE } else { EXIT_FAILED })
        }
    }
}

#[tokio::main]
async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let key = match &arguments.key {
        Some(path) => key_of(path)?,
        None => SecretKey::from_seed(&rand::random()),
    };
    let agent = format!("barn-bootstrap/{}", env!("CARGO_PKG_VERSION"));
    // Before the addresses are printed: whoever reads them may send a signal at once.
    let mut terminate = signal(SignalKind::terminate()).context("can't wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't wait for signals")?;
    let server = EntryServer::start(&key, &arguments.listen, agent).await?;
    for address in server.addresses() {
        print(&address);
    }
    tokio::select! {
        () = server.run(|address| print(&address)) => {}
        _ = terminate.recv() => tracing::info!("asked to end"),
        _ = interrupt.recv() => tracing::info!("asked to end"),
    }
    Ok(())
}

fn print(address: &Multiaddr) {
    let mut out = std::io::stdout();
    // Whoever closed our output does not want the addresses; serving goes on.
    let _ = writeln!(out, "{address}").and_then(|()| out.flush());
}

/// Input that the user must change.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// The key in `path`, made there first if there is none.
fn key_of(path: &Path) -> anyhow::Result<SecretKey> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let wrong = || UsageError(format!("{}: not a secret key: 64 hexadecimal digits are wanted", path.display()));
            let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).map_err(|_| wrong())?;
            Ok(SecretKey::from_seed(&bytes.try_into().map_err(|_| wrong())?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            use std::os::unix::fs::OpenOptionsExt as _;
            let key = SecretKey::from_seed(&rand::random());
            let write = || {
                let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
                writeln!(file, "{}", data_encoding::HEXLOWER.encode(&key.seed()))?;
                file.sync_all()
            };
            write().with_context(|| format!("can't write the key file {}", path.display()))?;
            Ok(key)
        }
        Err(error) => Err(UsageError(format!("can't read the key file {}: {error}", path.display())).into()),
    }
}
