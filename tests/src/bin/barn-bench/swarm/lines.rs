//! Nodes on lines as homes have them: each in a network namespace of its own, behind a relay that lets so many bytes a second
//! out and takes its time. Beside them, on the same lines, web servers.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use barnraiser_bootstrap::Multiaddr;
use barnraiser_protocol::id::{BlobHash, NodeId};
use tempfile::TempDir;

use super::node::{Done, Ready, Task};
use super::peers::{self, Server};
use super::{LINE_BYTES_S, LINE_MS, ROUNDS, Worker, incompressible, median};
use crate::figure::Figure;
use crate::relay::{Delay, Order, Relay};

/// What four providers serve.
const BLOB: u64 = 256 << 20;
/// What a seed gives to ten; less, since all of it goes through this machine's cores eleven times.
const SEED_BLOB: u64 = 64 << 20;
/// The line of each of those.
const SEED_BYTES_S: f64 = 40e6 / 8.0;
const PROVIDERS: usize = 4;
const FETCHERS: usize = 10;
/// How long a fetch may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Houses with a line each, by number; everybody finds the others at the same addresses.
struct Street {
    houses: Vec<Relay>,
    ports: Vec<[u16; 2]>,
    folder: TempDir,
}

impl Street {
    /// Lines on which so many bytes a second go out.
    fn new(work: &Path, houses: usize, bytes_s: f64) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(work)?;
        // Nothing else listens in namespaces that are new.
        let ports: Vec<[u16; 2]> =
            (0..houses).filter_map(|house| u16::try_from(house).ok()).map(|house| [7100 + house, 7200 + house]).collect();
        let mut relays = (0..houses).map(|_| Relay::start()).collect::<Result<Vec<_>, _>>()?;
        let socket = |house: usize, door: usize| folder.path().join(format!("{house}-{door}"));
        for (house, relay) in relays.iter_mut().enumerate() {
            relay.tell(&Order::Upload { bytes_s })?;
            for (door, port) in ports[house].into_iter().enumerate() {
                relay.tell(&Order::Own { port, socket: socket(house, door) })?;
            }
        }
        // Half of the time there, half of it back.
        let delay = Delay { fixed_ms: LINE_MS / 2.0, jitter_ms: 0.0 };
        for (house, relay) in relays.iter_mut().enumerate() {
            for other in (0..houses).filter(|other| *other != house) {
                for (door, port) in ports[other].into_iter().enumerate() {
                    relay.tell(&Order::Other { port, socket: socket(other, door), delay })?;
                }
            }
        }
        Ok(Self { houses: relays, ports, folder })
    }

    fn address(&self, house: usize) -> anyhow::Result<Multiaddr> {
        Ok(format!("/ip4/127.0.0.1/tcp/{}", self.ports[house][0]).parse()?)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn worker(&self, house: usize, task: &Task) -> anyhow::Result<Worker> {
        Worker::start_as(task, |command| Some(self.houses[house].inside(command)))
    }

    /// A node that has `file`.
    fn provider(&self, house: usize, file: &Path) -> anyhow::Result<(Worker, Ready)> {
        let store = self.path(&format!("provider-{house}"));
        let mut worker = self.worker(house, &Task::Provide { store, file: file.to_owned(), listen: self.address(house)? })?;
        let ready = worker.said()?;
        Ok((worker, ready))
    }

    /// A node that says to have a blob and sends something else.
    fn liar(&self, house: usize, file: &Path) -> anyhow::Result<(Worker, Ready)> {
        let store = self.path(&format!("liar-{house}"));
        let mut worker = self.worker(house, &Task::Lie { store, file: file.to_owned(), listen: self.address(house)? })?;
        let ready = worker.said()?;
        Ok((worker, ready))
    }

    /// A node that fetches, from the beginning.
    fn fetcher(&self, house: usize, round: &str, hash: BlobHash, from: &[(NodeId, Multiaddr)], serves: bool) -> anyhow::Result<Worker> {
        let store = self.path(&format!("fetcher-{house}-{round}"));
        let listen = if serves { Some(self.address(house)?) } else { None };
        self.worker(house, &Task::Fetch { store, hash, providers: from.to_vec(), listen, to: self.path(&format!("got-{house}")) })
    }

    /// nginx over the folder of `file`, without encryption.
    fn nginx(&self, house: usize, root: &Path) -> anyhow::Result<Server> {
        let work = self.path(&format!("nginx-{house}"));
        let config = peers::plain_nginx(root, &work, self.ports[house][1])?;
        let mut command = self.houses[house].command("nginx");
        Ok(Server(command.arg("-c").arg(config).arg("-p").arg(&work).stderr(Stdio::null()).spawn()?))
    }
}

