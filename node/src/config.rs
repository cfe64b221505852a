//! `barn.toml`: what the owner of this machine lends, where the node listens, and where sources come from.
//!
//! Every key has a default, and `barn init` writes them all down as comments. A file that can't be read, or says
//! something unknown, is an error: a typing mistake must not lend a whole machine.

mod traffic;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;

use barnraiser_protocol::recipe::{FILE_BYTES_MAX, parse_size};
use serde::{Deserialize, Deserializer};

use crate::platform::Platform;
use crate::sources::Mirror;
pub use traffic::{Cap, Hours, Rate, Room, StoreConfig, TrafficConfig};

/// The port that nodes listen on where nothing else is said.
pub const DEFAULT_PORT: u16 = 4327;
/// The most addresses that a node listens on.
const LISTEN_MAX: usize = 16;
/// The least memory that is of use to a build, in bytes.
const MEMORY_LEAST: u64 = 64 << 20;

/// A number of bytes, in the file as for example `"2 GiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Size {
    /// The largest unit in which it is a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match UNITS.iter().find(|(unit, _)| self.0 >= *unit && self.0.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_size(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// What `barn.toml` says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What of this machine is lent.
    pub lend: LendConfig,
    /// Where the node listens.
    pub listen: ListenConfig,
    /// What may travel, how fast and when.
    pub traffic: TrafficConfig,
    /// How much is kept.
    pub store: StoreConfig,
    /// Other places for sources: the beginning of an address, and what stands in its place.
    mirrors: BTreeMap<String, String>,
}

/// `[lend]`: what of this machine is lent to builds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LendConfig {
    /// Whether this node takes builds at all.
    pub builds: bool,
    /// CPU cores that builds may use together; at least 1.
    pub cores: u16,
    /// Memory that builds may use together; at least 64 MiB.
    pub memory: Size,
    /// Takes only builds that settle disputes.
    pub arbiter_only: bool,
}

impl Default for LendConfig {
    /// Half the cores and a quarter of the memory: its owner should not notice.
    fn default() -> Self {
        let platform = Platform::this();
        // A machine that can't tell is taken for a small one.
        let memory = if platform.memory == 0 { 1 << 30 } else { platform.memory };
        let mib = 1 << 20;
        Self {
            builds: true,
            cores: (platform.cores / 2).max(1),
            memory: Size((memory / 4 / mib * mib).max(MEMORY_LEAST)),
            arbiter_only: false,
        }
    }
}

/// `[listen]`: where peers reach this node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenConfig {
    /// Multiaddrs of TCP and QUIC.
    pub addresses: Vec<String>,
}

fn addresses(port: u16) -> Vec<String> {
    vec![format!("/ip4/0.0.0.0/tcp/{port}"), format!("/ip4/0.0.0.0/udp/{port}/quic-v1")]
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self { addresses: addresses(DEFAULT_PORT) }
    }
}

impl ListenConfig {
    /// The addresses to listen on now: where the file names none and something else has the default port (a second node
    /// on this machine, most often), any free port.
    pub fn addresses_now(&self) -> Vec<String> {
        if *self == Self::default() && !port_is_free(DEFAULT_PORT) { addresses(0) } else { self.addresses.clone() }
    }
}

/// Whether nothing on this machine listens on `port`, neither by TCP nor by UDP.
pub fn port_is_free(port: u16) -> bool {
    TcpListener::bind(("0.0.0.0", port)).is_ok() && UdpSocket::bind(("0.0.0.0", port)).is_ok()
}

/// Why `barn.toml` can't be used. The text begins with file, line and column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}{}", .help.as_ref().map(|help| format!("; {help}")).unwrap_or_default())]
pub struct ConfigError {
    /// The file, and where that is known `:LINE:COLUMN`.
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// What to do, where that is known.
    pub help: Option<String>,
}

/// Tables and keys that INTERFACES names and this version does not honour: a file that has them was written for a later
/// one, and to pass over a limit that its owner set would be worse than to stop.
const LATER: &[&str] = &["serve", "swarm", "http", "notify", "disk", "hours", "idle", "mains", "pressure", "classes", "hide_address"];

