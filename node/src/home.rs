//! The home: the folder that holds a node's keys, settings, networks and store.
//!
//! The home is the interface between the command line and the node: a command writes what it wants here (a network to
//! join, a charter, a certificate), and tells a running node to read it again. All writes are atomic, so that either the
//! old or the new file is there after a crash.
//!
//! | Path | |
//! |---|---|
//! | `barn.toml` | settings ([`crate::config`]) |
//! | `operator.key`, `node.key`, `keys/` | secrets, readable by their owner only |
//! | `networks/ID/` | a network that this home is a member of ([`NetworkEntry`]) |
//! | `store/` | the node's blobs and records |
//! | `local/` | what `barn build` keeps |
//! | `builds/`, `logs/` | scratch folders and logs of builds |
//! | `barn.sock`, `lock` | where the running node answers, and that it is the only one |

mod error;
mod files;
mod networks;

use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use barnraiser_protocol::id::{NodeId, OperatorId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::trust::keys::{KEY_FILE_BYTES_MAX, KeyKind, parse_key_file, print_key_file};

pub use error::HomeError;
pub use files::write_atomic;
pub use networks::{KnownRelease, NetworkEntry};

use crate::config::Config;
use files::{make_private_folder, read_bounded, write_new};

/// The most bytes a Unix socket's path may have on Linux.
const SOCKET_PATH_MAX: usize = 107;
/// The name of the data folder's part that is ours.
const FOLDER: &str = "barnraiser";

/// A home, which need not exist yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

/// A home's secrets and settings.
#[derive(Debug)]
pub struct OpenHome {
    /// Stands behind all nodes of this person or organisation.
    pub operator: SecretKey,
    /// This node's own.
    pub node: SecretKey,
    /// The settings.
    pub config: Config,
}

/// What [`Home::init`] found and made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitReport {
    /// Files that were made.
    pub made: Vec<&'static str>,
    /// Files that were there already, and are as they were.
    pub kept: Vec<&'static str>,
    /// The operator.
    pub operator: OperatorId,
    /// The node.
    pub node: NodeId,
}

/// Shows that this process is the only node of the home, as long as it lives.
#[derive(Debug)]
pub struct HomeLock {
    // Closing it ends the lock.
    _file: fs::File,
}

impl Home {
    const CONFIG: &str = "barn.toml";
    const OPERATOR_KEY: &str = "operator.key";
    const NODE_KEY: &str = "node.key";

    /// The home in `root`.
    ///
    /// # Errors
    /// [`HomeError::Io`] where a relative path can't be completed.
    pub fn at(root: &Path) -> Result<Self, HomeError> {
        let root = std::path::absolute(root).map_err(HomeError::io("finding", root))?;
        Ok(Self { root })
    }

    /// The home that `--home` says, or else `BARN_HOME`, or else the XDG data folder.
    ///
    /// # Errors
    /// [`HomeError::NoFolder`] where none of them says anything, [`HomeError::NotAFolder`] where it, or what it lies in, is
    /// something else.
    pub fn locate(given: Option<&Path>) -> Result<Self, HomeError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = (given.map(Path::to_owned))
            .or_else(|| variable("BARN_HOME"))
            .or_else(|| Some(variable("XDG_DATA_HOME")?.join(FOLDER)))
            .or_else(|| Some(variable("HOME")?.join(".local/share").join(FOLDER)));
        let home = Self::at(&root.ok_or(HomeError::NoFolder)?)?;
        match home.root.ancestors().find(|path| path.exists()) {
            Some(path) if !path.is_dir() => Err(HomeError::NotAFolder { path: path.to_owned() }),
            _ => Ok(home),
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// The settings' file.
    pub fn config_path(&self) -> PathBuf {
        self.root.join(Self::CONFIG)
    }
    /// The operator's key file.
    pub fn operator_key_path(&self) -> PathBuf {
        self.root.join(Self::OPERATOR_KEY)
    }
    /// The node's key file.
    pub fn node_key_path(&self) -> PathBuf {
        self.root.join(Self::NODE_KEY)
    }
    /// Where `network create` keeps signing keys.
    pub fn keys_dir(&self) -> PathBuf {
        self.root.join("keys")
    }
    /// The node's store.
    pub fn store_dir(&self) -> PathBuf {
        self.root.join("store")
    }
    /// What `barn build` keeps, apart from the node's store, which a running node has locked.
    pub fn local_dir(&self) -> PathBuf {
        self.root.join("local")
    }
    /// Scratch folders of builds.
    pub fn builds_dir(&self) -> PathBuf {
        self.root.join("builds")
    }
    /// Logs of builds.
    pub fn logs_dir(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The node's socket: `barn.sock` in the home, or, where that path is too long for a socket, a name made of the
    /// home's path below `XDG_RUNTIME_DIR` or `/tmp`.
    pub fn socket_path(&self) -> PathBuf {
        let path = self.root.join("barn.sock");
        if path.as_os_str().len() <= SOCKET_PATH_MAX {
            return path;
        }
        let name = format!("barn-{}.sock", &blake3::hash(self.root.as_os_str().as_bytes()).to_hex()[..24]);
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute());
        let path = runtime.map(|folder| folder.join(&name)).filter(|path| path.as_os_str().len() <= SOCKET_PATH_MAX);
        path.unwrap_or_else(|| Path::new("/tmp").join(name))
    }

    /// Whether there is a home: its operator's key.
    ///
    /// # Errors
    /// [`HomeError::Io`] where that can't be told.
    pub fn exists(&self) -> Result<bool, HomeError> {
        let path = self.operator_key_path();
        path.try_exists().map_err(HomeError::io("looking for", &path))
    }

    /// Makes what is missing: folders, keys, settings. What is there already stays as it is, and must be readable.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn init(&self) -> Result<InitReport, HomeError> {
        make_private_folder(&self.root)?;
        for folder in [self.keys_dir(), self.builds_dir(), self.logs_dir(), self.networks_dir()] {
            make_private_folder(&folder)?;
        }
        let (mut made, mut kept) = (Vec::new(), Vec::new());
        let new_key = |kind| print_key_file(kind, &SecretKey::from_seed(&rand::random()));
        for (name, text) in [
            (Self::OPERATOR_KEY, new_key(KeyKind::Operator)),
            (Self::NODE_KEY, new_key(KeyKind::Node)),
            (Self::CONFIG, Config::commented()),
        ] {
            let list = if write_new(&self.root.join(name), text.as_bytes())? { &mut made } else { &mut kept };
            list.push(name);
        }
        let OpenHome { operator, node, .. } = self.open()?;
        Ok(InitReport { made, kept, operator: operator.operator(), node: node.node() })
    }

