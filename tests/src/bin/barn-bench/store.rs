//! The store: taking in a large file beside `cp` and `b3sum`, which together do what an import does, and many small blobs.
//! Everything lies in one folder of one file system, and the source is in the page cache for everybody.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use barnraiser_protocol::id::BlobHash;
use barnraiser_store::geometry::{unit_count, unit_range};
use barnraiser_store::{Durability, Store};

use super::figure::Figure;

/// Bytes of the large file.
const LENGTH: u64 = 1 << 30;
/// How many small blobs, ...
const SMALL: u64 = 100_000;
/// ... and the bytes of each.
const SMALL_BYTES: usize = 4096;
/// How often each is measured.
const ROUNDS: usize = 5;
/// How many times as fast as `cp` and `b3sum` an import must be.
const GOAL_IMPORT: f64 = 0.8;
/// How much memory an import may take, in MiB.
const GOAL_MEMORY_MIB: f64 = 64.0;
/// Small blobs a second.
const GOAL_SMALL: f64 = 20_000.0;
/// Seconds until a store with all the small blobs is open.
const GOAL_START_S: f64 = 1.0;

/// Bytes that do not compress, at the speed of memory.
struct Noise(u64);

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for word in buffer.chunks_mut(8) {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // The low bits of such a sequence repeat soon; the high half, stirred, does not.
            let stirred = self.0 ^ (self.0 >> 29);
            word.copy_from_slice(&stirred.to_le_bytes()[..word.len()]);
        }
        Ok(buffer.len())
    }
}

/// Measures.
pub fn measure() -> anyhow::Result<Vec<Figure>> {
    eprintln!("store: {ROUNDS} times 1 GiB each way, then {ROUNDS} times {SMALL} blobs of {SMALL_BYTES} bytes; takes about two minutes");
    let folder = tempfile::Builder::new().prefix("store-").tempdir_in(super::figure::folder()?)?;
    let mut figures = large(folder.path())?;
    figures.extend(small(folder.path())?);
    Ok(figures)
}

/// Seconds that `work` takes.
fn time<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(f64, T)> {
    let start = Instant::now();
    let done = work()?;
    Ok((start.elapsed().as_secs_f64(), done))
}

