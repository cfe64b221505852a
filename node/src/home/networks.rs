//! The networks that a home is a member of, each in a folder of its own: `networks/ID/`.
//!
//! | File | |
//! |---|---|
//! | `network.json` | id, name, addresses to ask first |
//! | `charter.json` | the signed charter; not there while joining |
//! | `standing/ID.rec` | signed records of this operator that the node publishes |
//! | `releases/CHANNEL.json` | the newest release of each channel |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use barnraiser_protocol::id::NetworkId;
use barnraiser_protocol::record::payload::ChannelName;
use barnraiser_protocol::record::{RECORD_BYTES_MAX, SharedRecord};
use barnraiser_protocol::release::{RELEASE_BYTES_MAX, Release};
use barnraiser_protocol::trust::charter::{BUNDLE_BYTES_MAX, Charter, CharterParts};
use barnraiser_protocol::trust::name::channel_name;
use serde::{Deserialize, Serialize};

use super::files::{make_private_folder, read_bounded, write_atomic};
use super::{Home, HomeError};

/// The most bytes of a `network.json`.
const NETWORK_FILE_BYTES_MAX: usize = 64 << 10;
/// The most bytes of a `charter.json`: JSON texts in JSON, each quote and line end escaped.
const CHARTER_FILE_BYTES_MAX: usize = 4 * BUNDLE_BYTES_MAX;
/// The most records of its own that a home keeps for one network.
const STANDING_MAX: usize = 4096;
/// The most addresses to ask first that a home keeps for one network.
const BOOTSTRAP_KEPT_MAX: usize = 32;

/// A network that a home is a member of.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkEntry {
    /// Its id.
    pub id: NetworkId,
    /// Its name. Two networks may have the same.
    pub name: String,
    /// Addresses to ask first, as multiaddr texts.
    pub bootstrap: Vec<String>,
    /// Its charter; `None` while joining.
    pub charter: Option<Charter>,
    /// Records of this home's operator, and the invitation of its ticket: their bytes.
    pub standing: Vec<Vec<u8>>,
}

/// The newest release of a channel that a home knows.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownRelease {
    /// The channel.
    pub channel: ChannelName,
    /// The release.
    pub release: Release,
}

/// `network.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkFile {
    id: NetworkId,
    name: String,
    bootstrap: Vec<String>,
}

impl Home {
    pub(super) fn networks_dir(&self) -> PathBuf {
        self.root.join("networks")
    }

    /// A network's folder.
    pub fn network_dir(&self, id: &NetworkId) -> PathBuf {
        self.networks_dir().join(id.to_string())
    }

    /// All networks that this home is a member of, in the order of their names.
    ///
    /// # Errors
    /// [`HomeError`] where a file of one can't be read.
    pub fn networks(&self) -> Result<Vec<NetworkEntry>, HomeError> {
        let mut networks = Vec::new();
        for path in list(&self.networks_dir())? {
            // Names that are no ids are none of ours.
            let Some(id) = path.file_name().and_then(|name| name.to_str()?.parse::<NetworkId>().ok()) else { continue };
            networks.extend(self.network(&id)?);
        }
        networks.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        Ok(networks)
    }

    /// The network with that id, where this home is a member of it.
    ///
    /// # Errors
    /// [`HomeError`] where a file of it can't be read.
    pub fn network(&self, id: &NetworkId) -> Result<Option<NetworkEntry>, HomeError> {
        let folder = self.network_dir(id);
        let path = folder.join("network.json");
        // A folder without it is one that is being made, or was being removed when the machine stopped.
        let Some(bytes) = read_bounded(&path, NETWORK_FILE_BYTES_MAX)? else { return Ok(None) };
        let damaged = |reason: String| HomeError::Network { path: path.clone(), reason };
        let file: NetworkFile = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if file.id != *id {
            return Err(damaged(format!("it is of network {}", file.id)));
        }
        let charter = self.charter(id)?;
        let standing = standing(&folder.join("standing"))?;
        Ok(Some(NetworkEntry { id: *id, name: file.name, bootstrap: file.bootstrap, charter, standing }))
    }

    fn charter(&self, id: &NetworkId) -> Result<Option<Charter>, HomeError> {
        let path = self.network_dir(id).join("charter.json");
        let Some(bytes) = read_bounded(&path, CHARTER_FILE_BYTES_MAX)? else { return Ok(None) };
        let damaged = |error: serde_json::Error| HomeError::Network { path: path.clone(), reason: error.to_string() };
        let parts: CharterParts = serde_json::from_slice(&bytes).map_err(damaged)?;
        let charter = Charter::reload(*id, parts);
        Ok(Some(charter.map_err(|error| HomeError::Charter { path: path.clone(), error: Box::new(error) })?))
    }

    /// The network that a command is about: the one with that name or beginning of an id, or else the only one.
    ///
    /// # Errors
    /// [`HomeError`]: none, not that one, or several.
    pub fn pick_network(&self, wanted: Option<&str>) -> Result<NetworkEntry, HomeError> {
        let networks = self.networks()?;
        let names = |networks: &[NetworkEntry]| -> Vec<String> {
            // Two of one name can only be told apart by their ids.
            let twice = |entry: &NetworkEntry| networks.iter().filter(|other| other.name == entry.name).count() > 1;
            networks
                .iter()
                .map(|entry| if twice(entry) { format!("{} ({})", entry.name, entry.id.short()) } else { entry.name.clone() })
                .collect()
        };
        let all = names(&networks);
        let mut fitting = match wanted {
            None if networks.is_empty() => return Err(HomeError::NoNetwork),
            None => networks,
            Some(wanted) => {
                let digits = wanted.to_ascii_lowercase();
                let (named, others): (Vec<_>, Vec<_>) = networks.into_iter().partition(|entry| entry.name == wanted);
                if named.is_empty() {
                    others.into_iter().filter(|entry| entry.id.to_string().starts_with(&digits)).collect()
                } else {
                    named
                }
            }
        };
        match fitting.len() {
            0 => Err(HomeError::UnknownNetwork { wanted: wanted.unwrap_or_default().to_owned(), have: all }),
            1 => Ok(fitting.remove(0)),
            _ => Err(HomeError::WhichNetwork { have: names(&fitting) }),
        }
    }

