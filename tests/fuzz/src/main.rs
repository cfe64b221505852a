//! Fuzzes without a fuzzer's toolchain: changes the inputs of the corpus for so many seconds a target. No coverage guides it;
//! what does a little of that is that inputs with a new ending (another refusal, another record) are changed further.
//!
//! `barnraiser-fuzz [SECONDS] [TARGET] [SEED]` fuzzes, all targets where none is named; `barnraiser-fuzz seeds` writes the
//! corpus's seeds. An input that breaks a property is written to the corpus, where a test replays it from then on, and the
//! seed that made it is printed.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use barnraiser_fuzz::mutate::Dice;
use barnraiser_fuzz::targets::{TARGETS, Target, find};
use barnraiser_fuzz::world::World;
use barnraiser_fuzz::{corpus, seeds};

/// How long a target is fuzzed where nobody says.
const SECONDS: u64 = 60;
/// The most inputs that are kept to be changed further.
const POOL_MAX: usize = 4096;
/// The longest time that one input may take on a machine that does other work too.
const INPUT_TIME_MAX: Duration = Duration::from_secs(10);
/// The most memory that the program may have: inputs have kilobytes, so that only growth reaches it.
const RESIDENT_MAX: u64 = 1 << 30;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    let done = match first.as_deref() {
        Some("seeds") => write_seeds(),
        seconds => {
            let seconds = seconds.map_or(Ok(SECONDS), str::parse);
            let chosen: Vec<&Target> = match arguments.next() {
                Some(name) => find(&name).into_iter().collect(),
                None => TARGETS.iter().collect(),
            };
            // Any number will do, and it is printed.
            let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_secs());
            let seed = arguments.next().map_or_else(|| Ok(now()), |seed| seed.parse());
            let (Ok(seconds), Ok(seed), false) = (seconds, seed, chosen.is_empty()) else {
                eprintln!("usage: barnraiser-fuzz [SECONDS] [TARGET] [SEED], or barnraiser-fuzz seeds");
                eprintln!("targets: {}", TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(" "));
                return ExitCode::from(2);
            };
            chosen.into_iter().try_fold(true, |good, target| Ok(fuzz(target, Duration::from_secs(seconds), seed)? && good))
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the corpus: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write_seeds() -> io::Result<bool> {
    let world = World::new();
    for target in TARGETS {
        std::fs::create_dir_all(corpus(target))?;
        for (name, bytes) in seeds::of(target, &world) {
            std::fs::write(corpus(target).join(name), bytes)?;
        }
    }
    Ok(true)
}

/// The inputs of a target's corpus.
fn inputs(target: &Target) -> io::Result<Vec<Vec<u8>>> {
    let mut paths: Vec<_> = std::fs::read_dir(corpus(target))?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    // In whatever order the disk lists them, the same seed shall do the same.
    paths.sort();
    paths.into_iter().map(std::fs::read).collect()
}

/// The sort of an ending: numbers, and what is quoted in it, don't make another one.
fn sort_of(ending: &str) -> String {
    let plain = ending.split(['"', '`']).step_by(2).collect::<String>();
    plain.chars().filter(|c| c.is_ascii_alphabetic()).take(300).collect()
}

/// Whether no input broke a property.
fn fuzz(target: &Target, time: Duration, seed: u64) -> io::Result<bool> {
    let mut pool = inputs(target)?;
    let mut endings: BTreeSet<String> = pool.iter().map(|input| sort_of(&(target.run)(input))).collect();
    let mut dice = Dice::new(seed);
    let (start, mut tried) = (Instant::now(), 0_u64);
    while start.elapsed() < time {
        let from = dice.pick(&pool).cloned().unwrap_or_default();
        let input = dice.mutate(&from, &pool, target.bytes_max);
        tried += 1;
        let began = Instant::now();
        let ending = catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
        let slow = began.elapsed() > INPUT_TIME_MAX;
        let large = tried.is_multiple_of(1024) && resident() > RESIDENT_MAX;
        match ending {
            Ok(ending) if !slow && !large => {
                if endings.len() < POOL_MAX && endings.insert(sort_of(&ending)) {
                    pool.push(input);
                }
            }
            _ => {
                let what = if large {
                    "memory"
                } else if slow {
                    "slow"
                } else {
                    "panic"
                };
                let path = corpus(target).join(format!("{what}-{}", &blake3::hash(&input).to_hex()[..16]));
                std::fs::write(&path, &input)?;
                eprintln!("{}: {what} at input {tried} of seed {seed}; kept as {}", target.name, path.display());
                return Ok(false);
            }
        }
    }
    println!("{:10} {tried} inputs in {} s, {} endings, seed {seed}", target.name, time.as_secs(), endings.len());
    Ok(true)
}

/// Resident memory in bytes; 0 where the kernel does not tell.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}
