//! The store: taking in a large file beside `cp` and `b3sum`, which together do what an import does, and many small blobs.
//! Everything lies in one folder of one file system, and the source is in the page cache for everybody.

use std::fs::File;
use std::io::{self, Read, Write as _};
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
/// What all of this says of its rows; nothing here goes over a network.
const KIND: &str = "verified";

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

/// Seconds of each round.
#[derive(Default)]
struct Rounds {
    copied: Vec<f64>,
    copied_synced: Vec<f64>,
    cached: Vec<f64>,
    announced: Vec<f64>,
    growth_mib: Vec<f64>,
    served: Vec<f64>,
}

/// Ratios of rounds, `theirs` by `ours`: how many times as fast ours is.
fn ratios(theirs: &[f64], ours: &[f64]) -> Vec<f64> {
    theirs.iter().zip(ours).map(|(theirs, ours)| theirs / ours).collect()
}

fn median(samples: &[f64]) -> f64 {
    let mut samples = samples.to_vec();
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// 1 GiB.
fn large(folder: &Path) -> anyhow::Result<Vec<Figure>> {
    let source = folder.join("source");
    io::copy(&mut Noise(1).take(LENGTH), &mut File::create(&source)?)?;
    // What is still to be written would be written while others are measured.
    File::open(&source)?.sync_all()?;
    let peer = b3sum();
    let mut rounds = Rounds::default();
    for round in 0..ROUNDS {
        let mut expected = None;
        if let Ok((program, _)) = &peer {
            let copy = folder.join("copy");
            for synced in [false, true] {
                let (seconds, sum) = time(|| {
                    run(Command::new("cp").arg("--reflink=never").arg(&source).arg(&copy))?;
                    if synced {
                        run(Command::new("sync").arg("-d").arg(&copy))?;
                    }
                    run(Command::new(program).arg("--no-names").arg(&copy))
                })?;
                if synced {
                    rounds.copied_synced.push(seconds)
                } else {
                    rounds.copied.push(seconds)
                }
                std::fs::remove_file(&copy)?;
                expected = Some(sum.trim().to_owned());
            }
        }
        let got = import_both(folder, &source, round, &mut rounds)?;
        ensure!(expected.is_none_or(|expected| expected == got.to_string()), "the store's hash is not that of b3sum");
    }
    std::fs::remove_file(&source)?;
    Ok(of_rounds(rounds, peer))
}

/// Imports the file into new stores: cached, then announced.
fn import_both(folder: &Path, source: &Path, round: usize, rounds: &mut Rounds) -> anyhow::Result<BlobHash> {
    let mut last = None;
    for durability in [Durability::Cached, Durability::Announced] {
        let root = folder.join("store");
        let store = Store::open(&root)?;
        // The greatest memory is counted anew from here.
        std::fs::write("/proc/self/clear_refs", "5").context("the kernel can't count the greatest memory anew")?;
        let before = memory_mib("VmRSS")?;
        let (seconds, (hash, length)) = time(|| Ok(store.import_file(source, durability)?))?;
        ensure!(length == LENGTH, "{length} bytes were taken in");
        rounds.growth_mib.push(memory_mib("VmHWM")? - before);
        match durability {
            Durability::Cached => rounds.cached.push(seconds),
            Durability::Announced => rounds.announced.push(seconds),
        }
        if durability == Durability::Announced {
            rounds.served.push(time(|| serve(&store, &hash))?.0);
        }
        drop(store);
        std::fs::remove_dir_all(&root)?;
        ensure!(last.is_none_or(|last| last == hash), "round {round}: one file has two hashes");
        last = Some(hash);
    }
    last.context("nothing was imported")
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

fn of_rounds(rounds: Rounds, peer: anyhow::Result<(PathBuf, String)>) -> Vec<Figure> {
    let gib_a_second = |seconds: &[f64]| 1.0 / median(seconds);
    let mut figures = Vec::new();
    let rows = [
        (
            "store.import_vs_cp_b3sum",
            "cached (as `cp`, nothing is synced)",
            "`cp`, then `b3sum` of the copy",
            &rounds.copied,
            &rounds.cached,
        ),
        (
            "store.import_announced_vs_cp_sync_b3sum",
            "announced (synced, with its name and entry)",
            "`cp`, `sync -d`, then `b3sum` of the copy",
            &rounds.copied_synced,
            &rounds.announced,
        ),
    ];
    for (name, class, theirs, copied, imported) in rows {
        match &peer {
            Ok((_, version)) => {
                let note = format!(
                    "{KIND}; 1 GiB by copy (no reflink, no link), {class}: {:.2} GiB/s, against {theirs}: {:.2} GiB/s ({version}); \
                     the ratio of each round",
                    gib_a_second(imported),
                    gib_a_second(copied),
                );
                let mut figure = Figure::higher(name, "times", GOAL_IMPORT, ratios(copied, imported), note);
                figure.against.insert("cp+b3sum GiB/s", Some(gib_a_second(copied)));
                figures.push(figure);
            }
            Err(error) => {
                let alone = gib_a_second(imported);
                let note = format!("{KIND}; b3sum could not be set up: {error:#}; the import alone, {class}: {alone:.2} GiB/s");
                figures.push(Figure::missing(name, "times", GOAL_IMPORT, note));
            }
        }
    }
    let note = format!("{KIND}; the greatest resident memory during an import of 1 GiB less that before it; the worst of both classes");
    figures.push(Figure::worst("store.import_memory", "MiB", GOAL_MEMORY_MIB, rounds.growth_mib, note));
    let spread = [&rounds.served].map(|served| {
        let rates = served.iter().map(|seconds| 1.0 / seconds);
        [rates.clone().fold(f64::INFINITY, f64::min), rates.fold(0.0, f64::max)]
    })[0];
    let note = format!("{KIND}; the same 1 GiB read as peers get it, unit by unit with proofs, on one core; nothing was promised of it");
    let served = gib_a_second(&rounds.served);
    figures.push(Figure { better: "higher", ..Figure::shown("store.serve", "GiB/s", served, rounds.served.len(), spread, note) });
    figures
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
        io::stderr().flush()?;
    }
    let note =
        format!("{KIND}; {SMALL} different blobs of {SMALL_BYTES} bytes that do not compress, one call each from one thread, cached");
    let start = format!("a store with {SMALL} blobs of {SMALL_BYTES} bytes (cached), closed and opened again, its files in the page cache");
    Ok(vec![
        Figure::higher("store.small_blobs", "blobs/s", GOAL_SMALL, rates, note),
        Figure::lower("store.start", "s", GOAL_START_S, starts, start),
    ])
}