/// One fetch from some providers, in seconds.
fn once(street: &Street, hash: BlobHash, from: &[(NodeId, Multiaddr)]) -> anyhow::Result<Done> {
    let done = street.fetcher(PROVIDERS, "one", hash, from, false)?.end()?;
    std::fs::remove_dir_all(street.path(&format!("fetcher-{PROVIDERS}-one")))?;
    Ok(done)
}

/// A blob from one of four, and from all four.
pub fn four_providers(work: &Path) -> anyhow::Result<Vec<Figure>> {
    let street = Street::new(work, PROVIDERS + 1, LINE_BYTES_S)?;
    let root = street.path("root");
    std::fs::create_dir(&root)?;
    let file = root.join("blob");
    incompressible(&file, BLOB)?;
    let providers = (0..PROVIDERS).map(|house| street.provider(house, &file)).collect::<Result<Vec<_>, _>>()?;
    let hash = providers[0].1.hash;
    let all: Vec<(NodeId, Multiaddr)> = providers.iter().map(|(_, ready)| (ready.node, ready.address.clone())).collect();
    let servers = (0..PROVIDERS).map(|house| street.nginx(house, &root)).collect::<Result<Vec<_>, _>>()?;
    let (mut one_s, mut four_s, mut aria_s) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        one_s.push(once(&street, hash, &all[..1])?.written_s);
        four_s.push(once(&street, hash, &all)?.written_s);
        aria_s.push(aria2c(&street)?);
    }
    drop((providers, servers));
    let one = median(&one_s).context("no run")?;
    let aria = median(&aria_s).context("no run")?;
    let four = median(&four_s).context("no run")?;
    let line = of_lines();
    let version = peers::version(Path::new("aria2c"), "--version").unwrap_or_default();
    let nginx = peers::version(Path::new("nginx"), "-v").unwrap_or_default();
    let mut against = times(
        "swarm.four_providers_vs_aria2c",
        1.0,
        aria,
        &four_s,
        format!(
            "{line}: {four:.2} s; {version} -s4 from four {nginx} over the same lines (neither encrypted nor verified nor synced): {aria:.2} s"
        ),
    );
    against.against.insert("aria2c", Some(aria));
    Ok(vec![times("swarm.four_providers", 3.6, one, &four_s, format!("{line}; four against one, which takes {one:.1} s")), against])
}

/// What the lines are like.
fn of_lines() -> String {
    format!(
        "{} MiB, each line {:.0} Mbit/s and {LINE_MS} ms there and back, in network namespaces joined by relays; encrypted, verified, not synced",
        BLOB >> 20,
        LINE_BYTES_S * 8.0 / 1e6
    )
}

/// How many times as fast as what took `than` seconds.
fn times(name: &'static str, goal: f64, than: f64, samples: &[f64], note: String) -> Figure {
    Figure::higher(name, "times", goal, samples.iter().map(|took| than / took).collect(), note)
}

/// A blob from four of which one stands still in the middle and one lies, against one that does neither.
pub fn faulty_providers(work: &Path) -> anyhow::Result<Vec<Figure>> {
    let (mut one_s, mut faulty_s) = (Vec::new(), Vec::new());
    let file = work.join("faulty");
    incompressible(&file, BLOB)?;
    for round in 0..ROUNDS {
        let street = Street::new(work, PROVIDERS + 1, LINE_BYTES_S)?;
        let (_provider, ready) = street.provider(0, &file)?;
        one_s.push(once(&street, ready.hash, &[(ready.node, ready.address)])?.written_s);
        faulty_s.push(with_faults(work, &file, round)?);
    }
    let one = median(&one_s).context("no run")?;
    let note = format!(
        "{}; one stands still after two seconds and one sends wrong bytes; against one good one, which takes {one:.1} s",
        of_lines()
    );
    Ok(vec![times("swarm.four_providers_two_faulty", 1.8, one, &faulty_s, note)])
}

