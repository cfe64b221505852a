//! `barn init`, `barn doctor`, `barn id`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use super::here::Here;
use super::output::{Style, Table, bytes};
use super::{CommandResult, Exit};
use crate::api::Problem;
use crate::builder::sandbox::{SANDBOX_PATH, find_program};
use crate::builder::{cgroup, sandbox_check};
use crate::config::{Config, port_is_free};
use crate::home::{Home, HomeError};
use crate::platform::Platform;

/// Below this, builds and a store have no room.
const DISK_LEAST: u64 = 1 << 30;
/// Below this, some builds will not fit.
const DISK_FAIR: u64 = 10 << 30;
/// Below this, compilers are killed.
const MEMORY_LEAST: u64 = 512 << 20;

/// Makes keys and settings.
pub(super) fn init(here: &Here) -> CommandResult {
    let home = here.home()?;
    let report = home.init()?;
    for name in &report.made {
        here.out.say(format!("made   {}", home.root().join(name).display()))?;
    }
    for name in &report.kept {
        here.out.say(format!("kept   {}", home.root().join(name).display()))?;
    }
    here.out.say(format!("operator  {}\nnode      {}", report.operator, report.node))?;
    if !report.made.is_empty() {
        here.out.note(
            "next: `barn doctor`, then `barn join TICKET` or `barn network create NAME`; keep a copy of operator.key in a safe place",
        );
    }
    let fields = json!({
        "home": home.root(), "made": report.made, "kept": report.kept, "operator": report.operator, "node": report.node,
    });
    here.out.document("home", &fields)?;
    Ok(Exit::DONE)
}

/// The ids of this home, and where its node is reached.
pub(super) async fn id(here: &Here) -> CommandResult {
    let home = here.home()?;
    let open = home.open()?;
    let (operator, node) = (open.operator.operator(), open.node.node());
    let peer = peer_id(&open.node)?;
    let status = here.status(&home).await?;
    let mut table = Table::plain();
    table.row(["operator".into(), operator.to_string()]);
    table.row(["node".into(), node.to_string()]);
    table.row(["peer".into(), peer.clone()]);
    let addresses = status.map(|status| status.addresses);
    for address in addresses.iter().flatten() {
        table.row(["address".into(), address.clone()]);
    }
    here.out.say(table.render())?;
    if addresses.is_none() {
        here.out.note("the node is not running, so it has no addresses");
    }
    here.out.document("id", &json!({ "operator": operator, "node": node, "peer": peer, "addresses": addresses }))?;
    Ok(Exit::DONE)
}

