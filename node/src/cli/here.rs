//! What every offline command has at hand: the home, how to print, files that people name, and the node to be told.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::trust::charter::Charter;

use super::args::Global;
use super::output::Output;
use crate::api::{Done, Problem, Status};
use crate::client::Client;
use crate::home::{Home, NetworkEntry, write_atomic};

/// The status of a [`Problem`] that means: no node runs on this home.
const UNREACHABLE: u16 = 504;

/// A command's surroundings.
pub(super) struct Here {
    /// The options of all commands.
    pub global: Global,
    /// How to print.
    pub out: Output,
}

impl Here {
    pub fn new(global: Global) -> Self {
        let out = Output::new(&global);
        Self { global, out }
    }

    /// The home, which need not exist.
    pub fn home(&self) -> Result<Home, Problem> {
        Ok(Home::locate(self.global.home.as_deref())?)
    }

    /// The network that the command is about.
    pub fn network(&self, home: &Home) -> Result<NetworkEntry, Problem> {
        Ok(home.pick_network(self.global.network.as_deref())?)
    }

    /// The network that the command is about, and its charter.
    pub fn live_network(&self, home: &Home) -> Result<(NetworkEntry, Charter), Problem> {
        let mut entry = self.network(home)?;
        match entry.charter.take() {
            Some(charter) => Ok((entry, charter)),
            None => Err(Problem::failed(format!(
                "network {:?} is still being joined: its rules are not known yet; start the node with `barn run`, which asks for them",
                entry.name
            ))),
        }
    }

    /// Tells a running node to read its home again, and says whether one runs.
    pub async fn tell_node(&self, home: &Home) -> Result<bool, Problem> {
        let told: Result<Done, Problem> = Client::at(home.socket_path()).post("/api/v1/reload", &()).await;
        match told {
            Ok(_) => Ok(true),
            Err(problem) if problem.status == UNREACHABLE => {
                self.out.note("no node is running on this home; `barn run` starts it");
                Ok(false)
            }
            Err(problem) => {
                Err(Problem::failed(format!("it is written down in the home, but the running node did not take it: {problem}")))
            }
        }
    }

    /// What the running node says of itself; `None` where none runs.
    pub async fn status(&self, home: &Home) -> Result<Option<Status>, Problem> {
        match Client::at(home.socket_path()).get("/api/v1/status").await {
            Ok(status) => Ok(Some(status)),
            Err(problem) if problem.status == UNREACHABLE => Ok(None),
            Err(problem) => Err(problem),
        }
    }
}

/// Now, by this machine's clock.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The bytes of a file that a person named, at most `limit`.
pub(super) fn read_file(path: &Path, limit: usize) -> Result<Vec<u8>, Problem> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Problem::not_found(format!("{}: there is no such file", path.display())),
        _ => Problem::usage(format!("{} can't be read: {error}", path.display())),
    };
    // A pipe or device would be waited for, and may never end.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Problem::usage(format!("{} is not a file", path.display())));
    }
    let mut bytes = Vec::new();
    fs::File::open(path).and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() > limit {
        return Err(Problem::usage(format!("{} has more than {limit} bytes, the most that such a file may have", path.display())));
    }
    Ok(bytes)
}

/// Writes a file that a person named, readable by all: nothing that goes through here is secret.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    Ok(write_atomic(path, bytes, 0o644)?)
}

/// A problem about a file: `reason` with the file's name in front.
pub(super) fn in_file(path: &Path, reason: impl std::fmt::Display) -> Problem {
    Problem::usage(format!("{}: {reason}", path.display()))
}