    /// Writes down that this home is a member of a network. Where it is one already, new addresses are added.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn add_network(&self, id: &NetworkId, name: &str, bootstrap: &[String]) -> Result<(), HomeError> {
        let folder = self.network_dir(id);
        make_private_folder(&folder.join("standing"))?;
        make_private_folder(&folder.join("releases"))?;
        let known = self.network(id)?;
        let (name, mut addresses) = known.map_or((name.to_owned(), Vec::new()), |entry| (entry.name, entry.bootstrap));
        for address in bootstrap {
            if !addresses.contains(address) && addresses.len() < BOOTSTRAP_KEPT_MAX {
                addresses.push(address.clone());
            }
        }
        let file = NetworkFile { id: *id, name, bootstrap: addresses };
        write_json(&folder.join("network.json"), &file)
    }

    /// Keeps a network's charter, where it is newer than the one that is there.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn save_charter(&self, id: &NetworkId, charter: &Charter) -> Result<(), HomeError> {
        let path = self.network_dir(id).join("charter.json");
        if charter.network() != *id {
            return Err(HomeError::Network { path, reason: format!("a charter of network {} was to be kept there", charter.network()) });
        }
        // The node may have taken a newer one in the meantime.
        if self.charter(id)?.is_some_and(|known| known.version() > charter.version()) {
            return Ok(());
        }
        write_json(&path, charter.parts())
    }

    /// Keeps a signed record, to be published by the node.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn add_standing(&self, record: &SharedRecord) -> Result<(), HomeError> {
        let folder = self.network_dir(&record.network()).join("standing");
        make_private_folder(&folder)?;
        write_atomic(&folder.join(format!("{}.rec", record.id())), &record.bytes(), 0o600)
    }

    /// Keeps the newest release of a channel, as it was signed.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn save_release(&self, id: &NetworkId, channel: &str, bytes: &[u8]) -> Result<(), HomeError> {
        let folder = self.network_dir(id).join("releases");
        let path = folder.join(format!("{channel}.json"));
        channel_name(channel).map_err(|error| HomeError::Network { path: path.clone(), reason: error.to_string() })?;
        make_private_folder(&folder)?;
        write_atomic(&path, bytes, 0o600)
    }

    /// The newest release of each channel that this home knows, checked against its charter; expired ones too. None while
    /// the charter is not known.
    ///
    /// # Errors
    /// [`HomeError`] where one can't be read or is not what the maintainers signed.
    pub fn releases(&self, entry: &NetworkEntry) -> Result<Vec<KnownRelease>, HomeError> {
        let Some(charter) = &entry.charter else { return Ok(Vec::new()) };
        let mut releases = Vec::new();
        for path in list(&self.network_dir(&entry.id).join("releases"))? {
            let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json"));
            let Some(channel) = name.and_then(|name| channel_name(name).ok()) else { continue };
            let Some(bytes) = read_bounded(&path, RELEASE_BYTES_MAX)? else { continue };
            let release =
                Release::reload(&bytes, charter).map_err(|error| HomeError::Network { path: path.clone(), reason: error.to_string() })?;
            if *release.channel() != channel {
                return Err(HomeError::Network { path, reason: format!("it is a release of channel {}", release.channel()) });
            }
            releases.push(KnownRelease { channel, release });
        }
        releases.sort_by(|a, b| a.channel.cmp(&b.channel));
        Ok(releases)
    }

    /// Forgets a network. What was built and fetched stays in the store.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn remove_network(&self, id: &NetworkId) -> Result<(), HomeError> {
        let folder = self.network_dir(id);
        // First the file that makes it a network, so that a half removed one is none.
        let file = folder.join("network.json");
        fs::remove_file(&file).map_err(HomeError::io("removing", &file))?;
        fs::remove_dir_all(&folder).map_err(HomeError::io("removing", &folder))
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), HomeError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| HomeError::io("writing", path)(error.into()))?;
    bytes.push(b'\n');
    write_atomic(path, &bytes, 0o600)
}

/// The paths in a folder, in the order of their names; none where there is no folder.
fn list(folder: &Path) -> Result<Vec<PathBuf>, HomeError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(HomeError::io("reading", folder)(error)),
    };
    let paths: Result<Vec<PathBuf>, io::Error> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.map_err(HomeError::io("reading", folder))?;
    paths.sort();
    Ok(paths)
}

fn standing(folder: &Path) -> Result<Vec<Vec<u8>>, HomeError> {
    let mut records = Vec::new();
    for path in list(folder)? {
        if path.extension().is_none_or(|extension| extension != "rec") {
            continue;
        }
        records.extend(read_bounded(&path, RECORD_BYTES_MAX)?);
        if records.len() > STANDING_MAX {
            return Err(HomeError::Network { path: folder.to_owned(), reason: format!("more than {STANDING_MAX} records") });
        }
    }
    Ok(records)
}
