//! How fast the swarm brings a blob, beside what a user would take instead.

mod liar;
mod lines;
mod node;
mod peers;
mod raw;
mod usage;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use barnraiser_bootstrap::Multiaddr;
use serde::de::DeserializeOwned;

use super::figure::{Figure, folder};
use node::{Done, Ready, Task};
use peers::Took;

pub use node::run as node;

/// What one provider serves.
const LONG: u64 = 1 << 30;
/// How often each is measured, in turn, so that all have the same moments of a busy machine.
const ROUNDS: usize = 5;
/// What lines of homes let out, in bytes a second: 100 Mbit/s.
const LINE_BYTES_S: f64 = 100e6 / 8.0;
/// There and back on them, in milliseconds.
const LINE_MS: f64 = 30.0;
/// The version of libp2p that is measured beside us: the one that nodes are made with.
const LIBP2P: &str = "0.57";

/// The environment variable that names the parts to measure, with commas between.
const PARTS: &str = "BARN_SWARM";

/// A part by name, its first figure, and how it is measured.
type Part = (&'static str, &'static str, fn(&Path) -> anyhow::Result<Vec<Figure>>);

const ALL: [Part; 5] = [
    ("one", "swarm.one_provider_vs_sendme", one_provider),
    ("memory", "swarm.four_served_memory", four_served),
    ("four", "swarm.four_providers", lines::four_providers),
    ("faulty", "swarm.four_providers_two_faulty", lines::faulty_providers),
    ("ten", "swarm.ten_fetchers", lines::ten_fetchers),
];

/// Measures.
pub fn measure() -> anyhow::Result<Vec<Figure>> {
    let chosen = std::env::var(PARTS).ok();
    let is_chosen = |name: &str| chosen.as_ref().is_none_or(|chosen| chosen.split(',').any(|part| part == name));
    let parts: Vec<&Part> = ALL.iter().filter(|(name, ..)| is_chosen(name)).collect();
    ensure!(!parts.is_empty(), "{PARTS} names none of {}", ALL.map(|(name, ..)| name).join(", "));
    let names: Vec<&str> = parts.iter().map(|(name, ..)| *name).collect();
    eprintln!("swarm: {} ({PARTS} names parts); {ROUNDS} rounds; all of it takes about fifteen minutes", names.join(", "));
    let work = folder()?.join("swarm");
    std::fs::create_dir_all(&work)?;
    let work = std::path::absolute(work)?;
    let mut figures = Vec::new();
    for (_, first, part) in parts {
        let missing = |error| vec![Figure::missing(first, "times", f64::INFINITY, format!("not measured: {error:#}"))];
        figures.extend(part(&work).unwrap_or_else(missing));
    }
    std::fs::remove_dir_all(&work)?;
    Ok(figures)
}

/// A process of this program that was given a task.
struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    out: BufReader<ChildStdout>,
}

impl Worker {
    fn start(task: &Task) -> anyhow::Result<Self> {
        Self::start_as(task, |_| None)
    }

    /// Starts it by another command, one that puts it elsewhere.
    fn start_as(task: &Task, otherwise: impl FnOnce(&Command) -> Option<Command>) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("swarm-node");
        let mut command = otherwise(&command).unwrap_or(command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        writeln!(stdin, "{}", serde_json::to_string(task)?)?;
        let out = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { child, stdin: Some(stdin), out })
    }

    /// The next thing that it says.
    fn said<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        ensure!(self.out.read_line(&mut line)? > 0, "a node of the benchmark ended early");
        Ok(serde_json::from_str(&line)?)
    }

    /// The process that is the node, below what puts it elsewhere: that one becomes it.
    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it end, if it waits for that; what it used.
    fn end(mut self) -> anyhow::Result<Done> {
        self.stdin = None;
        let done = self.said()?;
        ensure!(self.child.wait()?.success(), "a node of the benchmark failed");
        Ok(done)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Writes a file of `length` bytes that no two programs compress or share, the same for the same name.
fn incompressible(path: &Path, length: u64) -> anyhow::Result<()> {
    let mut bytes = blake3::Hasher::new().update(path.as_os_str().as_encoded_bytes()).finalize_xof();
    let mut file = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    let mut piece = vec![0; 1 << 20];
    let mut left = length;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(piece.len()).min(piece.len());
        bytes.fill(&mut piece[..part]);
        file.write_all(&piece[..part])?;
        left -= part as u64;
    }
    Ok(file.flush()?)
}

