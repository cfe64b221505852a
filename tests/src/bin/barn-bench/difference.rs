//! A new file system image of which a twentieth changed, fetched by somebody who has the old one: bytes on the wire, from the
//! counters of a link between two network namespaces, and time; here, and with casync and zsync.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use barnraiser_store::{Durability, Store};
use barnraiser_tests::{Home, Lend, Process, Village, path_text, text};
use serde_json::Value;

use super::figure::Figure;

/// How often each is measured.
const RUNS: usize = 5;
/// How many times the changed bytes may be fetched.
const GOAL: f64 = 1.5;
/// How soon two nodes must know each other.
const SOON: Duration = Duration::from_secs(60);
/// Others that do the like.
const PEERS: [&str; 2] = ["casync", "zsync"];

/// This end of the link, the other one's namespace, and the address of what serves.
const INTERFACE: &str = "barn-bench0";
const NAMESPACE: &str = "barn-bench";
const SERVER: &str = "10.237.91.1";
const CLIENT: &str = "10.237.91.2";

/// What one fetch cost.
#[derive(Debug, Clone, Copy)]
struct Sample {
    received: f64,
    sent: f64,
    seconds: f64,
}

/// Measures.
pub fn measure() -> anyhow::Result<Vec<Figure>> {
    eprintln!(
        "difference: a new image of 256 MiB for who has the old one, {RUNS} times here, with casync and with zsync; takes some minutes"
    );
    let folder = super::figure::folder()?.join("peers/difference");
    let image = script(&["image", path_text(&folder)?])?;
    let changed = image["changed_bytes"].as_f64().filter(|bytes| *bytes > 0.0).context("nothing changed in the image")?;
    let link = match Link::new() {
        Ok(link) => link,
        Err(error) => return Ok(vec![Figure::missing("difference.fetched", "times", GOAL, format!("no link to count on: {error:#}"))]),
    };
    let named = fetches(&folder, &Given::File)?;
    let found = fetches(&folder, &Given::InStore)?;
    let (mut ratios, mut times, mut versions) = (Vec::new(), Vec::new(), Vec::new());
    for peer in PEERS {
        let measured = of_peer(peer, &folder);
        versions.push(match &measured {
            Ok((version, samples)) => format!("{version} ({})", sent(samples)),
            Err(error) => format!("{peer} could not be measured: {error:#}"),
        });
        let samples = measured.ok().map(|(_, samples)| samples);
        ratios.push((peer, samples.as_ref().and_then(|samples| median(samples, |sample| sample.received / changed))));
        times.push((peer, samples.as_ref().and_then(|samples| median(samples, |sample| sample.seconds))));
    }
    drop(link);
    let facts = format!(
        "{} of {} blocks of an ext4 image of 256 MiB changed, in {} runs, as {} of {} files were replaced; received bytes by the \
         interface's counter, headers and all; barn ({}): encrypted, verified; {}: plain HTTP from nginx, verified; none synced",
        changed / 4096.0,
        image["length"].as_f64().unwrap_or_default() / 4096.0,
        image["runs"],
        image["replaced"],
        image["files"],
        sent(&named),
        versions.join(", "),
    );
    let ratio = |samples: &[Sample]| samples.iter().map(|sample| sample.received / changed).collect::<Vec<f64>>();
    let mut fetched = Figure::lower("difference.fetched", "times", GOAL, ratio(&named), format!("`--seed`: {facts}"));
    fetched.against = ratios.into_iter().collect();
    let note = "as `difference.fetched`, with the old image among the blobs of the store, found there";
    let found = Figure::lower("difference.fetched_seed_found", "times", GOAL, ratio(&found), note.to_owned());
    let mut seconds: Vec<f64> = named.iter().map(|sample| sample.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let note = "from the start of the command until the new image is written; the first fetch waits for the provider to make the chunk \
                list, which casync and zsync have before";
    let spread = [seconds[0], seconds[RUNS - 1]];
    let mut took = Figure::shown("difference.time", "s", seconds[RUNS / 2], RUNS, spread, note.into());
    took.against = times.into_iter().collect();
    Ok(vec![fetched, found, took])
}

fn sent(samples: &[Sample]) -> String {
    median(samples, |sample| sample.sent).map_or_else(String::new, |sent| format!("{:.0} KiB sent", sent / 1024.0))
}

fn median(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> Option<f64> {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// How the fetcher has the old image.
enum Given {
    /// As a file that it names.
    File,
    /// In its store.
    InStore,
}

/// One publisher here, and in the namespace a new home for each fetch.
fn fetches(folder: &Path, given: &Given) -> anyhow::Result<Vec<Sample>> {
    let (old, new) = (folder.join("old.img"), folder.join("new.img"));
    let village = Village::new()?;
    let (_entry, address) = village.bootstrap_at(&format!("/ip4/{SERVER}/tcp/0"))?;
    let publisher = village.home("publisher");
    let hash = with_blob(&publisher, SERVER, Some(&new))?.context("the new image is in the store")?;
    publisher.ok(&["network", "create", "bench", "--policy", "small", "--bootstrap", &address])?;
    let ticket = text(&publisher.json(&["network", "invite", "--uses", "9"])?["ticket"])?;
    let _publishing = publisher.start()?;
    let mut samples = Vec::new();
    for run in 0..RUNS {
        let fetcher = village.home(&format!("fetcher-{run}"));
        let in_store = matches!(given, Given::InStore).then_some(old.as_path());
        with_blob(&fetcher, CLIENT, in_store)?;
        fetcher.ok(&["join", &ticket])?;
        let node = inside(&fetcher)?;
        fetcher.wait_present("bench", 2, SOON)?;
        let out = village.path("new.img");
        let mut command = vec!["fetch", &hash, "-o", path_text(&out)?];
        if matches!(given, Given::File) {
            command.extend(["--seed", path_text(&old)?]);
        }
        let (before, start) = (counted()?, Instant::now());
        let fetched = fetcher.json(&command)?;
        let (seconds, after) = (start.elapsed().as_secs_f64(), counted()?);
        ensure!(fetched["copied"].as_u64() > Some(0), "nothing was copied: {fetched}");
        let same = Command::new("cmp").arg(&out).arg(&new).status()?;
        ensure!(same.success(), "what was fetched is not the new image");
        std::fs::remove_file(&out)?;
        drop(node);
        std::fs::remove_dir_all(fetcher.root())?;
        samples.push(Sample { received: after.0 - before.0, sent: after.1 - before.1, seconds });
    }
    Ok(samples)
}

/// Makes a home that listens on `address`, with a file in its store; the file's hash.
fn with_blob(home: &Home, address: &str, file: Option<&Path>) -> anyhow::Result<Option<String>> {
    home.init(Lend::NOTHING)?;
    let settings = home.root().join("barn.toml");
    std::fs::write(&settings, std::fs::read_to_string(&settings)?.replace("127.0.0.1", address))?;
    let Some(file) = file else { return Ok(None) };
    let (hash, _) = Store::open(&home.root().join("store"))?.import_file(file, Durability::Announced)?;
    Ok(Some(hash.to_string()))
}

/// Starts a home's node in the namespace.
fn inside(home: &Home) -> anyhow::Result<Process> {
    let log = std::fs::File::options().create(true).append(true).open(home.log())?;
    let errors = log.try_clone()?;
    home.start_with(|command| {
        let program = PathBuf::from(command.get_program());
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        // `ip` becomes the program, with the same process id.
        let mut wrapped = Command::new("ip");
        wrapped.args(["netns", "exec", NAMESPACE]).arg(program).args(arguments).stdout(log).stderr(errors);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        *command = wrapped;
    })
}

/// What went to the namespace through the link, and what came back, in bytes.
fn counted() -> anyhow::Result<(f64, f64)> {
    let read = |name: &str| -> anyhow::Result<f64> {
        let text = std::fs::read_to_string(format!("/sys/class/net/{INTERFACE}/statistics/{name}_bytes"))?;
        Ok(text.trim().parse()?)
    };
    Ok((read("tx")?, read("rx")?))
}

/// A network namespace and a link to it, which go with this value.
struct Link;

impl Link {
    fn new() -> anyhow::Result<Self> {
        ip(&["netns", "add", NAMESPACE])?;
        let link = Self;
        ip(&["link", "add", INTERFACE, "type", "veth", "peer", "name", "barn-bench1", "netns", NAMESPACE])?;
        ip(&["addr", "add", &format!("{SERVER}/24"), "dev", INTERFACE])?;
        ip(&["link", "set", INTERFACE, "up"])?;
        ip(&["-n", NAMESPACE, "addr", "add", &format!("{CLIENT}/24"), "dev", "barn-bench1"])?;
        ip(&["-n", NAMESPACE, "link", "set", "barn-bench1", "up"])?;
        ip(&["-n", NAMESPACE, "link", "set", "lo", "up"])?;
        Ok(link)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for arguments in [&["link", "del", INTERFACE][..], &["netns", "del", NAMESPACE]] {
            if let Err(error) = ip(arguments) {
                eprintln!("difference: {error:#}");
            }
        }
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments).output().context("`ip` can't be run")?;
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// What `tests/peers/difference.py` prints.
fn script(arguments: &[&str]) -> anyhow::Result<Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/difference.py");
    let output = Command::new("python3").arg(script).args(arguments).output().context("python3 can't be run")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Version and samples of another program that does the like.
fn of_peer(name: &str, folder: &Path) -> anyhow::Result<(String, Vec<Sample>)> {
    let runs = RUNS.to_string();
    let found = script(&[name, path_text(folder)?, NAMESPACE, INTERFACE, SERVER, &runs])?;
    let number = |sample: &Value, name: &str| sample[name].as_f64().with_context(|| format!("no {name} in {sample}"));
    let samples = barnraiser_tests::list(&found["samples"]).iter().map(|sample| {
        Ok(Sample { received: number(sample, "bytes")?, sent: number(sample, "sent")?, seconds: number(sample, "seconds")? })
    });
    Ok((text(&found["version"])?, samples.collect::<anyhow::Result<_>>()?))
}
