//! The engine alone: how many records it applies, what signatures cost beside, and how much memory a live record takes.

mod memory;
mod plan;
mod traffic;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use barnraiser_protocol::engine::Reception;
use barnraiser_protocol::record::{RECORD_BYTES_MAX, Record, SharedRecord};
use barnraiser_protocol::time::Timestamp;
use ed25519_dalek::{Signature, VerifyingKey};

use super::figure::Figure;
use traffic::{BATCH_JOBS, NETWORK, OPERATORS, Traffic, WINDOW, drive, onlooker};

pub use memory::child;

/// Records that are live when measuring begins.
const LIVE: usize = 100_000;
/// Batches that are said: they bring half as many lasting records again.
const BATCHES: usize = 12;
/// Records a second of one core.
const RATE_GOAL: f64 = 300_000.0;
/// How near to a bare loop of verifications.
const SIGNED_GOAL: f64 = 0.8;
/// How often each is measured.
const RUNS: usize = 3;
/// Records that are verified with each hand-over, as the node does.
const TOGETHER: usize = 64;
/// Records of which signatures are checked in a run.
const SIGNED: usize = 40_000;

/// Measures.
pub fn measure() -> anyhow::Result<Vec<Figure>> {
    eprintln!("engine: {BATCHES} batches of {BATCH_JOBS} jobs by {OPERATORS} operators; takes about two minutes");
    let traffic = Traffic::new(BATCHES)?;
    let mix = format!(
        "{OPERATORS} operators; batches of {BATCH_JOBS} jobs, {WINDOW} under way; for each of two slots a claim, a renewal, two presences, \
         a commitment and a reveal"
    );
    let mut one_by_one = Vec::new();
    let mut together = Vec::new();
    for _ in 0..RUNS {
        one_by_one.push(applied(&traffic, 1)?);
        together.push(applied(&traffic, TOGETHER)?);
    }
    let (ratios, bare) = signed(&traffic)?;
    let profile = if cfg!(debug_assertions) { "dev profile" } else { "release profile" };
    let note = |how: &str| format!("verified records applied per second of one core's time, {LIVE} live, {how}; {mix}; {profile}");
    let signed_note = format!(
        "records opened (decoded, hashed, signature checked) on all cores and applied, against a loop of verify_strict alone on the same \
         bytes with all keys decompressed beforehand, which does {bare:.0} a second; {profile}"
    );
    let mut figures = plan::measure()?;
    figures.extend([
        Figure::higher("engine.applied", "1/s", RATE_GOAL, one_by_one, note("outputs taken after each")),
        Figure::higher("engine.applied_together", "1/s", RATE_GOAL, together, note(&format!("outputs taken after every {TOGETHER}"))),
        Figure::higher("engine.signed_vs_bare", "ratio", SIGNED_GOAL, ratios, signed_note),
        memory::measure(&traffic, &mix)?,
    ]);
    Ok(figures)
}

/// Nanoseconds that this thread has run; other people's work on the machine does not count.
fn ran_ns() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").context("the kernel keeps no times of threads")?;
    Ok(stat.split_whitespace().next().context("no time")?.parse()?)
}

/// Records a second, once [`LIVE`] are live; outputs are taken after every `together` of them.
fn applied(traffic: &Traffic, together: usize) -> anyhow::Result<f64> {
    let mut engine = onlooker();
    let mut said = traffic.said.iter();
    for (at, record) in said.by_ref() {
        engine.receive(*at, record);
        drive(&mut engine, *at, &traffic.graphs);
        if engine.board().len() >= LIVE {
            break;
        }
    }
    let rest = said.as_slice();
    ensure!(rest.len() > LIVE / 4, "the mix is too small: {} records are left to measure", rest.len());
    let start = ran_ns()?;
    for some in rest.chunks(together) {
        let mut now = Timestamp::default();
        for (at, record) in some {
            now = *at;
            let reception = engine.receive(now, record);
            ensure!(reception == Reception::New, "a record of the mix was not taken: {reception:?}");
        }
        drive(&mut engine, now, &traffic.graphs);
    }
    // As many records as fit into memory are exact in a float.
    Ok(rest.len() as f64 / ((ran_ns()? - start) / 1e9))
}

/// The rate of opening and applying records over that of a bare loop, on all cores; and the bare loop's rate.
fn signed(traffic: &Traffic) -> anyhow::Result<(Vec<f64>, f64)> {
    let threads = std::thread::available_parallelism()?.get();
    let some: Vec<(Timestamp, Arc<[u8]>)> =
        traffic.said.iter().take(SIGNED).map(|(at, record)| (*at, Arc::from(&record.bytes()[..]))).collect();
    let bare_input: Vec<(VerifyingKey, Vec<u8>, Signature)> =
        traffic.said.iter().take(SIGNED).map(|(_, record)| bare_of(record)).collect::<Result<_, _>>()?;
    let mut ratios = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(chunk) = bare_input.chunks(TOGETHER).nth(next.fetch_add(1, Ordering::Relaxed)) {
                        for (key, message, signature) in chunk {
                            assert!(key.verify_strict(message, signature).is_ok(), "a record of the mix is badly signed");
                        }
                    }
                });
            }
        });
        let bare = start.elapsed().as_secs_f64();
        ratios.push(bare / opened(traffic, &some, threads)?);
        rates.push(SIGNED as f64 / bare);
    }
    rates.sort_by(f64::total_cmp);
    Ok((ratios, rates.get(RUNS / 2).copied().unwrap_or_default()))
}

/// What a bare loop needs of a record: its author's key, what is signed, the signature.
fn bare_of(record: &SharedRecord) -> anyhow::Result<(VerifyingKey, Vec<u8>, Signature)> {
    let bytes = record.bytes();
    let (signed, signature) = bytes.split_last_chunk::<64>().context("shorter than a signature")?;
    Ok((VerifyingKey::from_bytes(&record.author_key())?, Record::message(record.kind(), signed), Signature::from_bytes(signature)))
}

/// Seconds that it takes to open all records on `threads` threads and to apply them on one of them.
fn opened(traffic: &Traffic, some: &[(Timestamp, Arc<[u8]>)], threads: usize) -> anyhow::Result<f64> {
    let mut engine = onlooker();
    let start = Instant::now();
    let next = AtomicUsize::new(0);
    let (give, take) = mpsc::channel::<(usize, Vec<(Timestamp, SharedRecord)>)>();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let give = give.clone();
            scope.spawn(|| {
                let give = give;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(chunk) = some.chunks(TOGETHER).nth(number) else { return };
                    let open = |(at, bytes): &(Timestamp, Arc<[u8]>)| {
                        assert!(bytes.len() <= RECORD_BYTES_MAX, "a record of the mix is too long");
                        Record::open(bytes, NETWORK).ok().map(|record| (*at, record))
                    };
                    // The receiver outlives all senders, so that nothing is lost.
                    let _ = give.send((number, chunk.iter().filter_map(open).collect()));
                }
            });
        }
        drop(give);
        for (_, chunk) in take {
            let mut now = Timestamp::default();
            for (at, record) in &chunk {
                now = *at;
                engine.receive(now, record);
            }
            drive(&mut engine, now, &traffic.graphs);
        }
    });
    ensure!(engine.board().len() > 1, "nothing was applied");
    Ok(start.elapsed().as_secs_f64())
}
