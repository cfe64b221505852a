//! Figures of the store on this machine: `cargo run --release -p barnraiser-store --example figures [FOLDER]`.
//!
//! Imports 1 GiB and 100,000 blobs of 4 KiB, serves the former as verified ranges, opens the store again; prints what that
//! took, and the process's memory.

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Instant;

use barnraiser_store::geometry::{unit_count, unit_range};
use barnraiser_store::{Durability, Store};

const LENGTH: u64 = 1 << 30;
const SMALL: u64 = 100_000;

/// Bytes that do not compress, at the speed of memory.
struct Noise(u64);

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for word in buffer.chunks_mut(8) {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&self.0.to_le_bytes()[..word.len()]);
        }
        Ok(buffer.len())
    }
}

/// A line of `/proc/self/status` in MiB.
fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from).join(format!("figures-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = measure(&folder);
    std::fs::remove_dir_all(&folder)?;
    result
}

fn measure(folder: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let source = folder.join("source");
    io::copy(&mut Noise(1).take(LENGTH), &mut std::fs::File::create(&source)?)?;
    let root = folder.join("store");
    let store = Store::open(&root)?;
    println!("memory, empty and open: {} MiB", memory("VmRSS"));
    for durability in [Durability::Cached, Durability::Announced] {
        let start = Instant::now();
        let (hash, _) = store.import_file(&source, durability)?;
        println!("import of 1 GiB, {durability:?}: {:.2} s", start.elapsed().as_secs_f64());
        if durability == Durability::Announced {
            let start = Instant::now();
            let mut sent = 0;
            for unit in 0..unit_count(LENGTH) {
                let mut encoded = Vec::with_capacity(1_100_000);
                store.encode_ranges(&hash, unit_range(unit, LENGTH), &mut encoded)?;
                sent += encoded.len();
            }
            println!("served in verified units: {:.2} s, {sent} bytes", start.elapsed().as_secs_f64());
        }
    }
    println!("memory at most until here: {} MiB", memory("VmHWM"));
    let (start, mut noise, mut blob) = (Instant::now(), Noise(2), vec![0; 4096]);
    for _ in 0..SMALL {
        noise.read_exact(&mut blob)?;
        store.import_bytes(&blob, Durability::Cached)?;
    }
    println!("blobs of 4 KiB: {:.0} a second", SMALL as f64 / start.elapsed().as_secs_f64());
    println!("memory at most until here: {} MiB, now {} MiB", memory("VmHWM"), memory("VmRSS"));
    drop(store);
    let start = Instant::now();
    let store = Store::open(&root)?;
    println!("opened again: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    let stats = store.stats()?;
    println!("counted {} blobs: {:.0} ms; memory {} MiB", stats.blobs, start.elapsed().as_secs_f64() * 1e3, memory("VmRSS"));
    Ok(())
}