/// What `b3sum` is called here, and its version; it is built from its sources where the machine has none.
fn b3sum() -> anyhow::Result<(PathBuf, String)> {
    let version = |program: &Path| {
        let output = Command::new(program).arg("--version").output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let here = PathBuf::from("b3sum");
    if let Some(version) = version(&here) {
        return Ok((here, version));
    }
    let tools = super::figure::folder()?.with_file_name("bench-tools");
    let built = tools.join("bin/b3sum");
    if !built.is_file() {
        let output =
            Command::new("cargo").args(["install", "--quiet", "b3sum", "--root"]).arg(&tools).output().context("cargo can't be run")?;
        ensure!(output.status.success(), "`cargo install b3sum`: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let version = version(&built).context("the b3sum that was installed does not run")?;
    Ok((built, version))
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?} can't be run"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// A line of `/proc/self/status`, in MiB.
fn memory_mib(what: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).with_context(|| format!("no {what}"))?;
    Ok(line.split_whitespace().next().context("no figure")?.parse::<f64>()? / 1024.0)
}

/// Ways from a file to a verified copy of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// Copied; nothing is synced.
    Copied,
    /// Copied and synced.
    Synced,
    /// By a reflink, not synced.
    Shared,
}

/// Seconds of each round, and those of all processors.
#[derive(Debug, Default)]
struct Times {
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

impl Times {
    /// Runs `work`, and counts what it and its children took.
    fn count<T>(&mut self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let before = cpu_s()?;
        let (seconds, done) = time(work)?;
        self.wall.push(seconds);
        self.cpu.push(cpu_s()? - before);
        Ok(done)
    }

    /// GiB a second of the median round.
    fn rate(&self) -> f64 {
        1.0 / median(&self.wall)
    }

    fn text(&self) -> String {
        format!("{:.2} GiB/s, {:.2} CPU seconds", self.rate(), median(&self.cpu))
    }
}

/// CPU time of this process and of its children that have ended, in seconds.
fn cpu_s() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let behind_name = stat.rsplit_once(')').context("no process")?.1;
    let ticks = behind_name.split_whitespace().skip(11).take(4).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    // USER_HZ, which Linux fixes for user space on all architectures that we run on.
    Ok(ticks / 100.0)
}

fn median(samples: &[f64]) -> f64 {
    let mut samples = samples.to_vec();
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What was measured of 1 GiB.
#[derive(Default)]
struct Large {
    ours: BTreeMap<Way, Times>,
    theirs: BTreeMap<Way, Times>,
    growth_mib: Vec<f64>,
    served: Times,
}

/// 1 GiB, each way.
fn large(folder: &Path) -> anyhow::Result<Vec<Figure>> {
    let source = folder.join("source");
    io::copy(&mut Noise(1).take(LENGTH), &mut File::create(&source)?)?;
    // What is still to be written would be written while others are measured.
    File::open(&source)?.sync_all()?;
    let peer = b3sum();
    let program = peer.as_ref().ok().map(|(program, _)| program.as_path());
    let shares = Command::new("cp").arg("--reflink=always").arg(&source).arg(folder.join("copy")).output()?;
    let _ = std::fs::remove_file(folder.join("copy"));
    let ways: &[Way] = if shares.status.success() { &[Way::Copied, Way::Synced, Way::Shared] } else { &[Way::Copied, Way::Synced] };
    let mut measured = Large::default();
    for round in 0..ROUNDS {
        for way in ways {
            let mut sums = Vec::new();
            // Who comes first alternates: what one leaves behind in memory or to be written, the next finds.
            for ours in [round % 2 == 0, round % 2 != 0] {
                if ours {
                    sums.push(import(folder, &source, *way, &mut measured)?.to_string());
                } else if let Some(program) = program {
                    sums.push(copy_and_sum(folder, &source, *way, program, &mut measured)?);
                }
            }
            ensure!(sums.windows(2).all(|pair| pair[0] == pair[1]), "the store's hash is not that of b3sum: {sums:?}");
        }
    }
    std::fs::remove_file(&source)?;
    Ok(figures(measured, peer, &String::from_utf8_lossy(&shares.stderr)))
}

/// `cp`, then `b3sum`.
fn copy_and_sum(folder: &Path, source: &Path, way: Way, program: &Path, measured: &mut Large) -> anyhow::Result<String> {
    let copy = folder.join("copy");
    let sum = measured.theirs.entry(way).or_default().count(|| {
        let reflink = if way == Way::Shared { "--reflink=always" } else { "--reflink=never" };
        run(Command::new("cp").arg(reflink).arg(source).arg(&copy))?;
        if way == Way::Synced {
            run(Command::new("sync").arg("--data").arg(&copy))?;
        }
        run(Command::new(program).arg("--no-names").arg(&copy))
    })?;
    std::fs::remove_file(&copy)?;
    Ok(sum.trim().to_owned())
}

/// An import into a new store.
fn import(folder: &Path, source: &Path, way: Way, measured: &mut Large) -> anyhow::Result<BlobHash> {
    let root = folder.join("store");
    let store = Store::open(&root)?;
    // The greatest memory is counted anew from here.
    std::fs::write("/proc/self/clear_refs", "5").context("the kernel can't count the greatest memory anew")?;
    let before = memory_mib("VmRSS")?;
    let (hash, length) = measured.ours.entry(way).or_default().count(|| {
        Ok(match way {
            // A reader has no bytes to share.
            Way::Copied => store.import_reader(File::open(source)?, Durability::Cached)?,
            Way::Synced => store.import_reader(File::open(source)?, Durability::Announced)?,
            Way::Shared => store.import_file(source, Durability::Cached)?,
        })
    })?;
    ensure!(length == LENGTH, "{length} bytes were taken in");
    measured.growth_mib.push(memory_mib("VmHWM")? - before);
    if way == Way::Copied {
        measured.served.count(|| serve(&store, &hash))?;
    }
    drop(store);
    std::fs::remove_dir_all(&root)?;
    Ok(hash)
}

/// Reads a blob as its peers get it: every unit with its proof.
fn serve(store: &Store, hash: &BlobHash) -> anyhow::Result<()> {
    let mut encoded = Vec::new();
    for unit in 0..unit_count(LENGTH) {
        encoded.clear();
        store.encode_ranges(hash, unit_range(unit, LENGTH), &mut encoded)?;
    }
    Ok(())
}

fn figures(measured: Large, peer: anyhow::Result<(PathBuf, String)>, unshared: &str) -> Vec<Figure> {
    let rows = [
        (
            "store.import_vs_cp_b3sum",
            Way::Copied,
            "verified, not synced: 1 GiB by copy (no reflink, no link), durability class cached",
            "`cp`, then `b3sum` of the copy",
        ),
        (
            "store.import_announced_vs_cp_sync_b3sum",
            Way::Synced,
            "verified, synced: 1 GiB by copy (no reflink, no link), durability class announced, its name and entry synced too",
            "`cp`, `sync --data`, then `b3sum` of the copy",
        ),
        (
            "store.import_reflink_vs_cp_b3sum",
            Way::Shared,
            "verified, not synced: 1 GiB by reflink, durability class cached",
            "`cp --reflink=always`, then `b3sum` of the copy",
        ),
    ];
    let mut figures: Vec<Figure> =
        rows.into_iter().map(|(name, way, what, how)| row(&measured, name, way, what, how, &peer, unshared)).collect();
    let note = "the greatest resident memory during an import of 1 GiB less that before it; the worst of all imports above".to_owned();
    figures.push(Figure::worst("store.import_memory", "MiB", GOAL_MEMORY_MIB, measured.growth_mib, note));
    let note = format!(
        "verified: the same 1 GiB read as peers get it, unit by unit with proofs, by one thread: {}; nothing was promised of it",
        measured.served.text()
    );
    let rates: Vec<f64> = measured.served.wall.iter().map(|seconds| 1.0 / seconds).collect();
    let spread = [rates.iter().copied().fold(f64::INFINITY, f64::min), rates.iter().copied().fold(0.0, f64::max)];
    let shown = Figure::shown("store.serve", "GiB/s", measured.served.rate(), rates.len(), spread, note);
    figures.push(Figure { better: "higher", ..shown });
    figures
}

/// How many times as fast as its peer an import is.
fn row(
    measured: &Large,
    name: &'static str,
    way: Way,
    what: &str,
    how: &str,
    peer: &anyhow::Result<(PathBuf, String)>,
    unshared: &str,
) -> Figure {
    let Some(ours) = measured.ours.get(&way) else {
        let note =
            format!("{what}: this file system shares no bytes between files ({})", unshared.rsplit(": ").next().unwrap_or_default().trim());
        return Figure::missing(name, "times", GOAL_IMPORT, note);
    };
    match (measured.theirs.get(&way), peer) {
        (Some(theirs), Ok((_, version))) => {
            let ratios = theirs.wall.iter().zip(&ours.wall).map(|(theirs, ours)| theirs / ours).collect();
            let note = format!("{what}: {}; {how} ({version}): {}; the ratio of each round", ours.text(), theirs.text());
            let mut figure = Figure::higher(name, "times", GOAL_IMPORT, ratios, note);
            figure.against.insert("cp+b3sum (GiB/s)", Some(theirs.rate()));
            figure
        }
        (_, peer) => {
            let why = peer.as_ref().err().map_or_else(String::new, |error| format!("{error:#}"));
            Figure::missing(name, "times", GOAL_IMPORT, format!("{what}: {}, alone, since b3sum could not be set up: {why}", ours.text()))
        }
    }
}

/// Many small blobs, and the start of a store that has them.
fn small(folder: &Path) -> anyhow::Result<Vec<Figure>> {
    let (mut rates, mut starts) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let root = folder.join("store");
        let mut blobs = Vec::new();
        Noise(round as u64 + 2).take(SMALL * SMALL_BYTES as u64).read_to_end(&mut blobs)?;
        let store = Store::open(&root)?;
        let (seconds, ()) = time(|| {
            for blob in blobs.chunks(SMALL_BYTES) {
                store.import_bytes(blob, Durability::Cached)?;
            }
            Ok(())
        })?;
        rates.push(SMALL as f64 / seconds);
        drop(store);
        let (seconds, store) = time(|| Ok(Store::open(&root)?))?;
        starts.push(seconds);
        let stats = store.stats()?;
        ensure!(stats.blobs == SMALL, "{} blobs are there", stats.blobs);
        drop(store);
        std::fs::remove_dir_all(&root)?;
    }
    let note = format!(
        "verified, not synced: {SMALL} different blobs of {SMALL_BYTES} bytes that do not compress, one call each from one thread, class cached"
    );
    let start =
        format!("a store with {SMALL} blobs of {SMALL_BYTES} bytes (class cached), closed and opened again, its files in the page cache");
    Ok(vec![
        Figure::higher("store.small_blobs", "blobs/s", GOAL_SMALL, rates, note),
        Figure::lower("store.start", "s", GOAL_START_S, starts, start),
    ])
}