/// Two good providers, one that stops after two seconds, and a liar. In seconds.
fn with_faults(work: &Path, file: &Path, round: usize) -> anyhow::Result<f64> {
    let street = Street::new(work, PROVIDERS + 1, LINE_BYTES_S)?;
    let mut nodes = (0..PROVIDERS - 1).map(|house| street.provider(house, file)).collect::<Result<Vec<_>, _>>()?;
    let hash = nodes[0].1.hash;
    nodes.push(street.liar(PROVIDERS - 1, file)?);
    let all: Vec<(NodeId, Multiaddr)> = nodes.iter().map(|(_, ready)| (ready.node, ready.address.clone())).collect();
    let fetcher = street.fetcher(PROVIDERS, &round.to_string(), hash, &all, false)?;
    std::thread::sleep(Duration::from_secs(2));
    let stopped = nodes[0].0.pid();
    ensure!(Command::new("kill").args(["-STOP", &stopped.to_string()]).status()?.success(), "a provider could not be stopped");
    let done = fetcher.end();
    ensure!(Command::new("kill").args(["-CONT", &stopped.to_string()]).status()?.success(), "a provider could not go on");
    let done = done?;
    let liar = nodes[PROVIDERS - 1].1.node;
    ensure!(done.by_peer.get(&liar).is_none_or(|bytes| *bytes == 0), "wrong bytes were taken");
    let got = std::fs::read(street.path(&format!("got-{PROVIDERS}")))?;
    ensure!(BlobHash::of(&got) == hash, "something else was written");
    Ok(done.written_s)
}

/// aria2c from all four, in seconds.
fn aria2c(street: &Street) -> anyhow::Result<f64> {
    let mut command = street.houses[PROVIDERS].command("aria2c");
    command.args(["--quiet", "-x4", "-s4", "-k1M", "--file-allocation=none", "--allow-overwrite=true", "-d"]).arg(street.folder.path());
    command.args(["-o", "aria"]).args((0..PROVIDERS).map(|house| format!("http://127.0.0.1:{}/blob", street.ports[house][1])));
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output().context("aria2c can't be run")?;
    ensure!(output.status.success(), "aria2c: {}", String::from_utf8_lossy(&output.stdout).trim());
    let took = start.elapsed().as_secs_f64();
    ensure!(std::fs::metadata(street.path("aria"))?.len() == BLOB, "aria2c brought something else");
    Ok(took)
}

/// One seed, and ten that fetch at the same time and give each other what they have.
pub fn ten_fetchers(work: &Path) -> anyhow::Result<Vec<Figure>> {
    let street = Street::new(work, FETCHERS + 1, SEED_BYTES_S)?;
    let file = street.path("seed");
    incompressible(&file, SEED_BLOB)?;
    let (_seed, ready) = street.provider(0, &file)?;
    let from = [(ready.node, ready.address.clone())];
    let (mut alone_s, mut ten_s) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        alone_s.push(street.fetcher(1, &format!("alone-{round}"), ready.hash, &from, false)?.end()?.fetched_s);
        // Everybody is told of everybody, as by members of one network who are asked.
        let stores: Vec<String> = (1..=FETCHERS).map(|_| format!("ten-{round}")).collect();
        let mut known = from.to_vec();
        for house in 1..=FETCHERS {
            known.push((
                super::node::key_of(&street.path(&format!("fetcher-{house}-{}", stores[house - 1]))).node(),
                street.address(house)?,
            ));
        }
        let mut fetchers = Vec::new();
        for house in 1..=FETCHERS {
            let others: Vec<(NodeId, Multiaddr)> =
                known.iter().enumerate().filter(|(other, _)| *other != house).map(|(_, one)| one.clone()).collect();
            fetchers.push(street.fetcher(house, &stores[house - 1], ready.hash, &others, true)?);
        }
        let start = Instant::now();
        let mut last: f64 = 0.0;
        for fetcher in &mut fetchers {
            let done: Done = fetcher.said()?;
            ensure!(start.elapsed() < PATIENCE, "ten fetchers took too long");
            last = last.max(done.fetched_s);
        }
        ten_s.push(last);
        for fetcher in fetchers {
            fetcher.end()?;
        }
    }
    let alone = median(&alone_s).context("no run")?;
    let note = format!(
        "{} MiB, each upload {:.0} Mbit/s, {LINE_MS} ms there and back; until the last of ten has all, over the time of one alone, {alone:.1} s; encrypted, verified, not synced",
        SEED_BLOB >> 20,
        SEED_BYTES_S * 8.0 / 1e6
    );
    Ok(vec![Figure::lower("swarm.ten_fetchers", "times", 2.0, ten_s.iter().map(|took| took / alone).collect(), note)])
}
