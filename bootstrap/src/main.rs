//! `barn-bootstrap`: the entry server, through which nodes find each other, and which may hold blobs for them.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use barnraiser_bootstrap::entry::{EntryServer, Hold};
use barnraiser_bootstrap::{Holder, Multiaddr, StartError};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::recipe::parse_size;
use barnraiser_store::Store;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Wrong usage or unreadable input.
const EXIT_USAGE: u8 = 2;
/// Anything else that failed.
const EXIT_FAILED: u8 = 1;

/// The least that a holder may keep: less would not hold what a single build gives.
const HOLD_MIN: u64 = 16 << 20;
/// How often it is said what is held, where that has changed.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// The version of what --json prints.
const JSON_VERSION: u32 = 1;

/// Entry server of Barnraiser networks: helps nodes find each other. It belongs to no network.
///
/// With --hold it also keeps blobs for nodes that can't be reached: it takes what anybody pushes, proves every byte, and serves it
/// to everybody. When it is full, room is taken from whoever fills it most.
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
    /// Keep up to so much of what nodes push, for example "200 GiB"; without it nothing is kept
    #[arg(long, value_name = "SIZE", value_parser = hold_size)]
    hold: Option<u64>,
    /// Where to keep it; by default barn-bootstrap/store in the user's data folder (XDG_DATA_HOME, or ~/.local/share)
    #[arg(long, value_name = "DIR", requires = "hold")]
    store: Option<PathBuf>,
    /// Print one JSON document a line: addresses, and what is held
    #[arg(long)]
    json: bool,
}

/// The size in the option --hold.
fn hold_size(text: &str) -> Result<u64, String> {
    let size = parse_size(text).map_err(|error| error.to_string())?;
    if size < HOLD_MIN { Err(format!("at least {} MiB are wanted", HOLD_MIN >> 20)) } else { Ok(size) }
}

/// Where blobs are kept if nothing is said.
fn store_folder() -> Result<PathBuf, UsageError> {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = named("XDG_DATA_HOME").or_else(|| Some(named("HOME")?.join(".local/share")));
    let data = data.ok_or_else(|| UsageError("neither HOME nor XDG_DATA_HOME is set: say with --store where to keep blobs".into()))?;
    Ok(data.join("barn-bootstrap/store"))
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
    let hold = match arguments.hold {
        Some(quota) => {
            let folder = arguments.store.map_or_else(store_folder, Ok)?;
            // What this machine lacks is no wrong usage: the folder can't be written, or another process has it.
            let store = tokio::task::spawn_blocking(move || Store::open(&folder)).await.context("opening the store")??;
            Some(Hold { store, quota })
        }
        None => None,
    };
    let server = EntryServer::start(&key, &arguments.listen, agent, hold).await?;
    for address in server.addresses() {
        print(&address, arguments.json);
    }
    let holder = server.holder();
    tokio::select! {
        () = server.run(|address| print(&address, arguments.json)) => {}
        () = tell(holder, arguments.json) => {}
        _ = terminate.recv() => tracing::info!("asked to end"),
        _ = interrupt.recv() => tracing::info!("asked to end"),
    }
    Ok(())
}

fn print(address: &Multiaddr, json: bool) {
    let line = if json {
        serde_json::json!({ "kind": "listening", "version": JSON_VERSION, "address": address.to_string() }).to_string()
    } else {
        address.to_string()
    };
    say(&line);
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    // Whoever closed our output does not want it; serving goes on.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Says what is held, at first and whenever that has changed, for ever.
async fn tell(holder: Option<Arc<Holder>>, json: bool) {
    let Some(holder) = holder else { return std::future::pending().await };
    let mut changes = holder.changes();
    loop {
        changes.mark_unchanged();
        let stats = holder.stats();
        tracing::info!(blobs = stats.blobs, bytes = stats.bytes, parts = stats.parts, used = stats.used, quota = stats.quota, "holding");
        if json {
            let document = serde_json::json!({
                "kind": "holding", "version": JSON_VERSION, "blobs": stats.blobs, "bytes": stats.bytes, "parts": stats.parts,
                "used": stats.used, "quota": stats.quota,
            });
            say(&document.to_string());
        }
        tokio::time::sleep(TELL_EVERY).await;
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
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