impl Config {
    /// What `text` says, the contents of `path`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        if text.len() > FILE_BYTES_MAX {
            let message = format!("{} bytes are more than a configuration has", text.len());
            return Err(ConfigError { place: path.display().to_string(), message, help: None });
        }
        let config: Self = toml::from_str(text).map_err(|error| {
            let place = match error.span() {
                Some(span) => place(path, text, span.start),
                None => path.display().to_string(),
            };
            let message = error.message().trim().to_owned();
            let help = help(&message);
            ConfigError { place, message, help }
        })?;
        config.check().map_err(|message| ConfigError { place: path.display().to_string(), message, help: None })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if self.lend.cores == 0 {
            return Err("[lend] cores is 0; at least 1 is wanted (`builds = false` takes no builds at all)".to_owned());
        }
        if self.lend.memory.bytes() < MEMORY_LEAST {
            return Err(format!("[lend] memory is {}; at least {} is wanted", self.lend.memory, Size(MEMORY_LEAST)));
        }
        self.traffic.check()?;
        let count = self.listen.addresses.len();
        if count == 0 || count > LISTEN_MAX {
            return Err(format!("[listen] has {count} addresses; 1 to {LISTEN_MAX} are wanted"));
        }
        for address in &self.listen.addresses {
            if let Err(error) = address.parse::<libp2p::Multiaddr>() {
                return Err(format!("[listen] {address:?} is no address ({error}); write for example {:?}", addresses(DEFAULT_PORT)[0]));
            }
        }
        if self.mirrors.keys().any(String::is_empty) {
            return Err("[mirrors] has an empty beginning of addresses".to_owned());
        }
        Ok(())
    }

    /// Other places for sources, the most exact beginning first.
    pub fn mirrors(&self) -> Vec<Mirror> {
        let mut mirrors: Vec<Mirror> =
            (self.mirrors.iter()).map(|(prefix, replace)| Mirror { prefix: prefix.clone(), replace: replace.clone() }).collect();
        mirrors.sort_by_key(|mirror| std::cmp::Reverse(mirror.prefix.len()));
        mirrors
    }

    /// The text that `barn init` writes: every key with its default, as comments.
    pub fn commented() -> String {
        let LendConfig { builds, cores, memory, arbiter_only } = LendConfig::default();
        let TrafficConfig { up, down, up_per_peer, monthly_cap, hours, connections } = TrafficConfig::default();
        let StoreConfig { quota } = StoreConfig::default();
        let listen = ListenConfig::default().addresses;
        let quoted: Vec<String> = listen.iter().map(|address| format!("{address:?}")).collect();
        let platform = Platform::this();
        format!(
            "\
# What this machine lends to Barnraiser, and how its node behaves.
#
# A line that begins with # says what holds without it. Take the # away to change it, then restart the node.

[lend]
# Whether this node takes builds. Without, it stores, serves and fetches only.
#builds = {builds}

# CPU cores that builds may use together (this machine has {all_cores}).
#cores = {cores}

# Memory that builds may use together (this machine has {all_memory}).
#memory = \"{memory}\"

# Take only builds that settle disputes. The maintainers must trust this node's operator for that.
#arbiter_only = {arbiter_only}

[listen]
# Where peers reach this node, by TCP and QUIC. Where nothing is said and something else has the port, any free one is taken.
#addresses = [{addresses}]

[traffic]
# How fast this node may send and receive, all told: blobs, gossip and everything else. For example \"2 MiB/s\" or \"20 Mbit/s\";
# a little less than your line carries leaves it quick for others. What leases need goes before blobs.
#up = \"{up}\"
#down = \"{down}\"

# How fast blobs may be sent to each peer.
#up_per_peer = \"{up_per_peer}\"

# Bytes in a calendar month, sent and received together, for example \"200 GiB\". When they are used up, blobs of more than
# 256 KiB stay where they are until the month is over, and no build is taken; records still travel.
#monthly_cap = \"{monthly_cap}\"

# When blobs may travel and builds are taken, by this machine's clock, for example \"22:00-07:00\". Records always travel.
#hours = \"{hours}\"

# Connections in all.
#connections = {connections}

[store]
# How much blobs may take on the disk before what can be fetched again goes, least recently used first: a size, for example
# \"50 GiB\", or a part of what would be free without them. What is pinned, built or added here stays in any case.
#quota = \"{quota}\"

[mirrors]
# Other places for sources, tried first: the beginning of an address, and what stands in its place.
#\"https://ftp.gnu.org/gnu/\" = \"https://ftpmirror.gnu.org/\"
",
            all_cores = platform.cores,
            all_memory = crate::cli::output::bytes(platform.memory),
            addresses = quoted.join(", "),
        )
    }
}

/// `file:line:column` of an offset.
fn place(path: &Path, text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    format!("{}:{line}:{column}", path.display())
}

