//! Why a home can't be used.

use std::io;
use std::path::{Path, PathBuf};

use barnraiser_protocol::trust::charter::CharterError;
use barnraiser_protocol::trust::keys::KeyFileError;

use crate::api::Problem;
use crate::config::ConfigError;

/// Why a home can't be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Nothing says where it is.
    #[error("where is the home? Give --home DIR, or set BARN_HOME; HOME is not set either")]
    NoFolder,
    /// A file is in its place.
    #[error("a home is a folder, and {} is not one: give another --home or BARN_HOME", .path.display())]
    NotAFolder {
        /// What is there.
        path: PathBuf,
    },
    /// There is none.
    #[error("there is no home in {}; `barn init` makes one", .root.display())]
    NoHome {
        /// Where it would be.
        root: PathBuf,
    },
    /// A key is not there.
    #[error("there is no key in {}", .path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A key that others can read.
    #[error(
        "the key in {path} can be read by others (mode {mode:04o}); `chmod 600 {path}` mends that, but if others were on \
         this machine, make a new one", path = .path.display()
    )]
    OpenKey {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not the key that is wanted.
    #[error("{}: {error}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: KeyFileError,
    },
    /// Keys are there already.
    #[error("{} is there already; a home's keys are never overwritten", .path.display())]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// Bytes that are no text.
    #[error("{} is not a text in UTF-8", .path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// More bytes than such a file has.
    #[error("{} has more than {limit} bytes, the most it may have", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// The settings are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of a network is damaged.
    #[error("{}: {reason}", .path.display())]
    Network {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A network's charter is damaged.
    #[error("{}: {error}", .path.display())]
    Charter {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: Box<CharterError>,
    },
    /// A member of none.
    #[error("this home is a member of no network; `barn join TICKET` joins one, `barn network create NAME` makes one")]
    NoNetwork,
    /// Not a member of that one.
    #[error("this home is not a member of a network {wanted:?}; it is a member of {}", list(.have))]
    UnknownNetwork {
        /// As asked for.
        wanted: String,
        /// The names of those that it is a member of.
        have: Vec<String>,
    },
    /// A member of several, so that it must be said which is meant.
    #[error("this home is a member of {}; say which with --network", list(.have))]
    WhichNetwork {
        /// Those that could be meant.
        have: Vec<String>,
    },
    /// Another node has the home.
    #[error(
        "a node runs on the home {} already{}; a home has one node, and a second node needs a home of its own (--home)",
        .root.display(),
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    AlreadyRunning {
        /// The home.
        root: PathBuf,
        /// The other node's process, where that is known.
        pid: Option<u32>,
    },
    /// This machine could not.
    #[error("{doing} {}: {error}", .path.display())]
    Io {
        /// What was being done, for example `writing`.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl HomeError {
    /// [`HomeError::Io`] as a closure for `map_err`.
    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |error| Self::Io { doing, path, error }
    }
}

impl From<HomeError> for Problem {
    /// The exit codes of INTERFACES: what is not there is 3, what can't be read is 2, what this machine lacks is 1.
    fn from(error: HomeError) -> Self {
        let message = error.to_string();
        match error {
            HomeError::NoHome { .. } | HomeError::NoKey { .. } | HomeError::NoNetwork | HomeError::UnknownNetwork { .. } => {
                Self::not_found(message)
            }
            HomeError::AlreadyRunning { .. } | HomeError::Io { .. } | HomeError::NoFolder | HomeError::Occupied { .. } => {
                Self::failed(message)
            }
            HomeError::OpenKey { .. }
            | HomeError::Key { .. }
            | HomeError::NotText { .. }
            | HomeError::TooLarge { .. }
            | HomeError::Config(_)
            | HomeError::Network { .. }
            | HomeError::Charter { .. }
            | HomeError::NotAFolder { .. }
            | HomeError::WhichNetwork { .. } => Self::usage(message),
        }
    }
}