fn peer_id(key: &barnraiser_protocol::keys::SecretKey) -> Result<String, Problem> {
    let keypair = libp2p::identity::Keypair::ed25519_from_bytes(key.seed());
    // Every 32 bytes are a seed; the error is of the library's type only.
    let keypair = keypair.map_err(|error| Problem::failed(format!("the node's key can't be used: {error}")))?;
    Ok(keypair.public().to_peer_id().to_string())
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Health {
    /// As it should be.
    Ok,
    /// Works, and could be better.
    Note,
    /// Something that is needed is missing.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    health: Health,
    says: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Check {
    fn ok(name: &'static str, says: impl Into<String>) -> Self {
        Self { name, health: Health::Ok, says: says.into(), mend: None }
    }
    fn note(name: &'static str, says: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, health: Health::Note, says: says.into(), mend: Some(mend.into()) }
    }
    fn problem(name: &'static str, says: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, health: Health::Problem, says: says.into(), mend: Some(mend.into()) }
    }
}

/// Looks at all that a node needs.
pub(super) async fn doctor(here: &Here) -> CommandResult {
    let home = here.home()?;
    let platform = Platform::this();
    let config = home.config();
    let running = here.status(&home).await.ok().flatten().is_some();
    let isa = if platform.isa.is_empty() { String::new() } else { format!(" ({})", platform.isa) };
    let mut checks =
        vec![Check::ok("platform", format!("{} {}{isa}, {}", platform.os, platform.arch, cores(platform.cores))), check_home(&home)];
    match &config {
        Ok(config) => {
            checks.push(check_memory(config, platform));
            checks.push(check_ports(config, running));
        }
        Err(error) => {
            checks.push(Check::problem("settings", error.to_string(), "mend the file; `barn init` in a new folder shows all defaults"))
        }
    }
    checks.push(match sandbox_check() {
        Ok(info) => Check::ok("sandbox", info.describe()),
        Err(problem) => {
            Check::problem("sandbox", problem.to_string(), "without it this machine takes no builds; it can still fetch and serve")
        }
    });
    checks.push(match cgroup::version() {
        Some(version) => Check::ok("limits", format!("{version}: builds are kept to their memory and cores")),
        None => Check::note(
            "limits",
            "no control group can be made here: memory is limited for each process, not for a build as a whole",
            "run the node as a systemd service with Delegate=yes, or as root",
        ),
    });
    checks.push(check_toolchain());
    checks.push(check_fetchers());
    checks.push(check_disk(home.root()));
    let healthy = checks.iter().all(|check| check.health != Health::Problem);
    here.out.say(render(here, &checks))?;
    here.out.document("doctor", &json!({ "healthy": healthy, "checks": checks }))?;
    Ok(if healthy { Exit::DONE } else { Exit::FAILED })
}

fn render(here: &Here, checks: &[Check]) -> String {
    let mut table = Table::plain();
    for check in checks {
        let (style, word) = match check.health {
            Health::Ok => (Style::Good, "ok"),
            Health::Note => (Style::Warn, "note"),
            Health::Problem => (Style::Bad, "problem"),
        };
        table.row([here.out.paint(style, word), check.name.into(), check.says.clone()]);
        if let Some(mend) = &check.mend {
            table.row([String::new(), String::new(), format!("-> {mend}")]);
        }
    }
    table.render()
}

fn check_home(home: &Home) -> Check {
    match home.open() {
        Ok(open) => Check::ok("home", format!("{}, operator {}", home.root().display(), open.operator.operator().short())),
        Err(HomeError::NoHome { root }) => Check::note("home", format!("none in {} yet", root.display()), "`barn init` makes it"),
        // Wrong settings have a line of their own.
        Err(HomeError::Config(_)) => Check::ok("home", home.root().display().to_string()),
        Err(error) => Check::problem("home", error.to_string(), "mend or restore the file; `barn key restore` takes a backup"),
    }
}

fn cores(number: impl Into<u64>) -> String {
    let number: u64 = number.into();
    format!("{number} {}", if number == 1 { "core" } else { "cores" })
}

fn check_memory(config: &Config, platform: &Platform) -> Check {
    let lent = config.lend.memory.bytes();
    let says = format!("{} of {} lent, with {} of {}", bytes(lent), bytes(platform.memory), config.lend.cores, cores(platform.cores));
    if platform.memory > 0 && lent > platform.memory {
        Check::problem("memory", says, "[lend] memory in barn.toml is more than there is: builds would be killed")
    } else if config.lend.cores > platform.cores {
        Check::problem("memory", says, "[lend] cores in barn.toml is more than there are")
    } else if lent < MEMORY_LEAST {
        Check::note("memory", says, "few builds fit into so little; [lend] memory in barn.toml says how much is lent")
    } else {
        Check::ok("memory", says)
    }
}

fn check_ports(config: &Config, running: bool) -> Check {
    // The number behind /tcp/ or /udp/.
    let port = |address: &String| {
        let mut parts = address.split('/').skip_while(|part| *part != "tcp" && *part != "udp").skip(1);
        parts.next()?.parse::<u16>().ok().filter(|port| *port != 0)
    };
    let mut ports: Vec<u16> = config.listen.addresses.iter().filter_map(port).collect();
    ports.dedup();
    let list = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if running {
        return Check::ok("ports", "the node is running and listens");
    }
    let taken: Vec<String> = ports.iter().filter(|port| !port_is_free(**port)).map(ToString::to_string).collect();
    if taken.is_empty() {
        let says = if ports.is_empty() { "any free one".to_owned() } else { format!("{list} free") };
        return Check::ok("ports", says);
    }
    let says = format!("{} in use by another program", taken.join(", "));
    if config.listen == crate::config::ListenConfig::default() {
        Check::note("ports", says, "the node will take another one; [listen] addresses in barn.toml names a fixed one")
    } else {
        Check::problem("ports", says, "name others under [listen] addresses in barn.toml")
    }
}

fn check_toolchain() -> Check {
    let missing: Vec<&str> = ["cc", "make", "tar"].into_iter().filter(|name| find_program(name, SANDBOX_PATH.as_ref()).is_none()).collect();
    if missing.is_empty() {
        return Check::ok("toolchain", "cc, make and tar are there for builds on `host`");
    }
    let says = format!("{} not found", missing.join(", "));
    Check::note(
        "toolchain",
        says,
        "recipes for the environment `host` that need them go to other machines; Debian: apt-get install build-essential",
    )
}

fn check_fetchers() -> Check {
    let path = std::env::var_os("PATH").unwrap_or_else(|| SANDBOX_PATH.into());
    let programs = [("git", "git sources"), ("cargo", "crate: sources"), ("apt-get", "debian: sources")];
    let missing: Vec<String> =
        programs.iter().filter(|(name, _)| find_program(name, &path).is_none()).map(|(name, what)| format!("{name} ({what})")).collect();
    if missing.is_empty() {
        return Check::ok("sources", "git, cargo and apt-get are there to fetch sources with");
    }
    Check::note("sources", format!("not found: {}", missing.join(", ")), "only who submits or builds alone needs them")
}

fn check_disk(root: &Path) -> Check {
    let there: Option<PathBuf> = root.ancestors().find(|folder| folder.exists()).map(Path::to_owned);
    let Some(folder) = there else {
        return Check::problem("disk", format!("{} has no folder above it", root.display()), "give another --home");
    };
    match rustix::fs::statvfs(&folder) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let says = format!("{} free in {}", bytes(free), folder.display());
            if free < DISK_LEAST {
                Check::problem("disk", says, format!("at least {} are wanted; make room, or give a --home elsewhere", bytes(DISK_LEAST)))
            } else if free < DISK_FAIR {
                Check::note("disk", says, "large builds will not fit")
            } else {
                Check::ok("disk", says)
            }
        }
        Err(error) => Check::problem("disk", format!("{}: {error}", folder.display()), "give a --home that can be read"),
    }
}