/// What to do about an unknown key.
fn help(message: &str) -> Option<String> {
    // The parser's words: "unknown field `core`, expected one of `builds`, `cores`, …".
    let rest = message.strip_prefix("unknown field `")?;
    let (unknown, expected) = rest.split_once('`')?;
    if LATER.contains(&unknown) {
        return Some("a later version of Barnraiser honours it; remove it, since this one would not do what it says".to_owned());
    }
    let known = expected.split('`').skip(1).step_by(2);
    let (distance, nearest) = known.map(|name| (strsim::damerau_levenshtein(unknown, name), name)).min()?;
    (distance <= 1 + unknown.len() / 3).then(|| format!("did you mean `{nearest}`?"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("barn.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_and_the_commented_one_are_the_defaults() {
        assert_eq!(parse("").unwrap(), Config::default());
        assert_eq!(parse(&Config::commented()).unwrap(), Config::default());
    }

    /// One fact, one place: what the comments say is what holds.
    #[test]
    fn the_commented_defaults_are_the_defaults() {
        let uncommented: Vec<String> = Config::commented()
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned())
            .collect();
        let parsed = parse(&uncommented.join("\n")).unwrap();
        assert_eq!((parsed.lend, parsed.listen), (LendConfig::default(), ListenConfig::default()));
        assert_eq!((parsed.traffic, parsed.store), (TrafficConfig::default(), StoreConfig::default()));
        assert_eq!(parsed.mirrors.len(), 1);
    }

    #[test]
    fn defaults_leave_the_machine_to_its_owner() {
        let lend = LendConfig::default();
        let platform = Platform::this();
        assert!(lend.cores >= 1 && u32::from(lend.cores) * 2 <= u32::from(platform.cores).max(2));
        assert!(lend.memory.bytes() <= (platform.memory / 4).max(MEMORY_LEAST).max(1 << 28));
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest_one_and_their_place() {
        let error = parse("[lend]\nbuilds = true\ncore = 4\n").unwrap_err();
        assert!(error.starts_with("barn.toml:3:1: ") && error.contains("did you mean `cores`?"), "{error}");
        assert!(parse("[lent]\n").unwrap_err().contains("did you mean `lend`?"));
        assert!(parse("[notify]\nurl = \"x\"\n").unwrap_err().contains("a later version"));
        assert!(parse("[traffic]\nhide_address = true\n").unwrap_err().contains("a later version"));
        assert!(parse("[lend]\nhours = \"22:00-07:00\"\n").unwrap_err().contains("a later version"));
        assert!(parse("[traffic]\nupp = \"1 MB/s\"\n").unwrap_err().contains("did you mean `up`?"));
        assert!(parse("[lend]\nzzzzzzzz = 1\n").unwrap_err().contains("unknown field"));
    }

    #[test]
    fn wrong_values_are_refused() {
        for (text, wanted) in [
            ("[lend]\ncores = \"many\"", "barn.toml:2:9"),
            ("[lend]\ncores = 0", "at least 1"),
            ("[lend]\ncores = 70000", "barn.toml:2:9"),
            ("[lend]\nmemory = \"2 elephants\"", "no unit"),
            ("[lend]\nmemory = \"1 MiB\"", "64 MiB"),
            ("[lend]\nmemory = 5", "barn.toml:2:10"),
            ("[listen]\naddresses = []", "0 addresses"),
            ("[listen]\naddresses = [\"localhost:80\"]", "no address"),
            ("[mirrors]\n\"\" = \"x\"", "empty"),
            ("[lend", "barn.toml:1:"),
            ("[traffic]\nup = \"1 MB\"", "barn.toml:2:6"),
            ("[traffic]\nup = 5", "barn.toml:2:6"),
            ("[traffic]\nup = \"1 KiB/s\"", "[traffic] up is 1 KiB/s; at least 64 KiB/s"),
            ("[traffic]\ndown = \"1 kbit/s\"", "[traffic] down is"),
            ("[traffic]\nup_per_peer = \"1 KiB/s\"", "at least 16 KiB/s"),
            ("[traffic]\nmonthly_cap = \"1 MiB\"", "[traffic] monthly_cap is 1 MiB"),
            ("[traffic]\nmonthly_cap = \"lots\"", "barn.toml:2:15"),
            ("[traffic]\nhours = \"22-7\"", "are not hours"),
            ("[traffic]\nconnections = 3", "16 to 10000"),
            ("[store]\nquota = \"101 %\"", "is not a part of the disk"),
            ("[store]\nquota = \"x\"", "barn.toml:2:9"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(wanted), "{text:?}: {error}");
        }
    }

    #[test]
    fn longer_beginnings_of_addresses_come_first() {
        let config = parse("[mirrors]\n\"https://a/\" = \"x\"\n\"https://a/b/\" = \"y\"").unwrap();
        let order: Vec<String> = config.mirrors().into_iter().map(|mirror| mirror.replace).collect();
        assert_eq!(order, ["y", "x"]);
    }

    #[test]
    fn sizes_print_in_the_largest_whole_unit() {
        assert_eq!([Size(3 << 30), Size(1536 << 20), Size(7)].map(|size| size.to_string()), ["3 GiB", "1536 MiB", "7 B"]);
    }
}