    /// Reads keys and settings.
    ///
    /// # Errors
    /// [`HomeError`]: no home, keys that are damaged, of the wrong kind or open to others, settings that are wrong.
    pub fn open(&self) -> Result<OpenHome, HomeError> {
        let operator = self.operator_key()?;
        let node = read_key(&self.node_key_path(), KeyKind::Node)?;
        Ok(OpenHome { operator, node, config: self.config()? })
    }

    /// Reads the operator's key alone.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn operator_key(&self) -> Result<SecretKey, HomeError> {
        if !self.exists()? {
            return Err(HomeError::NoHome { root: self.root.clone() });
        }
        read_key(&self.operator_key_path(), KeyKind::Operator)
    }

    /// Reads the settings alone: the defaults where there is no file.
    ///
    /// # Errors
    /// [`HomeError::Config`], or [`HomeError::Io`] for a file that is there and can't be read.
    pub fn config(&self) -> Result<Config, HomeError> {
        let path = self.config_path();
        match read_bounded(&path, barnraiser_protocol::recipe::FILE_BYTES_MAX)? {
            Some(bytes) => {
                let text = String::from_utf8(bytes).map_err(|_| HomeError::NotText { path: path.clone() })?;
                Ok(Config::parse(&path, &text)?)
            }
            None => Ok(Config::default()),
        }
    }

    /// Puts keys from elsewhere into a home that has none.
    ///
    /// # Errors
    /// [`HomeError::Occupied`] where there are keys already.
    pub fn restore(&self, operator: &SecretKey, node: &SecretKey) -> Result<InitReport, HomeError> {
        make_private_folder(&self.root)?;
        for path in [self.operator_key_path(), self.node_key_path()] {
            if path.try_exists().map_err(HomeError::io("looking for", &path))? {
                return Err(HomeError::Occupied { path });
            }
        }
        write_new(&self.node_key_path(), print_key_file(KeyKind::Node, node).as_bytes())?;
        // The operator's key last: a home is there once it is.
        write_new(&self.operator_key_path(), print_key_file(KeyKind::Operator, operator).as_bytes())?;
        self.init()
    }

    /// Makes this process the home's only node.
    ///
    /// # Errors
    /// [`HomeError::AlreadyRunning`].
    pub fn lock(&self) -> Result<HomeLock, HomeError> {
        let path = self.root.join("lock");
        let fail = HomeError::io("locking", &path);
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = file.map_err(fail)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // The holder writes its number for people; a lock whose file can't be read holds all the same.
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(HomeError::AlreadyRunning { root: self.root.clone(), pid });
            }
            Err(error) => return Err(HomeError::io("locking", &path)(error.into())),
        }
        let noted = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        noted.map_err(HomeError::io("writing", &path))?;
        Ok(HomeLock { _file: file })
    }
}

/// Reads a secret key from a file that only its owner can read.
///
/// # Errors
/// [`HomeError`]: not there, open to others, damaged, of another kind.
pub fn read_key(path: &Path, kind: KeyKind) -> Result<SecretKey, HomeError> {
    let text = read_key_text(path)?;
    parse_key_file(kind, &text).map_err(|error| HomeError::Key { path: path.to_owned(), error })
}

/// The text of a key file that only its owner can read.
///
/// # Errors
/// [`HomeError`]: not there, open to others, no text.
pub fn read_key_text(path: &Path) -> Result<String, HomeError> {
    let missing = || HomeError::NoKey { path: path.to_owned() };
    let mode = match fs::metadata(path) {
        Ok(meta) => meta.permissions().mode() & 0o777,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
        Err(error) => return Err(HomeError::io("reading", path)(error)),
    };
    if mode & 0o077 != 0 {
        return Err(HomeError::OpenKey { path: path.to_owned(), mode });
    }
    let bytes = read_bounded(path, KEY_FILE_BYTES_MAX)?.ok_or_else(missing)?;
    String::from_utf8(bytes).map_err(|_| HomeError::NotText { path: path.to_owned() })
}

/// Writes a secret to a new file that only its owner can read. Whether it did: `false` where the file was there already.
///
/// # Errors
/// [`HomeError::Io`].
pub fn write_secret(path: &Path, text: &str) -> Result<bool, HomeError> {
    write_new(path, text.as_bytes())
}

#[cfg(test)]
mod tests;