/// A node that provides a file, with a store of its own in `folder`.
fn provide(folder: &Path, file: &Path) -> anyhow::Result<(Worker, Ready)> {
    let listen: Multiaddr = "/ip4/127.0.0.1/tcp/0".parse()?;
    let mut provider = Worker::start(&Task::Provide { store: folder.join("provider"), file: file.to_owned(), listen })?;
    let ready = provider.said()?;
    Ok((provider, ready))
}

/// A node that fetches it, with a store of its own.
fn fetch(store: &Path, from: &Ready, to: &Path) -> anyhow::Result<Worker> {
    let providers = vec![(from.node, from.address.clone())];
    Worker::start(&Task::Fetch { store: store.to_owned(), hash: from.hash, providers, listen: None, to: to.to_owned() })
}

/// A node that provides and one that fetches; and what the latter used.
fn by_barn(work: &Path, file: &Path, to: &Path) -> anyhow::Result<(Took, Done)> {
    let folder = tempfile::tempdir_in(work)?;
    let (provider, ready) = provide(folder.path(), file)?;
    let imported = usage::of(provider.child.id())?;
    let start = Instant::now();
    let fetched = fetch(&folder.path().join("fetcher"), &ready, to)?.end()?;
    let wall_s = start.elapsed().as_secs_f64();
    let provided = provider.end()?;
    Ok((Took { wall_s, cpu_s: fetched.cpu_s + provided.cpu_s - imported }, fetched))
}

/// A file over a bare substream.
fn by_substream(file: &Path, to: &Path) -> anyhow::Result<Took> {
    let mut sender = Worker::start(&Task::RawSend { file: file.to_owned(), listen: "/ip4/127.0.0.1/tcp/0".parse()? })?;
    let from: Multiaddr = sender.said()?;
    let start = Instant::now();
    let received = Worker::start(&Task::RawReceive { from, to: to.to_owned() })?.end()?;
    let wall_s = start.elapsed().as_secs_f64();
    Ok(Took { wall_s, cpu_s: received.cpu_s + sender.end()?.cpu_s })
}

/// What was measured of one way.
#[derive(Default)]
struct Runs {
    wall_s: Vec<f64>,
    cpu_s: Vec<f64>,
    /// Why it could not be measured.
    missing: Option<String>,
}

impl Runs {
    fn add(&mut self, took: anyhow::Result<Took>) {
        match took {
            Ok(took) => {
                self.wall_s.push(took.wall_s);
                self.cpu_s.push(took.cpu_s);
            }
            Err(error) => self.missing = Some(format!("{error:#}")),
        }
    }

    fn told(&self) -> String {
        match (&self.missing, median(&self.wall_s), median(&self.cpu_s)) {
            (None, Some(wall_s), Some(cpu_s)) => format!("{wall_s:.2} s, {cpu_s:.2} s of processors"),
            (missing, ..) => format!("not measured: {}", missing.as_deref().unwrap_or("no run")),
        }
    }
}

fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// 1 GiB over loopback, four ways in turn.
fn one_provider(work: &Path) -> anyhow::Result<Vec<Figure>> {
    let (file, to) = (work.join("one-gib"), work.join("got"));
    incompressible(&file, LONG)?;
    let sendme = peers::sendme();
    let (mut barn, mut raw, mut by_sendme, mut nginx) = (Runs::default(), Runs::default(), Runs::default(), Runs::default());
    let mut fetched_s = Vec::new();
    for _ in 0..ROUNDS {
        let (took, fetched) = by_barn(work, &file, &to)?;
        fetched_s.push(fetched.fetched_s);
        barn.add(Ok(took));
        raw.add(by_substream(&file, &to));
        by_sendme
            .add(sendme.as_ref().map_err(|error| anyhow::anyhow!("{error:#}")).and_then(|sendme| peers::by_sendme(sendme, &file, &to)));
        nginx.add(peers::by_nginx(&file, &to, &work.join("nginx")));
    }
    let versions: Vec<String> = [("nginx", "-v"), ("curl", "--version"), ("b3sum", "--version")]
        .into_iter()
        .filter_map(|(program, argument)| peers::version(&PathBuf::from(program), argument).ok())
        .collect();
    let of_sendme = sendme.as_ref().ok().and_then(|sendme| peers::version(sendme, "--version").ok()).unwrap_or_default();
    let seconds = median(&fetched_s).unwrap_or_default();
    let ours = format!(
        "encrypted (TLS 1.3), verified, not synced; from the start of the fetching program to its end, the file written: {}; all \
         verified after {seconds:.2} s",
        barn.told()
    );
    Ok(vec![
        ratio(
            "swarm.one_provider_vs_sendme",
            2.0,
            &barn,
            ("sendme", &by_sendme),
            format!("{ours}; {of_sendme} (encrypted, verified, not synced): {}", by_sendme.told()),
        ),
        ratio(
            "swarm.one_provider_vs_substream",
            0.9,
            &barn,
            ("substream", &raw),
            format!("{ours}; a bare substream of libp2p {LIBP2P} (Noise, yamux; encrypted, not verified, not synced): {}", raw.told()),
        ),
        ratio(
            "swarm.one_provider_vs_nginx",
            0.8,
            &barn,
            ("nginx+curl+b3sum", &nginx),
            format!("{ours}; {} (encrypted by TLS 1.3, verified, not synced): {}", versions.join(", "), nginx.told()),
        ),
    ])
}

/// What a node that serves four fetchers of 1 GiB at the same time takes of memory.
fn four_served(work: &Path) -> anyhow::Result<Vec<Figure>> {
    const FETCHERS: usize = 4;
    let file = work.join("one-gib");
    incompressible(&file, LONG)?;
    let (mut provider_mib, mut fetcher_mib, mut last_s) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let folder = tempfile::tempdir_in(work)?;
        let (provider, ready) = provide(folder.path(), &file)?;
        let start = Instant::now();
        let fetchers = (0..FETCHERS)
            .map(|number| fetch(&folder.path().join(number.to_string()), &ready, &folder.path().join(format!("got-{number}"))));
        let mut peak: f64 = 0.0;
        for fetcher in fetchers.collect::<Result<Vec<_>, _>>()? {
            peak = peak.max(fetcher.end()?.peak_mib);
        }
        last_s.push(start.elapsed().as_secs_f64());
        fetcher_mib.push(peak);
        provider_mib.push(provider.end()?.peak_mib);
    }
    let note = format!(
        "resident at its peak, of a node that has 1 GiB and serves it to {FETCHERS} at the same time, the import included; a fetcher at most {:.0} MiB; \
         all had it after {:.1} s",
        fetcher_mib.iter().copied().fold(0.0, f64::max),
        median(&last_s).unwrap_or_default()
    );
    Ok(vec![Figure::worst("swarm.four_served_memory", "MiB", 150.0, provider_mib, note)])
}

/// How many times as fast as a peer.
fn ratio(name: &'static str, goal: f64, ours: &Runs, (peer, theirs): (&'static str, &Runs), note: String) -> Figure {
    let Some(their_s) = median(&theirs.wall_s).filter(|_| theirs.missing.is_none()) else {
        return Figure::missing(name, "times as fast", goal, note);
    };
    let mut figure = Figure::higher(name, "times", goal, ours.wall_s.iter().map(|wall_s| their_s / wall_s).collect(), note);
    figure.against.insert(peer, Some(their_s));
    figure
}
